"""Where to compute: a device by name, and GPUs lent to one job at a time, or to as many as are meant to share one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from introprior.errors import UserError

POLL_SECONDS = 2.0
"""How often a job that waits for a GPU looks for one."""

JOBS_PER_GPU = "INTROPRIOR_JOBS_PER_GPU"
"""Environment variable: how many jobs may share a GPU; one by default. The configuration's ``jobs_per_gpu`` sets it."""

SIMULATED_GPUS = "INTROPRIOR_SIMULATED_GPUS"
"""Environment variable: so many pretended GPUs, which jobs lease like real ones and which compute on the CPU."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use.

    Attributes:
        key: the same in every process and for every user, whatever is visible to them.
        device: as torch knows it.
    """

    key: str
    device: torch.device


@contextlib.contextmanager
def borrowed(name: str = "auto") -> Iterator[torch.device]:
    """A device for as long as the block runs.

    Args:
        name: ``cpu``; ``cuda``, a GPU that no other job of introprior has, whoever started it (waits for one);
            ``cuda:N``, that one, shared or not; ``auto``, ``cuda`` where there is a GPU, else ``cpu``. A
            CUDA_VISIBLE_DEVICES that a scheduler set decides which there are.

    Raises:
        UserError: an unknown name, or a GPU that is not there.
    """
    kind, _, number = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise UserError(f"device: unknown {name!r}; use auto, cpu, cuda or cuda:N")
    gpus = [] if name == "cpu" else visible()
    if kind == "cuda" and int(number or 0) >= len(gpus):
        raise UserError(f"device: {name!r} was asked for, but PyTorch sees {len(gpus)} GPU(s); use auto or cpu")
    if not gpus:
        if name == "auto":
            print("no GPU is visible: computing on the CPU", file=sys.stderr)
        yield torch.device("cpu")
    elif number:
        yield gpus[int(number)].device
    else:
        with leased(gpus) as gpu:
            yield gpu.device


def visible() -> list[Gpu]:
    """The GPUs that this process may use, real ones, or pretended ones where the environment asks for them."""
    if SIMULATED_GPUS in os.environ:
        count = _whole_number(SIMULATED_GPUS, least=0)
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        return [Gpu(f"simulated-{n}", torch.device("cpu")) for n in chosen if n.isdecimal() and int(n) < count]
    return [
        Gpu(str(torch.cuda.get_device_properties(index).uuid), torch.device("cuda", index))
        for index in range(torch.cuda.device_count())
    ]


@contextlib.contextmanager
def leased(gpus: list[Gpu]) -> Iterator[Gpu]:
    """One of the GPUs, under an advisory lock that the kernel lifts when this process ends, however it ends.

    A GPU has as many locks as jobs may share it; GPUs that nobody uses come first.
    """
    slots = _whole_number(JOBS_PER_GPU, least=1)
    waiting = False
    while True:
        for slot in range(slots):
            for gpu in gpus:
                handle = _locked(f"{gpu.key}.{slot}.lock")
                if handle is None:
                    continue
                try:
                    yield gpu
                finally:
                    os.close(handle)
                return
        if not waiting:
            print(f"all {len(gpus)} GPU(s) are in use by other jobs; waiting for one", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)


def _locked(name: str) -> int | None:
    """A handle that holds the lock of this name, or None where somebody else does.

    The files lie in one folder for all users, in which nobody may delete another's; to lock a file one need not be
    allowed to write to it.
    """
    folder = Path(tempfile.gettempdir()) / "introprior-gpus"
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    path, flags = folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644))
        handle = os.open(path, flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _whole_number(variable: str, least: int) -> int:
    text = os.environ.get(variable, str(least))
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{variable}: must be a whole number of at least {least}, is {text!r}")
    return int(text)
