"""What a process does when it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def handled(numbers: Sequence[signal.Signals], act: Callable[[int], object]) -> Iterator[None]:
    """Call ``act`` with the number of each of these signals that comes while the block runs.

    In the main thread only, in others nothing changes; so with a signal that is ignored, as `nohup` has it for SIGHUP.
    """
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda number, _: act(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
