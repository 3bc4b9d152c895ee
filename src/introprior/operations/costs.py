"""What a job of each rule costs where nothing was measured: one default a rule, at the paper's scale.

Clusters are asked for these, and for more at each further attempt; ``introprior plan`` puts what benchmark files tell
in their place. The seconds are estimates for an A100 and for one core of an AMD EPYC: no GPU was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one job takes.

    Attributes:
        gpu, cpu: seconds on a GPU, on one core.
        mem_mb: resident memory to ask for.
        megabytes: on disk.
        per: options, by their path, that the seconds go up and down with, and their number behind the default.
    """

    gpu: float
    cpu: float
    mem_mb: int = 2000
    megabytes: float = 0.02
    per: Mapping[str, float] = field(default_factory=dict)

    def times(self, options: Mapping[str, Any] | None) -> float:
        """How many times the work of the default the options ask for; of a list its length counts."""
        factor = 1.0
        for path, usual in self.per.items():
            value: Any = options
            for key in path.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, list | int | float):
                factor *= (len(value) if isinstance(value, list) else value) / usual
        return factor


DEFAULT = Cost(10.0, 10.0)
"""Of a table, a figure, a choice."""

_TRAINED = {"training.iterations": 30_000, "training.batch_size": 512}
_GAME = {"training.iterations": 220 * 469, "training.batch_size": 128}

COSTS = {
    "search": Cost(3600, 250_000, 8000, per={**_TRAINED, "betas": 210}),
    "train": Cost(250, 14_000, 4000, 8, {**_TRAINED, "seeds": 5}),
    "evaluate": Cost(30, 150, 4000, 0.6, {"grid": 1024}),
    "prepare": Cost(60, 60, 4000, 100),
    "inception": Cost(60, 60, 2000, 96),
    "classifier": Cost(60, 600, 4000, 0.2, {"epochs": 10}),
    "reference": Cost(120, 9500, 8000, 34, {"samples": 50_000}),
    "warmup": Cost(200, 40_000, 6000, 50, {"training.warmup_iterations": 20 * 469, "training.batch_size": 128}),
    "warmup_distances": Cost(210, 19_000, 8000, per={"samples": 50_000}),
    "game": Cost(3600, 800_000, 6000, 60, _GAME),
    "distances": Cost(950, 95_000, 8000, per={"samples": 50_000}),
    "evaluate_images": Cost(210, 20_000, 8000, 17, {"samples": 50_000}),
    "probe": Cost(900, 900, 4000, per={"svm_iterations": 2}),
    "clipping_study": Cost(2000, 500_000, 6000, 140, _GAME),
    "clipping_distances": Cost(1100, 115_000, 8000, per={"samples": 50_000}),
    "encoder_study": Cost(100, 760, 4000, 1, {"iterations": 2000}),
    "figure6": Cost(600, 600, 4000),
    "tables_pdf": Cost(20, 20, 1000),
}


def of(rule: str) -> Cost:
    """The default of a rule."""
    return COSTS.get(rule, DEFAULT)


def asked(rule: str, gpu: bool, most_minutes: int) -> dict[str, Any]:
    """The resources ``mem_mb`` and ``runtime`` of a rule: three times the default's time, twice as much when retried.

    Args:
        rule: its name.
        gpu: whether its jobs get a GPU.
        most_minutes: the longest time that the cluster gives; a training that it cuts goes on when it is retried.
    """
    cost = of(rule)
    minutes = 10 + 3 * (cost.gpu if gpu else cost.cpu) / 60
    return {
        "mem_mb": lambda wildcards, attempt: cost.mem_mb * attempt,
        "runtime": lambda wildcards, attempt: min(round(minutes * attempt), most_minutes),
    }
