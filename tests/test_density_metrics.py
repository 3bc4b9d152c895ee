"""gnELBO, histogram KL and "JSD", the textbook JSD: naive loops, closed forms, properties, floors, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from introprior.data.catalogue import dataset
from introprior.data.density import sample
from introprior.metrics.density import floors, gnelbo, histogram_jsd, histogram_kl, jsd_nats

HISTOGRAM_METRICS = [histogram_kl, histogram_jsd, jsd_nats]


def bin_of(value: float, limit: float, bins: int) -> int | None:
    edges = [-limit + 2 * limit * i / bins for i in range(bins + 1)]
    for i in range(bins):
        if edges[i] <= value < edges[i + 1] or (i == bins - 1 and value == edges[-1]):
            return i
    return None


def naive_densities(points: np.ndarray, limit: float, bins: int) -> list[list[float]]:
    counts = [[0] * bins for _ in range(bins)]
    for x, y in points:
        i, j = bin_of(x, limit, bins), bin_of(y, limit, bins)
        if i is not None and j is not None:
            counts[i][j] += 1
    total = sum(map(sum, counts))
    return [[c / total / (2 * limit / bins) ** 2 for c in row] for row in counts]


def naive_kl_and_jsd(real: np.ndarray, generated: np.ndarray, limit: float, bins: int = 100) -> tuple[float, float]:
    kl, jsd = 0.0, 0.0
    for p_row, q_row in zip(naive_densities(real, limit, bins), naive_densities(generated, limit, bins), strict=True):
        for p, q in zip(p_row, q_row, strict=True):
            m = (p + q) / 2
            if p > 0:
                kl += p * (math.log(p) - math.log(q + 1e-14))
            if m > 0:
                jsd += m * (math.log(m) - math.log(p + 1e-14)) / 2
                jsd += m * (math.log(m) - math.log(q + 1e-14)) / 2
    return kl / bins, jsd / bins


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two unlike clouds with points outside the window and points exactly on its edges."""
    rng = np.random.default_rng(0)
    real = np.concatenate((rng.normal(0, 0.8, (700, 2)), [[2, 2], [-2, -2], [2, -2], [0, 2], [0.1, 0.3]]))
    generated = np.concatenate((rng.normal(0.3, 1.1, (500, 2)), [[2, 2], [-2, 0], [5, 0], [0, -7], [2.0001, 0]]))
    return real, generated


@pytest.mark.parametrize(("limit", "bins"), [(2.0, 20), (4.0, 7), (2.0, 100)])
def test_kl_and_jsd_agree_with_naive_loops(pair: tuple[np.ndarray, np.ndarray], limit: float, bins: int) -> None:
    found = [metric(*pair, limit, bins) for metric in (histogram_kl, histogram_jsd)]
    assert found == pytest.approx(naive_kl_and_jsd(*pair, limit, bins), rel=1e-10)


@pytest.mark.parametrize("name", ["8Gaussian", "Rings"])
def test_kl_agrees_with_the_naive_loop_on_data(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = (sample(name, 1000, generator) for _ in range(2))  # float32 tensors are welcome
    expected, _ = naive_kl_and_jsd(real.double().numpy(), generated.double().numpy(), dataset(name).limit)
    assert histogram_kl(real, generated, dataset(name).limit) == pytest.approx(expected, rel=1e-10)


def probabilities(points: np.ndarray, limit: float) -> np.ndarray:
    counts = np.histogram2d(*points.T, bins=100, range=[(-limit, limit)] * 2)[0]
    return (counts / counts.sum()).ravel()


@pytest.mark.parametrize(("limit", "factor"), [(2.0, 6.25), (4.0, 1.5625)])
def test_density_units_are_a_known_multiple_of_the_bins_kl(limit: float, factor: float) -> None:
    """Without empty bins in Q the guard does nothing, and the sums are the KLs of probabilities, rescaled."""
    rng = np.random.default_rng(1)
    everywhere = (np.stack(np.meshgrid(*[np.arange(100)] * 2), axis=-1).reshape(-1, 2) + 0.5) / 50 - 1
    real = limit * np.concatenate((everywhere, rng.uniform(-1, 1, (30_000, 2)) ** 3))
    generated = limit * np.concatenate((everywhere, rng.uniform(-1, 1, (30_000, 2))))
    p, q = probabilities(real, limit), probabilities(generated, limit)
    m = (p + q) / 2
    assert histogram_kl(real, generated, limit) == pytest.approx(factor * rel_entr(p, q).sum(), rel=1e-9)
    reversed_jsd = (rel_entr(m, p).sum() + rel_entr(m, q).sum()) / 2
    assert histogram_jsd(real, generated, limit) == pytest.approx(factor * reversed_jsd, rel=1e-9)
    assert reversed_jsd > 1.01 * jsd_nats(real, generated, limit), "exchanged arguments are another divergence"


def test_jsd_nats_is_scipys_squared_distance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = (probabilities(points, 2.0) for points in pair)
    assert jsd_nats(*pair, 2.0) == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-10)


