"""Random numbers on a GPU as a function of where they are wanted: nothing to keep, one launch for all seeds.

Philox-4x32-10 (Salmon et al., 2011) turns a key and four counters into four words of 32 random bits. The key is the
seed; the counters are the block of four numbers within a row, the call within the iteration, the iteration, and for
moments the draw. No two numbers of a run have the same key and counters. The iteration is read from the device, so that
the replay of a CUDA graph, whose calls are constants, draws new numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from introprior.game.randomness import MemberStreams, Spread, Streams, grouped, keys_of

BLOCKS = 256
"""Blocks a program; its numbers are ordered by word, then block, so that neighbours write to neighbouring memory."""
DATA_CALLS = 8
"""What drawing data may take at most."""
KNOWN = 0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8
"""Philox-4x32-10 of key 0 and counters 0, a known answer of its authors' library Random123."""
UNIT = tl.constexpr(2.0**-32)
EIGHTH = tl.constexpr(math.pi / 4 * 2.0**-29)


# ---- The kernels ----


@triton.jit
def random_words(seeds, clock, block, call, draw):
    """Four tensors of random bits, uint32, of the shape of ``block``."""
    none = tl.zeros_like(block)
    seed, iteration = tl.load(seeds + tl.program_id(1)), tl.load(clock).to(tl.int32)
    return tl.philox(seed, block, none + call, none + iteration, none + draw)


@triton.jit
def normal_pair(a, b):
    """Two independent standard normals of two words (Box and Muller): a point at a random distance and angle.

    The library's sine would bring the reduction of large angles along, and its memory. Here two bits choose a quarter,
    the others an angle of at most 1/8 turn about its middle, where short series are exact in float32.
    """
    radius = tl.sqrt(tl.maximum(-2.0 * tl.log((a.to(tl.float32) + 0.5) * UNIT), 0.0))
    angle = ((b >> 2).to(tl.int32) - (1 << 29)).to(tl.float32) * EIGHTH
    x = angle * angle
    sine = angle * (1 - x * (1 / 6) * (1 - x * (1 / 20) * (1 - x * (1 / 42) * (1 - x * (1 / 72)))))
    cosine = 1 - x * (1 / 2) * (1 - x * (1 / 12) * (1 - x * (1 / 30) * (1 - x * (1 / 56))))
    radius = tl.where(b & 2 != 0, -radius, radius)
    turned = b & 1 != 0
    return radius * tl.where(turned, -sine, cosine), radius * tl.where(turned, cosine, sine)


@triton.jit(do_not_specialize=["call", "high"])
def draw_kernel(seeds, clock, out, call, high, n, KIND: tl.constexpr, Q: tl.constexpr):
    """Rows of n numbers, ``out [S, n]``: uniform, normal, or integers below ``high``. Program (Q blocks, row)."""
    tile, q = tl.program_id(0), tl.arange(0, Q)
    a, b, c, d = random_words(seeds, clock, tile * Q + q, call, 0)
    if KIND == "normal":
        a, b = normal_pair(a, b)
        c, d = normal_pair(c, d)
    numbers = a, b, c, d
    at = tile.to(tl.int64) * (4 * Q) + q
    out += tl.program_id(1).to(tl.int64) * n
    for word in tl.static_range(4):
        number = numbers[word]
        if KIND == "uniform":
            number = (number >> 8).to(tl.float32) * 2.0**-24
        if KIND == "integers":
            number = tl.umulhi(number, tl.zeros_like(number) + high.to(tl.uint32))
        tl.store(out + at + word * Q, number, mask=at + word * Q < n)


@triton.jit(do_not_specialize=["call"])
def moments_kernel(seeds, clock, first, second, call, n, T: tl.constexpr, Q: tl.constexpr):
    """Means of T normals and of their squares for n elements a row, ``[S, n]`` each. Program (Q elements, row)."""
    at = tl.program_id(0) * Q + tl.arange(0, Q)
    total, squares = tl.zeros((Q,), tl.float32), tl.zeros((Q,), tl.float32)
    for start in range(0, T, 4):
        a, b, c, d = random_words(seeds, clock, at, call, start)
        normals = normal_pair(a, b) + normal_pair(c, d)
        for word in tl.static_range(4):
            number = tl.where(start + word < T, normals[word], 0.0)
            total += number
            squares += number * number
    place = tl.program_id(1).to(tl.int64) * n + at
    tl.store(first + place, total / T, mask=at < n)
    tl.store(second + place, squares / T, mask=at < n)


# ---- Streams of them ----


