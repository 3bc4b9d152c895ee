"""Random streams: one per seed, so that a run draws the same numbers alone and in any company."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Streams:
    """S independent random streams drawn from side by side; row s of every result comes from generator s alone.

    One kernel per stream and draw; whatever is computed from the draws is then one kernel for all streams.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """Use ``generators``, at least one, all on one device."""
        self.generators = tuple(generators)
        self.device = self.generators[0].device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1): ``[S, *shape]``."""
        return self._filled(shape, torch.get_default_dtype(), lambda row, generator: row.uniform_(generator=generator))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers: ``[S, *shape]``."""
        return self._filled(shape, torch.get_default_dtype(), lambda row, generator: row.normal_(generator=generator))

    def moments(self, draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        """Means of ``draws`` standard normals and of their squares, ``[S, *shape]`` each, without drawing them all.

        Their mean is N(0, 1/draws); independent of it, the sum of squares about it is chi-square with ``draws - 1``
        degrees of freedom (Cochran's theorem), twice a gamma variable of half that shape.
        """
        first = self.normal(*shape) * draws**-0.5
        if draws == 1:
            return first, first * first
        half = torch.full(shape, (draws - 1) / 2, device=self.device)
        dtype = torch.get_default_dtype()
        squares = self._filled(shape, dtype, lambda row, g: row.copy_(torch._standard_gamma(half, generator=g)))
        return first, squares * (2 / draws) + first * first

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high): int64 ``[S, *shape]``."""
        return self._filled(shape, torch.int64, lambda row, generator: row.random_(0, high, generator=generator))

    def _filled(
        self, shape: Sequence[int], dtype: torch.dtype, fill: Callable[[Tensor, torch.Generator], Tensor]
    ) -> Tensor:
        rows = torch.empty(len(self.generators), *shape, dtype=dtype, device=self.device)
        for row, generator in zip(rows.unbind(), self.generators, strict=True):
            fill(row, generator)
        return rows


class MemberStreams(Streams):
    """Random numbers and data for the members of an ensemble: row e of every result is member e's.

    Members with the same seed share their stream: they would draw the same numbers anyway, and a grid search (one
    seed, 210 settings) draws them once.

    Args:
        seeds: one per member.
        device: where the numbers are made.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self.by_seed = {seed: torch.Generator(device).manual_seed(seed) for seed in dict.fromkeys(seeds)}
        super().__init__(list(self.by_seed.values()))
        self.assign(seeds)

    def assign(self, seeds: Sequence[int]) -> None:
        """Let the members be those with these seeds, all known; streams that nobody uses any more are dropped."""
        self.by_seed = {seed: self.by_seed[seed] for seed in dict.fromkeys(seeds)}
        self.generators = tuple(self.by_seed.values())
        order, self.members = list(self.by_seed), len(seeds)
        one_to_one = list(seeds) == order
        self.index = None if one_to_one else torch.tensor([order.index(s) for s in seeds], device=self.device)

    def draw(self, source: Callable[[Sequence[torch.Generator]], Tensor]) -> Tensor:
        """What ``source`` makes of the generators, one row each; ``[E, ...]``."""
        return self.spread(source(self.generators))

    def state(self) -> dict[int, Tensor]:
        """The generators' states, for a checkpoint."""
        return {seed: generator.get_state() for seed, generator in self.by_seed.items()}

    def restore(self, state: dict[int, Tensor]) -> None:
        """Go on from a checkpoint's states."""
        for seed, generator in self.by_seed.items():
            generator.set_state(state[seed].cpu())

    def _filled(
        self, shape: Sequence[int], dtype: torch.dtype, fill: Callable[[Tensor, torch.Generator], Tensor]
    ) -> Tensor:
        return self.spread(super()._filled(shape, dtype, fill))

    def spread(self, per_seed: Tensor) -> Tensor:
        """From one row per seed to one per member."""
        if self.index is None:
            return per_seed
        return per_seed.expand(self.members, *per_seed.shape[1:]) if len(per_seed) == 1 else per_seed[self.index]
