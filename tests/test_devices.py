"""GPUs lent to jobs: real processes, real locks, pretended devices."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from introprior.errors import UserError
from introprior.operations import devices, locks
from introprior.operations import gpus as counting

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks in a folder of the test's own; who waits looks again soon; no GPU unless a test pretends one."""
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "PLACES", (tmp_path,))
    tmp_path.chmod(0o1777)
    for name in ("POLL_SECONDS", "MEMORY_SECONDS"):
        monkeypatch.setattr(devices, name, 0.001)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for variable in ("SIMULATED_GPUS", "SIMULATED_FREE", "JOBS_PER_GPU", "GPU_MEMORY"):
        monkeypatch.delenv(getattr(devices, variable), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make torch believe that there are so many GPUs."""

    def pretend(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{i}"))

    return pretend


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulate so many GPUs, of which so much memory is free, for so many jobs each."""

    def pretend(number: int, free: str | None = None, jobs: int | None = None) -> None:
        given = {devices.SIMULATED_GPUS: number, devices.SIMULATED_FREE: free, devices.JOBS_PER_GPU: jobs}
        for variable, value in given.items():
            if value is not None:
                monkeypatch.setenv(variable, str(value))

    return pretend


@contextlib.contextmanager
def child(job: Callable[[], None]) -> Iterator[int]:
    """A process that does the job, forked since it then has torch already; killed in the end."""
    number = os.fork()
    if not number:
        try:
            job()
            os._exit(0)
        finally:
            os._exit(1)
    try:
        yield number
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def race(folder: Path, processes: int, turns: int, most: int) -> list[tuple[str, int]]:
    """Have so many processes lease a GPU so often, at most so many the same one; which, and how many had one then."""

    def job() -> None:
        while not (folder / "go").exists():  # all at once, or the first is done before the last begins
            time.sleep(0.001)
        for _ in range(turns):
            with devices.leased(devices.visible()) as gpu:
                mine = folder / f"held-{gpu.key}-{os.getpid()}"
                mine.touch(exist_ok=False)
                assert len(list(folder.glob(f"held-{gpu.key}-*"))) <= most
                time.sleep(0.001)
                busy = len(list(folder.glob("held-*")))
                mine.unlink()
                with (folder / "log").open("a") as log:
                    log.write(f"{gpu.key} {busy}\n")

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(child(job)) for _ in range(processes)]
        (folder / "go").touch()
        assert [os.waitpid(number, 0)[1] for number in children] == [0] * processes
    leases = [line.split() for line in (folder / "log").read_text().splitlines()]
    assert len(leases) == processes * turns
    return [(key, int(busy)) for key, busy in leases]


@pytest.mark.parametrize(("count", "per_gpu"), [(2, 1), (1, 1), (2, 2)])
def test_200_leases_by_8_processes_never_overlap_and_use_every_gpu(tmp_path, simulated, count, per_gpu):
    simulated(count, jobs=per_gpu)
    leases = race(tmp_path, processes=8, turns=25, most=per_gpu)
    assert {key for key, _ in leases} == {f"simulated-{n}" for n in range(count)}
    assert max(busy for _, busy in leases) == count * per_gpu  # nothing lay idle while others waited


