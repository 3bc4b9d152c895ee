"""A copy of the project whose workflow runs on the tests' Slurm, and a look at what its jobs do meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.projects import copy_project
from tests.slurm.cluster import GPUS

IMPATIENT = Path(__file__).with_name("impatient.py")

POLL_SECONDS = 0.3


class Run:
    """A Snakemake at work in a project.

    Attributes:
        process: Snakemake's own.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def finished(self, seconds: float) -> str:
        """Wait for a good end; what was printed."""
        assert self.process.wait(timeout=seconds) == 0, self.printed[-6000:]
        return self.printed

    def until(self, true: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for something to become true while Snakemake runs."""
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"Snakemake ended before {what}:\n{self.printed[-6000:]}"
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{self.printed[-6000:]}"
            time.sleep(POLL_SECONDS)


class Project:
    """A copy of the project in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_project(folder)
        (folder / "tmp").mkdir()
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "SLURM", "PYTEST"))}
        self.environment = keep | {
            "PYTHONPATH": str(folder / "src"),
            "XDG_CACHE_HOME": str(folder / ".cache"),
            "TMPDIR": str(folder / "tmp"),  # where GPU leases are: apart from those of other tests
            "OMP_NUM_THREADS": "1",
            "INTROPRIOR_SIMULATED_GPUS": str(GPUS),  # sbatch hands the environment on to the jobs
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every job compiles torch anew

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def snakemake(self, name: str, *arguments: str, program: Sequence[str] = ("-m", "snakemake")) -> Run:
        """Start Snakemake; what it prints goes to a log of that name."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Run(process, log)

    def on_slurm(self, name: str, *arguments: str) -> Run:
        """Start Snakemake with the profile for Slurm."""
        profile = ("--workflow-profile", "workflow/profiles/slurm", "--latency-wait=10")
        return self.snakemake(name, *profile, *arguments, program=[str(IMPATIENT)])

    @contextmanager
    def running(self, run: Run) -> Iterator[Run]:
        """A run that is killed if the block leaves it behind."""
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()

    def log(self, name: str) -> str:
        """A job's log without the holes that a second writer makes; empty while there is none."""
        path = self.folder / name
        return path.read_text(errors="replace").replace("\0", "") if path.exists() else ""


@dataclass
class Job:
    """A process of introprior that was seen."""

    pid: int
    slurm: int  # the number of its Slurm job
    command: str  # train, evaluate, ...
    output: str  # what it makes first
    visible: str | None  # the CUDA_VISIBLE_DEVICES that it was started with
    seen: set[int] = field(default_factory=set)  # at which looks
    leases: dict[int, set[str]] = field(default_factory=dict)  # at which looks it had which GPU's lock


class Watcher:
    """Looks several times a second at the project's processes that Slurm runs."""

    def __init__(self, project: Project) -> None:
        self.jobs: dict[tuple[int, float], Job] = {}
        self._source, self._look = project.environment["PYTHONPATH"], 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def of(self, output: str) -> list[Job]:
        """The processes that made a file, in order of appearance."""
        return sorted((job for job in self.jobs.values() if job.output == output), key=lambda job: min(job.seen))

    def holders(self) -> dict[int, list[tuple[str, Job]]]:
        """Who had which GPU, per look."""
        found: dict[int, list[tuple[str, Job]]] = {}
        for job in self.jobs.values():
            for look, names in job.leases.items():
                found.setdefault(look, []).extend((name, job) for name in names)
        return found

    def _watch(self) -> None:
        while not self._end.wait(POLL_SECONDS):
            self._look += 1
            for process in psutil.process_iter(["name"]):
                if process.info["name"] == "introprior":
                    with suppress(psutil.Error, OSError):
                        self._see(process)

    def _see(self, process: psutil.Process) -> None:
        key = (process.pid, process.create_time())
        if key not in self.jobs:
            environment, line = process.environ(), process.cmdline()
            if environment.get("PYTHONPATH") != self._source or "SLURM_JOB_ID" not in environment:
                return
            command = line[next(i for i, part in enumerate(line) if part.endswith("/introprior")) + 1]
            first = "--metrics" if command == "evaluate" else "--output"
            number, visible = int(environment["SLURM_JOB_ID"]), environment.get("CUDA_VISIBLE_DEVICES")
            self.jobs[key] = Job(process.pid, number, command, line[line.index(first) + 1], visible)
        self.jobs[key].seen.add(self._look)
        if held := _leases(process.pid):
            self.jobs[key].leases[self._look] = held


def _leases(pid: int) -> set[str]:
    """The GPUs that a process has, by their locks: that it has a lock, not only its file open, the kernel says."""
    held = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        path, facts = Path(os.readlink(handle)), Path(f"/proc/{pid}/fdinfo/{handle.name}")
        if path.match("introprior-gpu-simulated-*") and re.search(r"^lock:.*FLOCK", facts.read_text(), re.MULTILINE):
            held.add(path.name)
    return held
