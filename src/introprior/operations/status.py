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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from introprior.errors import UserError
from introprior.experiment import cells
from introprior.operations import dag, files, forecast, progress
from introprior.operations.dag import Dag, Job

QUIET = 600.0
"""Seconds for which a job of another machine may be silent where no lock of Snakemake speaks for it."""

MARKS = {"waiting": ".", "begun": "-", "running": ">", "done": "+", "diverged": "D", "stopped": "s", "failed": "F"}
"""One mark per state. A run that has begun waits for its next job."""

STAGES = {
    "density": {
        "search": "search",
        "select": "choice",
        "published": "choice",
        "train": "training",
        "evaluate": "evaluation",
    },
    "images": {
        "warmup": "warm-up",
        "game": "game",
        "distances": "distances",
        "evaluate_images": "evaluation",
        "probe": "probes",
    },
}
"""The stages of a run, in order, by the rules of their jobs."""

_URGENCY = ("failed", "running", "stopped")
_SHOWN = 12  # details per state, unless all are asked for
_TAIL = 4096  # bytes of a log that are read


@dataclass
class Seen:
    """What was found of a job.

    Attributes:
        job: it.
        state: waiting, running, stopped, failed or done.
        detail: of what stopped or failed, the log's last line.
        iteration, iterations, rate: of a training, the rate per second.
        eta: seconds.
        quiet: seconds since the last sign of life.
        outcomes: by seed, what a finished training came to, where not ok.
    """

    job: Job
    state: str
    detail: str = ""
    iteration: int | None = None
    iterations: int | None = None
    rate: float | None = None
    eta: float | None = None
    quiet: float | None = None
    outcomes: dict[int, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        names = ("state", "detail", "iteration", "iterations", "rate")
        return {
            "rule": self.job.rule,
            **self.job.wildcards,
            **{name: getattr(self, name) for name in names},
            "eta_seconds": self.eta,
            "quiet_seconds": self.quiet,
            "log": self.job.log,
        }


def latest(root: Path) -> Path:
    """The folder of the experiment that was started last.

    Raises:
        UserError: there is none.
    """
    found = []
    for path in root.glob(f"*/{dag.NAME}"):
        try:
            found.append((path.stat().st_mtime, path.parent))
        except OSError:  # gone in between
            continue
    if not found:
        raise UserError(f"{root}: holds no run that has been started; start one with snakemake, or name its folder")
    return max(found)[1]


# ---- Looking ----


def look(results: Path) -> dict[str, Any]:
    """All that the files of a run tell, as plain values.

    Args:
        results: the folder of an experiment.

    Raises:
        UserError: no run was started there, or by another version.
    """
    results = results.resolve() if results.name in ("", "..") else results
    known = dag.read(results)
    now, there = time.time(), _files(results)
    jobs = [job for job in known.jobs if job.outputs]
    there.update(path for job in jobs for path in job.outputs if path not in there and os.path.exists(path))
    working = _snakemake_works(results)
    seen = [_seen(job, there, working, now) for job in jobs]
    runs = [run for half in STAGES for run in _runs(known, half, seen)]
    return {
        "experiment": known.experiment,
        "results": str(results),
        "at": now,
        "runs": runs,
        "jobs": [one.as_dict() for one in seen],
        "summary": {
            "runs": _counted(MARKS, (run["state"] for run in runs)),
            "jobs": _counted(("waiting", "running", "stopped", "failed", "done"), (one.state for one in seen)),
        },
        **_overall(known, seen),
    }


def _counted(states: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    counts = Counter(found)
    return {state: counts[state] for state in states}


def _files(folder: Path) -> set[str]:
    """All files below a folder, by few looks into it: each costs on a network's file system."""
    return {os.path.join(place, name) for place, _, names in os.walk(folder) for name in names}


def _snakemake_works(results: Path) -> bool | None:
    """Whether Snakemake holds its lock; None where it has never run, as with a copied folder."""
    snakemake = results.resolve().parent.parent / ".snakemake"
    if not snakemake.is_dir():
        return None
    try:
        return any((snakemake / "locks").iterdir())
    except OSError:
        return False


def _seen(job: Job, there: set[str], working: bool | None, now: float) -> Seen:
    """What the files tell of one job."""
    if all(path in there for path in job.outputs):
        return Seen(job, "done", outcomes=_outcomes(job, there))
    told = progress.read(job.outputs[0]) if str(progress.path_of(job.outputs[0])) in there else None
    if told is None:
        return Seen(job, "waiting")
    found = Seen(job, told["state"], told.get("detail", ""), quiet=max(0.0, now - told["updated"]))
    if found.state == "running" and not _alive(told, found.quiet or 0.0, working):
        found.state = "stopped"
        found.detail = ", ".join(
            filter(None, (f"no sign of life for {duration(found.quiet or 0.0)}", last_line(job.log)))
        )
    if told.get("iterations"):
        found.iteration, found.iterations, found.rate = (told[name] for name in ("iteration", "iterations", "rate"))
        if found.state == "running":
            if told["alive"] < told["members"]:
                found.detail = f"{told['alive']} of {told['members']} alive"
            if found.rate:
                found.eta = (told["iterations"] - told["iteration"]) / found.rate
        elif found.state == "stopped":
            found.detail = f"goes on at its last checkpoint, step {found.iteration:,} or before; {found.detail}"
    return found


def _alive(told: Mapping[str, Any], quiet: float, working: bool | None) -> bool:
    """Whether the process is there that says it is: seen on this machine, on others believed for a while."""
    if told["host"] == socket.gethostname():
        try:
            os.kill(told["pid"], 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            pass
        return True
    return working if working is not None else quiet < QUIET


def _outcomes(job: Job, there: set[str]) -> dict[int, str]:
    """What has diverged: of trainings by their record, of evaluations by their metrics."""
    if job.rule in ("train", "game"):
        try:
            records = files.read_json(job.record).get("records", ()) if str(job.record) in there else ()
        except UserError:  # it vanishes, or is half-copied
            records = ()
        return {one["seed"]: one["detail"] for one in records if one["status"] != "ok"}
    if job.rule in ("evaluate", "evaluate_images"):
        try:
            with open(job.outputs[0], newline="") as stream:
                return {int(row["seed"]): row["detail"] for row in csv.DictReader(stream) if row["status"] != "ok"}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
    return {}


def last_line(path: str | Path | None) -> str:
    """The last line of a log that is not empty; progress bars write their lines over one another."""
    if path is None:
        return ""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(lines) if line), "")


# ---- Runs ----


def _runs(known: Dag, half: str, seen: Sequence[Seen]) -> Iterator[dict[str, Any]]:
    """Every cell and seed of one half, with the state of each of its stages."""
    stages = STAGES[half]
    parts: dict[tuple[str, ...], list[Seen]] = {}
    warmups: dict[tuple[str, ...], Seen] = {}
    for one in seen:
        names = one.job.wildcards
        if one.job.rule == "warmup":
            warmups[names["dataset"], names["family"], names["seed"]] = one
        elif one.job.rule in stages:
            key = names["dataset"], names["cell"], names.get("r_entropy", ""), names.get("seed", "")
            parts.setdefault(key, []).append(one)
    for (dataset, cell, r_entropy, seed), jobs in parts.items():
        if half == "images":
            jobs = [warmups[dataset, cells.parse(cell).warmup, seed], *jobs]
        for number in [int(seed)] if seed else known.configuration["density"]["seeds"]:
            run = {"half": half, "dataset": dataset, "cell": cell}
            run |= {"r_entropy": r_entropy} if half == "images" else {}
            yield run | {"seed": number} | _run(stages, jobs, number)


def _run(stages: Mapping[str, str], jobs: Sequence[Seen], seed: int) -> dict[str, Any]:
    """State and stages of one run."""
    by_stage: dict[str, list[Seen]] = {}
    for one in jobs:
        by_stage.setdefault(stages[one.job.rule], []).append(one)
    states = {stage: _together(one.state for one in some) for stage, some in by_stage.items()}
    outcome = next((one.outcomes[seed] for one in jobs if seed in one.outcomes), None)
    telling = next((one for state in _URGENCY for one in jobs if one.state == state), None)
    state = telling.state if telling else _together(states.values())
    if outcome is not None and not telling:
        state = "diverged"
    at = stages[telling.job.rule] if telling else next((s for s, each in states.items() if each != "done"), None)
    found: dict[str, Any] = {"state": state, "stage": at, "stages": states, "detail": outcome or ""}
    if telling:
        said = telling.as_dict()
        found |= {name: said[name] for name in ("iteration", "iterations", "rate", "eta_seconds", "log")}
        found["detail"] = telling.detail or found["detail"]
    return found


def _together(states: Iterable[str]) -> str:
    """The state of several jobs that follow one another, or run side by side."""
    found = set(states)
    urgent = next((state for state in _URGENCY if state in found), None)
    return urgent or (found.pop() if len(found) == 1 else "begun")


def _overall(known: Dag, seen: Sequence[Seen]) -> dict[str, Any]:
    """How much of the work is done, and when the rest will be if as many jobs go on running."""
    rates = forecast.Rates()
    rates.learn(one.job for one in seen if one.state == "done")
    gpu = rates.on_gpu if rates.known else known.configuration["device"] != "cpu"
    total = left = 0.0
    for one in seen:
        seconds = rates.price(one.job, gpu).seconds
        share = (one.iteration or 0) / one.iterations if one.iterations else 0.0
        rest = 0.0 if one.state == "done" else seconds * (1 - share)
        if one.eta is not None:
            total, left = total + one.eta - rest, left + one.eta - rest  # better known
        total, left = total + seconds, left + rest
    running = sum(one.state == "running" for one in seen)
    return {
        "progress": 1 - left / total if total else 1.0,
        "running": running,
        "eta_seconds": left / running if running else None,
        "rates": "measured" if rates.known else "built-in",
    }


# ---- Showing ----


def shown(found: Mapping[str, Any], every: bool = False) -> Iterator[str]:
    """What :func:`look` found, in lines for a terminal.

    Args:
        found: it.
        every: a line for each run instead of a mark, and all details.
    """
    runs = found["runs"]
    for half in STAGES:
        some = [run for run in runs if run["half"] == half]
        if some and all(run["state"] == "waiting" for run in some) and not every:
            yield f"{half}: {len(some)} runs, none begun"
        elif some:
            yield from _listed(some) if every else _marked(half, some)
        if some:
            yield ""
    if not every:
        yield "  ".join(f"{mark} {state}" for state, mark in MARKS.items())
        yield ""
    for state in ("running", "stopped", "failed"):
        yield from _detailed(state, found["jobs"], len(runs) if every else _SHOWN)
    diverged = [run for run in runs if run["state"] == "diverged"]
    if diverged:
        yield "diverged"
        yield from _some([f"  {_named(run)}  {run['detail']}" for run in diverged], len(runs) if every else _SHOWN)
    counts = ", ".join(f"{count} {state}" for state, count in found["summary"]["runs"].items() if count)
    yield f"runs: {counts or 'none'}"
    jobs = found["summary"]["jobs"]
    more = "".join(f", {jobs[state]} {state}" for state in ("running", "stopped", "failed") if jobs[state])
    line = f"jobs: {jobs['done']} of {sum(jobs.values())} done{more}; {100 * found['progress']:.0f} % of the work"
    if found["eta_seconds"]:
        line += f", {duration(found['eta_seconds'])} to go with {found['running']} at a time ({found['rates']} rates)"
    yield line


def _marked(half: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A mark per run: rows are cells; columns are datasets in 2D, and on images, in a block per dataset, r_entropy."""
    seeds = list(dict.fromkeys(run["seed"] for run in runs))
    note = f"(seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))})"
    blocks = [None] if half == "density" else list(dict.fromkeys(run["dataset"] for run in runs))
    for block in blocks:
        some = [run for run in runs if block in (None, run["dataset"])]
        name = "dataset" if block is None else "r_entropy"
        columns, cells = (list(dict.fromkeys(run[key] for run in some)) for key in (name, "cell"))
        marks: dict[tuple[str, str], str] = {}
        for run in some:
            key = run["cell"], run[name]
            marks[key] = marks.get(key, "") + MARKS[run["state"]]
        heads = [column if block is None else f"r{column}" for column in columns]
        rows = [[half if block is None else block, *heads]]
        rows += [[f"  {cell}", *(marks.get((cell, column), "") for column in columns)] for cell in cells]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
        yield f"{lines[0]}  {note}"
        yield from (line.rstrip() for line in lines[1:])


def _listed(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line per run."""
    names = list(map(_named, runs))
    width = max(map(len, names))
    for name, run in zip(names, runs, strict=True):
        stage = "" if run["state"] in ("done", "waiting") else f"{run['stage'] or ''} {_steps(run)}"
        yield f"{name.ljust(width)}  {run['state']:<8}  {stage} {run['detail']}".rstrip()


def _detailed(state: str, jobs: Sequence[Mapping[str, Any]], most: int) -> Iterator[str]:
    some = [job for job in jobs if job["state"] == state]
    if not some:
        return
    yield state
    lines = []
    for job in some:
        parts = [f"  {_named(job)}", _steps(job), job["detail"]]
        if state == "failed":
            parts.append(f"(see {job['log']})")
        lines.append("  ".join(part for part in parts if part))
    yield from _some(lines, most)


def _some(lines: Sequence[str], most: int) -> Iterator[str]:
    yield from lines[:most]
    if len(lines) > most:
        yield f"  and {len(lines) - most} more: --all"
    yield ""


def _named(one: Mapping[str, Any]) -> str:
    """A run or a job."""
    words = [one["rule"]] if "rule" in one else []
    words += [str(one[name]) for name in ("dataset", "cell", "family", "features") if one.get(name)]
    words += [f"r{one['r_entropy']}"] if one.get("r_entropy") else []
    words += [f"seed {one['seed']}"] if one.get("seed") is not None else []
    words += [f"slice {one['slice']}"] if one.get("slice") else []
    return " ".join(words)


def _steps(one: Mapping[str, Any]) -> str:
    """How far a training is."""
    if not one.get("iterations"):
        return ""
    share = 100 * one["iteration"] / one["iterations"]
    text = f"step {one['iteration']:,} of {one['iterations']:,} ({share:.0f} %)"
    if one["state"] == "running" and one.get("rate"):
        text += f", {one['rate']:.3g} it/s"
    if one.get("eta_seconds") is not None:
        text += f", {duration(one['eta_seconds'])} to go"
    return text


def duration(seconds: float) -> str:
    """A time as people say it, in one unit."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
