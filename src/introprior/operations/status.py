"""How far a run is, from the files of its results alone, while it goes on or when nobody is at it any more.

Looking disturbs nothing and needs nothing: a folder that was copied elsewhere is as good, files that appear or vanish
in between are taken as they are found, and torch is not imported.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from introprior.errors import UserError
from introprior.experiment import planning
from introprior.experiment.planning import Job
from introprior.operations import files, forecast, progress

STALE = 60.0
"""Seconds after which a progress file is of a process that is gone."""

QUIET = 600.0
"""Seconds for which a job that writes no progress file may be silent without Snakemake's lock to speak for it."""

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
_ANEW = 15.0  # seconds by which a log that was written after a progress file is of a later process
_TAIL = 4096  # bytes of a log that are read

_PROGRESS = {"iteration", "iterations", "rate", "alive", "members", "updated"}

# The last line of a log.
_BAR = re.compile(r"\d+%\||\d+(\.\d+)?(s/)?(it|snapshot)(/s)?[\],]|\?it/s")
_STOPPED = re.compile(r": interrupted; run|: stopped at iteration \d+|CANCELLED AT|DUE TO TIME LIMIT|KeyboardInterrupt")
_FAILED = re.compile(
    r"^introprior( \w+)?: |^[\w.]*(Error|Exception|Exit)\b|error:|^Killed|Segmentation fault|Bus error"
    r"|command not found|No space left|[Oo]ut.of.memory"
)


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
        return {
            "rule": self.job.rule,
            **self.job.wildcards,
            "state": self.state,
            "detail": self.detail,
            "iteration": self.iteration,
            "iterations": self.iterations,
            "rate": self.rate,
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
    for path in root.glob("*/configuration.json"):
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
        UserError: it holds no configuration.json, or one that this version does not understand.
    """
    results = results.resolve() if results.name in ("", "..") else results
    path = results / "configuration.json"
    if not path.exists():
        raise UserError(f"{path}: not found; give a folder that a run of snakemake has made, results/<experiment>")
    config = files.read_json(path)
    try:
        jobs = planning.jobs(config, folder=results)
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not a configuration of this version ({error}); look with the one that made it"
        ) from error
    now, there = time.time(), _files(results)
    there.update(path for job in jobs for path in job.outputs if path not in there and os.path.exists(path))
    working = _snakemake_works(results)
    seen = [_seen(job, there, working, now) for job in jobs]
    runs = [run for half in STAGES for run in _runs(config, half, seen)]
    return {
        "experiment": config["experiment"],
        "results": str(results),
        "at": now,
        "runs": runs,
        "jobs": [one.as_dict() for one in seen],
        "summary": {
            "runs": _counted(MARKS, (run["state"] for run in runs)),
            "jobs": _counted(("waiting", "running", "stopped", "failed", "done"), (one.state for one in seen)),
        },
        **_overall(config, seen),
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
    told = progress.path_of(Path(job.outputs[0]))
    known = _read(told) if str(told) in there else None
    known = known if known and known.keys() >= _PROGRESS else None
    line = last_line(job.log) if job.log in there else None
    if line and _STOPPED.search(line):
        return _training(job, {**known, "stopped": True}, now) if known else Seen(job, "stopped", line)
    if line and _FAILED.search(line):
        return Seen(job, "failed", line)
    written = _modified(job.log) if line is not None else None
    if known and (written is None or written < known["updated"] + _ANEW):
        return _training(job, known, now)
    if written is None:
        return Seen(job, "waiting")
    quiet = max(0.0, now - written)
    if working or quiet < QUIET:
        return Seen(job, "running", line if line and _BAR.search(line) else "", quiet=quiet)
    return Seen(job, "stopped", f"no sign of life for {duration(quiet)}", quiet=quiet)


def _training(job: Job, known: Mapping[str, Any], now: float) -> Seen:
    """By its progress file."""
    iteration, iterations, rate = known["iteration"], known["iterations"], known["rate"]
    quiet = max(0.0, now - known["updated"])
    found = Seen(job, "running", "", iteration, iterations, rate, quiet=quiet)
    if known["alive"] < known["members"]:
        found.detail = f"{known['alive']} of {known['members']} alive"
    if known.get("stopped"):
        found.state, found.detail = "stopped", f"goes on at step {iteration:,}"
    elif quiet > STALE:
        found.state = "stopped"
        found.detail = (
            f"no sign of life for {duration(quiet)}; goes on at its last checkpoint, step {iteration:,} or before"
        )
    elif rate:
        found.eta = (iterations - iteration) / rate
    return found


def _outcomes(job: Job, there: set[str]) -> dict[int, str]:
    """What has diverged: of trainings by their record, of evaluations by their metrics."""
    if job.rule in ("train", "game"):
        record = forecast.record_of(job)
        content = _read(record) if str(record) in there else None
        return {one["seed"]: one["detail"] for one in (content or {}).get("records", ()) if one["status"] != "ok"}
    if job.rule in ("evaluate", "evaluate_images"):
        try:
            with open(job.outputs[0], newline="") as stream:
                return {int(row["seed"]): row["detail"] for row in csv.DictReader(stream) if row["status"] != "ok"}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
    return {}


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if it has vanished or is not whole."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _modified(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:  # gone in between
        return None


def last_line(path: str | Path) -> str:
    """The last line of a log that is not empty; progress bars write their lines over one another."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(lines) if line), "")


# ---- Runs ----


def _runs(config: Mapping[str, Any], half: str, seen: Sequence[Seen]) -> Iterator[dict[str, Any]]:
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
            family = planning.images.family(cell)
            jobs = [warmups[dataset, family, seed], *jobs]
        for number in [int(seed)] if seed else config["density"]["seeds"]:
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


def _overall(config: Mapping[str, Any], seen: Sequence[Seen]) -> dict[str, Any]:
    """How much of the work is done, and when the rest will be if as many jobs go on running."""
    rates = forecast.Rates()
    rates.learn(config, (one.job for one in seen if one.state == "done"))
    gpu = rates.on_gpu if rates.known else config["device"] != "cpu"
    total = left = 0.0
    for one in seen:
        seconds = rates.price(config, one.job, gpu).seconds
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
