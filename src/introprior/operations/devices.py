"""Where to compute: a device by name, and GPUs lent to one job at a time, or to as many as are meant to share one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from introprior.errors import UserError

POLL_SECONDS = 2.0
"""How often a job that waits for a GPU looks for one."""

SETTLING_SECONDS = 60.0
"""How long after it took a GPU a job may not yet have taken the memory that it needs."""

NVIDIA_SMI = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
NVIDIA_SMI_SECONDS = 10.0

# Environment variables; the configuration's jobs_per_gpu and gpu_memory_mb set the first two.
JOBS_PER_GPU = "INTROPRIOR_JOBS_PER_GPU"  # how many jobs may share a GPU; one by default
GPU_MEMORY = "INTROPRIOR_GPU_MEMORY_MB"  # must be free on a GPU before a job takes it, 4000 by default; 0: any will do
SIMULATED_GPUS = "INTROPRIOR_SIMULATED_GPUS"  # so many pretended GPUs, leased like real ones, which compute on the CPU
SIMULATED_FREE = "INTROPRIOR_SIMULATED_FREE_MB"  # their free memory, such as 8000,500; by default they have plenty


class Gpu(NamedTuple):
    """A GPU that this process may use; its key is the same in every process, whatever is visible to it."""

    key: str
    device: torch.device


@contextlib.contextmanager
def borrowed(name: str = "auto") -> Iterator[torch.device]:
    """A device for as long as the block runs; a `UserError` if its name is unknown, or the GPU not there.

    ``cpu``; ``cuda``, a GPU that no other job of introprior has, whoever started it (waits for one); ``cuda:N``, that
    one, shared or not; ``auto``, ``cuda`` where there is a GPU, else ``cpu``. A CUDA_VISIBLE_DEVICES that a scheduler
    set decides which there are.
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

    A GPU has as many locks as jobs may share it. One with the fewest jobs comes first, and of these one with the most
    free memory; where others leave too little of it, a GPU is passed over. Waits while there is none. What others take
    later nobody can know.
    """
    slots, needed = _whole_number(JOBS_PER_GPU, least=1), _whole_number(GPU_MEMORY, least=0, default=4000)
    told = set()
    while True:
        choosing = _locked("choosing.lock", wait=True)  # one at a time, or two would count on the same memory
        assert choosing is not None
        with os.fdopen(choosing):
            taken = _taken(gpus, slots, needed)
        if not isinstance(taken, str):
            break
        kind = re.sub(r"\d+", "", taken)
        if kind not in told:
            told.add(kind)
            print(taken, file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)
    gpu, handle = taken
    try:
        yield gpu
    finally:
        os.close(handle)


def free_memory() -> dict[str, int]:
    """Free memory in MB by the GPU's key, of those GPUs of which it can be told.

    ``nvidia-smi`` tells without taking any; to ask CUDA itself takes some hundreds of MB on every GPU.
    """
    if SIMULATED_GPUS in os.environ:
        rows = [(f"simulated-{n}", text) for n, text in enumerate(os.environ.get(SIMULATED_FREE, "").split(","))]
    else:
        try:
            done = subprocess.run(NVIDIA_SMI, capture_output=True, timeout=NVIDIA_SMI_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            return {}
        lines = [line.partition(",") for line in done.stdout.decode(errors="replace").splitlines()]
        # PyTorch's uuid lacks the prefix. Parts of a GPU (MIG) are not listed.
        rows = [(uuid.strip().removeprefix("GPU-"), text.strip()) for uuid, _, text in lines]
    return {key: int(text) for key, text in rows if text.isdecimal()}


def _taken(gpus: list[Gpu], slots: int, needed: int) -> tuple[Gpu, int] | str:
    """The best GPU and the handle of a lock on it; or, where there is none to take, a line that says why."""
    locks = {gpu: [f"{gpu.key}.{slot}.lock" for slot in range(slots)] for gpu in gpus}
    held = {gpu: [name for name in names if _is_held(name)] for gpu, names in locks.items()}
    offered = [gpu for gpu in gpus if len(held[gpu]) < slots]
    busy = f"all {len(gpus)} GPU(s) are in use by other jobs; waiting for one"
    if not offered:
        return busy
    free = free_memory() if needed else {}
    asked = {gpu: needed * (1 + sum(map(_is_settling, held[gpu]))) for gpu in offered if gpu.key in free}
    fitting = [gpu for gpu in offered if gpu not in asked or free[gpu.key] >= asked[gpu]]
    if not fitting:
        short = [
            f"GPU {gpus.index(gpu)} has {free[gpu.key] / 1000:.1f} of the needed {asked[gpu] / 1000:.1f} GB free"
            for gpu in offered
        ]
        return f"{', '.join(short)} (gpu_memory_mb); waiting for more"
    best = min(fitting, key=lambda gpu: (len(held[gpu]), -free.get(gpu.key, 0)))
    for name in locks[best]:
        if name not in held[best] and (handle := _locked(name)) is not None:
            with contextlib.suppress(PermissionError):
                os.utime(handle)
            return best, handle
    return busy


def _is_held(name: str) -> bool:
    """Whether somebody has the lock of this name."""
    handle = _locked(name)
    if handle is not None:
        os.close(handle)
    return handle is None


def _is_settling(name: str) -> bool:
    """Whether who holds the lock of this name took it just now."""
    return time.time() - (_folder() / name).stat().st_mtime < SETTLING_SECONDS


def _locked(name: str, wait: bool = False) -> int | None:
    """A handle that holds the lock of this name; None where somebody else does, unless it is to wait."""
    path, flags = _folder() / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            made = os.open(path, flags | os.O_CREAT | os.O_EXCL)
            os.fchmod(made, 0o666)  # whatever the umask: others are to say when they took it
            os.close(made)
        handle = os.open(path, flags)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _folder() -> Path:
    """Where the locks are: one folder for all users, in which nobody may delete another's."""
    folder = Path(tempfile.gettempdir()) / "introprior-gpus"
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)
    return folder


def _whole_number(variable: str, least: int, default: int | None = None) -> int:
    text = os.environ.get(variable, str(least if default is None else default))
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{variable}: must be a whole number of at least {least}, is {text!r}")
    return int(text)
