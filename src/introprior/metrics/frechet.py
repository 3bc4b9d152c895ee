"""The Fréchet distance of two Gaussians fitted to features: the formula behind FID, whatever made the features.

Statistics of a set of images are taken once, saved, and compared as often as need be. Everything is float64.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from introprior.errors import UserError
from introprior.operations.files import written

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """What the distance needs to know of a set of features.

    Attributes:
        mean: ``[D]``.
        covariance: ``[D, D]``, normalised by count - 1.
        count: number of samples.
        dataset, features: whose they are, where that is known.
    """

    mean: Array
    covariance: Array
    count: int
    dataset: str | None = None
    features: str | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an npz file, as a whole or not at all."""
        with written(path) as temporary, temporary.open("wb") as stream:
            known = {name: value for name, value in vars(self).items() if value is not None}
            np.savez(stream, **known)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: missing, truncated or foreign.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as content:
                mean, covariance = (content[name].astype(np.float64) for name in ("mean", "covariance"))
                whose = {name: str(content[name]) for name in ("dataset", "features") if name in content}
                return cls(mean, covariance, int(content["count"]), **whose)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such statistics") from error
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            remedy = "delete it and run again to make it anew"
            raise UserError(f"{path}: damaged, or not feature statistics; {remedy}") from error


class Gathering:
    """Statistics of features that come in batches, in one pass that keeps none of them; sums stay on their device.

    >>> gathering = Gathering()
    >>> for batch in torch.tensor([[0.0], [2.0], [4.0]]).split(2):
    ...     gathering.add(batch)
    >>> statistics = gathering.statistics()
    >>> statistics.mean, statistics.covariance
    (array([2.]), array([[4.]]))
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None  # shift, sum and scatter about it

    def add(self, batch: Tensor) -> None:
        """Take note of features ``[B, D]``. Values that are not finite make the statistics NaN."""
        batch = batch.detach().double()
        if self._sums is None:
            # Sums about a point near the mean: subtracting the mean's part at the end then cancels next to nothing.
            shift = batch.mean(0)
            self._sums = shift, torch.zeros_like(shift), shift.new_zeros(len(shift), len(shift))
        shift, total, scatter = self._sums
        batch = batch - shift
        self.count += len(batch)
        total += batch.sum(0)
        scatter.addmm_(batch.T, batch)

    def statistics(self) -> Statistics:
        """Of all that was added.

        Raises:
            UserError: fewer than two samples.
        """
        if self._sums is None or self.count < 2:
            raise UserError(f"statistics: a covariance needs at least 2 samples, got {self.count}")
        shift, total, scatter = self._sums
        mean = total / self.count
        covariance = (scatter - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Statistics((shift + mean).cpu().numpy(), covariance.cpu().numpy(), self.count)


def frechet_distance(a: Statistics, b: Statistics, *, allow_few: bool = False) -> float:
    """``|mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2``, symmetric in its arguments.

    The last trace is the sum of the singular values of ``S_b^1/2 S_a^1/2``, with roots by eigenvalues: unlike a matrix
    square root of the product it exists for singular covariances too, and unlike square roots of the product's
    eigenvalues it loses no digits to small ones.

    Args:
        a, b: statistics of features of the same kind.
        allow_few: take sets with fewer samples than feature dimensions. Their covariance is singular, and the distance
            biased upwards beyond use for anything but a comparison of equally small sets.

    Returns:
        the distance, 0 or more, or NaN where statistics are not finite.

    Raises:
        UserError: statistics of different kinds of features, or of too few samples.

    >>> a = Statistics(np.zeros(2), np.eye(2), count=100)
    >>> b = Statistics(np.array([3.0, 4.0]), np.eye(2), count=100)
    >>> round(frechet_distance(a, b), 6)  # of equal covariances: the squared distance of the means
    25.0
    """
    dimensions = len(a.mean)
    if len(b.mean) != dimensions:
        raise UserError(f"Fréchet distance: features of {dimensions} and {len(b.mean)} dimensions cannot be compared")
    if not allow_few:
        check_count(min(a.count, b.count), dimensions)
    if not all(np.isfinite(s.mean).all() and np.isfinite(s.covariance).all() for s in (a, b)):
        return math.nan
    offset = a.mean - b.mean
    root = np.linalg.svd(_root(b.covariance).T @ _root(a.covariance), compute_uv=False).sum()
    return max(0.0, float(offset @ offset + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root))


def check_count(samples: int, dimensions: int) -> None:
    """Refuse fewer samples than feature dimensions; worth asking before they are made.

    Raises:
        UserError: too few.

    >>> check_count(64, dimensions=64)
    >>> check_count(63, dimensions=64)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    introprior.errors.UserError: Fréchet distance: 63 samples are too few for features of 64 dimensions; ...
    """
    if samples < dimensions:
        raise UserError(
            f"Fréchet distance: {samples} samples are too few for features of {dimensions} dimensions; "
            f"take at least {dimensions}, or allow few (the distance is then biased)"
        )


def _root(covariance: Array) -> Array:
    """R with ``R R^T = covariance``: eigenvectors times the roots of their eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = vectors * np.sqrt(values.clip(min=0))
    return root
