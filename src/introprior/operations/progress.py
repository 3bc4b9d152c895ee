"""How far a training is, for all who can read its folder: a small file beside its output, for as long as it goes on."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from introprior.errors import UserError
from introprior.operations import files

SECONDS = 5.0
"""How often the file is written anew; one much older than that is of a process that is gone."""


def path_of(output: Path) -> Path:
    """Where the progress of the training that will write ``output`` is told."""
    return output.with_name(f".{output.stem}.progress.json")


class Progress:
    """Tells the progress of a training.

    Args:
        output: the file that the training will write.
        label: what the training is.
        iterations: how many it has in all.
    """

    def __init__(self, output: Path, label: str, iterations: int):
        self.path = path_of(output)
        self.label, self.iterations = label, iterations
        self.started = time.time()
        self._told = float("-inf")

    def due(self) -> bool:
        """Whether it is time to tell."""
        return time.monotonic() - self._told > SECONDS

    def tell(self, iteration: int, rate: float | None, alive: int, members: int, stopped: bool = False) -> None:
        """Say how far it is.

        Args:
            iteration: done by now.
            rate: of late, in iterations a second.
            alive: how many members have not diverged.
            members: how many there are.
            stopped: whether a signal ends the process.
        """
        self._told = time.monotonic()
        with suppress(UserError):  # telling is no reason to fail
            files.write_json(
                self.path,
                {
                    "label": self.label,
                    "iteration": iteration,
                    "iterations": self.iterations,
                    "rate": rate,
                    "alive": alive,
                    "members": members,
                    "started": self.started,
                    "updated": time.time(),
                    "stopped": stopped,
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "job": os.environ.get("SLURM_JOB_ID"),
                },
            )

    def end(self) -> None:
        """The results are written."""
        self.path.unlink(missing_ok=True)
        files.sweep(self.path)
