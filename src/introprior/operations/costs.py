"""What a job of each rule costs where nothing was measured: one default a rule, at the paper's scale.

Clusters are asked for these, and for more at each further attempt; ``introprior plan`` scales them by the options that
bear on time most, and puts what benchmark files tell in their place. The seconds are estimates for an A100, which was
never measured, and for one core of an AMD EPYC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from introprior.data.images.catalogue import DATASETS
from introprior.operations.dag import Job

Place = Literal["gpu", "cpu"]

START = {"gpu": 15.0, "cpu": 4.0}
"""Seconds before a command computes: imports, the device's context, its data."""

STAND_IN = 0.002
"""What a small classifier's features take of the time of Inception's."""


@dataclass(frozen=True)
class Cost:
    """What one job takes.

    Attributes:
        gpu, cpu: seconds of work on a GPU, on one core.
        mem_mb: resident memory to ask for.
        megabytes: on disk.
        per: options that the seconds go with, or differences of two, and their size behind the default. A path such
            as ``widths.0`` leads to the first of a list; of a list as a whole the length counts, and a name as one.
        images: whether they go with the number of training images, 60,000 behind the default.
    """

    gpu: float
    cpu: float
    mem_mb: int = 2000
    megabytes: float = 0.02
    per: Mapping[str, float] = field(default_factory=dict)
    images: bool = False

    def times(self, job: Job) -> float:
        """How many times the work of the default a job is."""
        options = job.options or {}
        factor = math.prod(_size(options, path, usual) / usual for path, usual in self.per.items())
        if self.images and job.wildcards.get("dataset") in DATASETS:
            factor *= DATASETS[job.wildcards["dataset"]].train / 60_000
        return factor * (STAND_IN if "fd_classifier" in (options.get("features") or ()) else 1)


def _size(options: Any, path: str, usual: float) -> float:
    """The number at a path of the options, or the length of a list there; the usual one where there is none."""
    if " - " in path:
        most, less = path.split(" - ")
        return _size(options, most, usual) - _size(options, less, 0.0)
    value = options
    for key in path.split("."):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (KeyError, IndexError, TypeError):
            return usual
    return len(value) if isinstance(value, list) else 1 if isinstance(value, str) else float(value)


_TRAINED = {"training.iterations": 30_000, "training.batch_size": 512, "training.hidden_width": 256}
_IMAGES = {"training.batch_size": 128, "training.widths.0": 64}
_GAME = {"training.iterations - training.warmup_iterations": 200 * 469, **_IMAGES}
_CLIPPING = {**_GAME, "training.iterations - training.warmup_iterations": 100 * 469}
_WARMUP = {"training.warmup_iterations": 20 * 469, **_IMAGES}
_SAMPLES = {"samples": 50_000}

COSTS = {
    "search": Cost(5500, 430_000, 8000, per={**_TRAINED, "betas": 105}),
    "train": Cost(1000, 68_000, 4000, 32, per={**_TRAINED, "seeds": 5, "dataset": 4}),
    "evaluate": Cost(40, 480, 4000, 2.4, per={"grid": 1024, "monte_carlo_samples": 100, "dataset": 4}),
    "prepare": Cost(60, 60, 4000, 100, images=True),
    "inception": Cost(60, 60, 2000, 96),
    "classifier": Cost(20, 180, 4000, 0.2, per={"epochs": 10}, images=True),
    "reference": Cost(100, 9500, 8000, 34, per=_SAMPLES),
    "warmup": Cost(120, 24_000, 6000, 50, per=_WARMUP),
    "warmup_distances": Cost(200, 19_000, 8000, per=_SAMPLES),
    "game": Cost(3200, 750_000, 6000, 60, per=_GAME),
    "distances": Cost(930, 95_000, 8000, per=_SAMPLES),
    "evaluate_images": Cost(200, 20_000, 8000, 17, per=_SAMPLES),
    "probe": Cost(500, 500, 4000, per={"svm_iterations.1": 10_000}, images=True),
    "clipping_study": Cost(2000, 490_000, 6000, 140, per=_CLIPPING),
    "clipping_distances": Cost(1100, 115_000, 8000, per=_SAMPLES),
    "encoder_study": Cost(80, 750, 4000, 1, per={"iterations": 2000}),
    "figure6": Cost(600, 600, 4000),
    "tables_pdf": Cost(20, 20, 1000),
}
DEFAULT = Cost(10, 10)
"""Of a table, a figure, a choice."""


def of(rule: str) -> Cost:
    """The default of a rule."""
    return COSTS.get(rule, DEFAULT)


def seconds(job: Job, place: Place) -> float:
    """How long a job takes by its rule's default."""
    cost = of(job.rule)
    return START[place] + getattr(cost, place) * cost.times(job)


def asked(rule: str, place: Place, most_minutes: int, with_gpu: Mapping[str, int | str]) -> dict[str, Any]:
    """The resources of a rule: three times the default's time, more at each attempt; a GPU if that is any faster.

    A training that the cluster cuts after the ``most_minutes`` that it gives goes on when it is retried. What is asked
    for ``with_gpu``, a partition for instance, comes with it, and in place of what else has its name.
    """
    cost = of(rule)
    minutes = 10 + 3 * getattr(cost, place) / 60
    found = {
        "mem_mb": lambda wildcards, attempt: cost.mem_mb * attempt,
        "runtime": lambda wildcards, attempt: min(round(minutes * attempt), most_minutes),
    }
    if cost.gpu == cost.cpu:
        return found
    return found | ({"gpu": 1, **with_gpu} if place == "gpu" else {"gpu": 0})
