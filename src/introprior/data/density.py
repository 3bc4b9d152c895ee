"""The four two-dimensional distributions of the density-estimation benchmark: endless streams of fresh samples.

Points of one's own, in a file, are drawn from with replacement.

They go back to the toy data of FFJORD (Grathwohl et al., 2019), as Soft-IntroVAE (Daniel and Tamar, 2021) and then the
paper's authors use them; constants and quirks are those of the authors' code. Training and evaluation draw from the
same distribution. All that is random comes from the streams given, so a batch is a function of their states, and a
member gets the same batch alone and in company. Streams of one seed give other numbers on a CPU than on a GPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from introprior.data import points
from introprior.data.catalogue import check_size, dataset
from introprior.game.randomness import Streams


def sample(name: str, n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` points at once; Rings and 2Spirals share random numbers or positions between the points of one call.

    Returns:
        float32 ``[n, 2]`` on the generator's device. The rows are in no useful order, nor are they shuffled.

    Raises:
        UserError: unknown dataset, or a number that it cannot draw (`check_size`).
    """
    return sample_members(name, n, Streams([generator]))[0]


def sample_members(name: str, n: int, streams: Streams) -> Tensor:
    """Draw ``n`` points from each of S streams, as `sample` does from a generator, in far fewer kernels.

    Returns:
        float32 ``[S, n, 2]`` on the streams' device; row s is bitwise what ``sample`` makes of the s-th generator,
        where streams are generators.
    """
    check_size(name, n)
    entry = dataset(name)
    if entry.file:
        known = _read(entry.file, streams.device)
        return known[streams.integers(len(known), n)]
    return globals()[entry.sampler](n, streams)


def of_size(n: int) -> Callable[[str, Streams], Tensor]:
    """What draws ``n`` points of a dataset from each of some streams, for :meth:`MemberStreams.draw`."""
    return lambda name, streams: sample_members(name, n, streams)


def eight_gaussians(n: int, streams: Streams) -> Tensor:
    """Eight equally likely Gaussians of σ 0.02 on a circle of radius 2, all divided by 1.414 (not by √2)."""
    return _scattered(_circle_of_eight(streams.device), n, 0.02 / 1.414, streams)


def two_spirals(n: int, streams: Streams) -> Tensor:
    """Two arms of 540 degrees, each point followed half a batch later by its mirror image with noise of its own.

    With U, V, W uniform in [0, 1) and t = 3π √U: ±(-t cos t + V/2, t sin t + W/2)/3 + 0.1 N(0, I). The jitter V, W
    makes an arm a band, and is mirrored along with it.
    """
    uniform = streams.uniform(n // 2, 3)
    turn = uniform[..., 0].sqrt() * (3 * math.pi)
    curve = torch.view_as_real(torch.polar(turn, math.pi - turn))  # (-t cos t, t sin t)
    arm = torch.add(curve, uniform[..., 1:], alpha=0.5)
    arms = arm.unsqueeze(-3) * _there_and_back(streams.device)
    return arms.flatten(-3, -2).add_(streams.normal(n, 2), alpha=0.1)


def checkerboard(n: int, streams: Streams) -> Tensor:
    """Uniform on the eight squares of side 2 that have the colour of the lower left one, in [-4, 4]²."""
    corners = _corners(streams.device)[streams.integers(8, n)]
    return corners.add_(streams.uniform(n, 2), alpha=2)


def rings(n: int, streams: Streams) -> Tensor:
    """Four rings of radii 0.75, 1.5, 2.25 and 3 with noise of σ 0.08.

    Before the noise there are n points, n/4 equally spaced ones a ring, the first at angle 0; the batch draws n times
    from them with replacement (FFJORD permutes them; the authors' code resamples).
    """
    return _scattered(_concentric(n, streams.device), n, 0.08, streams)


def _scattered(centres: Tensor, n: int, sigma: float, streams: Streams) -> Tensor:
    """Points of N(c, σ² I) with c uniform among ``centres [C, 2]``."""
    chosen = centres[streams.integers(len(centres), n)]
    return chosen.add_(streams.normal(n, 2), alpha=sigma)


# The tables are kept: a copy to a GPU in every iteration would wait for it.
@functools.lru_cache(maxsize=8)
def _circle_of_eight(device: torch.device) -> Tensor:
    return _on_circle(8, 2 / 1.414).to(device, torch.float32)


@functools.lru_cache(maxsize=8)
def _there_and_back(device: torch.device) -> Tensor:
    return torch.tensor([1 / 3, -1 / 3], dtype=torch.float32, device=device).view(2, 1, 1)


@functools.lru_cache(maxsize=8)
def _corners(device: torch.device) -> Tensor:
    """The lower left corners of the checkerboard's squares of one colour: ``[8, 2]``."""
    places = range(-4, 4, 2)
    return torch.tensor(
        [(x, y) for x in places for y in places if (x + y) % 4 == 0], dtype=torch.float32, device=device
    )


@functools.lru_cache(maxsize=8)
def _read(file: str, device: torch.device) -> Tensor:
    return torch.tensor(points.read(file), device=device)


@functools.lru_cache(maxsize=32)
def _concentric(n: int, device: torch.device) -> Tensor:
    return torch.cat([_on_circle(n // 4, radius) for radius in (0.75, 1.5, 2.25, 3.0)]).to(device, torch.float32)


def _on_circle(n: int, radius: float) -> Tensor:
    """``n`` equally spaced points, the first at angle 0: float64 ``[n, 2]``."""
    angles = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return radius * torch.stack((angles.cos(), angles.sin()), dim=-1)
