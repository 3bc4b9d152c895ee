"""Faults, for real: disks that fill or turn read-only, terminals that close, processes killed while they write, NaNs.

What is found out about folders and disks before the work starts is in test_cli.py, what can be wrong with a file in
test_checkpoints.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import json
import math
import multiprocessing
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from introprior import cli
from introprior.training import checkpoints, density
from introprior.training.loop import Training
from tests import commands
from tests import test_image_commands as images
from tests.commands import LABEL, LONG, assert_same_training, below, do, lines, searching, training
from tests.projects import Project, finished
from tests.runs import a_member, density_run

# Fixtures.
introprior, undisturbed, world = commands.introprior, commands.undisturbed, images.world

GAME_OF_8 = {"cell": "mog8-lc-ip", "training": LONG}


# ---- Disks ----


class Disk:
    """A small disk of its own: a file system in memory."""

    def __init__(self, folder: Path):
        self.folder, self.ballast = folder, folder / "ballast"

    def fill(self) -> None:
        """Leave no free byte."""
        with self.ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def protect(self) -> None:
        """Let nothing be written."""
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.folder)], check=True)

    def mend(self) -> None:
        """Undo either."""
        gc.collect()  # a failed writer, kept alive by its error's traceback, may have a file open
        subprocess.run(["mount", "-o", "remount,bind,rw", str(self.folder)], check=True)
        self.ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    with commands.mounted(folder, "size=4m"):
        yield Disk(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root mounts by itself")
def test_who_is_not_root_tests_disks_in_a_namespace(tmp_path):
    """There, everybody may mount."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("namespaces of users are not allowed here")
    tests = [sys.executable, "-m", "pytest", "-q", "-k", "disk and not namespace", "--basetemp", tmp_path / "root"]
    done = subprocess.run([*command, *tests, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_a_disk_that_fills_up_in_the_middle_of_a_run_leaves_the_last_state(tmp_path, disk, introprior, undisturbed):
    command = training(tmp_path, "--state", disk.folder, "--checkpoint-seconds", 0, **GAME_OF_8)
    with commands.process(*command) as child:
        commands.until_saved(child, disk.folder)
        while child.poll() is None:  # a state that takes the place of another makes room
            disk.fill()
        said = lines(child.stderr.read().decode())
    assert child.returncode == 2, said
    (state,) = disk.folder.glob("train-*.pt")
    (line,) = said
    assert line.startswith(f"introprior train: {state}: cannot write (")
    assert line.endswith("; free some space, or point the results elsewhere")
    assert {path.suffix for path in below(disk.folder)} <= {".pt", ".previous", ""}
    reached = checkpoints.load(state)["iteration"]
    assert 0 < reached < LONG["iterations"]
    disk.mend()
    assert introprior(*command) == (0, [f"{LABEL}: going on from iteration {reached} of {state}"])
    assert_same_training(tmp_path, undisturbed)
    assert below(disk.folder) == set()


def same_search(ours: Path, theirs: Path) -> None:
    assert (ours / "slice.csv").read_bytes() == (theirs / "slice.csv").read_bytes()


def playing(folder: Path, world: Path, *more: object) -> list[object]:
    return images.playing(folder, world / "data", "mog4-ip", *more)


RESULTS = {
    "search": (lambda folder, world, *more: searching(folder, *more), same_search),
    "train": (lambda folder, world, *more: training(folder, *more), assert_same_training),
    "images": (playing, images.assert_same_run),
}


@pytest.mark.parametrize(
    ("what", "fault"), [("search", Disk.fill), ("train", Disk.fill), ("train", Disk.protect), ("images", Disk.protect)]
)
def test_results_that_find_no_disk_at_the_end_cost_no_training(
    tmp_path, disk, introprior, world, monkeypatch, what, fault
):
    """The fault comes in the middle of the run, the state is elsewhere."""
    make, same = RESULTS[what]
    do(*make(tmp_path / "whole", world))
    folder, state, step = disk.folder / "results", tmp_path / "state", Training.step
    command = make(folder, world, "--state", state, "--checkpoint-seconds", 0)

    def faulty(self: Training) -> dict[str, Any]:
        if self.iteration == 5:
            fault(disk)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", faulty)
        code, said = introprior(*command)
    commands.assert_refused((code, said), folder, "cannot write (")
    assert [path for path in below(folder) if path.name.startswith(".")] == []
    disk.mend()
    code, said = introprior(*command)
    assert code == 0
    assert "going on from iteration" in said[0]
    same(folder, tmp_path / "whole")
    assert below(state) == set()


# ---- Damaged states ----


@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_state_costs_no_more_than_the_time_since_the_one_before(tmp_path, introprior, monkeypatch, both):
    command = training(tmp_path, "--state", tmp_path / "state", "--checkpoint-seconds", 0)
    with commands.stopping(monkeypatch, 6):
        assert introprior(*command)[0] == 143
    (state,) = (tmp_path / "state").glob("train-*.pt")
    assert checkpoints.load(state)["iteration"] == 6
    for path in (state, state.with_suffix(".previous"))[: 1 + both]:
        os.truncate(path, path.stat().st_size // 2)
    do(*training(tmp_path / "whole"))
    code, (first, then) = introprior(*command)
    assert code == 0
    assert first == f"{state}: damaged, moved to {state.stem}.damaged; going on from the one before"
    going_on = f"Checkerboard sg: going on from iteration 5 of {state}"
    assert then.endswith("; beginning anew") if both else then == going_on
    assert_same_training(tmp_path, tmp_path / "whole")
    assert below(state.parent) == set()


# ---- Signals ----


def started(command: list[object], **more: Any) -> subprocess.Popen[bytes]:
    """A process that has kept a state."""
    child = subprocess.Popen([sys.executable, "-m", "introprior", *map(str, command)], **more)
    commands.until_saved(child, Path(str(command[command.index("--state") + 1])))
    return child


@pytest.fixture
def endless(tmp_path: Path) -> tuple[list[object], Path]:
    """A training that nobody will see the end of, and the folder of its state."""
    options = {**GAME_OF_8, "training": LONG | {"iterations": 100_000, "hidden_width": 16}}
    folder = tmp_path / "state"
    return training(tmp_path, "--state", folder, "--checkpoint-seconds", 0, **options), folder


def parts(folder: Path) -> list[Path]:
    """Files that are half written."""
    return [path for path in folder.iterdir() if ".part" in path.name]


def latest(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The state in a folder, of which nothing may be damaged."""
    (path,) = {path.with_suffix(".pt") for path in folder.glob("train-*") if path.suffix in (".pt", ".previous")}
    capsys.readouterr()
    state = checkpoints.latest(path)
    assert capsys.readouterr().err == ""
    assert state is not None
    return state


def test_a_terminal_that_is_closed_stops_a_training_whose_state_is_kept(tmp_path, endless, capsys):
    command, folder = endless
    terminal, end = pty.openpty()
    child = started(
        command, stdin=end, stdout=end, stderr=end, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(end)
    os.close(terminal)  # the kernel sends SIGHUP, and refuses what is printed from now on
    assert child.wait(timeout=60) != -signal.SIGHUP
    assert latest(folder, capsys)["iteration"] > 0
    assert parts(folder) == []


def test_a_training_that_ignores_closed_terminals_goes_on(tmp_path, endless):
    """As `nohup` starts it."""
    command, folder = endless
    child = started(command, stderr=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    (state,) = folder.glob("train-*.pt")
    child.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    before = state.stat().st_mtime_ns
    while child.poll() is None and state.stat().st_mtime_ns == before:
        time.sleep(0.01)
    assert child.poll() is None
    child.terminate()
    assert child.wait(timeout=60) == 128 + signal.SIGTERM


def test_the_impatient_who_press_control_c_again_and_again_lose_nothing(endless, capsys):
    command, folder = endless
    child = started(command, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        child.send_signal(signal.SIGINT)
        time.sleep(0.001)
    assert child.returncode in (128 + signal.SIGINT, -signal.SIGINT, 1)  # the last one may have come after the command
    assert latest(folder, capsys)["iteration"] > 0
    assert parts(folder) == []


def test_states_are_whole_at_whatever_moment_their_writer_is_killed(tmp_path, tiny, capsys):
    """Processes that do hardly anything but write states are killed, half at random moments, half while they write."""
    folder, chance, reached, halves = tmp_path / "state", random.Random(0), [0], 0
    options = {**commands.TRAINING, "iterations": 100_000, "milestones": [10**6]}
    command = training(tmp_path, "--state", folder, "--checkpoint-seconds", 0, training=options)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["introprior.commands.density"])
    for turn in range(16):
        child = context.Process(target=cli.main, args=([str(argument) for argument in command],))
        child.start()
        for _ in range(chance.randint(1, 3)):  # until it is at work, on a slow machine too
            known = marks(folder)
            while marks(folder) == known:
                time.sleep(0.001)
                assert child.is_alive()
        if turn % 2:
            while not parts(folder):
                assert child.is_alive()
        else:
            time.sleep(chance.uniform(0, 0.03))
        child.kill()
        child.join()
        halves += bool(parts(folder))
        reached.append(latest(folder, capsys)["iteration"])
    assert reached == sorted(reached)
    assert reached[-1] > 16
    assert halves >= 3  # others were done before the signal came
    state = latest(folder, capsys)
    (path,) = folder.glob("train-*.pt")
    run = density_run("sg", [a_member(seed, *commands.BETAS) for seed in (0, 1)], commands.DATASET, **options)
    ours, theirs = (density.begin(run, torch.device("cpu")) for _ in range(2))  # as the command does
    ours.restore(state, path)
    theirs.advance(ours.iteration)
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name


def marks(folder: Path) -> dict[str, int]:
    """When the states in a folder were written."""
    found: dict[str, int] = {}
    for path in folder.glob("train-*.pt"):
        with contextlib.suppress(OSError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def test_a_training_process_that_is_stopped_is_gone_on_with(tmp_path, introprior, undisturbed):
    command = training(tmp_path, "--state", tmp_path / "state", **GAME_OF_8)
    with commands.process(*command) as child:
        seen = b""
        while b"it/s" not in seen:
            seen += os.read(child.stderr.fileno(), 1000)
            assert child.poll() is None, seen
        child.terminate()
        printed = (seen + child.communicate(timeout=60)[1]).decode()
    assert child.returncode == 143
    (state,) = (tmp_path / "state").glob("train-*.pt")
    reached = checkpoints.load(state)["iteration"]
    where = f"{LABEL}: stopped at iteration {reached}; saved to {state}"
    assert lines(printed) == [f"introprior train: {where}: run the same command to go on"]
    assert below(tmp_path) == {state}
    assert introprior(*command) == (0, [f"{LABEL}: going on from iteration {reached} of {state}"])
    assert not state.exists()
    assert_same_training(tmp_path, undisturbed)


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_never_train_the_same_run_at_a_time(tmp_path, undisturbed, killed):
    """As after a Snakemake that was killed and started again, whose first job still runs."""
    command = training(tmp_path, "--state", tmp_path / "state", "--checkpoint-seconds", 0.05, **GAME_OF_8)
    with commands.process(*command) as first:
        commands.until_saved(first, tmp_path / "state")
        with commands.process(*command) as second:
            seen = b""
            while b"waiting" not in seen:
                seen += os.read(second.stderr.fileno(), 1000)
                assert second.poll() is None, seen
            if killed:
                first.kill()
            first.communicate(timeout=60)
            said = lines((seen + second.communicate(timeout=60)[1]).decode())
    assert (first.returncode, second.returncode) == (-9 if killed else 0, 0)
    assert said[0] == f"{LABEL}: another process is at it; waiting until that one ends"
    if killed:
        assert re.fullmatch(rf"{LABEL}: going on from iteration \d+ of .*", said[1])
    else:
        assert said[1:] == [f"{LABEL}: the other process has finished it"]
    assert_same_training(tmp_path, undisturbed)
    assert not list((tmp_path / "state").iterdir())


# ---- Divergence ----


EXPLODED = list(itertools.product(["mog5-ip-unclipped", "mog5-lc-ip-unclipped"], [200.0, math.inf, -200.0, -math.inf]))


@pytest.mark.parametrize(("cell", "value"), [*EXPLODED, ("mog5-lc-ip", 200.0), ("mog5-lc-ip", -200.0)])
def test_a_log_variance_that_explodes_is_recorded_at_once_or_clipped(tiny, cell, value):
    """Without clipping nothing bounds it; what it does to the losses is not a number."""
    run = tiny(cell)
    run.advance(8)
    prior = run.model.prior
    prior.logvars.data[0, 2] = value
    run.advance(12, log_every=1)
    (record,) = run.records()
    if cell.endswith("-unclipped"):
        assert record["status"] == "diverged"
        assert record["detail"].startswith("encoder_loss not finite at iteration 8 (last finite: vae_loss")
        assert run.iteration == 9  # nobody is left
    else:
        assert record["status"] == "ok"
        low, high = prior.low.min().item() - 1e-5, prior.high.max().item() + 1e-5
        for _, _, told in run.history.rows[-4:]:
            assert low <= told["prior_logvar_min"][0] <= told["prior_logvar_max"][0] <= high


DIVERGING = """\
experiment: diverging
density:
  datasets: [8Gaussian]
  seeds: [3, 2]
  training: {iterations: 6, warmup_iterations: 4, mixture_warmup_iterations: 2, batch_size: 16,
             monte_carlo_samples: 5, hidden_width: 16, hidden_layers: 2, learning_rate: 1.1, milestones: [5]}
  search: {cells: [sg], samples: 200, beta_rec: [0.2], beta_kl: [0.3], beta_neg_multiples: [1, 1.0e+30]}
  evaluation: {samples: 200, grid: 16, data_points: 32, monte_carlo_samples: 3}
images:
  datasets: [digits16]
  seeds: [0]
  r_entropy: [0]
  training: {epochs: 2, warmup_epochs: 1, mixture_warmup_epochs: 1, monte_carlo_samples: 2, learning_rate: 1.0e+6}
  by_dataset: {digits16: {batch_size: 750, latent_dim: 2, widths: [2, 2]}}
  evaluation: {epochs: [0, 2], features: classifier, classifier_epochs: 1, samples: 100, monte_carlo_samples: 2,
               grid_images: 8, latent_points: 60}
  probes: {svm_iterations: [10, 100], neighbours: [1, 5], train_images: 100}
tables: {table1: [vae-sg], table2: [mog4-ip], table5: [mog4-ip]}
figure2: {dataset: digits16, cell: mog4-ip, epochs: 2, every: 1}
figure3: {cells: [sg], seed: 3, points: 50, grid: 16}
figure4: {r_entropy: [0]}
latents: {cells: [mog4-ip]}
figureS2: {dataset: digits16, cell: mog4-ip, r_entropy: 0, iterations: 4}
"""


def test_what_diverges_is_never_retried_and_shown_in_the_tables(tmp_path):
    """Of two seeds one, of two settings one, and a run on images, from configuration to tables."""
    slower = "density: {training: {learning_rate: 0.01}}\n"
    project = Project(tmp_path, diverging=DIVERGING, slower=slower)
    results, once = tmp_path / "results/diverging", {"train", "evaluate", "warmup", "game", "evaluate_images"}
    tables = [results / "tables" / f"table{number}.md" for number in (1, 2, 3)]
    for targets, more, rules in ((tables[:2], [], once), (tables[2:], ["slower.yaml"], {"search", "select"})):
        names = [str(path.relative_to(tmp_path)) for path in targets]
        arguments = [*names, "--configfile", "diverging.yaml", *more, "--cores", "2", "--retries", "2"]
        code, printed = project.snakemake(*arguments)
        assert code == 0, printed[-5000:]
        assert "Error in rule" not in printed
        assert "Trying to restart" not in printed
        ran = finished(printed)
        assert {rule: ran[rule] for rule in rules} == dict.fromkeys(rules, 1)
    for name in ("density/8Gaussian/vae-sg/train", "images/digits16/mog4-ip/r0/seed0/train"):
        log = (results / "logs" / f"{name}.log").read_text()
        assert len(re.findall(r": diverged, \w+_loss not finite at iteration \d+", log)) == 1, log
    one, two, three = (path.read_text() for path in tables)
    assert "(1/2 seeds)" in one
    assert "2 settings, 1 diverged" in three
    assert "diverged" in two
    record = json.loads((results / "density/8Gaussian/vae-sg/ensemble.pt.provenance.json").read_text())
    assert [each["status"] for each in record["records"]] == ["ok", "diverged"]
