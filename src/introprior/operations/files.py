"""Files that are either whole or absent: written under a temporary name, then renamed; checked when read."""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from introprior.errors import UserError, one_line


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; on success its content becomes that of ``path``, on failure nothing changes.

    It lies beside ``path``, or what that links to, and is renamed: a file is whole or absent. Into what is no regular
    file, a device or a pipe, the content is written in the end. The temporary name keeps the suffix of ``path``, since
    several writers choose their format by it. It is locked while it is written: one that is not was left by a process
    that was killed, and goes with the next writing. What cannot be written, for want of rights or space, is a
    `UserError`.
    """
    path = Path(path)
    try:
        if is_regular(path):
            with _beside(Path(os.path.realpath(path))) as temporary:
                yield temporary
        else:
            with tempfile.NamedTemporaryFile(suffix=path.suffix) as made:
                yield Path(made.name)
                with open(made.name, "rb") as content, path.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".part{path.suffix}", dir=path.parent)
        with suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            break
        os.close(handle)  # swept before it was locked
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are meant to be shared
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is there, or nothing yet; a `UserError` if a folder is, or if that cannot be seen."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError) as error:  # a link to itself, a name with a NUL
        raise _unwritable(path, error) from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder; give the name of a file")
    return stat.S_ISREG(mode)


def _unwritable(path: str | os.PathLike[str], error: Exception) -> UserError:
    full = getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # torch does not say which
    advice = "free some space, or point" if full else "point"
    return UserError(f"{path}: cannot write ({one_line(error)}); {advice} the results elsewhere")


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


def seen(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What is another whenever a file has been written anew; None where there is no regular file."""
    with suppress(OSError):
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def check_writable(*paths: str | os.PathLike[str]) -> None:
    """Find out before long work, not after it, that its results could not be written: then, too, a `UserError`."""
    for path in paths:
        if is_regular(path):
            real = Path(os.path.realpath(path))
            probe = real.with_name(f".{real.name}.probe")
            try:
                write_text(probe, "")
            except UserError as error:
                raise UserError(str(error).replace(str(probe), str(path), 1)) from None
            probe.unlink(missing_ok=True)
        elif not os.access(path, os.W_OK):
            raise _unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """A `UserError` where a command would write two of its files, or one of those that it reads, to the same place."""
    taken = {os.path.realpath(path): f"the input {path}" for path in inputs}
    for path in outputs:
        if is_regular(path):
            place = os.path.realpath(path)
            if place in taken:
                raise UserError(f"{path}: would overwrite {taken[place]}; give each file a name of its own")
            taken[place] = f"the output {path}"


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
    except (ValueError, RecursionError) as error:  # also of numbers with too many digits, and lists in lists in lists
        raise UserError(
            f"{path}: not valid JSON ({one_line(error)}); delete it and run again to make it anew"
        ) from error
