"""How long jobs will take: each by what earlier runs took, else by a default; all by playing the queue through."""

from __future__ import annotations

import csv
import heapq
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from introprior.errors import UserError
from introprior.operations import costs, dag, provenance
from introprior.operations.dag import Job

SIZES = frozenset(
    ("batch_size", "latent_dim", "hidden_width", "hidden_layers", "widths", "shape", "monte_carlo_samples")
)
"""Numbers that make a job one of another kind; all others only say how much there is to do, or bear on no duration."""


class Price(NamedTuple):
    """What a job is expected to cost, on ``cpu``, ``gpu``, or the devices on which earlier runs were measured."""

    seconds: float
    bytes: float
    device: str
    measured: bool


class Rates:
    """What jobs cost, by the benchmark files of earlier runs where there are any of their kind.

    A measurement serves all jobs of its rule with the same options up to counts, scaled by these. One that was
    interrupted is no measurement, since its benchmark file tells of the last process alone; nor is one whose members
    all diverged.
    """

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self.known: dict[str, list[tuple[str, float, float]]] = {}
        for job in jobs:
            if job.benchmark and (found := _measured(job)):
                self.known.setdefault(_kind(job), []).append(found)

    @classmethod
    def of(cls, root: str | Path) -> Rates:
        """By all experiments below a folder."""
        jobs: list[Job] = []
        for path in sorted(Path(root).glob(f"*/{dag.NAME}")):
            with suppress(UserError):  # another version's
                jobs += dag.read(path.parent).jobs
        return cls(jobs)

    @property
    def on_gpu(self) -> bool:
        """Whether any of it was on a GPU."""
        return any(device != "cpu" for some in self.known.values() for device, *_ in some)

    def price(self, job: Job, gpu: bool) -> Price:
        """What a job costs; ``gpu``: whether there are any."""
        place: costs.Place = "gpu" if gpu and job.gpu else "cpu"
        expected = costs.seconds(job, place)
        known = [one for one in self.known.get(_kind(job), ()) if (one[0] != "cpu") == (place == "gpu")]
        if not known:
            return Price(expected, costs.of(job.rule).megabytes * 1e6, place, False)
        devices, slower, sizes = zip(*known, strict=True)
        return Price(expected * median(slower), median(sizes), ", ".join(sorted(set(devices))), True)


def _measured(job: Job) -> tuple[str, float, float] | None:
    """Of a job that has run the device, how many times as long it took as its rule's default says, and the bytes."""
    try:
        record = provenance.read(job.record)
        with open(job.benchmark or "", newline="", encoding="utf-8") as stream:
            taken = float(next(csv.DictReader(stream, delimiter="\t"))["s"])
        options, records, device = record["options"], record["records"], record["device"]
        if record["resumed"] or not 0 < taken < math.inf or (records and all(one["status"] != "ok" for one in records)):
            return None
        if any(options.get(key, value) != value for key, value in (job.options or {}).items()):
            return None  # made with other options than the configuration's now
        size = sum(output["bytes"] for output in record["outputs"].values())
    except (OSError, UserError, csv.Error, ValueError, KeyError, TypeError, StopIteration):
        return None  # has not run, or is not whole
    return device, taken / costs.seconds(job, "cpu" if device == "cpu" else "gpu"), size


def _kind(job: Job) -> str:
    """The same for all jobs that one measurement serves."""
    names = {name: job.wildcards.get(name) for name in ("dataset", "cell", "family", "features")}
    return json.dumps([job.rule, names, _without_counts(job.options)], sort_keys=True)


def _without_counts(options: Any) -> Any:
    """Options without their numbers and lists of numbers, but for sizes."""
    if not isinstance(options, dict):
        return options
    return {key: _without_counts(value) for key, value in options.items() if key in SIZES or not _is_count(value)}


def _is_count(value: Any) -> bool:
    if isinstance(value, list):
        return not any(isinstance(one, str) for one in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- The queue ----


def critical_path(jobs: Sequence[Job], seconds: Sequence[float]) -> tuple[float, list[Job]]:
    """The longest chain of jobs that wait for one another: its seconds, which no GPUs make fewer, and its jobs.

    The jobs, each with its seconds, come after those that they depend on; here and in :func:`makespan`.
    """
    needs, ends = _needs(jobs), list[float]()
    for needed, duration in zip(needs, seconds, strict=True):
        ends.append(duration + max((ends[number] for number in needed), default=0.0))
    path, last = list[Job](), max(range(len(jobs)), key=ends.__getitem__, default=None)
    total = 0.0 if last is None else ends[last]
    while last is not None:
        path.append(jobs[last])
        last = max(needs[last], key=ends.__getitem__, default=None)
    return total, path[::-1]


def makespan(jobs: Sequence[Job], seconds: Sequence[float], gpus: int, cores: int) -> float:
    """Seconds until all is done: each job starts, in the order given, once its inputs and a place are there.

    Every job takes a core, those on a GPU, too; without GPUs all compute on the cores, of which there is at least one.
    """
    queue = TopologicalSorter(dict(enumerate(_needs(jobs))))
    queue.prepare()
    on_gpu = [bool(job.gpu and gpus) for job in jobs]
    ready: dict[bool, list[int]] = {True: [], False: []}
    running: list[tuple[float, int]] = []
    now, free, idle = 0.0, cores, gpus
    while queue.is_active():
        for number in queue.get_ready():
            heapq.heappush(ready[on_gpu[number]], number)
        for kind in (True, False):
            while ready[kind] and free and (idle or not kind):
                number = heapq.heappop(ready[kind])
                free, idle = free - 1, idle - kind
                heapq.heappush(running, (now + seconds[number], number))
        now, number = heapq.heappop(running)
        free, idle = free + 1, idle + on_gpu[number]
        queue.done(number)
    return now


def _needs(jobs: Iterable[Job]) -> list[list[int]]:
    """For each job, the numbers of those that it waits for."""
    makers: dict[str, int] = {}
    needs = []
    for number, job in enumerate(jobs):
        needs.append(sorted({makers[path] for path in job.inputs if path in makers}))
        makers.update(dict.fromkeys(job.outputs, number))
    return needs