def test_a_lease_ends_with_its_process_even_when_killed(simulated):
    simulated(1)
    reader, writer = os.pipe()

    def borrow() -> None:
        with devices.borrowed("cuda"):
            os.write(writer, b"x")
            time.sleep(600)

    def borrowers(seconds: float) -> bytes:
        return os.read(reader, 10) if select.select([reader], [], [], seconds)[0] else b""

    with child(borrow) as first:
        assert borrowers(30) == b"x"
        with child(borrow):
            assert borrowers(0.1) == b""
            os.kill(first, signal.SIGKILL)
            assert borrowers(30) == b"x"
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_users_do_not_collide(tmp_path, simulated):
    """Neither may take, nor delete, what the other holds; whoever comes first makes the files."""
    simulated(1)
    for folder in tmp_path.parents[:-2]:
        if folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o111)
    nobody = 65534
    ours, theirs = (tmp_path / f"introprior-gpu-simulated-{n}.0.lock" for n in range(2))

    def as_nobody() -> None:
        os.setgid(nobody)
        os.setuid(nobody)
        assert locks.taken(ours) is None
        with contextlib.suppress(PermissionError):
            ours.unlink()
            os._exit(3)
        assert devices._is_settling(ours)
        os._exit(0 if locks.taken(theirs) is not None else 4)

    with devices.borrowed("cuda"), child(as_nobody) as number:
        assert os.waitpid(number, 0)[1] == 0
    assert not locks.is_held(theirs)  # nobody's file
    assert stat.S_IMODE(ours.stat().st_mode) == 0o666


def test_who_waits_for_a_gpu_is_told_once(gpus, monkeypatch, capsys):
    gpus(1)
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise TimeoutError

    monkeypatch.setattr(devices, "time", SimpleNamespace(sleep=sleep))
    with devices.borrowed("cuda"), pytest.raises(TimeoutError), devices.borrowed("cuda"):
        pass
    assert capsys.readouterr().err == "all 1 GPU(s) are in use by other jobs; waiting for one\n"
    with devices.borrowed("cuda") as device:  # it was given back
        assert device == torch.device("cuda", 0)


def test_devices_by_name(gpus, capsys):
    gpus(2)
    with devices.borrowed("cpu") as device:
        assert device == CPU
    with devices.borrowed("cuda:1") as one, devices.borrowed("cuda:1") as again:  # no lease: as the user says
        assert one == again == torch.device("cuda", 1)
    with devices.borrowed() as first, devices.borrowed() as second:
        assert {first.index, second.index} == {0, 1}
    gpus(0)
    capsys.readouterr()
    with devices.borrowed() as device:
        assert device == CPU
    assert capsys.readouterr().err == "no GPU is visible: computing on the CPU\n"