class Counters(Streams):
    """S streams; row s of every result depends on seed s, the iteration, the call and the place in the row alone.

    Args:
        seeds: their keys, from 0 to 2^64 - 1.
        clock: the iteration, int64 on the device, from 0 to 2^32 - 1.
    """

    def __init__(self, seeds: Sequence[int], clock: Tensor):
        super().__init__((), clock.device)
        self.clock, self.call = clock, 0
        self.keys = torch.tensor([(seed + 2**63) % 2**64 - 2**63 for seed in seeds], device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self._drawn("uniform", shape)

    def normal(self, *shape: int) -> Tensor:
        return self._drawn("normal", shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        return self._drawn("integers", shape, high, torch.int64)

    def moments(self, draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        first, second = self._rows(shape), self._rows(shape)
        self._launch(moments_kernel, first, second, T=draws)
        return first, second

    def _drawn(self, kind: str, shape: Sequence[int], high: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        out = self._rows(shape, dtype)
        self._launch(draw_kernel, out, high=high, KIND=kind)
        return out

    def _rows(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(len(self.keys), *shape, dtype=dtype, device=self.device)

    def _launch(self, kernel: Any, *out: Tensor, **more: Any) -> None:
        n = out[0][0].numel()
        tiles = triton.cdiv(n, BLOCKS * (4 if kernel is draw_kernel else 1))
        kernel[(tiles, len(self.keys))](self.keys, self.clock, *out, call=self.call, n=n, Q=BLOCKS, **more)
        self.call += 1


class CounterStreams(MemberStreams):
    """The streams of members; those of one seed share a row, those of several have a row each, for one launch.

    Args:
        seeds: one per member.
        clock: the iteration, on the device; it may only change in place.
        datasets: one per member, where they have data to draw.
    """

    rows: Counters
    parts: dict[str, Counters]

    def __init__(self, seeds: Sequence[int], clock: Tensor, datasets: Sequence[str] = ()):
        self.device, self.kind, self.generators, self.clock = clock.device, "counters", (), clock
        self.assign(seeds, datasets)

    def begin(self) -> None:
        self.rows.call = 0

    def assign(self, seeds: Sequence[int], datasets: Sequence[str] = ()) -> None:
        one, members = len(set(seeds)) == 1, keys_of(seeds, datasets)
        self.seeds = [seeds[0]] if one else list(seeds)
        self.rows = Counters(self.seeds, self.clock)
        self.spread = (
            Spread(self.seeds, seeds, self.device) if one else Spread(range(len(seeds)), range(len(seeds)), self.device)
        )
        keys = grouped(members)
        self.parts = {
            name: Counters([seed for dataset, seed in keys if dataset == name], self.clock) for name, _ in keys
        }
        self.spread_data = Spread(keys, members, self.device)

    def draw(self, source: Callable[[str, Streams], Tensor]) -> Tensor:
        """Data; calls are counted on by ``DATA_CALLS``, whatever others' datasets take."""
        for part in self.parts.values():
            part.call = self.rows.call
        data = super().draw(source)
        self.rows.call += DATA_CALLS
        assert all(part.call <= self.rows.call for part in self.parts.values())
        return data

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def restore(self, state: dict[str, Any], iteration: int) -> bool:
        return bool(state["kind"] == self.kind)


def check(device: torch.device) -> None:
    """Draw what is known beforehand.

    Raises:
        ArithmeticError: something else came.
    """
    streams = Counters([0, 1], torch.zeros((), dtype=torch.long, device=device))
    words = torch.tensor(KNOWN, dtype=torch.float64) * UNIT.value
    angles = torch.tensor([(word % 4 + (word // 4) / 2**30 - 0.5) * (math.pi / 2) for word in KNOWN[1::2]])
    normals = (-2 * words[::2].log()).sqrt()[:, None] * torch.stack((angles.cos(), angles.sin()), 1)
    expected = {
        "uniform": (words, 2.0**-24),
        "integers": ((words * 1000).floor(), 0.5),
        "normal": (normals.flatten(), 1e-5),
        "moments": (torch.stack((normals.mean(), normals.square().mean())), 1e-5),
    }
    for name, (values, error) in expected.items():
        streams.call = 0
        if name == "moments":
            drawn = torch.stack(streams.moments(4, 1))[:, 0, 0]
        else:
            drawn = getattr(streams, name)(*[1000] * (name == "integers"), 4 * BLOCKS)[0, ::BLOCKS]
        if not (drawn.cpu().double() - values).abs().max() <= error:
            raise ArithmeticError(f"its {name} numbers are wrong")
