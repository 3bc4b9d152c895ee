"""The commands before and during a long run: plan and status."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from introprior.errors import UserError, one_line
from introprior.experiment.config import Configuration, load, read_yaml
from introprior.operations import costs, dag, forecast, status
from introprior.operations.dag import Job

GPUS_SHOWN = (1, 2, 4, 8, 16)
"""For which numbers of GPUs a plan says how long it takes, beside the number asked for."""


def add_parsers(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        command: makes a parser of a function, a name and a text.
    """
    parser = command(plan, "plan", "tell what a configuration will cost before it runs: jobs, time, disk", writes=())
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET",
        help="what to make, as for snakemake: all, density, images, tables, figures, table1, ... (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[], metavar="FILE",
        help="laid over config/config.yaml one after another, as by snakemake",
    )  # fmt: skip
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs at a time (default: 1; 0 with device: cpu)")
    parser.add_argument("--cores", type=int, metavar="N", help="CPU cores (default: this machine's)")
    parser.add_argument("--json", action="store_true", help="as JSON")

    parser = command(status_, "status", "tell how far a run is, cell by cell and seed by seed", writes=())
    parser.add_argument(
        "results", nargs="?", type=Path, help="results/<experiment> (default: the one that was started last)"
    )
    parser.add_argument("--all", action="store_true", help="every run in a line of its own")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="again and again, so often, until interrupted")
    parser.add_argument("--json", action="store_true", help="as JSON, with every run and job")


# ---- plan ----


def plan(given: argparse.Namespace) -> None:
    """Tell what a configuration will cost."""
    config = _configuration(given.configfile)
    gpus = given.gpus if given.gpus is not None else int(config.device != "cpu")
    cores = given.cores if given.cores is not None else os.cpu_count() or 1
    for flag, value, least in (("--gpus", gpus, 0), ("--cores", cores, 1)):
        if value < least:
            raise UserError(f"{flag}: must be at least {least}, is {value}")
    targets = given.targets or ["all"]
    found = _planned(_jobs(config, given.configfile, targets), config.experiment, targets, gpus, cores)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_shown_plan(found, given.configfile)))


def _configuration(paths: Sequence[Path]) -> Configuration:
    base = Path("config/config.yaml")
    if not base.exists() or not Path("workflow/Snakefile").exists():
        raise UserError(f"{base}: not found; run this in the folder of the project, where snakemake is run")
    return load(read_yaml([base, *paths]), [base, *paths])


def _jobs(config: Configuration, paths: Sequence[Path], targets: Sequence[str]) -> list[Job]:
    """The jobs of the targets: as a run or a dry run has told of them, else by a dry run now."""
    results = Path("results") / config.experiment
    known = dag.fitting(results, config.identity, targets)
    if known is None:
        print("resolving the jobs by a dry run of snakemake", file=sys.stderr)
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "1", "--nolock"]
        command += ["--configfile", *map(str, paths)] if paths else []
        done = subprocess.run([*command, "--", *targets], capture_output=True, text=True)
        known = dag.fitting(results, config.identity, targets)
        if done.returncode or known is None:
            said = one_line(done.stderr or done.stdout) or "it told of no jobs"
            raise UserError(f"snakemake --dry-run: {said.removeprefix('introprior: ')}")
    return [job for job in known.of(targets) if job.outputs]


def _planned(jobs: Sequence[Job], experiment: str, targets: Sequence[str], gpus: int, cores: int) -> dict[str, Any]:
    """All that a plan says, as plain values."""
    todo = [job for job in jobs if not all(os.path.exists(path) for path in job.outputs)]
    rates = forecast.Rates.of("results")
    prices = [rates.price(job, gpus > 0) for job in todo]
    seconds = [price.seconds for price in prices]
    longest, path = forecast.critical_path(todo, seconds)
    rules: dict[str, dict[str, Any]] = {}
    for job in jobs:
        rule = rules.setdefault(job.rule, {"jobs": 0, "done": 0, "gpu_seconds": 0.0, "cpu_seconds": 0.0, "bytes": 0.0})
        rule["jobs"] += 1
        rule["done"] += 1
    for job, price in zip(todo, prices, strict=True):
        rule = rules[job.rule]
        rule["done"] -= 1
        rule["gpu_seconds" if job.gpu and gpus else "cpu_seconds"] += price.seconds
        rule["bytes"] += price.bytes
        ends = rule.setdefault("seconds_each", [price.seconds, price.seconds])
        ends[:] = min(ends[0], price.seconds), max(ends[1], price.seconds)
        sources = rule.setdefault("rates", {"measured": 0, "built-in": 0})
        sources["measured" if price.measured else "built-in"] += 1
    counts = sorted({*GPUS_SHOWN, gpus}) if gpus else [0]
    durations = dict(zip(map(id, todo), seconds, strict=True))
    return {
        "experiment": experiment,
        "targets": list(targets),
        "gpus": gpus,
        "cores": cores,
        "jobs": len(jobs),
        "done": len(jobs) - len(todo),
        "gpu_seconds": sum(rule["gpu_seconds"] for rule in rules.values()),
        "cpu_seconds": sum(rule["cpu_seconds"] for rule in rules.values()),
        "bytes": sum(price.bytes for price in prices),
        "seconds": {str(count): forecast.makespan(todo, seconds, count, cores) for count in counts},
        "critical_path": {
            "seconds": longest,
            "jobs": [{"rule": job.rule, **job.wildcards, "seconds": durations[id(job)]} for job in path],
        },
        "devices": {
            kind: sorted({price.device for price in prices if price.measured == (kind == "measured")})
            for kind in ("measured", "built-in")
        },
        "rules": rules,
    }


