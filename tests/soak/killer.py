"""Somebody who kills the processes of one workflow, and of no other: for real, at random moments, keeping count."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MARKER = "INTROPRIOR_SOAK"
"""The environment variable that tells the processes of a soak from all others."""

TRAININGS = ("search", "train", "warmup")
OTHERS = ("evaluate", "distances", "classifier", "reference", "probe", "prepare")
SIGNALS = (signal.SIGKILL,) * 7 + (signal.SIGTERM,) * 2 + (signal.SIGINT,)
SECONDS = 4.0
"""What is killed at any moment lives so long at most; what is killed at work, half of it from then on."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """A running command of the package."""

    pid: int
    arguments: tuple[str, ...]  # of the command line, from the command's name on
    log: str  # where its standard error goes

    @property
    def command(self) -> str:
        """The command's name."""
        return self.arguments[0]

    @property
    def printed(self) -> str:
        """What it has said so far."""
        with contextlib.suppress(OSError):
            return Path(self.log).read_text(errors="replace")
        return ""


@dataclass(frozen=True)
class Kill:
    """What was done to a process."""

    command: str
    number: signal.Signals
    iteration: int  # how far a training was, 0 before its first
    resumed: bool  # whether it had gone on from a state


@dataclass
class _Doom:
    """When and how a process is to be killed: so long after it began, or after it began to train."""

    number: signal.Signals
    delay: float
    since: float | None


@dataclass
class Killer(threading.Thread):
    """Kills every training three times or four, and a few other jobs, until it is stopped."""

    mark: str  # value of the environment variable MARKER of the processes to kill
    seed: int  # of what is drawn: how often a job is killed, when, and with which signal
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self._lots: dict[tuple[str, ...], int] = {}
        self._doomed: dict[int, _Doom | None] = {}

    def __hash__(self) -> int:  # threads are kept in sets
        return id(self)

    def run(self) -> None:
        while not self.stopped.wait(POLL_SECONDS):
            for process in commands(self.mark):
                if process.pid not in self._doomed:
                    self._doomed[process.pid] = self._decide(process)
                doom = self._doomed[process.pid]
                if doom is not None and self._is_time(process, doom):
                    self._kill(process, doom)
                    self._doomed[process.pid] = None

    def stop(self) -> None:
        """Kill no more."""
        self.stopped.set()
        self.join()

    def _decide(self, process: Process) -> _Doom | None:
        """Each job has a stream of its own, so that its lot depends on the seed and on nobody else's."""
        chance = random.Random(f"{self.seed} {process.arguments} {self._lots.get(process.arguments)}")
        if process.arguments not in self._lots:
            lots = (3, 4, 4) if process.command in TRAININGS else (0, 0, 0, 1)
            self._lots[process.arguments] = chance.choice(lots)
        if self._lots[process.arguments] == 0:
            return None
        self._lots[process.arguments] -= 1
        at_work = process.command in TRAININGS and chance.random() < 0.7
        delay = chance.uniform(0, SECONDS / 2 if at_work else SECONDS)
        since = None if at_work else time.monotonic()
        return _Doom(chance.choice(SIGNALS), delay, since)

    def _is_time(self, process: Process, doom: _Doom) -> bool:
        if doom.since is None and re.search(r"\d+/\d+ \[", process.printed):
            doom.since = time.monotonic()
        return doom.since is not None and time.monotonic() - doom.since > doom.delay

    def _kill(self, process: Process, doom: _Doom) -> None:
        printed = process.printed
        if send(process.pid, doom.number, self.mark):
            iterations = re.findall(r"(\d+)/\d+ \[", printed) or ["0"]
            resumed = "going on from iteration" in printed
            self.kills.append(Kill(process.command, doom.number, int(iterations[-1]), resumed))


def send(pid: int, number: signal.Signals, mark: str) -> bool:
    """Send a signal to a process if it has the mark; by a handle, so that no other can have taken its number."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_marked(pid, mark):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def marked(mark: str) -> Iterator[int]:
    """All living processes with the mark."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and is_marked(int(name), mark):
            yield int(name)


def is_marked(pid: int, mark: str) -> bool:
    """Whether a living process has the mark in its environment; zombies have none."""
    with contextlib.suppress(OSError):
        return f"{MARKER}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def commands(mark: str) -> Iterator[Process]:
    """The commands of the package among the marked processes."""
    for pid in marked(mark):
        words = arguments(pid)
        if len(words) > 2 and Path(words[1]).name == "introprior" and words[2] in (*TRAININGS, *OTHERS):
            with contextlib.suppress(OSError):
                yield Process(pid, tuple(words[2:]), os.readlink(f"/proc/{pid}/fd/2"))


def arguments(pid: int) -> list[str]:
    """A process's command line; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []
