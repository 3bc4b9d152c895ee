"""The one exception that users see: a single line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """Something that the person at the keyboard can mend; commands print it as one line and exit with 2."""


def one_line(error: BaseException | str) -> str:
    """A text, or what an error of a library says, in one line as users want it."""
    said = getattr(error, "strerror", None) or str(error)
    return " ".join(said.split()).strip(" :") or type(error).__name__


def printable(text: str) -> str:
    """A line from somewhere else as it may go to a terminal, without what would steer that."""
    return "".join(c for c in re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text) if c.isprintable())


def cut(text: str, most: int = 80) -> str:
    """A text, shortened where it has more than so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> UserError:
    """An error for a name that is not among the known ones, with the nearest known name as a suggestion."""
    known = list(known)
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(str(name)[:100].casefold(), folded, n=1)
    guess = f"did you mean {folded[near[0]]!r}? " if near else ""
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} {cut(repr(str(name)))}; {guess}known: {', '.join(known)}")
