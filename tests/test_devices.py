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

from introprior import configuration, devices
from introprior.errors import UserError

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks in a folder of the test's own; who waits looks again soon; no GPU unless a test pretends one."""
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for variable in (devices.SIMULATED_GPUS, devices.JOBS_PER_GPU, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make torch believe that there are so many GPUs."""

    def pretend(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{i}"))

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


@pytest.mark.parametrize(("count", "per_gpu"), [(2, 1), (1, 1), (2, 2)])
def test_200_leases_by_8_processes_never_overlap_and_use_every_gpu(tmp_path, monkeypatch, count, per_gpu):
    monkeypatch.setenv(devices.SIMULATED_GPUS, str(count))
    monkeypatch.setenv(devices.JOBS_PER_GPU, str(per_gpu))

    def holders(key: str) -> list[Path]:
        return list(tmp_path.glob(f"held-{key}-*"))

    def job() -> None:
        while not (tmp_path / "go").exists():  # all at once, or the first is done before the last begins
            time.sleep(0.001)
        for turn in range(25):
            with devices.leased(devices.visible()) as gpu:
                mine = tmp_path / f"held-{gpu.key}-{os.getpid()}"
                mine.touch(exist_ok=False)
                assert len(holders(gpu.key)) <= per_gpu
                time.sleep(0.0005)
                busy = len(list(tmp_path.glob("held-*")))
                mine.unlink()
                with (tmp_path / "log").open("a") as log:
                    log.write(f"{gpu.key} {busy} {turn}\n")

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(child(job)) for _ in range(8)]
        (tmp_path / "go").touch()
        assert [os.waitpid(number, 0)[1] for number in children] == [0] * 8
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(log) == 200
    assert {key for key, _, _ in log} == {f"simulated-{n}" for n in range(count)}
    assert max(int(busy) for _, busy, _ in log) == count * per_gpu  # nothing lay idle while others waited


def test_a_lease_ends_with_its_process_even_when_killed(monkeypatch):
    monkeypatch.setenv(devices.SIMULATED_GPUS, "1")
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
def test_users_do_not_collide(tmp_path, monkeypatch):
    """Neither may take, nor delete, what the other holds; whoever comes first makes the files."""
    monkeypatch.setenv(devices.SIMULATED_GPUS, "1")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        if folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o111)
    tmp_path.chmod(0o777)
    nobody = 65534

    def as_nobody() -> None:
        os.setgid(nobody)
        os.setuid(nobody)
        assert devices._locked("simulated-0.0.lock") is None
        with contextlib.suppress(PermissionError):
            (tmp_path / "introprior-gpus" / "simulated-0.0.lock").unlink()
            os._exit(3)
        other = devices._locked("simulated-1.0.lock")
        os._exit(0 if other is not None else 4)

    with devices.borrowed("cuda"), child(as_nobody) as number:
        assert os.waitpid(number, 0)[1] == 0
    assert stat.S_IMODE((tmp_path / "introprior-gpus").stat().st_mode) == 0o1777
    handle = devices._locked("simulated-1.0.lock")  # nobody's file
    assert handle is not None
    os.close(handle)


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


def test_a_schedulers_choice_is_honoured(monkeypatch):
    monkeypatch.setenv(devices.SIMULATED_GPUS, "4")
    assert [gpu.key for gpu in devices.visible()] == [f"simulated-{n}" for n in range(4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [gpu.key for gpu in devices.visible()] == ["simulated-2", "simulated-3"]
    assert configuration.gpus_present() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.visible() == []


@pytest.mark.parametrize(("variable", "value"), [(devices.JOBS_PER_GPU, "0"), (devices.SIMULATED_GPUS, "two")])
def test_wrong_numbers_are_refused(monkeypatch, variable, value):
    monkeypatch.setenv(devices.SIMULATED_GPUS, "1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}: must be a whole number of at least"), devices.borrowed("cuda"):
        pass
