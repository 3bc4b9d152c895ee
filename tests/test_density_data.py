"""The four distributions: closed-form moments and supports, a naive reference, determinism, errors.

Bounds are `Z` standard errors at fixed seeds; nothing here is a matter of luck from run to run.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from scipy.stats import ks_2samp, kstest
from torch.overrides import TorchFunctionMode

from introprior.data import catalogue, density
from introprior.experiment.config import Configuration
from tests.commands import refused

N = 40_000
Z = 4.5
NAMES = Configuration().density.datasets
"""The paper's; one that is added is tested beside what it should be, as they are here."""


def points(name: str, n: int = N, seed: int = 0) -> np.ndarray:
    return density.sample(name, n, torch.Generator().manual_seed(seed)).double().numpy()


def assert_mean(values: np.ndarray, expected: float) -> None:
    """The mean of independent ``values`` is ``expected`` within `Z` standard errors."""
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - expected) <= Z * error, f"{values.mean()} is not {expected} ± {error}"


def assert_share(count: int, n: int, probability: float) -> None:
    assert abs(count - n * probability) <= Z * math.sqrt(n * probability * (1 - probability))


def assert_moments(x: np.ndarray, mean: tuple[float, float], second: tuple[float, float, float]) -> None:
    """Means, and E[x²], E[y²], E[xy], of independent rows."""
    for axis in range(2):
        assert_mean(x[:, axis], mean[axis])
        assert_mean(x[:, axis] ** 2, second[axis])
    assert_mean(x[:, 0] * x[:, 1], second[2])


def assert_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    """By x, y, radius, angle and an oblique axis; the halves apart, as spirals are independent within either alone."""
    for one, other in zip(np.split(ours, 2), np.split(theirs, 2), strict=True):
        seen = [(*p.T, np.hypot(*p.T), np.arctan2(*p.T), p @ [0.8, -0.6]) for p in (one, other)]
        for view, (mine, known) in enumerate(zip(*seen, strict=True)):
            p_value = ks_2samp(mine, known).pvalue
            assert p_value > 1e-3, f"view {view}: p = {p_value}"


