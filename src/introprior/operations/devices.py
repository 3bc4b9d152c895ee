"""Where to compute: a device by name, and GPUs lent to one job at a time, or to as many as are meant to share one."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from introprior.errors import UserError
from introprior.operations import locks

POLL_SECONDS = 0.2
"""How often a job that waits for a GPU looks for one."""

MEMORY_SECONDS = 2.0
"""How often one that waits for a GPU's memory does: `nvidia-smi` takes its time."""

PLACES = (Path("/run/lock"), Path("/tmp"))
"""Where the locks may be, whatever TMPDIR says: all users are to see the same. Nobody tidies the first."""

PREFIX, _TICKET = "introprior-gpu-", "introprior-gpu-waiting-"
_UNMAPPED = 65534  # the owner of what is root's, as it is seen in a container without root

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
    free memory; where others leave too little of it, a GPU is passed over. Waits while there is none, and leaves those
    that there are to jobs that have waited longer. What others take later nobody can know.
    """
    slots, needed = _whole_number(JOBS_PER_GPU, least=1), _whole_number(GPU_MEMORY, least=0, default=4000)
    warned, ticket = set(), None
    with contextlib.ExitStack() as queue:
        while True:
            choosing = locks.taken(_place() / f"{PREFIX}choosing.lock", wait=True)
            with os.fdopen(choosing):  # one at a time, or two would count on the same memory
                taken = _taken(gpus, slots, needed, _ahead(ticket))
                if not isinstance(taken, str):
                    break
                ticket = ticket or queue.enter_context(_ticket(gpus))
            kind = re.sub(r"\d+", "", taken)
            if kind not in warned:
                warned.add(kind)
                print(taken, file=sys.stderr, flush=True)
            time.sleep(MEMORY_SECONDS if "gpu_memory_mb" in taken else POLL_SECONDS)
    gpu, handle = taken
    try:
        yield gpu
    finally:
        os.close(handle)


@contextlib.contextmanager
def _ticket(gpus: list[Gpu]) -> Iterator[Path]:
    """The place of a waiting job in the queue: a locked file with a number for its name, and the GPUs that would do."""
    path = _place() / f"{_TICKET}{max(_tickets(), default=(0,))[0] + 1:09d}.lock"
    handle = locks.taken(path, wait=True)
    try:
        path.write_text(" ".join(gpu.key for gpu in gpus), encoding="utf-8")
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _tickets() -> list[tuple[int, Path]]:
    """Number and file of every ticket, in their order, also of those whose process is dead."""
    named = [(path.stem.removeprefix(_TICKET), path) for path in _place().glob(f"{_TICKET}*.lock")]
    return sorted((int(number), path) for number, path in named if number.isdecimal())


def _ahead(own: Path | None) -> list[list[str]]:
    """The keys of the GPUs that would do for each job that has waited longer than this one."""
    waiting = []
    for _, path in _tickets():
        if path == own:
            break
        with contextlib.suppress(OSError):  # given back by now; or left by another user's process, which is no matter
            if locks.is_held(path):
                waiting.append(path.read_text(encoding="utf-8", errors="replace").split())
            else:
                path.unlink()
    return waiting


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


def _taken(gpus: list[Gpu], slots: int, needed: int, waiting: list[list[str]]) -> tuple[Gpu, int] | str:
    """The best GPU and the handle of a lock on it; or, where there is none to take, a line that says why."""
    place = _place()
    own = {gpu: [place / f"{PREFIX}{gpu.key}.{slot}.lock" for slot in range(slots)] for gpu in gpus}
    held = {gpu: [path for path in paths if locks.is_held(path)] for gpu, paths in own.items()}
    left = {gpu.key: slots - len(held[gpu]) for gpu in gpus}
    for keys in waiting:
        if (theirs := next((key for key in keys if left.get(key)), None)) is not None:
            left[theirs] -= 1
    offered = [gpu for gpu in gpus if left[gpu.key]]
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
    for path in own[best]:
        if path not in held[best] and (handle := locks.taken(path)) is not None:
            with contextlib.suppress(PermissionError):
                os.utime(handle)
            return best, handle
    return busy


def _is_settling(path: Path) -> bool:
    """Whether who holds this lock took it just now."""
    return time.time() - path.stat().st_mtime < SETTLING_SECONDS


def _place() -> Path:
    """The folder of the locks: one for all users, in which nobody may delete another's; of pretended GPUs our own.

    Raises:
        UserError: there is no folder that is for everybody, and the system's or ours.
    """
    if SIMULATED_GPUS in os.environ:
        return Path(tempfile.gettempdir())
    for place in PLACES:
        with contextlib.suppress(OSError):
            found = place.stat()
            sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & 0o1777 == 0o1777
            if sticky and found.st_uid in (0, os.getuid(), _UNMAPPED):
                return place
    names = " nor ".join(map(str, PLACES))
    raise UserError(f"device: no place for the locks of GPUs: neither {names} is open to all; name one, as cuda:0")


def _whole_number(variable: str, least: int, default: int | None = None) -> int:
    text = os.environ.get(variable, str(least if default is None else default))
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{variable}: must be a whole number of at least {least}, is {text!r}")
    return int(text)