def test_closed_form_of_two_disjoint_points() -> None:
    """One bin each, density d = 1/0.0016: the guard supplies the only finite answer."""
    real, generated = np.full((5, 2), 0.5), np.full((9, 2), -0.5)
    d = 1 / 0.0016
    assert histogram_kl(real, generated, 2.0) == pytest.approx(d * (math.log(d) + 14 * math.log(10)) / 100)
    # In each of the two bins M = d/2 meets d once and 0 once.
    each = d / 2 * (-math.log(2) + math.log(d / 2) + 14 * math.log(10))
    assert histogram_jsd(real, generated, 2.0) == pytest.approx(each / 100)
    assert jsd_nats(real, generated, 2.0) == pytest.approx(math.log(2))


def test_points_outside_are_dropped_and_the_rest_normalised(pair: tuple[np.ndarray, np.ndarray]) -> None:
    real, generated = pair
    strays = np.array([[3, 0], [0, -2.5], [np.nan, 0], [0, np.inf], [-np.inf, np.nan], [1e300, 1e300]])
    for metric in HISTOGRAM_METRICS:
        assert metric(real, np.concatenate((strays, generated)), 2.0) == metric(real, generated, 2.0)
        assert metric(np.concatenate((strays[:2], real)), generated, 2.0) == metric(real, generated, 2.0)


@pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
@pytest.mark.filterwarnings("error")
def test_nan_where_all_generated_points_are_outside_and_zero_of_identical_samples(metric, pair) -> None:
    for stray in (2.5, -1e30, math.nan, math.inf):
        assert math.isnan(metric(np.zeros((4, 2)), np.full((6, 2), stray), 2.0)), stray
    assert metric(pair[0], pair[0][::-1], 2.0) == pytest.approx(0, abs=1e-10)


def clouds(most: float) -> st.SearchStrategy[np.ndarray]:
    coordinates = st.floats(-most, most, allow_nan=False)
    return st.integers(1, 30).flatmap(lambda n: arrays(np.float64, (n, 2), elements=coordinates))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(real=clouds(2), generated=clouds(3), bins=st.integers(1, 9))
@pytest.mark.filterwarnings("error")
def test_properties(real: np.ndarray, generated: np.ndarray, bins: int) -> None:
    values = [metric(real, generated, 2.0, bins) for metric in HISTOGRAM_METRICS]
    outside = not (np.abs(generated) <= 2).all(axis=1).any()
    assert [math.isnan(value) for value in values] == [outside] * 3
    if outside:
        return
    kl, jsd, nats = values
    assert max(kl, jsd) < math.inf
    assert min(kl, jsd, nats) >= -1e-10
    assert nats <= math.log(2) + 1e-12
    inside = generated[(np.abs(generated) <= 2).all(axis=1)]
    assert histogram_jsd(inside, real, 2.0, bins) == pytest.approx(jsd, rel=1e-9, abs=1e-10)
    assert jsd_nats(inside, real, 2.0, bins) == pytest.approx(nats, rel=1e-9, abs=1e-10)
    # Density units: bins²/(window area) for the sums, 1/bins for the mean over rows of bins.
    assert jsd >= nats * bins / 16 - 1e-10, "KL(M‖P) + KL(M‖Q) is never below KL(P‖M) + KL(Q‖M)"
    mirrored = [metric(real[::-1, ::-1], generated[::-1, ::-1], 2.0, bins) for metric in HISTOGRAM_METRICS]
    assert mirrored == pytest.approx(values, rel=1e-9, abs=1e-10)