def test_jobs_spread_over_the_gpus_before_they_share_one(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv(devices.JOBS_PER_GPU, "2")
    with devices.borrowed("cuda") as a, devices.borrowed("cuda") as b, devices.borrowed("cuda") as c:
        assert [a.index, b.index, c.index] == [0, 1, 0]


def test_a_schedulers_choice_is_honoured(simulated, monkeypatch):
    simulated(4)
    assert [gpu.key for gpu in devices.visible()] == [f"simulated-{n}" for n in range(4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [gpu.key for gpu in devices.visible()] == ["simulated-2", "simulated-3"]
    assert counting.present() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.visible() == []


# ---- Memory that others use ----


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let something happen each time that a waiting job sleeps; nothing more happens when it should be done."""

    def script(*events: Callable[[], None]) -> None:
        left = list(events)
        sleep = lambda _: left.pop(0)() if left else pytest.fail("waited longer than it had to")  # noqa: E731
        monkeypatch.setattr(devices, "time", SimpleNamespace(sleep=sleep, time=time.time))

    return script


def test_a_gpu_that_others_have_filled_is_passed_over(simulated, monkeypatch):
    simulated(2, free="3999,4000")
    with devices.leased(devices.visible()) as gpu:
        assert gpu.key == "simulated-1"
    monkeypatch.setenv(devices.GPU_MEMORY, "3999")
    with devices.leased(devices.visible()) as first, devices.leased(devices.visible()) as second:
        assert [first.key, second.key] == ["simulated-1", "simulated-0"]
    monkeypatch.setenv(devices.GPU_MEMORY, "0")  # not looked at, not even to choose
    with devices.leased(devices.visible()) as gpu:
        assert gpu.key == "simulated-0"


def test_a_gpu_with_fewest_jobs_is_taken_then_one_with_most_memory(tmp_path, simulated):
    simulated(3, free="20000,90000,70000", jobs=2)
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(devices.leased(devices.visible())).key for _ in range(6)]
    assert taken == [f"simulated-{n}" for n in (1, 2, 0, 1, 2, 0)]
    late = locks.taken(tmp_path / "introprior-gpu-simulated-1.1.lock")  # of two jobs that shared it the first has ended
    assert late is not None
    with devices.leased(devices.visible()) as gpu:
        assert gpu.key == "simulated-2"
    os.close(late)


def test_who_waits_for_memory_is_told_where_it_is_short(simulated, capsys, naps):
    simulated(3, free="1200,9000,300")
    with devices.leased(devices.visible()) as taken:
        assert taken.key == "simulated-1"
        naps(lambda: simulated(3, free="1300,9000,3900"), lambda: simulated(3, free="1300,9000,4000"))
        with devices.leased(devices.visible()) as gpu:
            assert gpu.key == "simulated-2"
    assert capsys.readouterr().err == (
        "GPU 0 has 1.2 of the needed 4.0 GB free, GPU 2 has 0.3 of the needed 4.0 GB free (gpu_memory_mb);"
        " waiting for more\n"
    )


def test_memory_that_a_job_has_yet_to_take_is_not_promised_twice(tmp_path, simulated, monkeypatch, capsys, naps):
    simulated(1, free="7000", jobs=2)
    with devices.leased(devices.visible()):
        pass
    for lock in tmp_path.glob("introprior-gpu-*"):
        os.utime(lock, (0, 0))  # the last lease was long ago, this one is not
    with devices.leased(devices.visible()):
        naps(lambda: None, lambda: monkeypatch.setattr(devices, "SETTLING_SECONDS", 0.0))
        with devices.leased(devices.visible()):  # what the first took by now no longer counts as free
            pass
    assert capsys.readouterr().err == "GPU 0 has 7.0 of the needed 8.0 GB free (gpu_memory_mb); waiting for more\n"


def test_jobs_that_start_at_once_do_not_count_on_the_same_memory(tmp_path, simulated):
    simulated(1, free="9000", jobs=8)
    leases = race(tmp_path, processes=6, turns=5, most=2)
    assert max(busy for _, busy in leases) == 2


UUIDS = ["4b0b6a1e-2c6f-5d0a-9f5e-0d3a51c1b7aa", "9d1c2f3e-77aa-1b2c-8d9e-445566778899"]


@pytest.mark.parametrize(
    ("script", "told", "taken"),
    [
        (f"echo 'GPU-{UUIDS[0]}, 512'; echo 'GPU-{UUIDS[1]}, 80994'", {UUIDS[0]: 512, UUIDS[1]: 80994}, 1),
        (f"echo 'GPU-{UUIDS[0]}, [N/A]'; echo 'GPU-{UUIDS[1]}, 512'", {UUIDS[1]: 512}, 0),
        ("echo 'MIG-5d0a, 512'; printf '\\377\\n'; echo; echo 'No devices were found'", {"MIG-5d0a": 512}, 0),
        (f"echo 'GPU-{UUIDS[0]}, 512'; exit 15", {}, 0),
        (f"echo 'GPU-{UUIDS[0]}, 512'; exec sleep 60", {}, 0),
        (None, {}, 0),
    ],
    ids=["memory", "unknown", "foreign", "failing", "hanging", "missing"],
)
def test_free_memory_as_nvidia_smi_tells(tmp_path, monkeypatch, gpus, script, told, taken):
    """The program's place is taken by a script that prints what the real one would, to the same arguments only."""
    program = tmp_path / "nvidia-smi"
    if script is not None:
        program.write_text(
            f'#!/bin/sh\n[ "$*" = "--query-gpu=uuid,memory.free --format=csv,noheader,nounits" ] || exit 2\n{script}\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    monkeypatch.setattr(devices, "NVIDIA_SMI_SECONDS", 0.5 if script and "sleep" in script else 10.0)
    gpus(2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=UUIDS[i]))
    assert devices.free_memory() == told
    with devices.borrowed("cuda") as device:
        assert device.index == taken


@pytest.mark.parametrize(
    ("variable", "value"), [(devices.JOBS_PER_GPU, "0"), (devices.SIMULATED_GPUS, "two"), (devices.GPU_MEMORY, "4GB")]
)
def test_wrong_numbers_are_refused(simulated, monkeypatch, variable, value):
    simulated(1)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}: must be a whole number of at least"), devices.borrowed("cuda"):
        pass


# ---- Where the locks are, and who comes first ----


def test_another_folder_for_temporary_files_is_no_other_place_for_the_locks(tmp_path, gpus, monkeypatch):
    gpus(2)
    with devices.borrowed("cuda") as first:
        monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path / "another"))
        with devices.borrowed("cuda") as second:
            assert {first.index, second.index} == {0, 1}


