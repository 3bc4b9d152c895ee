"""How a job fares, for all who can read its folder: a small file beside its output, from its start until it is done.

The job writes it itself: that it runs and where, how far a training is, and if it ends early, why.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from introprior.errors import UserError, one_line
from introprior.experiment.fields import Count, Natural, Part, Weight
from introprior.operations import files

SECONDS = 5.0
"""How often a training writes the file anew."""


class Report(Part):
    """What readers look at; how far it is only trainings tell."""

    state: Literal["running", "stopped", "failed"]
    updated: Annotated[float, Field(allow_inf_nan=False)]
    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    detail: str = ""
    iterations: Count | None = None
    iteration: Natural = 0
    rate: Weight | None = None
    alive: Natural = 0
    members: Natural = 0


def path_of(output: str | os.PathLike[str]) -> Path:
    """Where it is told how the job fares that will write ``output``, its first file."""
    return Path(output).with_name(f".{Path(output).stem}.progress.json")


def read(output: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What is told of the job that will write ``output``; None if nothing is, or it vanishes or is half-copied."""
    path = path_of(output)
    try:
        content = files.read_json(path)
        return content | Report.read(content, str(path)).model_dump()
    except UserError:
        return None


@contextmanager
def at_work(output: str | os.PathLike[str]) -> Iterator[None]:
    """A job at work on ``output``: it is told that it runs, and if it fails or is interrupted, that and why."""
    _write(output, state="running", started=time.time())
    try:
        yield
    except BaseException as error:
        state, detail = "failed", f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, UserError):
            detail = one_line(error)
        elif getattr(error, "signal_number", None) is not None:
            state, detail = "stopped", one_line(error)
        elif not isinstance(error, Exception | SystemExit):
            state, detail = "stopped", "interrupted"
        _write(output, **{**(read(output) or {}), "state": state, "detail": detail})
        raise
    forget(output)


def forget(output: str | os.PathLike[str]) -> None:
    """The results are written: nothing is left to tell."""
    path = path_of(output)
    path.unlink(missing_ok=True)
    files.sweep(path)


class Progress:
    """Tells how far the training is that will write ``output``, of so many iterations in all."""

    def __init__(self, output: Path, label: str, iterations: int):
        self.output = output
        self._known = {"state": "running", "started": time.time(), "label": label, "iterations": iterations}
        self._told = float("-inf")

    def due(self) -> bool:
        """Whether it is time to tell."""
        return time.monotonic() - self._told > SECONDS

    def tell(self, iteration: int, rate: float | None, alive: int, members: int) -> None:
        """Say how many iterations are done, how many a second of late, and how many members have not diverged."""
        self._told = time.monotonic()
        _write(self.output, **self._known, iteration=iteration, rate=rate, alive=alive, members=members)


def _write(output: str | os.PathLike[str], **what: Any) -> None:
    who = {"host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
    with suppress(UserError):  # telling is no reason to fail; of a device or a pipe there is nothing to tell
        if files.is_regular(output):
            files.write_json(path_of(output), what | who)
