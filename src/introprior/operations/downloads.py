"""Downloads by libraries: whatever goes wrong is one line, and no server is waited for without end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from introprior.errors import UserError, one_line

TIMEOUT = 30.0
"""Seconds without an answer after which a server is given up."""


@contextmanager
def downloading(what: str, remedy: str) -> Iterator[None]:
    """While inside, a library may download; ``remedy`` says how to do without.

    Raises:
        UserError: no server answers, or sends what was asked for; or the disk cannot be written.
    """
    from http.client import HTTPException  # late: it brings ssl

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, HTTPException) as error:
        raise UserError(f"{what}: cannot download ({one_line(error)}); {remedy}") from error
    finally:
        socket.setdefaulttimeout(before)
