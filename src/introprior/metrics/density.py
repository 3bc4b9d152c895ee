"""Metrics of the density-estimation benchmark: gnELBO, histogram KL and "JSD", as the paper's tables report them.

They follow the authors' code, which takes them from Soft-IntroVAE. Two of its conventions matter when numbers are
compared with others' (docs/fidelity.md):

* the sums run over histogram *densities* and are divided by the number of bins per axis, so that the KL is
  bins/(2·limit)² times the KL divergence of the bins' probabilities, in nats: 6.25 times for a window of half-width 2,
  1.5625 times for 4;
* what is called JSD has the arguments of its two KL divergences exchanged (M against P and Q rather than P and Q
  against M), and is therefore not bounded by log 2. `jsd_nats` is the textbook divergence.

Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from introprior.data.density import sample

_TINY = 1e-14  # the authors' guard inside the logarithms
_GRID, _DATA = 1024**2, 12_800  # points of the plane and of the data in the authors' gnELBO

Array = NDArray[np.float64]


def histogram_kl(real: ArrayLike, generated: ArrayLike, limit: float, bins: int = 100) -> float:
    """Forward KL divergence of two histograms, in density units: Σ P (log P - log(Q + 1e-14)) / bins.

    Args:
        real: samples of the data, ``[N, 2]``, giving the densities P.
        generated: samples of the model, ``[N', 2]``, giving Q. Points outside the window, among them all that are not
            finite, are dropped and the rest normalised.
        limit: half-width of the window [-limit, limit]², positive.
        bins: bins per axis.

    Returns:
        The divergence, or NaN where every generated point lies outside the window.

    >>> real = np.array([[-1, -1], [-1, -1], [1, 1], [1, 1]])  # half here, half there
    >>> generated = np.array([[-1, -1], [1, 1], [1, 1], [1, 1]])  # a quarter and three quarters
    >>> nats = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    >>> round(histogram_kl(real, generated, limit=2) / nats, 6)
    6.25
    """
    densities = _densities(real, generated, limit, bins)
    return math.nan if densities is None else _guarded_kl(*densities) / bins


def histogram_jsd(real: ArrayLike, generated: ArrayLike, limit: float, bins: int = 100) -> float:
    """The tables' "JSD", in density units: ½ Σ [M (log M - log(P + 1e-14)) + M (log M - log(Q + 1e-14))] / bins.

    M = (P + Q)/2. Arguments and NaN as in `histogram_kl`.

    >>> here, there = np.array([[-1, -1]]), np.array([[1, 1]])
    >>> histogram_jsd(here, there, limit=2) > 6.25 * math.log(2)  # what bounds a Jensen-Shannon divergence does not
    True
    """
    densities = _densities(real, generated, limit, bins)
    if densities is None:
        return math.nan
    p, q = densities
    m = (p + q) / 2
    return (_guarded_kl(m, p) + _guarded_kl(m, q)) / 2 / bins


def jsd_nats(real: ArrayLike, generated: ArrayLike, limit: float, bins: int = 100) -> float:
    """Jensen-Shannon divergence of the bins' probabilities: ½ KL(P‖M) + ½ KL(Q‖M), in nats, from 0 to log 2.

    Arguments and NaN as in `histogram_kl`.

    >>> here, there = np.array([[-1, -1]]), np.array([[1, 1]])
    >>> jsd_nats(here, here, limit=2), round(jsd_nats(here, there, limit=2), 4)  # log 2 at most
    (0.0, 0.6931)
    """
    densities = _densities(real, generated, limit, bins)
    if densities is None:
        return math.nan
    p, q = (density / density.sum() for density in densities)
    m = (p + q) / 2
    return (_kl(p, m) + _kl(q, m)) / 2


def gnelbo(grid_nelbo: ArrayLike, data_nelbo: ArrayLike) -> float:
    """Grid-normalised ELBO: 1e7 · mean(data) / (Σ grid + Σ data), lower is better.

    The sums are those of the authors' 1024² points of the grid and 12,800 of the data. Other numbers of points give an
    estimate of the same value: each mean, times the authors' number. A model that gives every point the same ELBO
    scores 1e7 / (1024² + 12,800) = 9.42.

    Args:
        grid_nelbo: negative ELBOs (β = 1) of the points of a regular grid over the window, any shape.
        data_nelbo: negative ELBOs of samples of the data, any shape.

    Returns:
        The ratio, or NaN where it is not defined, as with values that are not finite. The factor 1e7 is that of the
        tables.

    >>> round(gnelbo(np.ones((4, 4)), np.ones(9)), 2)  # all points alike
    9.42
    >>> round(gnelbo(np.ones((4, 4)), np.full(9, 0.1)), 2)  # the data ten times as likely
    0.95
    """
    grid, data = (np.asarray(values, dtype=np.float64) for values in (grid_nelbo, data_nelbo))
    total = _GRID * grid.mean() + _DATA * data.mean()
    return float(1e7 * data.mean() / total) if np.isfinite(total) and total != 0 else math.nan


def floors(
    metrics: Mapping[str, Callable[..., float]], name: str, n: int, limit: float, repeats: int, seed: int
) -> dict[str, float]:
    """What the data itself scores: the metrics between two fresh samples of it, which a perfect model would reach.

    Args:
        metrics: functions of two samples and ``limit``, by name.
        name: of the data.

    Returns:
        ``<metric>_floor``: means over ``repeats`` pairs of ``n`` points each.

    >>> kl = {"KL": histogram_kl}
    >>> few, more = (floors(kl, "8Gaussian", n, limit=2, repeats=1, seed=0)["KL_floor"] for n in (500, 5_000))
    >>> few > more > 0  # they fall with the number of points
    True
    """
    generator = torch.Generator().manual_seed(seed)
    values = {metric: np.empty(repeats) for metric in metrics}
    for repeat in range(repeats):
        first, second = (sample(name, n, generator).numpy() for _ in range(2))
        for metric, function in metrics.items():
            values[metric][repeat] = function(first, second, limit)
    return {f"{metric}_floor": float(of_pairs.mean()) for metric, of_pairs in values.items()}


def _densities(real: ArrayLike, generated: ArrayLike, limit: float, bins: int) -> tuple[Array, Array] | None:
    """Histogram densities of both samples, ``[bins, bins]``; None where no generated point is inside the window."""
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    p, q = _counts(real, limit, bins), _counts(generated[np.isfinite(generated).all(axis=1)], limit, bins)
    if not q.any():
        return None
    area = (2 * limit / bins) ** 2
    return p / (p.sum() * area), q / (q.sum() * area)


def _counts(points: Array, limit: float, bins: int) -> Array:
    """Points per bin; a bin holds its lower edges, the last one of an axis its upper edge too."""
    window = (-limit, limit)
    return np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=(window, window))[0]


def _guarded_kl(target: Array, other: Array) -> float:
    """Σ a (log a - log(b + 1e-14)), with 0 log 0 = 0."""
    there = target > 0
    a = target[there]
    return float((a * (np.log(a) - np.log(other[there] + _TINY))).sum())


def _kl(p: Array, m: Array) -> float:
    """Σ p log(p/m) of probabilities, where m > 0 wherever p > 0."""
    there = p > 0
    return float((p[there] * np.log(p[there] / m[there])).sum())