def test_a_place_that_is_not_for_everybody_is_passed_over(tmp_path, gpus, monkeypatch):
    """0755, as /run/lock is on some systems, a file, or nothing; nor is one that anybody could empty a place."""
    gpus(1)
    for name in ("private", "fit"):
        (tmp_path / name).mkdir()
    (tmp_path / "fit").chmod(0o1777)
    (tmp_path / "file").touch()
    places = [tmp_path / name for name in ("private", "file", "nothing", "fit")]
    monkeypatch.setattr(devices, "PLACES", places)
    with devices.borrowed("cuda"):
        assert [path.name for path in places[-1].iterdir() if locks.is_held(path)] == ["introprior-gpu-GPU-0.0.lock"]
    for mode in (0o777, 0o1755):
        (tmp_path / "fit").chmod(mode)
        with pytest.raises(UserError, match="no place for the locks of GPUs"), devices.borrowed("cuda"):
            pass


def waiting(tmp_path: Path, name: str, gpus: list[devices.Gpu]) -> contextlib.AbstractContextManager[int]:
    """A process, forked before anybody has a lock to inherit, that asks for a GPU once it is called by its name."""

    def lease() -> None:
        while not (tmp_path / name).exists():
            time.sleep(0.001)
        with devices.leased(gpus), (tmp_path / "log").open("a") as log:
            log.write(name)

    return child(lease)


def call(tmp_path: Path, name: str, place: int) -> None:
    """Call a process, and wait until it is in the queue, as so many are then."""
    (tmp_path / name).touch()
    while sum(map(locks.is_held, tmp_path.glob("introprior-gpu-waiting-*"))) < place:
        time.sleep(0.001)


def test_who_has_waited_longest_comes_first(tmp_path, simulated, monkeypatch):
    """Also before who comes by as a GPU is given back; the dead are not waited for."""
    simulated(1)
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.02)
    gpus = devices.visible()
    with contextlib.ExitStack() as stack:
        dead, *others = (stack.enter_context(waiting(tmp_path, name, gpus)) for name in "xabc")
        with devices.leased(gpus):
            for place, name in enumerate("xabc", start=1):
                call(tmp_path, name, place)
            os.kill(dead, signal.SIGKILL)
            os.waitpid(dead, 0)
        with devices.leased(gpus):
            assert (tmp_path / "log").read_text() == "abc"
        assert [os.waitpid(number, 0)[1] for number in others] == [0] * 3
    assert list(tmp_path.glob("introprior-gpu-waiting-*")) == []


def test_nobody_waits_for_a_gpu_that_who_is_ahead_has_no_use_for(tmp_path, simulated):
    simulated(2)
    zero, one = devices.visible()
    with waiting(tmp_path, "a", [zero]), devices.leased([zero]):
        call(tmp_path, "a", 1)
        with devices.leased([zero, one]) as gpu:
            assert gpu == one
