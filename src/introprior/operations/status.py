"""How far a run is, from the files of its results alone, while it goes on or when nobody is at it any more.

Looking disturbs nothing and needs nothing: a folder that was copied elsewhere is as good, files that appear or vanish
in between are taken as they are found, and torch is not imported.
"""

from __future__ import annotations

import csv
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from introprior.errors import UserError
from introprior.experiment.cells import Cell
from introprior.operations import dag, forecast, progress, provenance
from introprior.operations.dag import Dag, Job

QUIET = 600.0
"""Seconds for which a job may be silent that could tell more often, or that nothing else speaks for."""

MARKS = {"waiting": ".", "begun": "-", "running": ">", "done": "+", "diverged": "D", "stopped": "s", "failed": "F"}
"""One mark per state. A run that has begun waits for its next job."""

STAGES = {
    "density": {"search": "search", "select": "choice", "published": "choice", "train": "training"}
    | {"evaluate": "evaluation"},
    "images": {"warmup": "warm-up", "game": "game", "distances": "distances", "evaluate_images": "evaluation"}
    | {"probe": "probes"},
}
"""The stages of a run, in order, by the rules of their jobs."""

_URGENCY = ("failed", "running", "stopped")
_SHOWN = 12  # details per state, unless all are asked for
_TAIL = 4096  # bytes of a log that are read


@dataclass
class Seen:
    """What was found of a job."""

    job: Job
    state: str  # waiting, running, stopped, failed or done
    detail: str = ""  # why it stopped or failed, or who of a training is left
    iteration: int | None = None
    iterations: int | None = None
    rate: float | None = None  # iterations a second
    eta_seconds: float | None = None
    quiet_seconds: float | None = None  # since the last sign of life
    outcomes: dict[tuple[str, int], str] = field(default_factory=dict)  # by dataset and seed, of runs that are not ok

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        found = {name: value for name, value in vars(self).items() if name not in ("job", "outcomes")}
        return {"rule": self.job.rule, **self.job.wildcards, **found, "log": self.job.log}


def latest(root: Path) -> Path:
    """The folder of the experiment that was started last."""
    found = []
    for path in root.glob(f"*/{dag.NAME}"):
        with suppress(OSError):  # gone in between
            found.append((path.stat().st_mtime, path.parent))
    if not found:
        raise UserError(f"{root}: holds no run that has been started; start one with snakemake, or name its folder")
    return max(found)[1]


# ---- Looking ----


def look(results: Path) -> dict[str, Any]:
    """All that the files of a run in the folder of its experiment tell, as plain values."""
    results = results.resolve() if results.name in ("", "..") else results
    known = dag.read(results)
    now, working = time.time(), _snakemake_works(results)
    # By few looks into the folder: each costs on a network's file system.
    there = {os.path.join(place, name) for place, _, names in os.walk(results) for name in names}
    jobs = [job for job in known.jobs if job.outputs]
    there.update(path for job in jobs for path in job.outputs if path not in there and os.path.exists(path))
    seen = [_seen(job, there, working, now) for job in jobs]
    _left_behind(results, seen)
    runs = [run for half in STAGES for run in _runs(known, half, seen)]
    return {
        "experiment": known.experiment,
        "results": str(results),
        "at": now,
        "runs": runs,
        "jobs": [one.as_dict() for one in seen],
        "summary": {"runs": Counter(run["state"] for run in runs), "jobs": Counter(one.state for one in seen)},
        **_overall(known, seen),
    }


def _snakemake_works(results: Path) -> bool:
    """Whether Snakemake holds its lock, where the folder lies or where a link to it does; a copied folder has none."""
    for place in {Path(os.path.abspath(results)), results.resolve()}:
        with suppress(OSError):
            if any((place.parent.parent / ".snakemake/locks").iterdir()):
                return True
    return False


def _left_behind(results: Path, seen: Sequence[Seen]) -> None:
    """What lies outside of the folder, prepared data above all, and stayed where a copy came from, was made."""
    users: dict[str, list[Seen]] = {}
    for one in reversed(seen):
        of = [user for path in one.job.outputs for user in users.get(path, ())]
        outside = not any(Path(path).is_relative_to(results) for path in one.job.outputs)
        if outside and of and one.state != "running" and all(user.state == "done" for user in of):
            one.state, one.detail = "done", ""
        for path in one.job.inputs:
            users.setdefault(path, []).append(one)


def _seen(job: Job, there: Container[str], working: bool, now: float) -> Seen:
    """What the files tell of one job."""
    if all(path in there for path in job.outputs):
        return Seen(job, "done", outcomes=_outcomes(job))
    report = progress.read(job.outputs[0]) if str(progress.path_of(job.outputs[0])) in there else None
    if report is None:
        return _silent(job, there, working)
    found = Seen(job, report["state"], report.get("detail", ""), quiet_seconds=max(0.0, now - report["updated"]))
    training = report.get("iterations")
    if found.state == "running" and not _alive(report, found.quiet_seconds or 0.0, working):
        going_on = f"goes on at its last checkpoint, step {report['iteration']:,} or before"
        on = going_on if training else last_line(job.log)
        found.state = "stopped"
        found.detail = f"no sign of life for {duration(found.quiet_seconds or 0.0)}; {on}".removesuffix("; ")
    if training:
        found.iteration, found.iterations, found.rate = (report[name] for name in ("iteration", "iterations", "rate"))
        if found.state == "running":
            found.detail = f"{report['alive']} of {report['members']} alive" * (report["alive"] < report["members"])
            found.eta_seconds = (training - report["iteration"]) / found.rate if found.rate else None
    return found


