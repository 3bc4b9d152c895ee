"""The commands before, during and after a long run: plan, status, verify."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from introprior.errors import UserError, one_line, plain
from introprior.experiment.config import Configuration, load, read_yaml
from introprior.operations import costs, dag, forecast, status, verification
from introprior.operations.dag import Job
from introprior.operations.forecast import Price
from introprior.operations.status import duration, table

GPUS_SHOWN = (1, 2, 4, 8, 16)
"""For which numbers of GPUs a plan says how long it takes, beside the number asked for."""


# ---- plan ----


def plan(given: argparse.Namespace) -> None:
    """Tell what a configuration will cost."""
    config = _configuration(given.configfile)
    gpus = given.gpus if given.gpus is not None else int(config.device != "cpu")
    cores = given.cores if given.cores is not None else os.cpu_count() or 1
    targets = given.targets or ["all"]
    found = _planned(_jobs(config, given.configfile, targets), gpus, cores)
    if given.json:
        print(json.dumps({"experiment": config.experiment, "targets": targets, **found}, indent=2))
        return
    layers = ", ".join(map(str, given.configfile)) or "config/config.yaml"
    print(f"{config.experiment} ({layers})" + (f", {' '.join(targets)}" if targets != ["all"] else ""))
    print("\n".join(["", *_shown(found)]))


def _configuration(paths: Sequence[Path]) -> Configuration:
    base = Path("config/config.yaml")
    if not base.exists() or not Path("workflow/Snakefile").exists():
        raise UserError(f"{base}: not found; run this in the folder of the project, where snakemake is run")
    return load(read_yaml([base, *paths]), [base, *paths])


def _jobs(config: Configuration, paths: Sequence[Path], targets: Sequence[str]) -> list[Job]:
    """The jobs of the targets: as a run or a dry run has told of them, else by a dry run now."""
    known = dag.fitting(config, targets)
    if known is None:
        print("resolving the jobs by a dry run of snakemake", file=sys.stderr)
        # Where it is planned need not be where it will run, with a GPU.
        options = ["--dry-run", "--quiet", "progress", "rules", "--nolock", "--cores", "1", "--config", "device=auto"]
        command = [sys.executable, "-m", "snakemake", *options, *["--configfile", *map(str, paths)] * bool(paths)]
        done = subprocess.run([*command, "--", *targets], capture_output=True, encoding="utf-8", errors="replace")
        known = dag.fitting(config, targets)
        if done.returncode or known is None:
            said = one_line((done.stderr + done.stdout).rpartition("Building DAG of jobs...")[2])
            raise UserError(f"snakemake --dry-run: {said.removeprefix('introprior: ')}")
    return [job for job in known if job.outputs]


def _planned(jobs: Sequence[Job], gpus: int, cores: int) -> dict[str, Any]:
    """All that a plan says, as plain values."""
    rates = forecast.Rates.of("results")
    todo = [job for job in jobs if not all(map(os.path.exists, job.outputs))]
    prices = {job: rates.price(job, gpus > 0) for job in todo}
    seconds = [price.seconds for price in prices.values()]
    longest, path = forecast.critical_path(todo, seconds)
    chain = [{"rule": job.rule, **job.wildcards, "seconds": prices[job].seconds} for job in path]
    counts = sorted({*GPUS_SHOWN, gpus}) if gpus else [0]
    rules = dict.fromkeys(job.rule for job in jobs)
    return {
        "gpus": gpus,
        "cores": cores,
        **_summed(jobs, prices, gpus),
        "seconds": {str(count): forecast.makespan(todo, seconds, count, cores) for count in counts},
        "critical_path": {"seconds": longest, "jobs": chain},
        "devices": sorted({price.device for price in prices.values() if price.measured}),
        "rules": {rule: _summed([job for job in jobs if job.rule == rule], prices, gpus) for rule in rules},
        "others": _summed([job for job in jobs if job.rule not in costs.COSTS], prices, gpus),
    }


def _summed(jobs: Sequence[Job], prices: Mapping[Job, Price], gpus: int) -> dict[str, Any]:
    """What some jobs cost, of which those with a price are to do."""
    todo = [(bool(job.gpu and gpus), prices[job]) for job in jobs if job in prices]
    each = [price.seconds for _, price in todo]
    measured = sum(price.measured for _, price in todo)
    return {
        "jobs": len(jobs),
        "done": len(jobs) - len(todo),
        "gpu_seconds": sum(price.seconds for on_gpu, price in todo if on_gpu),
        "cpu_seconds": sum(price.seconds for on_gpu, price in todo if not on_gpu),
        "seconds_each": [min(each), max(each)] if each else [],
        "bytes": sum(price.bytes for _, price in todo),
        "rates": {"measured": measured, "built-in": len(todo) - measured},
    }


def _shown(found: Mapping[str, Any]) -> list[str]:
    """A plan in lines for a terminal; the rules whose jobs are short in any configuration are one."""
    shown = {rule: row for rule, row in found["rules"].items() if rule in costs.COSTS}
    if found["others"]["jobs"]:
        shown["others"] = found["others"]
    rows = [["rule", "jobs", "done", "to do", "each", "GPU-hours", "CPU-hours", "disk", "rates"]]
    rows += [_row(name, row) for name, row in shown.items()]
    rows.append([cell * (i not in (4, 8)) for i, cell in enumerate(_row("all", found))])
    lines = table(rows, left=(0, 8))
    if found["jobs"] == found["done"]:
        return [*lines, "", "Every file is there; `snakemake -n` tells whether any is outdated."]
    honest = [f"measured: by benchmark files below results/, on {name}, scaled by counts." for name in found["devices"]]
    if found["rates"]["built-in"]:
        honest.append("built-in: one rough default a rule, for an A100 or one core of an AMD EPYC; may be far off.")
    honest.append("done: all files are there; `snakemake -n` tells what is outdated. Jobs begun are counted whole.")
    return [*lines, "", *_times(found), "", *honest]


def _row(name: str, row: Mapping[str, Any]) -> list[str]:
    todo = row["jobs"] - row["done"]
    counts = [name, str(row["jobs"]), str(row["done"]), str(todo)]
    if not todo:
        return [*counts, "", "", "", "", ""]
    each = " to ".join(dict.fromkeys(map(duration, row["seconds_each"])))
    spent = [_hours(row[f"{kind}_seconds"]) for kind in ("gpu", "cpu")]
    kinds = [kind for kind, count in row["rates"].items() if count]
    mixed = f" ({row['rates']['measured']} of {todo})" if len(kinds) > 1 else ""
    return [*counts, each, *spent, _bytes(row["bytes"]), ", ".join(kinds) + mixed]


def _times(found: Mapping[str, Any]) -> list[str]:
    """How long it takes."""
    if found["gpus"]:
        rows = [["GPUs", *(f"[{count}]" if int(count) == found["gpus"] else count for count in found["seconds"])]]
        rows.append(["time", *map(duration, found["seconds"].values())])
        lines = table(rows, left=(0,))
        lines[0] += f"   (with {found['cores']} CPU cores)"
        lines += _bound(found)
    else:
        lines = [f"time on {found['cores']} CPU cores: {duration(found['seconds']['0'])}"]
    path = found["critical_path"]
    steps = [step for step in path["jobs"] if step["seconds"] >= 0.02 * path["seconds"]]
    chain = " > ".join(f"{step['rule']} {duration(step['seconds'])}" for step in steps)
    on = "GPUs" if found["gpus"] else "cores"
    return [*lines, f"No number of {on} makes it shorter than {duration(path['seconds'])}: {chain}."]


def _bound(found: Mapping[str, Any]) -> list[str]:
    """From which number of GPUs on more of them are of no use, where it is the cores that they wait for."""
    times = {int(count): seconds for count, seconds in found["seconds"].items()}
    most, shortest = max(times), 1.01 * times[max(times)]
    enough = min(count for count, seconds in times.items() if seconds <= shortest)
    if enough == most or shortest < 1.05 * found["critical_path"]["seconds"]:
        return []
    return [f"More than {enough} of these GPUs bring nothing on {found['cores']} cores: every job takes one (--cores)."]


# ---- status ----


def status_(given: argparse.Namespace) -> None:
    """Tell how far a run is."""
    results = given.results if given.results is not None else status.latest(Path("results"))
    while True:
        found = status.look(results)
        lines = [json.dumps(found, indent=2)] if given.json else map(plain, status.shown(found, every=given.all))
        text = "\n".join(lines)
        if given.watch is None:
            print(text)
            return
        print(f"\033[2J\033[H{text}", flush=True)
        time.sleep(given.watch)


# ---- verify ----


def verify(given: argparse.Namespace) -> None:
    """Check a results tree; what is wrong with it is printed, and then a `UserError`."""
    found = verification.verify(given.results, given.partial)
    if given.json:
        print(json.dumps({"ok": not found["problems"], **found}, indent=2))
    else:
        for path, what in found["problems"]:
            print(plain(f"{given.results / path}: {what}"))
        for note in found["notes"]:
            print(plain(f"note: {note}"))
    if found["problems"]:
        raise UserError(f"{given.results}: {len(found['problems'])} problem(s), see above")
    if not given.json:
        print(f"{given.results}: {found['files']:,} files of {found['records']:,} jobs are as they were made")


# ---- Words ----


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return "" if not seconds else f"{hours:.2f}" if hours < 1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _bytes(count: float) -> str:
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} GB"
