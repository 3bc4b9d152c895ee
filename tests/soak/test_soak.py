"""The demo's trainings while somebody kills their processes: the numbers are those of a run that nobody disturbed.

What is soaked: all of the demo's trainings in two dimensions, with searches and evaluations, up to Tables 1, 3 and 4;
and on images two runs from the prepared data up to their probes, with warm-ups, distances and evaluations. The
reference is ``results/demo-all`` where `make demo-all` left it and Snakemake finds nothing to do there; else it is
made first.
"""

from __future__ import annotations

import itertools
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from introprior.training import checkpoints
from tests.projects import ROOT, Project
from tests.soak import killer

DEMO = "results/demo-all"
TABLES = [f"{DEMO}/tables/table{number}.csv" for number in (1, 3, 4)]
RUNS = [f"{DEMO}/images/digits/{run}/seed0" for run in ("sg/r0", "mog100-lc-ip/r10")]
TARGETS = [*TABLES, *(f"{run}/probes.csv" for run in RUNS)]

KILLS = 45
"""At least so many of the jobs' processes are killed."""
RESUMES = 15
"""At least so often a training goes on from a state."""
SNAKEMAKES = 4
"""So often Snakemake itself is killed, every other time with all of its jobs."""
CHECKPOINT_SECONDS = 0.2
LIMIT = 40 * 60.0
"""Seconds until the soak is given up."""


