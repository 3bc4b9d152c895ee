"""How long jobs will take: each by what earlier runs took, else by built-in rates; all by playing the queue through."""

from __future__ import annotations

import csv
import heapq
import json
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from introprior.errors import UserError
from introprior.operations import costs, dag
from introprior.operations.dag import Job

_COUNTS = frozenset(
    (
        # How much there is to do; what of it bears on time, the default of a rule scales by.
        *("iterations", "warmup_iterations", "mixture_warmup_iterations", "iterations_per_epoch", "epochs"),
        *("seeds", "seed", "betas", "halving", "snapshots", "samples", "grid", "data_points", "panel_grid"),
        *("panel_points", "grid_images", "latent_points", "train_images", "svm_iterations"),
        # Numbers that bear on no duration.
        *("learning_rate", "milestones", "alpha", "gamma", "gamma_r", "clip_steepness", "r_entropy", "beta_neg"),
        *("panel_seed", "neighbours", "allow_few", "checkpoint"),
    )
)


class Price(NamedTuple):
    """What a job is expected to cost.

    Attributes:
        seconds: of a device.
        bytes: on disk.
        device: what the seconds hold for: ``cpu``, ``gpu``, or the names of those that were measured.
        measured: whether they are from earlier runs.
    """

    seconds: float
    bytes: float
    device: str
    measured: bool


class Measurement(NamedTuple):
    """A job that has run: on what, how long, what it left, and how many times the work of its rule's default it was."""

    device: str
    seconds: float
    bytes: float
    times: float


class Rates:
    """What jobs cost, by the benchmark files of earlier runs where there are any of their kind.

    A measurement serves all jobs of its rule with the same options up to counts, scaled by these. One that was
    interrupted is no measurement, since its benchmark file tells of the last process alone; nor is one whose members
    all diverged.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[Measurement]] = {}

    @classmethod
    def of(cls, root: str | Path) -> Rates:
        """By all experiments below a folder."""
        rates = cls()
        for path in sorted(Path(root).glob(f"*/{dag.NAME}")):
            with suppress(UserError):  # another version's
                rates.learn(dag.read(path.parent).jobs)
        return rates

    def learn(self, jobs: Iterable[Job]) -> None:
        """Take in those of an experiment's jobs that have run."""
        for job in jobs:
            if job.benchmark and (found := _measured(job)):
                self._known.setdefault(_kind(job), []).append(found)

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._known)

    @property
    def on_gpu(self) -> bool:
        """Whether any of it was on a GPU."""
        return any(one.device != "cpu" for some in self._known.values() for one in some)

    def price(self, job: Job, gpu: bool) -> Price:
        """What a job costs; ``gpu``: whether there are any."""
        place, cost = "gpu" if gpu and job.gpu else "cpu", costs.of(job.rule)
        times = cost.times(job.options)
        known = [one for one in self._known.get(_kind(job), []) if (one.device != "cpu") == (place == "gpu")]
        if not known:
            return Price((cost.gpu if place == "gpu" else cost.cpu) * times, cost.megabytes * 1e6, place, False)
        seconds = statistics.median(one.seconds / one.times for one in known) * times
        size = statistics.median(one.bytes for one in known)
        return Price(seconds, size, ", ".join(sorted({one.device for one in known})), True)


def _measured(job: Job) -> Measurement | None:
    try:
        record = json.loads(job.record.read_text())
        with open(job.benchmark or "", newline="") as stream:
            taken = float(next(csv.DictReader(stream, delimiter="\t"))["s"])
        told, records = record["options"], record.get("records", [])
        if record.get("resumed", 0) or (records and all(one["status"] != "ok" for one in records)):
            return None
        if any(told.get(key, value) != value for key, value in (job.options or {}).items()):
            return None  # made with other options than the configuration's now
        size = sum(output["bytes"] for output in record["outputs"].values())
        device = record["device"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None  # has not run, or is not whole
    return Measurement(device, taken, size, costs.of(job.rule).times(job.options))


def _kind(job: Job) -> str:
    """The same for all jobs that one measurement serves."""
    names = {name: job.wildcards.get(name) for name in ("dataset", "cell", "family", "features")}
    return json.dumps([job.rule, names, _without_counts(job.options)], sort_keys=True)


def _without_counts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_counts(part) for key, part in value.items() if key not in _COUNTS}
    return value


# ---- The queue ----


def critical_path(jobs: Sequence[Job], seconds: Sequence[float]) -> tuple[float, list[Job]]:
    """The longest chain of jobs that wait for one another: its seconds, which no GPUs make fewer, and its jobs.

    Args:
        jobs: each after those that it depends on.
        seconds: of each.
    """
    if not jobs:
        return 0.0, []
    needs = _needs(jobs)
    ends: list[float] = []
    before: list[int | None] = []
    for needed, duration in zip(needs, seconds, strict=True):
        last = max(needed, key=lambda i: ends[i], default=None)
        before.append(last)
        ends.append(duration + (0.0 if last is None else ends[last]))
    total, path = max(ends), []
    at: int | None = ends.index(total)
    while at is not None:
        path.append(jobs[at])
        at = before[at]
    return total, path[::-1]


def makespan(jobs: Sequence[Job], seconds: Sequence[float], gpus: int, cores: int) -> float:
    """Seconds until all is done: each job starts, in the order given, once its inputs and a place are there.

    Args:
        jobs: each after those that it depends on.
        seconds: of each.
        gpus: for jobs that use one; without any they compute on the cores.
        cores: at least 1; every job takes one, those on a GPU, too.
    """
    needs = _needs(jobs)
    waiting = [len(needed) for needed in needs]
    followers: list[list[int]] = [[] for _ in jobs]
    for number, needed in enumerate(needs):
        for other in needed:
            followers[other].append(number)
    on_gpu = [bool(job.gpu and gpus) for job in jobs]
    ready: dict[bool, list[int]] = {True: [], False: []}
    for number, count in enumerate(waiting):
        if not count:
            heapq.heappush(ready[on_gpu[number]], number)
    running: list[tuple[float, int]] = []
    now, free, idle = 0.0, cores, gpus
    while running or ready[True] or ready[False]:
        for kind in (True, False):
            while ready[kind] and free and (idle or not kind):
                number = heapq.heappop(ready[kind])
                free, idle = free - 1, idle - kind
                heapq.heappush(running, (now + seconds[number], number))
        now, number = heapq.heappop(running)
        free, idle = free + 1, idle + on_gpu[number]
        for follower in followers[number]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready[on_gpu[follower]], follower)
    return now


def _needs(jobs: Iterable[Job]) -> list[list[int]]:
    """For each job, the numbers of those that it waits for."""
    makers: dict[str, int] = {}
    needs = []
    for number, job in enumerate(jobs):
        needs.append(sorted({makers[path] for path in job.inputs if path in makers}))
        makers.update(dict.fromkeys(job.outputs, number))
    return needs
