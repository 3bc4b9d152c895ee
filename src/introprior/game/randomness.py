"""Random streams: one per seed, so that a run draws the same numbers alone and in any company."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from introprior.errors import cut, one_line


class Streams:
    """S independent random streams drawn from side by side; row s of every result comes from generator s alone.

    One kernel per stream and draw; whatever is computed from the draws is then one kernel for all streams.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device | None = None) -> None:
        """Use ``generators``, at least one, all on one device; none where a device is given, for streams without."""
        self.generators = tuple(generators)
        self.device = device or self.generators[0].device

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

    Attributes:
        kind: what makes them: a type of device, whose generators they come from, or ``counters``.
        rows: the streams before they are spread over the members, and their seeds.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self.device, self.kind = device, device.type
        self.by_seed = {seed: torch.Generator(device).manual_seed(seed) for seed in dict.fromkeys(seeds)}
        self.assign(seeds)

    def begin(self) -> None:
        """An iteration begins, of which the clock tells by now."""

    def assign(self, seeds: Sequence[int]) -> None:
        """Let the members be those with these seeds, all known; streams that nobody uses any more are dropped."""
        self.by_seed = {seed: self.by_seed[seed] for seed in dict.fromkeys(seeds)}
        self.generators = tuple(self.by_seed.values())
        self._appoint(Streams(self.generators), list(self.by_seed), seeds)

    def _appoint(self, rows: Streams, of_rows: list[int], of_members: Sequence[int]) -> None:
        self.rows, self.seeds, self.members = rows, of_rows, len(of_members)
        one_to_one = list(of_members) == of_rows
        self.index = None if one_to_one else torch.tensor([of_rows.index(s) for s in of_members], device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self.spread(self.rows.uniform(*shape))

    def normal(self, *shape: int) -> Tensor:
        return self.spread(self.rows.normal(*shape))

    def moments(self, draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        first, second = self.rows.moments(draws, *shape)
        return self.spread(first), self.spread(second)

    def integers(self, high: int, *shape: int) -> Tensor:
        return self.spread(self.rows.integers(high, *shape))

    def draw(self, source: Callable[[Streams], Tensor]) -> Tensor:
        """What ``source`` makes of the streams before they are spread; ``[E, ...]``."""
        return self.spread(source(self.rows))

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        generators = {seed: generator.get_state() for seed, generator in self.by_seed.items()}
        return {"kind": self.kind, "generators": generators}

    def restore(self, state: dict[str, Any], iteration: int) -> bool:
        """Go on from a checkpoint's state, or, where another kind of streams wrote it, with new ones; False then.

        New ones depend on seed and iteration: whoever goes from one device to another and back meets no number twice.
        """
        known = bool(state["kind"] == self.kind)
        for seed, generator in self.by_seed.items():
            if known:
                generator.set_state(state["generators"][seed].cpu())
            else:
                digest = hashlib.sha256(f"{seed} from iteration {iteration}".encode()).digest()
                generator.manual_seed(int.from_bytes(digest[:7]))
        return known

    def spread(self, rows: Tensor) -> Tensor:
        """From one row per stream to one per member."""
        if self.index is None:
            return rows
        return rows.expand(self.members, *rows.shape[1:]) if len(rows) == 1 else rows[self.index]


def streams_of(seeds: Sequence[int], device: torch.device, clock: Tensor | None = None) -> MemberStreams:
    """Streams for members with these seeds: on a GPU that has Triton counter-based ones, one launch a draw.

    Everywhere else torch's generators draw, one launch a seed; a GPU is told why in one line.

    Args:
        clock: the iteration, int64 on the device, for what is to be captured in a graph; 0 where not given.
    """
    if device.type == "cuda" and _counters_work(device):
        from introprior.game.counters import CounterStreams

        return CounterStreams(seeds, torch.zeros((), dtype=torch.long, device=device) if clock is None else clock)
    return MemberStreams(seeds, device)


@cache
def _counters_work(device: torch.device) -> bool:
    """Whether the kernels compile for a device and give there the published words of Philox-4x32-10."""
    try:
        from introprior.game import counters  # late: imports Triton, which not all have

        counters.check(device)
    except Exception as error:  # of Triton, its compiler, the driver
        reason = cut(one_line(error), 200)
        print(f"this GPU draws random numbers seed by seed, which is slower: {reason}", file=sys.stderr)
        return False
    return True
