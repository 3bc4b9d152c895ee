"""Advisory locks on files, which the kernel lifts when their process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Literal, overload

from introprior.errors import UserError, one_line

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # no link leads elsewhere, no pipe waits for its other end


class Unsupported(UserError):
    """The file system knows no locks."""


@overload
def taken(path: Path, wait: Literal[True]) -> int: ...


@overload
def taken(path: Path, wait: bool = False) -> int | None: ...


def taken(path: Path, wait: bool = False) -> int | None:
    """A handle that holds the lock, until it is closed; None where somebody else does, unless it is to wait.

    Whoever comes first makes the file, for all users: others are to lock it, too, and to say when they did. One that
    was removed or replaced before it was locked is no lock any more.

    Raises:
        Unsupported: the file system has no locks.
        UserError: something else lies there, or it may not be opened.
    """
    while True:
        try:
            handle = _opened(path)
        except OSError as error:
            raise UserError(f"{path}: no file that can be locked ({one_line(error)}); remove it") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(handle), os.lstat(path)):
                return handle
        except BlockingIOError:  # this alone means that it is held
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            raise Unsupported(f"{path}: its file system has no locks ({one_line(error)})") from error
        except BaseException:  # an interruption of the wait
            os.close(handle)
            raise
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether somebody has the lock; where there is no file nobody has."""
    if not os.path.lexists(path):
        return False
    if (handle := taken(path)) is None:
        return True
    os.close(handle)
    return False


def _opened(path: Path) -> int:
    """The file, made if it is not there; it is never written to, but network file systems want it to be writable."""
    for access in (os.O_RDWR, os.O_RDONLY):
        try:
            handle = os.open(path, _FLAGS | access)
            break
        except FileNotFoundError:
            umask = os.umask(0)
            try:
                handle = os.open(path, _FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return _opened(path)
            finally:
                os.umask(umask)
            break
        except PermissionError:  # made by a program with a umask
            if access == os.O_RDONLY:
                raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EINVAL, "a folder, a pipe or a second name of another file")
    return handle
