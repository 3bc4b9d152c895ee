"""Files that are either whole or absent: written under a temporary name, then renamed; checked when read."""

from __future__ import annotations

import csv
import fcntl
import glob
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from introprior.errors import UserError


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success rename it to ``path``, on failure remove it.

    The temporary name keeps the suffix of ``path``, since several writers choose their format by it. It is locked while
    it is written: one that is not was left by a process that was killed, and goes with the next writing. What cannot be
    written, for want of rights or space, is a `UserError`.
    """
    path = Path(path)
    temporary: Path | None = None
    handle: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        while handle is None:
            opened, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".part{path.suffix}", dir=path.parent)
            if _claimed(opened, name):
                handle = opened
            else:
                os.close(opened)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are meant to be shared
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write ({error.strerror or error}); free some space, or point the results elsewhere"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def sweep(path: Path) -> None:
    """Remove what killed processes left of writing ``path``."""
    for name in glob.glob(f"{glob.escape(str(path.parent))}/.{glob.escape(path.stem)}-*.part{path.suffix}"):
        with suppress(OSError):  # somebody is at it, or has swept it
            handle = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name)
            finally:
                os.close(handle)


def _claimed(handle: int, name: str) -> bool:
    """Lock an open file against :func:`sweep`; False where it was swept before."""
    with suppress(OSError):  # a file system without locks: nothing is swept there
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.path.exists(name)


def check_writable(*paths: str | os.PathLike[str]) -> None:
    """Find out before long work, not after it, that its results could not be written: then, too, a `UserError`."""
    for path in paths:
        probe = Path(path).with_suffix(".probe")
        write_text(probe, "")
        probe.unlink()


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as a whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV, as a whole or not at all; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; a missing, truncated or foreign file is one clear line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # also of numbers with too many digits
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run again to make it anew") from error
