"""What takes for ever, ended."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

SECONDS = 10.0
"""No input may take longer."""

TIMERS = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, 6 * SECONDS)}
"""Of the processor, and where others have it too, or somebody sleeps, of the clock."""


class Endless(BaseException):
    """Something takes too long; no `except Exception` is to swallow it."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """What is done inside may not take for ever."""

    def ring(*_: object) -> None:
        raise Endless

    before = {number: signal.signal(number, ring) for number, _ in TIMERS.values()}
    for timer, (_, seconds) in TIMERS.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, (number, _) in TIMERS.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