def naive(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """The published description of the toy data, one point at a time."""
    rows: list[tuple[float, float]] = []
    back: list[tuple[float, float]] = []
    diagonal = 1 / math.sqrt(2)
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), *((a * diagonal, b * diagonal) for a in (1, -1) for b in (1, -1))]
    while len(rows) + len(back) < n:
        if name == "8Gaussian":
            x, y = directions[rng.integers(8)]
            rows.append(((2 * x + 0.02 * rng.normal()) / 1.414, (2 * y + 0.02 * rng.normal()) / 1.414))
        elif name == "2Spirals":
            turn = math.sqrt(rng.random()) * 540 * (2 * math.pi) / 360
            x = -math.cos(turn) * turn + rng.random() * 0.5
            y = math.sin(turn) * turn + rng.random() * 0.5
            rows.append((x / 3 + 0.1 * rng.normal(), y / 3 + 0.1 * rng.normal()))
            back.append((-x / 3 + 0.1 * rng.normal(), -y / 3 + 0.1 * rng.normal()))
        elif name == "Checkerboard":
            x = rng.random() * 4 - 2
            rows.append((2 * x, 2 * (rng.random() - 2 * rng.integers(0, 2) + math.floor(x) % 2)))
        else:
            ring, step = divmod(rng.integers(n), n // 4)
            radius, angle = 3 * (0.25, 0.5, 0.75, 1)[ring], 2 * math.pi * step / (n // 4)
            x, y = radius * math.cos(angle), radius * math.sin(angle)
            rows.append((x + 0.08 * rng.normal(), y + 0.08 * rng.normal()))
    return np.array(rows + back)


@pytest.mark.parametrize("name", NAMES)
def test_same_distribution_as_the_naive_reference(name: str) -> None:
    n = 8000
    ours, theirs = points(name, n, seed=11), naive(name, n, np.random.default_rng(12))
    assert_alike(ours, theirs)


def test_eight_gaussians_moments_and_components() -> None:
    x = points("8Gaussian")
    radius, sigma = 2 / 1.414, 0.02 / 1.414
    assert_moments(x, (0, 0), (radius**2 / 2 + sigma**2, radius**2 / 2 + sigma**2, 0))

    component = np.round(np.arctan2(x[:, 1], x[:, 0]) / (math.pi / 4)).astype(int) % 8
    angles = np.arange(8) * math.pi / 4
    centres = radius * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    noise = x - centres[component]
    for k in range(8):
        assert_share((component == k).sum(), N, 1 / 8)
        for axis in range(2):
            assert_mean(noise[component == k, axis], 0)
    assert_moments(noise, (0, 0), (sigma**2, sigma**2, 0))
    assert kstest(noise.ravel() / sigma, "norm").pvalue > 1e-3
    assert np.abs(noise).max() < 6 * sigma


def test_eight_gaussians_are_divided_by_1_414_not_by_the_root_of_two() -> None:
    n = 1_000_000
    x = points("8Gaussian", n)
    # E|c + σ noise| = |c| + σ²/2|c| + O(σ⁴)
    sigma = 0.02 / 1.414
    radius = np.hypot(*x.T).mean() - sigma**2 / (2 * math.sqrt(2))
    assert abs(radius - 2 / 1.414) < Z * sigma / math.sqrt(n) < radius - math.sqrt(2)


class Noiseless(density.Streams):
    """Streams whose normal numbers are all 0."""

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.zeros_like(super().normal(*shape))


def spiral_moments(noise: float) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Mean and second moments of the first arm.

    By parts, with t of density 2t/(9π²) on [0, 3π]; the jitter has mean ¼ and second moment 1/12.
    """
    pi = math.pi
    t2_cos2, t2_sin2, t2_sin_cos = 9 * pi**2 / 4 + 3 / 4, 9 * pi**2 / 4 - 3 / 4, 1 / (4 * pi) - 3 * pi / 2
    t_cos, t_sin = -4 / (3 * pi), 2 - 8 / (9 * pi**2)
    xx = (t2_cos2 - t_cos / 2 + 1 / 12) / 9 + noise**2
    yy = (t2_sin2 + t_sin / 2 + 1 / 12) / 9 + noise**2
    xy = (-t2_sin_cos + (t_sin - t_cos) / 4 + 1 / 16) / 9
    return ((-t_cos + 1 / 4) / 3, (t_sin + 1 / 4) / 3), (xx, yy, xy)


def test_spirals_are_mirrored_pairs_with_noise_of_their_own() -> None:
    (x_mean, y_mean), second = spiral_moments(noise=0.1)
    there, back = np.split(points("2Spirals"), 2)
    assert_moments(there, (x_mean, y_mean), second)
    assert_moments(back, (-x_mean, -y_mean), second)
    assert_moments(there + back, (0, 0), (0.02, 0.02, 0))
    assert kstest((there + back).ravel() / math.sqrt(0.02), "norm").pvalue > 1e-3


def test_spirals_without_noise() -> None:
    """Sharp enough to see a factor of 1 %: moments, and the band that the jitter makes of the curve."""
    n = 1_000_000
    x = density.two_spirals(2 * n, Noiseless([torch.Generator().manual_seed(0)]))[0].double().numpy()
    assert np.array_equal(x[n:], -x[:n])
    assert_moments(x[:n], *spiral_moments(noise=0))
    t = np.linspace(0, 3 * math.pi, 20_000)
    curve = np.stack((-t * np.cos(t), t * np.sin(t)), axis=1)
    # The jitter's square [0, ½]² is a ball of the maximum norm about each of its corners.
    for corner in (0, 0.5):
        beyond, _ = KDTree(curve + corner).query(3 * x[:100_000], p=math.inf)
        assert 0.49 < beyond.max() < 0.501


def test_checkerboard_moments_and_occupancy() -> None:
    x = points("Checkerboard")
    assert_moments(x, (0, 0), (16 / 3, 16 / 3, 1))
    assert np.abs(x).max() <= 4
    column, row = (np.clip(np.floor(x / 2) + 2, 0, 3)).astype(int).T  # 4.0 itself: float32 rounds sums just below it
    occupancy = np.zeros((4, 4), int)
    np.add.at(occupancy, (column, row), 1)
    for (i, j), count in np.ndenumerate(occupancy):
        if (i + j) % 2:
            assert count <= 2  # only rounding, on the edge between two squares, ever puts a point in the other colour
        else:
            assert_share(count, N, 1 / 8)
    inside = x / 2 - np.floor(x / 2)
    assert min(kstest(axis, "uniform").pvalue for axis in inside.T) > 1e-3
    assert abs(np.corrcoef(inside.T)[0, 1]) < Z / math.sqrt(N)


def test_rings_moments_and_radii() -> None:
    x = points("Rings")
    second = 9 * (1 / 16 + 1 / 4 + 9 / 16 + 1) / 4 / 2 + 0.08**2
    assert_moments(x, (0, 0), (second, second, 0))
    radius = np.hypot(*x.T)
    ring = np.clip(np.round(radius / 0.75), 1, 4).astype(int)
    for k in range(1, 5):
        members = radius[ring == k]
        assert_share(len(members), N, 1 / 4)
        # E|(r,0) + σ noise| = r + σ²/2r + O(σ⁴/r³)
        assert_mean(members, 0.75 * k + 0.08**2 / (2 * 0.75 * k))
        assert members.std() == pytest.approx(0.08, rel=Z / math.sqrt(2 * len(members)) + 0.01)


@pytest.mark.parametrize("n", [4, 8, 20])
def test_rings_angles_are_equally_spaced_and_depend_on_the_batch_size(n: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.cat([density.sample("Rings", n, generator) for _ in range(400)]).double().numpy()
    angles = np.arange(n // 4) * 2 * math.pi / (n // 4)
    clean = np.concatenate(
        [r * np.stack((np.cos(angles), np.sin(angles)), axis=1) for r in (0.75, 1.5, 2.25, 3)]
    )  # at least 0.75 apart, or 9 σ: each point belongs to exactly one
    distance = np.linalg.norm(x[:, None] - clean, axis=2)
    assert distance.min(1).max() < 6 * 0.08
    for count in np.bincount(distance.argmin(1), minlength=n):
        assert_share(count, len(x), 1 / n)


def test_rings_resample_with_replacement() -> None:
    """A permutation would put exactly n/4 points on each ring; resampling makes the number binomial."""
    n, batches = 64, 1500
    members = [torch.Generator().manual_seed(seed) for seed in range(batches)]
    radius = density.sample_members("Rings", n, density.Streams(members)).norm(dim=-1)
    outermost = (radius > 2.625).sum(1).double().numpy()
    assert_mean(outermost, n / 4)
    variance = n * 3 / 16
    assert abs(outermost.var(ddof=1) - variance) < Z * variance * math.sqrt(2 / batches)


@pytest.mark.parametrize("name", NAMES)
def test_form_and_window(name: str) -> None:
    x = density.sample(name, 512, torch.Generator().manual_seed(1))
    assert (x.shape, x.dtype, x.device.type) == ((512, 2), torch.float32, "cpu")
    assert (x.is_contiguous(), x.requires_grad) == (True, False)
    entry = catalogue.dataset(name)
    assert entry.name == name
    everything = points(name)
    assert np.mean(np.abs(everything).max(1) <= entry.limit) > 0.999
    assert np.abs(everything).max() > entry.limit / 2


@pytest.mark.parametrize("name", NAMES)
def test_generators_decide_alone_and_in_company(name: str) -> None:
    untouched = torch.get_rng_state()
    members, alone = ([torch.Generator().manual_seed(seed) for seed in (7, 0, 7)] for _ in range(2))
    first, second = (density.sample_members(name, 32, density.Streams(members)) for _ in range(2))
    assert not torch.equal(first, second)
    for together in (first, second):
        assert together.shape == (3, 32, 2)
        assert not torch.equal(together[0], together[1])
        for row, generator in zip(together, alone, strict=True):
            assert torch.equal(row, density.sample(name, 32, generator))
    assert torch.equal(torch.get_rng_state(), untouched)


@pytest.mark.parametrize("name", NAMES)
def test_samples_made_in_inference_mode_leave_training_unharmed(name: str) -> None:
    density._concentric.cache_clear()
    density._circle_of_eight.cache_clear()
    with torch.inference_mode():
        expected = density.sample(name, 16, torch.Generator().manual_seed(2))
    x = density.sample(name, 16, torch.Generator().manual_seed(2))
    assert torch.equal(x, expected)
    weight = torch.ones(2, requires_grad=True)
    (x * weight).square().sum().backward()
    assert torch.allclose(weight.grad, 2 * expected.square().sum(0))


class Calls(TorchFunctionMode):
    """Counts the calls into torch, an upper bound on kernels: some are views, some only read a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_few_kernels(name: str) -> None:
    def calls(n: int, members: int) -> int:
        streams = density.Streams([torch.Generator().manual_seed(seed) for seed in range(members)])
        density.sample_members(name, n, streams)  # the tables of centres are made once
        with Calls() as counted:
            density.sample_members(name, n, streams)
        return counted.count

    one = calls(512, 1)
    assert 2 <= one <= 24
    assert calls(4096, 1) == one
    assert calls(512, 5) == one + 4 * 2, "two random draws a member, all else together"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_same_distribution_as_cpu(name: str) -> None:
    n = 8000
    members = [torch.Generator("cuda").manual_seed(seed) for seed in (0, 1)]
    on_gpu = density.sample_members(name, n, density.Streams(members))
    assert on_gpu.device.type == "cuda"
    assert torch.equal(on_gpu[1], density.sample(name, n, torch.Generator("cuda").manual_seed(1)))
    assert_alike(on_gpu[0].double().cpu().numpy(), points(name, n, seed=1))


@pytest.mark.parametrize(("wrong", "meant"), [("8gaussian", "8Gaussian"), ("spirals", "2Spirals"), ("ring", "Rings")])
def test_unknown_dataset_names_the_nearest(wrong: str, meant: str) -> None:
    said = f"unknown dataset '{wrong}'; did you mean '{meant}'"
    refused(lambda: density.sample(wrong, 8, torch.Generator()), said)
    refused(lambda: catalogue.dataset(wrong, where="datasets[1]"), f"datasets[1]: {said}")


@pytest.mark.parametrize(
    ("name", "n", "advice"),
    [
        ("Rings", 510, "multiple of 4 for Rings, is 510; try 512"),
        ("Rings", 2, "multiple of 4 for Rings, is 2; try 4"),
        ("2Spirals", 511, "multiple of 2 for 2Spirals, is 511; try 512"),
        ("2Spirals", 0, "positive multiple of 2 for 2Spirals, is 0"),
        ("8Gaussian", 0, "positive for 8Gaussian, is 0"),
        ("Checkerboard", -4, "positive for Checkerboard, is -4"),
        ("Rings", -4, "positive multiple of 4 for Rings, is -4; try 4"),
    ],
)
def test_refused_sizes(name: str, n: int, advice: str) -> None:
    refused(lambda: density.sample(name, n, torch.Generator()), "number of samples: must be ", advice)
    refused(lambda: catalogue.check_size(name, n, where="batch_size"), "batch_size: must be ", advice)


def test_a_new_distribution_is_one_function_and_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalogue.DensityDataset("Square", 1.5, "square", multiple=3)
    monkeypatch.setitem(catalogue.DATASETS, "Square", entry)
    monkeypatch.setattr(density, "square", lambda n, streams: streams.uniform(n, 2), raising=False)

    x = density.sample("Square", 9, torch.Generator().manual_seed(0))
    assert x.shape == (9, 2)
    assert 0 <= x.min() < x.max() < 1
    refused(lambda: density.sample("Square", 8, torch.Generator()), "multiple of 3")