def _shown_plan(found: Mapping[str, Any], configfiles: Iterable[Path]) -> list[str]:
    layers = ", ".join(map(str, configfiles)) or "config/config.yaml"
    targets = "" if found["targets"] == ["all"] else f", {' '.join(found['targets'])}"
    lines = [f"{found['experiment']} ({layers}){targets}", ""]
    head = ["rule", "jobs", "done", "to do", "each", "GPU-hours", "CPU-hours", "disk", "rates"]
    rows = [head]
    for name, rule in _together(found["rules"]).items():
        todo = rule["jobs"] - rule["done"]
        counts = [str(rule["jobs"]), str(rule["done"]), str(todo)]
        if not todo:
            rows.append([name, *counts, "", "", "", "", ""])
            continue
        shown = list(dict.fromkeys(map(_time, rule["seconds_each"])))
        sources = [kind for kind in ("measured", "built-in") if rule["rates"][kind]]
        mixed = f" ({rule['rates']['measured']} of {todo})" if len(sources) > 1 else ""
        spent = [_hours(rule[f"{kind}_seconds"]) for kind in ("gpu", "cpu")]
        rows.append([name, *counts, " to ".join(shown), *spent, _bytes(rule["bytes"]), ", ".join(sources) + mixed])
    counts = [str(found["jobs"]), str(found["done"]), str(found["jobs"] - found["done"])]
    spent = [_hours(found[f"{kind}_seconds"]) for kind in ("gpu", "cpu")]
    rows.append(["all", *counts, "", *spent, _bytes(found["bytes"]), ""])
    lines += _table(rows, left=(0, len(head) - 1))
    if found["jobs"] == found["done"]:
        return [*lines, "", "Every file is there; `snakemake -n` tells whether any is outdated."]
    return [*lines, "", *_times(found), "", *_honest(found)]


def _together(rules: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rules, those whose jobs are short in any configuration as one."""
    lines: dict[str, dict[str, Any]] = {}
    for name, rule in rules.items():
        if name in costs.COSTS:
            lines[name] = rule
            continue
        rest = lines.setdefault("others", {"jobs": 0, "done": 0, "gpu_seconds": 0.0, "cpu_seconds": 0.0, "bytes": 0.0})
        for key in ("jobs", "done", "gpu_seconds", "cpu_seconds", "bytes"):
            rest[key] += rule[key]
        if "seconds_each" in rule:
            ends = [*rule["seconds_each"], *rest.get("seconds_each", ())]
            counts = Counter(rest.get("rates", {})) + Counter(rule["rates"])
            rest |= {"seconds_each": [min(ends), max(ends)], "rates": {"measured": 0, "built-in": 0} | counts}
    return {name: rule for name, rule in lines.items() if name != "others"} | {
        name: rule for name, rule in lines.items() if name == "others"
    }


def _times(found: Mapping[str, Any]) -> list[str]:
    """How long it takes."""
    on = "cores" if not found["gpus"] else "GPUs"
    if found["gpus"]:
        counts = list(found["seconds"])
        rows = [
            ["GPUs", *(f"[{count}]" if int(count) == found["gpus"] else count for count in counts)],
            ["time", *(_time(found["seconds"][count]) for count in counts)],
        ]
        lines = _table(rows, left=(0,))
        lines[0] += f"   (with {found['cores']} CPU cores)"
    else:
        lines = [f"time on {found['cores']} CPU cores: {_time(found['seconds']['0'])}"]
    path = found["critical_path"]
    steps = [step for step in path["jobs"] if step["seconds"] >= 0.01 * path["seconds"]]
    chain = " > ".join(f"{step['rule']} {_time(step['seconds'])}" for step in steps)
    return [*lines, f"No number of {on} makes it shorter than {_time(path['seconds'])}: {chain}."]


def _honest(found: Mapping[str, Any]) -> list[str]:
    """Where the rates come from, and how far to trust them."""
    lines = []
    for device in found["devices"]["measured"]:
        lines.append(f"measured: by benchmark files below results/, on {device}, scaled by counts.")
    if found["devices"]["built-in"]:
        lines.append("built-in: one rough default a rule, for an A100 or one core of an AMD EPYC; may be far off.")
    lines.append("done: all files are there; `snakemake -n` tells what is outdated. Jobs begun are counted whole.")
    return lines


# ---- status ----


def status_(given: argparse.Namespace) -> None:
    """Tell how far a run is."""
    if given.watch is not None and not given.watch > 0:
        raise UserError(f"--watch: must be above 0 seconds, is {given.watch:g}")
    results = given.results if given.results is not None else status.latest(Path("results"))
    while True:
        found = status.look(results)
        text = json.dumps(found, indent=2) if given.json else "\n".join(status.shown(found, every=given.all))
        if given.watch is None:
            print(text)
            return
        print(f"\033[2J\033[H{text}", flush=True)
        time.sleep(given.watch)


# ---- Words ----


def _table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows with aligned columns, those named in ``left`` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return "" if not seconds else f"{hours:.2f}" if hours < 1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _time(seconds: float) -> str:
    return status.duration(seconds)


def _bytes(count: float) -> str:
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} GB"
