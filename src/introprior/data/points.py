"""Points of one's own in a file: CSV or ``.npy``, two numbers a point."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from introprior.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np

MARGIN = 1.25
"""The window's half-width over the largest coordinate, where it is not said; the built-in Rings have about as much."""


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """The points in a file, as they stand there: float32 ``[N, 2]``.

    A CSV file has two columns of numbers, separated by commas, and may begin with a line of names.

    Raises:
        UserError: it is not there, or holds something else.
    """
    try:
        if not stat.S_ISREG((state := os.stat(path)).st_mode):
            raise UserError(f"{path}: is no file; name a CSV or .npy file")
        return _read(os.path.abspath(path), state.st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{path}: is not there; correct the path (it is relative to where you start)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); name a CSV or .npy file") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{path}: {one_line(error)}; points are two columns of numbers, in CSV or .npy") from error


@lru_cache(maxsize=8)
def _read(path: str, changed: int) -> np.ndarray:
    import numpy as np

    if path.endswith(".npy"):
        found = np.load(path, allow_pickle=False)
    else:
        with Path(path).open(encoding="utf-8-sig") as stream:
            first = stream.readline()
        with warnings.catch_warnings(action="ignore"):  # of an empty file, which is told below
            found = np.loadtxt(path, delimiter=",", skiprows=0 if _numbers(first) else 1, ndmin=2, encoding="utf-8-sig")
    if found.dtype.kind not in "iuf" or found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"is {found.dtype} {list(found.shape)}, not [N, 2]")
    points = found.astype(np.float32)
    if len(lost := np.flatnonzero(~np.isfinite(points).all(axis=1))):
        raise ValueError(f"{len(lost)} points are not finite, point {lost[0] + 1} the first of them")
    if len(points) < 2 or not np.ptp(points, axis=0).any():
        raise ValueError(f"holds {len(points)} points in one place")
    points.flags.writeable = False
    return points


def _numbers(line: str) -> bool:
    try:
        return [float(word) for word in line.split(",")] != []
    except ValueError:
        return False


def fingerprint(paths: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 of the points in some files."""
    return hashlib.sha256(b"".join(hashlib.sha256(read(path).tobytes()).digest() for path in paths)).hexdigest()


def half_width(path: str | os.PathLike[str], given: float | None = None) -> float:
    """Half the side of the window about the origin that histograms look at: what is given, else one for all points.

    Raises:
        UserError: `read`'s; a window that leaves most of the points outside.
    """
    import numpy as np

    reach = np.abs(read(path)).max(axis=1)
    if given is None:
        return float(f"{MARGIN * reach.max():.3g}")
    if (inside := int((reach <= given).sum())) < len(reach) / 2:
        some = f"only {inside} of its {len(reach)} points lie in the window of half-width {given:g}"
        raise UserError(f"{path}: {some}; take a larger one, up to {MARGIN * reach.max():.3g}, or say none")
    return given
