"""What commands that train or look at a run share: the right to it, its resume state, what is said of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from introprior.experiment.run import Run
from introprior.operations import files
from introprior.operations.progress import Progress

if TYPE_CHECKING:  # torch takes seconds to import: only the commands that compute do it
    import torch

    from introprior.training.loop import Training

Facts = dict[str, Any]
"""What a command has to say of what it did: device, seeds, and of a training records, iterations, resumed."""

POLL_SECONDS = 2.0
"""How often one looks whether another process is still at the same run."""


@contextmanager
def claimed(run: Run, state: Path | None, kind: str) -> Iterator[bool]:
    """The right to train a run, which one process has at a time; True where one had to wait for it.

    A job whose Snakemake was killed may go on by itself while the next Snakemake starts the same job anew. Both would
    write the same state; the second waits until the first is done, or dead: the kernel lifts the lock of a process.

    Args:
        run: what is to be trained.
        state: the folder of its resume state, which holds the lock; without one there is nothing to disturb.
        kind: of the command.
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


def finished_meanwhile(run: Run, output: Path, *others: Path) -> bool:
    """Whether the process that one waited for has written this very run, complete."""
    from introprior.training import checkpoints

    if not all(path.exists() for path in (output, *others)):
        return False
    done = checkpoints.load(output)["run"] == run.as_dict()
    if done:
        print(f"{label(run)}: the other process has finished it", file=sys.stderr)
    return done


def resumed(training: Training, state: Path | None, kind: str) -> tuple[Path | None, int]:
    """The state file in the folder ``state`` and its iteration, from which the training goes on if it is there.

    Without a folder there is no file; without a file the iteration is 0.
    """
    from introprior.training import checkpoints

    if state is None:
        return None, 0
    path = state / f"{kind}-{training.run.key}.pt"
    files.check_writable(path)
    content = checkpoints.latest(path, training.device)
    if content is None:
        return path, 0
    training.restore(content, path)
    print(f"{label(training.run)}: going on from iteration {training.iteration} of {path}", file=sys.stderr)
    return path, training.iteration


def label(run: Run) -> str:
    """What a progress bar calls the run."""
    entropy = f" r_entropy {run.training.r_entropy:g}" if run.training.r_entropy else ""
    seed = f" seed {run.members[0].seed}" if len(run.members) == 1 else ""
    return f"{run.dataset} {run.cell.name}{entropy}{seed}"


def log_every(run: Run) -> int:
    """Iterations between two rows of the history."""
    return max(1, run.training.iterations // 300)


def device_name(device: torch.device) -> str:
    """What computed, by the name of the GPU if it is one."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def facts(run: Run, device: torch.device, training: Training | None = None, resumed: int = 0) -> Facts:
    """What a command's record says of a run.

    Args:
        run: what was trained or looked at.
        device: what computed.
        training: if it was trained now.
        resumed: iterations that earlier processes had done.
    """
    known: Facts = {"device": device_name(device), "seeds": sorted({member.seed for member in run.members})}
    if training is not None:
        known |= {"iterations": training.iteration, "resumed": resumed}
        known["records"] = [
            {"seed": member.seed, "status": record["status"], "detail": record["detail"]}
            for member, record in zip(training.members, training.records(), strict=True)
        ]
    return known


def tell_divergence(run: Run, records: Sequence[Mapping[str, Any]]) -> None:
    """Say on standard error which members diverged."""
    for each, record in zip(run.members, records, strict=True):
        if record["status"] != "ok":
            print(f"{run.dataset} {run.cell.name}, seed {each.seed}: diverged, {record['detail']}", file=sys.stderr)


def finish(state: Path | None, progress: Progress) -> None:
    """The results are written: what was kept for going on is not needed any more."""
    progress.end()
    if state is not None:
        from introprior.training import checkpoints

        checkpoints.forget(state)
        files.sweep(state)
