"""Statistics of features and the Fréchet distance: numpy and scipy as oracles, closed forms, files, bad input."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import statistics

from introprior.metrics.frechet import Statistics, frechet_distance
from tests.commands import refused


def gaussian(seed: int, dimensions: int, count: int = 1000) -> Statistics:
    """A random mean and a random full-rank covariance."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dimensions, 2 * dimensions))
    return Statistics(rng.normal(size=dimensions), factor @ factor.T / dimensions, count)


def correlated(seed: int, count: int, dimensions: int, offset: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return torch.from_numpy(rng.normal(size=(count, dimensions)) @ mixing + offset)


def with_matrix_square_root(a: Statistics, b: Statistics) -> float:
    """The formula as it is usually written, and as pytorch-fid computes it."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root).real
    return float(((a.mean - b.mean) ** 2).sum() + traces)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= 2),
    dimensions=st.integers(1, 5),
    offset=st.sampled_from([0.0, -3.0, 1e5]),
)
@settings(max_examples=60, deadline=None)
def test_statistics_in_batches_are_those_of_the_whole(sizes: list[int], dimensions: int, offset: float) -> None:
    features = correlated(sum(sizes), sum(sizes), dimensions, offset)
    found = statistics(features.split(sizes))
    assert found.count == sum(sizes)
    np.testing.assert_allclose(found.mean, features.numpy().mean(0), rtol=1e-12, atol=1e-12)
    covariance = np.cov(features.numpy(), rowvar=False).reshape(dimensions, dimensions)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-9, atol=1e-9)


def test_statistics_of_float32_features_are_summed_in_float64() -> None:
    features = correlated(0, 3000, 4, 1000.0).float()
    found = statistics(features.split(7))
    assert found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("dimensions", [1, 2, 7, 40])
def test_distance_agrees_with_scipy(dimensions: int) -> None:
    a, b = gaussian(dimensions, dimensions), gaussian(100 + dimensions, dimensions)
    expected = with_matrix_square_root(a, b)
    assert expected > 0.1
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_distance_of_samples_agrees_with_scipy_where_spectra_decay() -> None:
    """As those of Inception's features do, here over six orders of magnitude."""
    decay = torch.logspace(0, -3, 60, dtype=torch.float64)
    a = statistics((correlated(0, 500, 60) * decay).split(100))
    b = statistics((correlated(1, 400, 60) * decay + 0.1).split(100))
    assert frechet_distance(a, b) == pytest.approx(with_matrix_square_root(a, b), rel=1e-6)


def test_distance_in_one_dimension_and_between_scaled_covariances() -> None:
    a = Statistics(np.array([1.0]), np.array([[4.0]]), 9)
    b = Statistics(np.array([-2.0]), np.array([[0.25]]), 9)
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + (2.0 - 0.5) ** 2, rel=1e-12)
    a = gaussian(3, 6)
    b = Statistics(a.mean, 9 * a.covariance, a.count)
    assert frechet_distance(a, b) == pytest.approx(np.trace(a.covariance) * (3 - 1) ** 2, rel=1e-12)


@given(seed=st.integers(0, 1000), dimensions=st.integers(1, 8), few=st.booleans())
@settings(max_examples=40, deadline=None)
def test_distance_is_symmetric_and_zero_only_between_equals(seed: int, dimensions: int, few: bool) -> None:
    count = max(2, dimensions // 2) if few else 50
    a = statistics([correlated(seed, count, dimensions)])
    b = statistics([correlated(seed + 1, count, dimensions)])
    scale = np.trace(a.covariance) + np.trace(b.covariance)
    forth, back = frechet_distance(a, b, allow_few=few), frechet_distance(b, a, allow_few=few)
    assert forth == pytest.approx(back, rel=1e-9, abs=1e-9 * scale)
    assert forth > 1e-6 * scale
    assert 0 <= frechet_distance(a, a, allow_few=few) < 1e-12 * scale


def test_singular_covariances_have_their_exact_distance() -> None:
    """Orthogonal supports: no root of the product is left, so the traces add up; a matrix square root can fail here."""
    a = Statistics(np.zeros(4), np.diag([1.0, 2.0, 0.0, 0.0]), 10)
    b = Statistics(np.zeros(4), np.diag([0.0, 0.0, 3.0, 0.0]), 10)
    assert frechet_distance(a, b) == pytest.approx(6.0, rel=1e-12)


def test_fewer_samples_than_dimensions_are_refused_unless_asked_for() -> None:
    enough, few = statistics([correlated(0, 12, 12)]), statistics([correlated(1, 11, 12)])
    assert frechet_distance(enough, enough) < 1e-9
    for pair in ((enough, few), (few, enough)):
        refused(partial(frechet_distance, *pair), "11 samples are too few for features of 12 dimensions")
        assert frechet_distance(*pair, allow_few=True) > 0


def test_statistics_that_are_not_finite_give_nan() -> None:
    good, bad = correlated(0, 20, 3), correlated(1, 20, 3)
    bad[13, 1] = math.nan
    a, b = statistics(good.split(5)), statistics(bad.split(5))
    assert math.isnan(frechet_distance(a, b))
    assert math.isnan(frechet_distance(b, a))


def test_features_that_do_not_go_together() -> None:
    refused(lambda: frechet_distance(gaussian(0, 3), gaussian(0, 4)), "features of 3 and 4 dimensions")
    for batches in ([], [torch.zeros(1, 3)]):
        refused(partial(statistics, batches), "at least 2 samples")


def test_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path, saved = tmp_path / "reference.npz", gaussian(5, 6)
    saved.save(path)
    loaded = Statistics.load(path)
    np.testing.assert_array_equal(loaded.mean, saved.mean)
    np.testing.assert_array_equal(loaded.covariance, saved.covariance)
    assert loaded.count == saved.count
    assert [p.name for p in tmp_path.iterdir()] == ["reference.npz"]


def test_file_that_is_missing_truncated_or_foreign_is_one_line(tmp_path: Path) -> None:
    refused(lambda: Statistics.load(tmp_path / "absent.npz"), "no such statistics")
    whole, cut, text, other = (tmp_path / f"{name}.npz" for name in ("whole", "cut", "text", "other"))
    gaussian(5, 6).save(whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    text.write_text("mean, covariance\n")
    np.savez(other, mu=np.zeros(3), sigma=np.eye(3))
    for path in (cut, text, other):
        refused(partial(Statistics.load, path), "damaged, or not feature statistics; delete it")
