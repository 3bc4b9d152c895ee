"""Random streams: one per seed, so that a run draws the same numbers alone and in any company."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Streams:
    """Random numbers and data for the members of an ensemble, a leading member axis on all of them.

    Members with the same seed share their stream: they would draw the same numbers anyway, and a grid search (one
    seed, 210 settings) draws them once.

    Args:
        seeds: one per member.
        device: where the numbers are made.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self.device = device
        self.generators = {seed: torch.Generator(device).manual_seed(seed) for seed in dict.fromkeys(seeds)}
        self.assign(seeds)

    def assign(self, seeds: Sequence[int]) -> None:
        """Let the members be those with these seeds, all known; streams that nobody uses any more are dropped."""
        self.generators = {seed: self.generators[seed] for seed in dict.fromkeys(seeds)}
        order = list(self.generators)
        self.members = len(seeds)
        one_to_one = list(seeds) == order
        self.index = None if one_to_one else torch.tensor([order.index(s) for s in seeds], device=self.device)

    def spread(self, per_seed: Tensor) -> Tensor:
        """From one row per seed to one per member."""
        if self.index is None:
            return per_seed
        return per_seed.expand(self.members, *per_seed.shape[1:]) if len(per_seed) == 1 else per_seed[self.index]

    def draw(self, source: Callable[[Sequence[torch.Generator]], Tensor]) -> Tensor:
        """What ``source`` makes of the generators, one row each; ``[E, ...]``."""
        return self.spread(source(list(self.generators.values())))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``[E, *shape]``."""
        values = torch.empty(len(self.generators), *shape, device=self.device)
        for row, generator in zip(values, self.generators.values(), strict=True):
            row.normal_(generator=generator)
        return self.spread(values)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers on [0, 1), ``[E, *shape]``."""
        values = torch.empty(len(self.generators), *shape, device=self.device)
        for row, generator in zip(values, self.generators.values(), strict=True):
            row.uniform_(generator=generator)
        return self.spread(values)

    def state(self) -> dict[int, Tensor]:
        """The generators' states, for a checkpoint."""
        return {seed: generator.get_state() for seed, generator in self.generators.items()}

    def restore(self, state: dict[int, Tensor]) -> None:
        """Go on from a checkpoint's states."""
        for seed, generator in self.generators.items():
            generator.set_state(state[seed].cpu())
