"""Runs for tests, in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from introprior.experiment.protocol import resolve
from introprior.experiment.run import DensityRun, DensityTraining, ImageRun, ImageTraining, Member
from introprior.game.priors import Conversion
from introprior.metrics.frechet import Gathering, Statistics
from introprior.operations import provenance
from introprior.training import loop

ALPHA = DensityTraining().alpha
"""The paper's alpha."""
STEEPNESS = DensityTraining().clip_steepness
"""The paper's K of Eq. 93."""


def statistics(batches: Iterable[Tensor]) -> Statistics:
    """Mean and covariance of features in batches ``[B, D]``."""
    gathering = Gathering()
    for batch in batches:
        gathering.add(batch)
    return gathering.statistics()


def a_record(files: Iterable[Any], size: int = 500_000, **facts: Any) -> dict[str, Any]:
    """The record of a job that has written some files."""
    origin = {"introprior": "0", "code": "c", "commit": None, "configuration": None, "libraries": {}, "device": "cpu"}
    job = {"started": "2025-01-01T00:00:00+00:00", "seconds": 1.0, "options": {}, "inputs": {}}
    made = {str(name): {"sha256": "", "bytes": size} for name in files}
    return {"format": provenance.FORMAT, **origin, **job, "outputs": made} | facts


def a_member(
    seed: int, beta_rec: float, beta_kl: float, beta_neg: float | None = None, dataset: str = "8Gaussian"
) -> Member:
    """A member, in the order of its columns."""
    return Member(dataset=dataset, seed=seed, beta_rec=beta_rec, beta_kl=beta_kl, beta_neg=beta_neg)


def on(dataset: str | None, members: Iterable[Member]) -> tuple[Member, ...]:
    """Members with another dataset, if one is given."""
    return tuple(member.model_copy(update={"dataset": dataset or member.dataset}) for member in members)


def conversion(**changes: Any) -> Conversion:
    """The authors' conversion, but for some changes."""
    return replace(loop.conversion(density_run("mog5", [a_member(0, 0.2, 0.3, 0.9)])), **changes)


def density_run(
    cell: str,
    members: Iterable[Member],
    dataset: str | None = None,
    protocol: str = "authors",
    overrides: Mapping[str, Any] | None = None,
    **training: Any,
) -> DensityRun:
    """A run in 2D."""
    return DensityRun(
        cell=cell,
        members=on(dataset, members),
        training=DensityTraining(**training),
        protocol=resolve(protocol, overrides).training,
    )


def image_run(
    cell: str,
    members: Iterable[Member],
    dataset: str = "digits",
    protocol: str = "authors",
    overrides: Mapping[str, Any] | None = None,
    **training: Any,
) -> ImageRun:
    """A run on images."""
    return ImageRun(
        cell=cell,
        members=on(dataset, members),
        training=ImageTraining(**training),
        protocol=resolve(protocol, overrides).training,
    )
