"""A real Slurm on this machine: one node with two pretended GPUs, for as long as the tests last."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

SETTINGS = Path("/etc/slurm")
"""Where Slurm's own commands look; another place would have to be told to every process, and jobs are told nothing."""

MARK = "# Written by the tests of introprior; what was here before is in the file beside it that ends in .kept"
LOCK = Path(tempfile.gettempdir()) / "introprior-slurm-tests.lock"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order of stopping
GPUS = 2
CPUS = 8

SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=30
MinJobAge=3600
GresTypes=gpu
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=256000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=10 MaxTime=7-0 DefaultTime=5 State=UP
PartitionName=gpu Nodes={host} MaxTime=7-0 DefaultTime=5 State=UP
"""


class Unavailable(Exception):
    """No Slurm can be started here, for the reason given."""


class Cluster:
    """The running Slurm.

    Attributes:
        folder: of its state and its logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def jobs(self) -> dict[int, dict[str, str]]:
        """What Slurm knows of each job, those that have ended included, by number."""
        jobs = {}
        for line in self.ask("scontrol", "--oneliner", "--details", "show", "job").splitlines():
            fields = dict(part.partition("=")[::2] for part in line.split() if "=" in part)
            if "JobId" in fields:
                jobs[int(fields["JobId"])] = fields
        return jobs

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def cancel_all(self) -> None:
        """End whatever still runs or waits, and wait for that."""
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        self.ask("scancel", "--user=root")
        _until(lambda: not self.ask("squeue", "--noheader"), 60, "jobs do not end")


@contextlib.contextmanager
def started() -> Iterator[Cluster]:
    """A Slurm that runs while the block does.

    Raises:
        Unavailable: not root, programs missing, another Slurm here.
    """
    if os.geteuid() != 0:
        raise Unavailable("Slurm's daemons and the GPU stand-ins need root")
    missing = [name for name in PROGRAMS if not _which(name)]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found; Debian has them in slurm-wlm and munge")
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(f"other tests use a Slurm here ({LOCK} is locked)") from None
        _clear_leftovers()
        if running := _running("slurmctld", "slurmd"):
            raise Unavailable(f"this machine runs a Slurm already ({', '.join(sorted(running))}), which is left alone")
        folder = Path(tempfile.mkdtemp(prefix="introprior-slurm-"))
        folder.chmod(0o755)
        try:
            _configure(folder)
            _launch(folder)
            cluster = Cluster(folder)
            yield cluster
            cluster.cancel_all()
        finally:
            _stop(folder)
            _restore()
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _configure(folder: Path) -> None:
    for name in ("munge", "slurmctld", "slurmd", "log", "run", "dev"):
        (folder / name).mkdir()
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    for gpu in range(GPUS):
        try:  # Slurm wants character devices: these are like /dev/null
            os.mknod(folder / "dev" / f"gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except OSError as error:
            raise Unavailable(f"cannot make device files in {folder} ({error.strerror})") from None
    host = socket.gethostname().partition(".")[0]
    values = {"host": host, "folder": folder, "ports": _free_ports(), "cpus": CPUS, "gpus": GPUS}
    SETTINGS.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("slurm.conf", SLURM_CONF.format(**values)),
        ("gres.conf", f"Name=gpu File={folder}/dev/gpu[0-{GPUS - 1}]\n"),
        ("cgroup.conf", None),
    ):
        path = SETTINGS / name
        if path.exists():
            path.rename(_kept(path))
        if text:
            path.write_text(f"{MARK}\n# State: {folder}\n{text}")


def _restore() -> None:
    for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
        path = SETTINGS / name
        if path.exists() and path.read_text().startswith(MARK):
            path.unlink()
        if _kept(path).exists():
            _kept(path).rename(path)


def _kept(path: Path) -> Path:
    return path.with_name(path.name + ".kept")


def _clear_leftovers() -> None:
    """Stop the Slurm of earlier tests that were killed, and put back what they found."""
    path = SETTINGS / "slurm.conf"
    left = re.match(re.escape(MARK) + r"\n# State: (/\S+)\n", path.read_text()) if path.exists() else None
    if left:
        _stop(Path(left[1]))
        shutil.rmtree(left[1], ignore_errors=True)
    _restore()


def _launch(folder: Path) -> None:
    run, log = folder / "run", folder / "log"
    munge = [f"--key-file={folder}/munge/munge.key", f"--seed-file={folder}/munge/munged.seed", "--num-threads=2"]
    munge += [f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log"]
    host = socket.gethostname().partition(".")[0]
    for command in (["munged", *munge], ["slurmctld"], ["slurmd", "-N", host]):
        program = _which(command[0])
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=30, cwd="/")
        if done.returncode:
            raise RuntimeError(f"{command[0]} does not start: {done.stderr.strip()}")

    def idle() -> bool:
        asked = ["timeout", "2", "sinfo", "--noheader", "--partition=main", "--format=%T"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip() == "idle"

    try:
        _until(idle, 60, "its node does not become idle")
    except TimeoutError as error:
        tail = (log / "slurmctld.log").read_text()[-2000:]
        raise RuntimeError(f"Slurm does not start: {error}\n{tail}") from None


def _stop(folder: Path) -> None:
    """End the daemons by their pid files, in order, and wait until they are gone."""
    for name in DAEMONS:
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((folder / "run" / f"{name}.pid").read_text()))
            if process.name() == name:
                process.terminate()
                if psutil.wait_procs([process], timeout=20)[1]:
                    process.kill()


def _running(*names: str) -> set[str]:
    found = psutil.process_iter(["name", "status"])
    return {process.info["name"] for process in found if process.info["status"] != psutil.STATUS_ZOMBIE} & {*names}


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _until(true: object, seconds: float, complaint: str) -> None:
    """Wait until the function returns something true."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"{complaint} (waited {seconds:g} s)")
        time.sleep(0.2)
