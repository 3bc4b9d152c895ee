"""Where to compute: a device by name, and GPUs lent to one job at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from introprior.errors import UserError

POLL_SECONDS = 2.0
"""How often a job that waits for a GPU looks for one."""


@contextlib.contextmanager
def borrowed(name: str = "auto") -> Iterator[torch.device]:
    """A device for as long as the block runs.

    Args:
        name: ``cpu``; ``cuda``, a GPU that no other job of this user has (waits for one); ``cuda:N``, that one,
            shared or not; ``auto``, ``cuda`` where there is a GPU, else ``cpu``.

    Raises:
        UserError: an unknown name, or a GPU that is not there.
    """
    kind, _, number = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise UserError(f"device: unknown {name!r}; use auto, cpu, cuda or cuda:N")
    present = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= present:
        raise UserError(f"device: {name!r} was asked for, but PyTorch sees {present} GPU(s); use auto or cpu")
    if name == "cpu" or present == 0:
        yield torch.device("cpu")
    elif number:
        yield torch.device("cuda", int(number))
    else:
        with _leased(present) as index:
            yield torch.device("cuda", index)


@contextlib.contextmanager
def _leased(present: int) -> Iterator[int]:
    """The index of a GPU under an advisory lock, which the kernel lifts when this process ends, however it ends."""
    folder = Path(tempfile.gettempdir()) / f"introprior-gpus-{os.getuid()}"  # others' files could not be opened
    folder.mkdir(exist_ok=True)
    waiting = False
    while True:
        for index in range(present):
            handle = os.open(
                folder / f"{torch.cuda.get_device_properties(index).uuid}.lock", os.O_RDWR | os.O_CREAT, 0o666
            )
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            try:
                yield index
            finally:
                os.close(handle)
            return
        if not waiting:
            print(f"all {present} GPU(s) are in use by other jobs; waiting for one", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)