# Two fresh samples of 5,000 in the authors' protocol: (KL, JSD).
PUBLISHED_FLOORS = {"8Gaussian": (0.62, 0.30), "2Spirals": (6.77, 3.14)}
PUBLISHED_FLOORS |= {"Checkerboard": (16.9, 8.02), "Rings": (7.80, 3.62)}


@pytest.mark.parametrize("name", list(PUBLISHED_FLOORS))
def test_floors_are_those_of_the_authors_protocol(name: str) -> None:
    repeats = 16
    generator = torch.Generator().manual_seed(3)
    pairs = [[sample(name, 5000, generator).numpy() for _ in range(2)] for _ in range(repeats)]
    for metric, expected in zip((histogram_kl, histogram_jsd), PUBLISHED_FLOORS[name], strict=True):
        values = np.array([metric(real, generated, dataset(name).limit) for real, generated in pairs])
        assert abs(values.mean() - expected) <= 4.5 * values.std(ddof=1) / math.sqrt(repeats)


def test_floors_average_over_pairs() -> None:
    metrics = dict(zip(("KL", "JSD", "JSD_nats"), HISTOGRAM_METRICS, strict=True))
    found = floors(metrics, "Rings", 400, 4.0, 3, 9)
    generator = torch.Generator().manual_seed(9)
    pairs = [[sample("Rings", 400, generator) for _ in range(2)] for _ in range(3)]
    for name, metric in metrics.items():
        assert found[f"{name}_floor"] == pytest.approx(np.mean([metric(*pair, 4.0) for pair in pairs])), name
    assert len(found) == 3
    assert floors(metrics, "Rings", 400, 4.0, 3, 9) == found
    assert floors(metrics, "Rings", 400, 4.0, 3, 10) != found


@pytest.mark.parametrize(("side", "points"), [(1024, 12_800), (7, 3)])
def test_gnelbo_of_a_constant_elbo(side: int, points: int) -> None:
    value = gnelbo(np.full((side, side), 2.7), np.full(points, 2.7))
    assert value == pytest.approx(1e7 / (1024**2 + 12_800))
    assert round(value, 2) == 9.42


def test_gnelbo_is_the_authors_sums_or_an_estimate_of_them() -> None:
    rng = np.random.default_rng(0)
    grid, data = rng.gamma(2, 5e3, (1024, 1024)).astype(np.float32), rng.gamma(2, 1, 12_800).astype(np.float32)
    exact = 1e7 * data.mean(dtype=float) / (math.fsum(grid.ravel()) + math.fsum(data))
    assert gnelbo(grid, data) == pytest.approx(exact, rel=1e-12)
    assert gnelbo(torch.from_numpy(grid), torch.from_numpy(data)) == gnelbo(grid, data)
    assert gnelbo(grid[::4, ::4], data) == pytest.approx(exact, rel=0.02)
    assert gnelbo([[10.0, 20.0], [30.0, 40.0]], [1.0, 3.0]) == pytest.approx(1e7 * 2 / (25 * 1024**2 + 2 * 12_800))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gnelbo_that_is_not_finite(bad: float) -> None:
    assert math.isnan(gnelbo([1.0, 2.0], [1.0, bad]))
    assert math.isnan(gnelbo([1.0, bad], [1.0, 2.0]))
    assert math.isnan(gnelbo([-12_800.0], [1024.0**2]))  # nothing to normalise by


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    grid=arrays(np.float64, 7, elements=st.floats(0.01, 1e6)),
    data=arrays(np.float64, 3, elements=st.floats(0.01, 1e6)),
    scale=st.floats(0.01, 100),
)
def test_gnelbo_knows_no_units(grid: np.ndarray, data: np.ndarray, scale: float) -> None:
    assert gnelbo(scale * grid, scale * data) == pytest.approx(gnelbo(grid, data), rel=1e-9)
    assert 0 < gnelbo(grid, data) < 1e7 / 12_800  # the data's own share of the sum is at most 1