def _silent(job: Job, there: Container[str], working: bool) -> Seen:
    """A job that tells nothing: it waits, unless a log without a record shows that it was begun, and not by Python."""
    if job.log not in there or str(job.record) in there:
        return Seen(job, "waiting")
    if working:
        return Seen(job, "running")
    line = last_line(job.log)
    return Seen(job, "failed" if line else "stopped", line)


def _alive(report: Mapping[str, Any], quiet: float, working: bool) -> bool:
    """Whether the process is there that says it is.

    On this machine that can be seen; on others a training is believed for a while, a job that cannot tell how far it is
    also as long as Snakemake works.
    """
    here = report["host"] == socket.gethostname()
    if here:
        try:
            os.kill(report["pid"], 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            pass
    return quiet < QUIET or (not report.get("iterations") and (here or working))


def _outcomes(job: Job) -> dict[tuple[str, int], str]:
    """What has diverged: of trainings by their record, of evaluations by their metrics; nothing where these vanish."""
    rows: list[Mapping[str, Any]] = []
    try:
        if job.rule in ("train", "game"):
            rows = list(provenance.read(job.record)["records"])
        elif job.rule in ("evaluate", "evaluate_images"):
            for path in job.outputs:
                if path.endswith(".csv"):
                    with open(path, newline="", encoding="utf-8") as stream:
                        rows += csv.DictReader(stream)
        return {(row["dataset"], int(row["seed"])): row["detail"] for row in rows if row["status"] == "diverged"}
    except (OSError, UserError, csv.Error, ValueError, KeyError, TypeError):
        return {}


def last_line(path: str | None) -> str:
    """The last line of a log that is not empty; progress bars write their lines over one another."""
    try:
        with open(path or os.devnull, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            lines = re.split(r"[\r\n]+", stream.read().decode(errors="replace"))
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


# ---- Runs ----


def _runs(known: Dag, half: str, seen: Sequence[Seen]) -> Iterator[dict[str, Any]]:
    """Every cell and seed of one half, with the state of each of its stages."""
    stages = STAGES[half]
    parts: dict[tuple[Any, ...], list[Seen]] = {}
    warmups: dict[tuple[str, ...], Seen] = {}
    for one in seen:
        names = one.job.wildcards
        if one.job.rule == "warmup":
            warmups[names["dataset"], names["family"], names["seed"]] = one
        elif one.job.rule in stages:
            for dataset in one.job.datasets:
                key = dataset, names["cell"], names.get("r_entropy"), names.get("seed")
                parts.setdefault(key, []).append(one)
    for (dataset, cell, r_entropy, seed), jobs in parts.items():
        if half == "images":
            jobs = [warmups[dataset, Cell.parse(cell).warmup, seed], *jobs]
        for number in [int(seed)] if half == "images" else known.configuration["density"]["seeds"]:
            run = {"half": half, "dataset": dataset, "cell": cell, "r_entropy": r_entropy, "seed": number}
            yield _run(stages, jobs, (dataset, number)) | run


def _run(stages: Mapping[str, str], jobs: Sequence[Seen], member: tuple[str, int]) -> dict[str, Any]:
    """State and stages of one run."""
    by_stage: dict[str, list[Seen]] = {}
    for one in jobs:
        by_stage.setdefault(stages[one.job.rule], []).append(one)
    states = {stage: _together(one.state for one in some) for stage, some in by_stage.items()}
    outcome = next((one.outcomes[member] for one in jobs if member in one.outcomes), None)
    telling = next((one for state in _URGENCY for one in jobs if one.state == state), None)
    if telling is None:
        state = _together(states.values()) if outcome is None else "diverged"
        stage = next((stage for stage, state in states.items() if state != "done"), None)
        return {"state": state, "stage": stage, "stages": states, "detail": outcome or ""}
    found = {name: value for name, value in telling.as_dict().items() if name != "rule"}
    return found | {"stage": stages[telling.job.rule], "stages": states, "detail": telling.detail or outcome}


def _together(states: Iterable[str]) -> str:
    """The state of several jobs that follow one another, or run side by side."""
    found = set(states)
    urgent = next((state for state in _URGENCY if state in found), None)
    return urgent or (found.pop() if len(found) == 1 else "begun")


def _overall(known: Dag, seen: Sequence[Seen]) -> dict[str, Any]:
    """How much of the work is done, and when the rest will be if as many jobs go on running."""
    rates = forecast.Rates(one.job for one in seen if one.state == "done")
    gpu = rates.on_gpu if rates.known else known.configuration["device"] != "cpu"
    total = left = 0.0
    for one in seen:
        seconds = rates.price(one.job, gpu).seconds
        done = 1.0 if one.state == "done" else (one.iteration or 0) / (one.iterations or 1)
        if one.eta_seconds is not None and done < 1:  # better known
            seconds = one.eta_seconds / (1 - done)
        total, left = total + seconds, left + seconds * (1 - done)
    running = sum(one.state == "running" for one in seen)
    return {
        "progress": 1 - left / total if total else 1.0,
        "running": running,
        "eta_seconds": left / running if running else None,
        "rates": "measured" if rates.known else "built-in",
    }


# ---- Showing ----


def shown(found: Mapping[str, Any], every: bool = False) -> Iterator[str]:
    """What :func:`look` found, in lines for a terminal; with ``every``, one for each run, and all details."""
    for half in STAGES:
        runs = [run for run in found["runs"] if run["half"] == half]
        if every:
            yield from (f"{run['state']:<8}{_detailed(run)}" for run in runs)
        elif runs and all(run["state"] == "waiting" for run in runs):
            yield f"{half}: {len(runs)} runs, none begun"
        else:
            yield from _marked(half, runs)
        yield from [""] * bool(runs)
    if not every:
        yield from ("  ".join(f"{mark} {state}" for state, mark in MARKS.items()), "")
    for state, kind in (("running", "jobs"), ("stopped", "jobs"), ("failed", "jobs"), ("diverged", "runs")):
        some = [one for one in found[kind] if one["state"] == state]
        if some:
            yield state
            yield from map(_detailed, some if every else some[:_SHOWN])
            yield from [f"  and {len(some) - _SHOWN} more: --all"] * (len(some) > _SHOWN and not every)
            yield ""
    runs, jobs = found["summary"]["runs"], found["summary"]["jobs"]
    yield f"runs: {', '.join(f'{runs[state]} {state}' for state in MARKS if runs[state]) or 'none'}"
    more = "".join(f", {jobs[state]} {state}" for state in ("running", "stopped", "failed") if jobs[state])
    line = f"jobs: {jobs['done']} of {len(found['jobs'])} done{more}; {100 * found['progress']:.0f} % of the work"
    if found["eta_seconds"]:
        line += f", {duration(found['eta_seconds'])} to go with {found['running']} at a time ({found['rates']} rates)"
    yield line


def _marked(half: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A mark per run: rows are cells; columns are datasets in 2D, and on images, in a block per dataset, r_entropy."""
    seeds = list(dict.fromkeys(run["seed"] for run in runs))
    note = f"(seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))})"
    name, start = ("dataset", "") if half == "density" else ("r_entropy", "r")
    blocks: dict[str, dict[str, dict[str, str]]] = {}
    for run in runs:
        block = blocks.setdefault(half if half == "density" else run["dataset"], {})
        row, column = block.setdefault(run["cell"], {}), f"{start}{run[name]}"
        row[column] = row.get(column, "") + MARKS[run["state"]]
    for title, block in blocks.items():
        columns = list(dict.fromkeys(column for row in block.values() for column in row))
        rows = [[title, *columns]]
        rows += [[f"  {cell}", *(row.get(column, "") for column in columns)] for cell, row in block.items()]
        first, *others = table(rows, range(len(rows[0])))
        yield f"{first}  {note}"
        yield from others


def _detailed(one: Mapping[str, Any]) -> str:
    """What there is to say of a run or a job."""
    log = f"(see {one['log']})" if one["state"] == "failed" else ""
    return "  ".join(filter(None, (f"  {_named(one)}", one.get("stage"), _steps(one), one["detail"], log)))


def _named(one: Mapping[str, Any]) -> str:
    """A run or a job by its rule and wildcards."""
    words = {"r_entropy": "r", "seed": "seed ", "slice": "slice "}
    names = ("rule", "dataset", "cell", "family", "features", *words)
    return " ".join(f"{words.get(name, '')}{one[name]}" for name in names if one.get(name) is not None)


def _steps(one: Mapping[str, Any]) -> str:
    """How far a training is."""
    if not one.get("iterations"):
        return ""
    share = 100 * one["iteration"] / one["iterations"]
    rate = f", {one['rate']:.3g} it/s" if one["state"] == "running" and one["rate"] else ""
    rest = f", {duration(one['eta_seconds'])} to go" if one["eta_seconds"] is not None else ""
    return f"step {one['iteration']:,} of {one['iterations']:,} ({share:.0f} %){rate}{rest}"


# ---- Words ----


def duration(seconds: float) -> str:
    """A time as people say it, in one unit."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def table(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """Rows as lines with aligned columns, those named in ``left`` to the left."""
    columns = [
        [text.ljust(width) if number in left else text.rjust(width) for text in column]
        for number, column in enumerate(zip(*rows, strict=True))
        for width in [max(map(len, column))]
    ]
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
