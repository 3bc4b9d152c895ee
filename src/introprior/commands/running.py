"""What commands that train or look at a run share: the right to it, its resume state, what is said of it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from introprior.experiment.run import Run
from introprior.operations import files, provenance
from introprior.operations.devices import borrowed
from introprior.operations.progress import Progress, forget
from introprior.training import checkpoints
from introprior.training.loop import Training

Facts = dict[str, Any]
"""What a command has to say of what it did: device, seeds, and of a training records, iterations, resumed."""

POLL_SECONDS = 2.0
"""How often one looks whether another process is still at the same run."""


class Session:
    """A training at work, from where earlier processes left it.

    Args:
        given: the command line.
        training: at its beginning.
        output: the file that it will write.
    """

    def __init__(self, given: argparse.Namespace, training: Training, output: Path):
        self.training, self.run, self.label = training, training.run, label(training.run)
        self.checkpoint_seconds, self.started, self.resumed = given.checkpoint_seconds, time.time(), 0
        self.end = training.game_start if given.name == "warmup" else self.run.training.iterations
        self.progress = Progress(output, self.label, self.end)
        self.state = given.state and given.state / f"{given.name}-{self.run.key}.pt"
        if self.state is None:
            return
        files.check_writable(self.state)
        content = checkpoints.latest(self.state, training.device)
        if content is not None:
            training.restore(content, self.state)
            self.resumed = training.iteration
            print(f"{self.label}: going on from iteration {self.resumed} of {self.state}", file=sys.stderr)

    def advance(self, until: int) -> None:
        """Train up to an iteration, with some 300 rows of history in the whole run."""
        self.training.advance(
            until,
            state=self.state,
            checkpoint_seconds=self.checkpoint_seconds,
            log_every=max(1, self.run.training.iterations // 300),
            label=self.label,
            progress=self.progress,
        )

    def save(self, path: Path, members: Sequence[int] | None = None, **content: Any) -> None:
        """Write a model, with all that there is to know of where it is from; of some members, as if they were alone."""
        origin = provenance.origin(device_name(self.training.device), self.started)
        run, records = self.run, self.training.records()
        if members is not None:
            run, records = run.of(run.members[members[0]].dataset), [records[member] for member in members]
        known = {"run": run.as_dict(), "records": records}
        checkpoints.save(path, known | content | {"provenance": origin})

    def finish(self) -> None:
        """The results are written: what was kept for going on is not needed any more."""
        forget(self.progress.output)
        if self.state is not None:
            checkpoints.forget(self.state)
            files.sweep(self.state)

    def facts(self) -> Facts:
        """What the command's record says of the training."""
        return trained(self.training, self.resumed)

    def course(self) -> Facts:
        """How it went, without its members."""
        return course(self.training, self.resumed)


@contextmanager
def session(
    given: argparse.Namespace, run: Run, begin: Callable[[torch.device], Training], *outputs: Path
) -> Iterator[Session | None]:
    """A training for as long as the block runs; None where another process has finished it while this one waited.

    Args:
        given: the command line.
        run: what is to be trained.
        begin: makes the training on a device.
        outputs: what the command writes.
    """
    with _claimed(run, given.state, given.name) as waited, borrowed(given.device) as device:
        if waited and given.name != "search" and _finished_meanwhile(run, outputs):
            yield None
            return
        found = Session(given, begin(device), outputs[0])
        yield found
        found.finish()


@contextmanager
def _claimed(run: Run, state: Path | None, kind: str) -> Iterator[bool]:
    """The right to train a run, which one process has at a time; True where one had to wait for it.

    A job whose Snakemake was killed may go on by itself while the next Snakemake starts the same job anew. Both would
    write the same state; the second waits until the first is done, or dead: the kernel lifts the lock of a process.
    Without a folder for the state there is nothing to disturb.
    """
    if state is None:
        yield False
        return
    path, waited = state / f"{kind}-{run.key}.lock", False
    files.check_writable(path.with_suffix(f".{os.getpid()}"))
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{label(run)}: another process is at it; waiting until that one ends", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=POLL_SECONDS)
        waited = True
    try:
        yield waited
    finally:
        path.unlink(missing_ok=True)  # who waits for it looks anew
        lock.release()


def _finished_meanwhile(run: Run, outputs: tuple[Path, ...]) -> bool:
    """Whether the process that one waited for has written this very run, complete."""
    parts = [run.of(dataset).as_dict() for dataset in run.datasets]
    done = all(path.exists() for path in outputs)
    done = done and all(checkpoints.load(path)["run"] == part for path, part in zip(outputs, parts, strict=False))
    if done:
        print(f"{label(run)}: the other process has finished it", file=sys.stderr)
    return done


def label(run: Run) -> str:
    """What a progress bar calls the run."""
    entropy = f" r_entropy {run.training.r_entropy:g}" if run.training.r_entropy else ""
    seed = f" seed {run.members[0].seed}" if len(run.members) == 1 else ""
    return f"{run.dataset} {run.cell.name}{entropy}{seed}"


def device_name(device: torch.device) -> str:
    """What computed, by the name of the GPU if it is one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def trained(training: Training, resumed: int = 0) -> Facts:
    """What a record says of a training; on standard error, which members diverged."""
    run, records = training.run, []
    for member, record in zip(training.members, training.records(), strict=True):
        named = {"dataset": member.dataset, "seed": member.seed}
        records.append({**named, "status": record["status"], "detail": record["detail"]})
        if record["status"] != "ok":
            name = f"{member.dataset} {run.cell.name}, seed {member.seed}"
            print(f"{name}: diverged, {record['detail']}", file=sys.stderr)
    return course(training, resumed) | {"records": records}


def course(training: Training, resumed: int) -> Facts:
    """How far a training came, where it was taken up again, and where its random numbers changed their source."""
    done = {"iterations": training.iteration, "resumed": resumed}
    changed = {"streams": training.handovers} if training.handovers else {}
    return facts(training.run, training.device) | done | changed


def facts(run: Run, device: torch.device) -> Facts:
    """What a command's record says of a run that it looked at."""
    return {"device": device_name(device), "seeds": sorted({member.seed for member in run.members})}
