"""Downloads by libraries: whatever goes wrong is one line, and no server is waited for without end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from introprior.errors import UserError, one_line

TIMEOUT = 30.0
"""Seconds without an answer after which a server is given up."""

PATIENCE = 90.0
"""Seconds after which a server is given up that sends, but so little that no file has grown; libraries write each 32 or
128 kB."""


@contextmanager
def downloading(what: str, folder: Path, remedy: str) -> Iterator[None]:
    """While inside, a library may download into ``folder``; ``remedy`` says how to do without.

    Raises:
        UserError: no server answers, or sends what was asked for; or the disk cannot be written.
    """
    from http.client import HTTPException  # late: it brings ssl

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with _growing(folder):
            yield
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException) as error:
        raise UserError(f"{what}: cannot download ({one_line(error)}); {remedy}") from error
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _growing(folder: Path) -> Iterator[None]:
    """Raise a TimeoutError when nothing in ``folder`` has changed for too long. In the main thread only."""

    before: list[tuple[Path, int]] = []

    def look(*_: object) -> None:
        last, before[:] = before[:], sorted((path, path.stat().st_size) for path in folder.rglob("*") if path.is_file())
        if before == last:
            raise TimeoutError("the server sends next to nothing")

    try:
        handler = signal.signal(signal.SIGALRM, look)
    except ValueError:  # not the main thread
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
