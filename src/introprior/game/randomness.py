"""Random streams: one per seed, so that a run draws the same numbers alone and in any company."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from introprior.errors import cut, one_line


class Streams:
    """S independent random streams drawn from side by side; row s of every result comes from generator s alone.

    One kernel per stream and draw; whatever is computed from the draws is then one kernel for all streams.

    >>> pair = Streams([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    >>> alone = Streams([torch.Generator().manual_seed(1)])
    >>> torch.equal(pair.normal(3)[1], alone.normal(3)[0])
    True
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

    Members with the same seed and dataset share their stream: they would draw the same numbers anyway, and a grid
    search (one seed, 210 settings) draws them once.

    Args:
        seeds: one per member.
        device: where the numbers are made.
        datasets: one per member, where they have data to draw.

    Attributes:
        kind: what makes them: a type of device, whose generators they come from, or ``counters``.
        rows: the streams before they are spread over the members; ``seeds`` are theirs.
        parts: those that data is drawn from, by dataset.

    >>> one, twin, other = MemberStreams([7, 7, 8], torch.device("cpu")).normal(3)
    >>> torch.equal(one, twin), torch.equal(one, other)
    (True, False)
    """

    def __init__(self, seeds: Sequence[int], device: torch.device, datasets: Sequence[str] = ()):
        self.device, self.kind = device, device.type
        self.generators_of = {key: torch.Generator(device).manual_seed(key[1]) for key in keys_of(seeds, datasets)}
        self.assign(seeds, datasets)

    def begin(self) -> None:
        """An iteration begins, of which the clock tells by now."""

    def assign(self, seeds: Sequence[int], datasets: Sequence[str] = ()) -> None:
        """Let the members be these, all known; streams that nobody uses any more are dropped."""
        members = keys_of(seeds, datasets)
        self.generators_of = {key: self.generators_of[key] for key in grouped(members)}
        self.generators = tuple(self.generators_of.values())
        self.rows, self.seeds = Streams(self.generators), [seed for _, seed in self.generators_of]
        self.parts = {
            name: Streams([generator for key, generator in self.generators_of.items() if key[0] == name])
            for name, _ in self.generators_of
        }
        self.spread = self.spread_data = Spread([*self.generators_of], members, self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self.spread(self.rows.uniform(*shape))

    def normal(self, *shape: int) -> Tensor:
        return self.spread(self.rows.normal(*shape))

    def moments(self, draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        first, second = self.rows.moments(draws, *shape)
        return self.spread(first), self.spread(second)

    def integers(self, high: int, *shape: int) -> Tensor:
        return self.spread(self.rows.integers(high, *shape))

    def draw(self, source: Callable[[str, Streams], Tensor]) -> Tensor:
        """Data: what ``source`` makes of each dataset and its streams before they are spread; ``[E, ...]``."""
        drawn = [source(dataset, streams) for dataset, streams in self.parts.items()]
        return self.spread_data(drawn[0] if len(drawn) == 1 else torch.cat(drawn))

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        generators = {key: generator.get_state() for key, generator in self.generators_of.items()}
        return {"kind": self.kind, "generators": generators}

    def restore(self, state: dict[str, Any], iteration: int) -> bool:
        """Go on from a checkpoint's state, or, where another kind of streams wrote it, with new ones; False then.

        New ones depend on seed and iteration: whoever goes from one device to another and back meets no number twice.
        """
        known = bool(state["kind"] == self.kind)
        for key, generator in self.generators_of.items():
            if known:
                generator.set_state(state["generators"][key].cpu())
            else:
                digest = hashlib.sha256(f"{key[1]} from iteration {iteration}".encode()).digest()
                generator.manual_seed(int.from_bytes(digest[:7]))
        return known


class Spread:
    """From one row per key, as ``of_rows``, to one per member, as ``of_members``.

    >>> Spread(["a", "b"], ["b", "a", "b"], torch.device("cpu"))(torch.tensor([1, 2]))
    tensor([2, 1, 2])
    """

    def __init__(self, of_rows: Sequence[Hashable], of_members: Sequence[Hashable], device: torch.device):
        self.members, places = len(of_members), [of_rows.index(key) for key in of_members]
        self.index = None if places == list(range(len(of_rows))) else torch.tensor(places, device=device)

    def __call__(self, rows: Tensor) -> Tensor:
        """``[S, ...]`` to ``[E, ...]``."""
        if self.index is None:
            return rows
        return rows.expand(self.members, *rows.shape[1:]) if len(rows) == 1 else rows[self.index]


def keys_of(seeds: Sequence[int], datasets: Sequence[str]) -> list[tuple[str, int]]:
    """What the members' data depends on: dataset and seed.

    >>> keys_of([0, 1], ["Rings", "8Gaussian"])
    [('Rings', 0), ('8Gaussian', 1)]
    """
    return list(zip(datasets or [""] * len(seeds), seeds, strict=True))


def grouped(keys: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The different ones, dataset by dataset.

    >>> grouped([("Rings", 0), ("8Gaussian", 0), ("Rings", 1), ("Rings", 0)])
    [('Rings', 0), ('Rings', 1), ('8Gaussian', 0)]
    """
    datasets = list(dict.fromkeys(dataset for dataset, _ in keys))
    return sorted(dict.fromkeys(keys), key=lambda key: datasets.index(key[0]))


def streams_of(
    seeds: Sequence[int], device: torch.device, clock: Tensor | None = None, datasets: Sequence[str] = ()
) -> MemberStreams:
    """Streams for members with these seeds: on a GPU that has Triton counter-based ones, one launch a draw.

    Everywhere else torch's generators draw, one launch a seed and dataset; a GPU is told why in one line.

    Args:
        clock: the iteration, int64 on the device, for what is to be captured in a graph; 0 where not given.
        datasets: of the members, where they have data to draw.

    >>> streams_of([0, 1], torch.device("cpu")).kind
    'cpu'
    """
    if device.type == "cuda" and _counters_work(device):
        from introprior.game.gpu.counters import CounterStreams

        clock = torch.zeros((), dtype=torch.long, device=device) if clock is None else clock
        return CounterStreams(seeds, clock, datasets)
    return MemberStreams(seeds, device, datasets)


@cache
def _counters_work(device: torch.device) -> bool:
    """Whether the kernels compile for a device and give there the published words of Philox-4x32-10."""
    try:
        from introprior.game.gpu import counters  # late: imports Triton, which not all have

        counters.check(device)
    except Exception as error:  # of Triton, its compiler, the driver
        reason = cut(one_line(error), 200)
        print(f"this GPU draws random numbers seed by seed, which is slower: {reason}", file=sys.stderr)
        return False
    return True
