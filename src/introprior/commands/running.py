"""What commands that train or look at a run share: the right to it, its resume state, what is said of it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from introprior.commands import arguments
from introprior.errors import UserError
from introprior.experiment.run import Run
from introprior.operations import files, locks, provenance
from introprior.operations.devices import borrowed
from introprior.operations.progress import Progress, forget
from introprior.training import checkpoints
from introprior.training.loop import Training

Facts = dict[str, Any]
"""What a command has to say of what it did: device, seeds, and of a training records, iterations, resumed."""


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
        if self.state is not None:
            files.check_writable(self.state)
            content = checkpoints.latest(self.state, training.device)
            if content is not None:
                training.restore(content, self.state)
                self.resumed = training.iteration
                print(f"{self.label}: going on from iteration {self.resumed} of {self.state}", file=sys.stderr)
        now = provenance.version()
        if not training.versions or training.versions[-1] != training.versions[-1] | now:
            training.versions.append({"iteration": training.iteration, **now})

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
    """A training for as long as the block runs; None where another process finished it since this one was started.

    Args:
        given: the command line.
        run: what is to be trained.
        begin: makes the training on a device.
        outputs: what the command writes.
    """
    with _claimed(run, given.state, given.name):
        if _finished_meanwhile(given, run, outputs):
            yield None
            return
        with borrowed(given.device) as device:
            found = Session(given, begin(device), outputs[0])
            yield found
            found.finish()


@contextmanager
def _claimed(run: Run, state: Path | None, kind: str) -> Iterator[None]:
    """The right to train a run, which one process has at a time.

    A job whose Snakemake was killed may go on by itself while the next Snakemake starts the same job anew. Both would
    write the same state; the second waits until the first is done, or dead: the kernel lifts the lock of a process.
    Without a folder for the state there is nothing to disturb.
    """
    if state is None:
        yield
        return
    path, handle = state / f"{kind}-{run.key}.lock", None
    files.check_writable(path.with_suffix(f".{os.getpid()}"))
    try:
        handle = locks.taken(path)
        if handle is None:
            print(f"{label(run)}: another process is at it; waiting until that one ends", file=sys.stderr, flush=True)
            handle = locks.taken(path, wait=True)
    except locks.Unsupported as error:
        print(f"{label(run)}: {error}; see to it that nobody else trains this run", file=sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError):  # who waits for it looks anew
            path.unlink()
        if handle is not None:
            os.close(handle)


def _finished_meanwhile(given: argparse.Namespace, run: Run, outputs: tuple[Path, ...]) -> bool:
    """Whether another process has written this very run, complete, since this one began and saw what was there."""
    if given.state is None or any(files.seen(path) in (None, given.seen.get(path)) for path in outputs):
        return False
    if given.name == "search":  # what it wrote does not say by which options, its record does
        try:
            done = provenance.read(provenance.path_of(outputs[0]))["options"] == arguments.recorded(given)
        except UserError:
            done = False
    else:
        parts = [run.of(dataset).as_dict() for dataset in run.datasets]
        done = all(checkpoints.load(path)["run"] == part for path, part in zip(outputs, parts, strict=False))
    if done:
        print(f"{label(run)}: the other process has finished it", file=sys.stderr)
    return done


def belongs(path: Path, flag: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """A `UserError` where a file says that it is of another run; what one of them doesn't say fits."""
    for key, wanted in ours.items():
        if (found := theirs.get(key)) != wanted and None not in (found, wanted):
            raise UserError(f"{path}: of the {key} {found}, not {wanted}; give another {flag}")


def write_history(path: Path, training: Training, dataset: str, per_epoch: int | None = None) -> None:
    """The history of the members of a dataset, with their seeds; on images by epochs of so many iterations, too."""
    run, rows = training.run, []
    named = {"dataset": dataset, "cell": run.cell.name}
    if per_epoch:
        named["r_entropy"] = f"{run.training.r_entropy:g}"
    for row in training.history.tidy():
        member = run.members[row.pop("member")]
        if member.dataset == dataset:
            epoch = {"epoch": round(row["iteration"] / per_epoch, 4)} if per_epoch else {}
            rows.append({**named, "seed": member.seed, **epoch, **row})
    files.write_csv(path, rows, (*named, "iteration", *["epoch"] * bool(per_epoch), "seed", "quantity", "value"))


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
    """How far a training came, where it was taken up again, and where its random numbers or its code changed."""
    done = {"iterations": training.iteration, "resumed": resumed}
    changed: Facts = {"streams": training.handovers} if training.handovers else {}
    if len(training.versions) > 1:
        changed["versions"] = training.versions
    return facts(training.run, training.device) | done | changed


def facts(run: Run, device: torch.device) -> Facts:
    """What a command's record says of a run that it looked at."""
    return {"device": device_name(device), "seeds": sorted({member.seed for member in run.members})}