class Demo(Project):
    """A copy of the project, in which the demo runs."""

    def __init__(self, folder: Path, checkpoint_seconds: float):
        super().__init__(folder)
        self.mark, self.log = uuid.uuid4().hex, folder / "snakemake.log"
        (folder / "soak.yaml").write_text(f"checkpoint_seconds: {checkpoint_seconds}\n")

    def snakemake(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake on the targets."""
        command = [sys.executable, "-m", "snakemake", *TARGETS, "--configfile", "config/demo-all.yaml", "soak.yaml"]
        command += ["--cores", "2", *arguments]
        environment = self.environment | {killer.MARKER: self.mark}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, *arguments: str) -> None:
        """Run Snakemake, which has to succeed."""
        assert self.snakemake(*arguments).wait(timeout=LIMIT) == 0, self.printed[-5000:]

    @property
    def printed(self) -> str:
        """What Snakemake has said in all its runs, with the logs of failed jobs."""
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """Kill whatever is left."""
        for pid in killer.marked(self.mark):
            killer.send(pid, signal.SIGKILL, self.mark)


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Where the demo is disturbed."""
    demo = Demo(tmp_path_factory.mktemp("soaked"), CHECKPOINT_SECONDS)
    yield demo
    demo.end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the demo's results, made of this very code and configuration."""
    if (ROOT / TABLES[0]).exists():
        command = [sys.executable, "-m", "snakemake", "-n", *TARGETS, "--configfile", "config/demo-all.yaml"]
        if "Nothing to be done" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout:
            yield ROOT
            return
    demo = Demo(tmp_path_factory.mktemp("undisturbed"), 300)
    demo.run()
    yield demo.folder
    demo.end()


def disturbed(demo: Demo, killing: killer.Killer) -> int:
    """Run the demo to its end, and kill Snakemake now and then; how often that was."""
    chance, killed, began = random.Random(killing.seed), 0, time.monotonic()
    killing.start()
    try:
        while True:
            process = demo.snakemake("--retries", "20")
            # In the thick of it: so many kills after the last time.
            after = len(killing.kills) + chance.randint(6, 9)
            while process.poll() is None:
                time.sleep(0.1)
                assert time.monotonic() - began < LIMIT, f"not finished after {LIMIT / 60:g} minutes"
                if killed < SNAKEMAKES and len(killing.kills) >= after:
                    victims = list(killer.marked(demo.mark)) if killed % 2 else [process.pid]
                    for pid in victims:
                        killer.send(pid, signal.SIGKILL, demo.mark)
                    process.wait()
                    killed += 1
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, demo.printed[-5000:]
                return killed
            assert demo.snakemake("--unlock").wait(timeout=LIMIT) == 0, demo.printed[-5000:]
    finally:
        killing.stop()


def test_the_numbers_are_those_of_an_undisturbed_run(soaked, undisturbed, pytestconfig, capsys):
    seed = pytestconfig.getoption("--killer-seed")
    killing = killer.Killer(soaked.mark, random.randrange(10**6) if seed is None else seed)
    print(f"the same again: make soak ARGS=--killer-seed={killing.seed}")
    began = time.monotonic()
    snakemakes = disturbed(soaked, killing)
    seconds = time.monotonic() - began
    for _ in range(600):  # jobs that a killed Snakemake or shell left behind
        if not list(killer.marked(soaked.mark)):
            break
        time.sleep(0.1)
    soaked.run()  # of what such jobs wrote last, others may be older
    kills, results = killing.kills, soaked.folder / DEMO
    logs = [path.read_text(errors="replace") for path in results.glob("logs/**/*.log")]
    resumes = sum(kill.resumed for kill in kills) + sum("going on from iteration" in log for log in logs)
    with capsys.disabled():
        print(f"\nseed {killing.seed}, {seconds:.0f} s: {len(kills)} jobs' processes killed")
        for name, values in (
            ("commands", Counter(kill.command for kill in kills)),
            ("signals", Counter(kill.number.name for kill in kills)),
        ):
            print(f"  {name}: {', '.join(f'{count} {value}' for value, count in values.most_common())}")
        print(f"  {sum(kill.iteration > 0 for kill in kills)} in the middle of a training, {resumes} trainings resumed")
        print(f"  Snakemake killed {snakemakes} times")

    assert len(kills) >= KILLS
    assert resumes >= RESUMES
    assert snakemakes == SNAKEMAKES
    compared = compare(undisturbed / DEMO, results)
    assert compared["ensemble.pt"] == 32
    with capsys.disabled():
        print(f"  equal: {', '.join(f'{count} {name}' for name, count in sorted(compared.items()))}")
    leftovers = [path for path in results.rglob("*") if re.search(r"\.part|\.progress|\.probe", path.name)]
    assert leftovers == []
    assert list((results / ".state").iterdir()) == []


def compare(theirs: Path, ours: Path) -> Counter[str]:
    """Compare all results, and count them by name: what is text by its bytes, what is not by its numbers."""
    compared: Counter[str] = Counter()
    for path in sorted(ours.rglob("*")):
        name, other = path.relative_to(ours), theirs / path.relative_to(ours)
        told = name.parts[0] in ("logs", "benchmarks") or path.name.endswith(("provenance.json", "jobs.json"))
        if told or path.is_dir():
            continue
        if path.suffix == ".pt":
            found = [*differences(checkpoints.load(path), checkpoints.load(other))]
            assert not found, f"{name} differs from the undisturbed run's in {len(found)} values: {found[:9]}"
            same = True
        elif path.suffix == ".npz":
            with np.load(path) as mine, np.load(other) as others:
                same = sorted(mine) == sorted(others) and all(np.array_equal(mine[key], others[key]) for key in mine)
        elif path.name == "history.csv" and name.parts[0] == "images":
            same = unhurried(path) == unhurried(other)
        else:
            same = path.read_bytes() == other.read_bytes()
        assert same, f"{name} differs from the undisturbed run's"
        compared["tables" if name.parts[0] == "tables" else path.name] += 1
    return compared


def unhurried(path: Path) -> list[str]:
    """The lines of a history without those of the speed."""
    return [line for line in path.read_text().splitlines() if "samples_per_second" not in line]


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where nested values differ, tensors bit by bit; not in the speed, nor in the commit, which a copy has none of."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if ours.shape != theirs.shape:
            yield f"{where}: {tuple(ours.shape)} for {tuple(theirs.shape)}"
        elif not torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7)):
            yield f"{where}: by up to {(ours.double() - theirs.double()).abs().max():.3g}"
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs} - {"samples_per_second", "provenance", "commit"}, key=str):
            yield from differences(ours.get(key), theirs.get(key), f"{where}.{key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        for i, pair in enumerate(itertools.zip_longest(ours, theirs)):
            yield from differences(*pair, f"{where}[{i}]")
    elif ours != theirs and ours == ours:
        yield f"{where}: {ours!r} for {theirs!r}"
