"""What commands are told: JSON options and single flags, checked, and made into runs."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introprior.errors import UserError, unknown
from introprior.experiment import cells, protocols
from introprior.operations import files
from introprior.operations.progress import Progress

if TYPE_CHECKING:  # torch takes seconds to import: only the commands that compute do it
    import torch

    from introprior.training.loop import Training
    from introprior.training.options import Member, Run, TrainingOptions

Facts = dict[str, Any]
"""What a command has to say of what it did: device, seeds, and of a training records, iterations, resumed."""

POLL_SECONDS = 2.0
"""How often one looks whether another process is still at the same run."""

RUN_KEYS: dict[str, type] = {"dataset": str, "cell": str, "training": dict, "protocol": dict}
"""What the options of every command that trains may hold."""

_TYPES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
    tuple: "a list of whole numbers",
    dict: "a section of keys",
}
_LARGEST_SEED = 2**32 - 1


def read(given: argparse.Namespace, known: Mapping[str, type]) -> dict[str, Any]:
    """The options of a command, checked: the JSON's, and over them the single flags'; null is as good as not given."""
    options = {key: value for key, value in stated(given).items() if value is not None}
    check(options, known)
    return options


def stated(given: argparse.Namespace) -> dict[str, Any]:
    """The options as they are given, unchecked."""
    text = given.options
    if not text.lstrip().startswith("{"):
        options = files.read_json(text)
        if not isinstance(options, dict):
            raise UserError(f"{text}: must be {_TYPES[dict]}, is {options!r}")
    else:
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"--options: not valid JSON ({error})") from error
    for assignment in getattr(given, "set", []):
        path, equals, value = assignment.partition("=")
        *sections, key = path.split(".")
        if not equals:
            raise UserError(f"--set {assignment}: expected KEY=VALUE, for example training.iterations=3000")
        place = options
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {assignment}: {section} has no keys of its own")
        try:
            place[key] = json.loads(value)
        except json.JSONDecodeError:
            place[key] = value
    for flag in ("dataset", "cell", "seeds"):
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    return options


def recorded(given: argparse.Namespace) -> dict[str, Any]:
    """What a command's record says that it was told: its options, and the flags that stand for options."""
    options = stated(given) if hasattr(given, "options") else {}
    for flag in ("dataset", "cell", "metric", "betas", "published"):
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    if getattr(given, "protocol", "authors") != "authors":
        options["preset"] = given.protocol
    return options


def check(options: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Refuse unknown keys, and values that are not of their key's type."""
    for key in options:
        if key not in known:
            raise unknown("key", key, known, "--options")
    check_types(options, known, "--options: ")


def check_types(values: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    """Refuse values that are not of their key's type; whole numbers may stand for real ones."""
    for key, value in values.items():
        wanted = known.get(key, type(value))
        if wanted is float:
            right = is_number(value)
        elif wanted is tuple:
            right = isinstance(value, list) and all(type(item) is int for item in value)
        else:
            right = type(value) is wanted
        if not right:
            raise UserError(f"{where}{key}: must be {_TYPES[wanted]}, is {value!r}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def run(
    given: argparse.Namespace,
    options: dict[str, Any],
    settings: Sequence[tuple[Any, Any]],
    where: object = "betas",
    kind: type[TrainingOptions] | None = None,
) -> Run:
    """The ensemble that the options describe.

    Args:
        given: for the protocol.
        options: dataset, cell, training, protocol.
        settings: seed and betas of each member.
        where: the place that the betas come from.
        kind: of the numbers of training; by default those in 2D.
    """
    from introprior.training.options import Run, TrainingOptions

    kind = kind or TrainingOptions
    for key in ("dataset", "cell"):
        if key not in options:
            raise UserError(f"--{key} is missing; give it, or have it in --options")
    cell, training = cells.parse(options["cell"], "--cell"), options.get("training", {})
    check_types(training, {field.name: type(field.default) for field in dataclasses.fields(kind)}, "training.")
    return Run(
        options["dataset"],
        cell,
        tuple(member(cell, seed, betas, where) for seed, betas in settings),
        kind.from_dict(training),
        protocols.resolve(given.protocol, options.get("protocol", {})),
    )


def member(cell: cells.Cell, seed: Any, betas: Any, where: object) -> Member:
    """One member; a VAE has no use for beta_neg."""
    from introprior.training.options import Member

    if type(seed) is not int or not 0 <= seed <= _LARGEST_SEED:
        raise UserError(f"seeds: must be whole numbers from 0 to {_LARGEST_SEED}; {seed!r} is none")
    weights = (*betas, None)[:3] if isinstance(betas, list | tuple) and len(betas) in (2, 3) else ()
    if not weights or not all(map(is_number, weights if weights[2] is not None else weights[:2])):
        raise UserError(f"{where}: must be the numbers beta_rec, beta_kl and, unless for a VAE, beta_neg; is {betas!r}")
    try:
        return Member(seed, *(weights if cell.adversarial else weights[:2]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


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
    while (handle := _lock(path)) is None:
        if not waited:
            print(f"{label(run)}: another process is at it; waiting until that one ends", file=sys.stderr, flush=True)
        waited = True
        time.sleep(POLL_SECONDS)
    try:
        yield waited
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock on a file, or None where another process does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except OSError:  # held, or removed by who held it just now
        pass
    os.close(handle)
    return None


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


def facts(run: Run, device: torch.device, training: Training | None = None, resumed: int = 0) -> dict[str, Any]:
    """What a command's record says of a run.

    Args:
        run: what was trained or looked at.
        device: what computed.
        training: if it was trained now.
        resumed: iterations that earlier processes had done.
    """
    known: dict[str, Any] = {"device": device_name(device), "seeds": sorted({member.seed for member in run.members})}
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
