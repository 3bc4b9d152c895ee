"""Locks on files: what lies in their place, who removed them, file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from introprior.errors import UserError
from introprior.operations import locks


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    path = tmp_path / "a.lock"
    assert not locks.is_held(path)
    assert not path.exists()
    handle = locks.taken(path)
    assert locks.is_held(path)
    assert locks.taken(path) is None
    os.close(handle)
    assert not locks.is_held(path)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_others_may_lock_it_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        os.close(locks.taken(tmp_path / "a.lock"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.lock").stat().st_mode) == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("mode", "code"), [(0o644, 0), (0o600, 2)])
def test_a_file_that_may_only_be_read_will_do(tmp_path, mode, code):
    """As colleagues in a shared folder find it that another program made."""
    path = tmp_path / "a.lock"
    path.touch()
    path.chmod(mode)
    os.chmod(tmp_path, 0o755)
    folder = os.open(tmp_path, os.O_RDONLY)
    if not (child := os.fork()):
        try:
            os.fchdir(folder)
            os.setuid(65534)
            os._exit(0 if locks.taken(Path("a.lock")) else 1)
        except UserError:
            os._exit(2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


def links(path: Path) -> None:
    path.with_suffix(".precious").touch()
    path.symlink_to(path.with_suffix(".precious"))


def dangles(path: Path) -> None:
    path.symlink_to("elsewhere")


def second_name(path: Path) -> None:
    path.with_suffix(".precious").touch()
    os.link(path.with_suffix(".precious"), path)


@pytest.mark.parametrize("lies", [links, dangles, second_name, Path.mkdir, os.mkfifo], ids=lambda f: f.__name__)
def test_what_is_no_file_of_its_own_is_refused_at_once(tmp_path, lies):
    path = tmp_path / "a.lock"
    lies(path)
    with pytest.raises(UserError, match=r"a\.lock: no file that can be locked \(.*\); remove it"):
        locks.taken(path, wait=True)
    assert not (tmp_path / "elsewhere").exists()


def test_who_waits_for_a_lock_that_was_removed_takes_the_one_in_its_place(tmp_path):
    """Else two would hold it: who waited, and who makes the file anew."""
    path = tmp_path / "a.lock"
    handle = locks.taken(path)
    found = []
    waiting = threading.Thread(target=lambda: found.append(locks.taken(path, wait=True)))
    waiting.start()
    path.unlink()
    os.close(handle)
    waiting.join(10)
    assert os.path.samestat(os.fstat(found[0]), path.stat())
    assert locks.is_held(path)
    os.close(found[0])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_one_that_is_held(tmp_path, monkeypatch, number):
    """As Lustre and some NFS are mounted; no other error of the kernel's means that somebody else is at it."""

    def flock(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(locks.Unsupported, match="its file system has no locks"):
        locks.taken(tmp_path / "a.lock")
