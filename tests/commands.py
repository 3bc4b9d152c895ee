"""The commands of the 2D half for tests: calls in few words, and what they are to have written, refused or kept."""

from __future__ import annotations

import contextlib
import csv
import gc
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import introprior as package
from introprior import cli
from introprior.errors import UserError
from introprior.training.loop import Training
from tests import warm

LABEL = "Checkerboard mog8-lc-ip"
SOURCES = Path(package.__file__).parents[1]
TRAINING = {"iterations": 12, "warmup_iterations": 4, "mixture_warmup_iterations": 2, "batch_size": 16}
TRAINING |= {"monte_carlo_samples": 3, "hidden_width": 8, "hidden_layers": 2, "learning_rate": 0.01, "milestones": [9]}
EVALUATION = {"samples": 200, "grid": 5, "data_points": 8, "monte_carlo_samples": 4}
EVALUATION |= {"panel_grid": 6, "panel_points": 40}
DATASET = "Checkerboard"  # on which even a hardly trained model has a point in the right place
NAMES = ("beta_rec", "beta_kl", "beta_neg")
GRID = [[0.2, 0.3, 0.9], [0.2, 0.3, 1.5], [0.8, 0.1, 0.5], [0.05, 1.0, 3.0]]
BETAS = (0.2, 0.3, 0.9)
END, GAME = 12, 4

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def introprior(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; its exit code, and the lines it printed on standard error apart from the progress bar."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, lines(capsys.readouterr().err)

    return run


def lines(printed: str) -> list[str]:
    """What was printed, without blank lines and the progress bar."""
    return [line for line in re.split(r"[\r\n]+", printed) if line.strip() and not re.search(r"\| \d+/\d+ \[", line)]


def below(folder: Path) -> set[Path]:
    """All files in a folder, hidden ones too, but for records of results and the progress that a process left."""
    aside = (".provenance.json", ".progress.json")
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(aside)}


def searching(folder: Path, *more: object, betas: Any = GRID, **options: Any) -> list[object]:
    """A search, of GRID unless told otherwise; results in ``folder``."""
    options = {"dataset": DATASET, "cell": "sg", "training": TRAINING, "samples": 2000, "betas": betas} | options
    return ["search", "--options", json.dumps(options), "--output", folder / "slice.csv", "--device", "cpu", *more]


def selecting(folder: Path, *more: object, slices: tuple[Path, ...] = ()) -> list[object]:
    """A choice from one or more slices."""
    names, output = slices or (folder / "slice.csv",), folder / "hyperparameters.json"
    return ["select", "--dataset", DATASET, "--cell", "sg", "--slices", *names, "--output", output, *more]


def training(folder: Path, *more: object, betas: Any = BETAS, **options: Any) -> list[object]:
    """A training of two seeds; ``betas`` None leaves them to ``more``."""
    options = {"dataset": DATASET, "cell": "sg", "seeds": [0, 1], "training": TRAINING} | options
    weights = [] if betas is None else ["--betas", *betas]
    outputs = ["--output", folder / "ensemble.pt", "--history", folder / "history.csv"]
    return ["train", "--options", json.dumps(options), *weights, *outputs, "--device", "cpu", *more]


def evaluating(folder: Path, *more: object, model: Path | None = None, **options: Any) -> list[object]:
    """An evaluation of ``model``, or what was trained in ``folder``."""
    outputs = ["--metrics", folder / "metrics.csv", "--panels", folder / "panels.npz", "--device", "cpu", *more]
    model = model or folder / "ensemble.pt"
    return ["evaluate", "--model", model, "--options", json.dumps(EVALUATION | options), *outputs]


def shorten(folder: Path, train: int, test: int) -> None:
    """Keep the first images of a prepared dataset."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for split, count in (("train", train), ("test", test)):
        manifest["splits"][split]["count"] = count
        for kind in ("images", "labels"):
            path = folder / manifest["splits"][split][kind]["file"]
            np.save(path, np.load(path)[:count])
    (folder / "manifest.json").write_text(json.dumps(manifest))


MAKERS = {"search": searching, "select": selecting, "train": training, "evaluate": evaluating}


def do(*arguments: object) -> None:
    """Run a command that has to succeed."""
    assert cli.main([str(argument) for argument in arguments]) == 0


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def settings(found: list[dict[str, str]]) -> list[list[float]]:
    """The weights in some rows."""
    return [[float(row[name]) for name in NAMES] for row in found]


def model(folder: Path) -> Any:
    """What a training wrote."""
    return torch.load(folder / "ensemble.pt", weights_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained ensemble and the results of a search."""
    folder = tmp_path_factory.mktemp("trained")
    do(*searching(folder))
    do(*training(folder))
    return folder


@pytest.fixture
def copied(tmp_path: Path, trained: Path) -> Path:
    """A folder with copies of both."""
    for name in ("slice.csv", "ensemble.pt"):
        shutil.copy(trained / name, tmp_path)
    return tmp_path


def assert_refused(outcome: tuple[int, list[str]], *words: object) -> None:
    """Exit code 2, and one line that begins with the command and has all the words."""
    code, said = outcome
    assert (code, len(said)) == (2, 1), said
    assert re.match(r"introprior( [a-z]+)?: ", said[0])
    assert [word for word in words if str(word) not in said[0]] == [], said[0]


def refused(act: Callable[[], object], *said: object) -> None:
    """That a call is refused in one line which says all this."""
    with pytest.raises(UserError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    assert [part for part in said if str(part) not in line] == [], line


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Ensemble and history are equal, bit by bit."""
    mine, other = model(ours), model(theirs)
    assert mine["run"] == other["run"]
    assert mine["records"] == other["records"]
    assert mine["model"]["tensors"].keys() == other["model"]["tensors"].keys()
    for name, tensor in other["model"]["tensors"].items():
        assert torch.equal(mine["model"]["tensors"][name], tensor), name
    assert (ours / "history.csv").read_text() == (theirs / "history.csv").read_text()


@contextlib.contextmanager
def limited(what: int, size: int) -> Iterator[None]:
    """While inside, this process may not have more of ``what``, such as ``resource.RLIMIT_FSIZE``."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A memory file system at ``folder``; skips the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a file system")
    try:
        yield
    finally:
        gc.collect()  # a failed writer, kept alive by its error's traceback, may have a file open
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, at: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """While inside, a signal arrives during the ``at``-th iteration of a training."""
    step = Training.step

    def stopped(self: Training) -> dict[str, Tensor]:
        if self.iteration == at - 1:
            signal.raise_signal(number)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", stopped)
        yield


LONG = TRAINING | {"iterations": 200, "batch_size": 128, "monte_carlo_samples": 20, "milestones": [150]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training long enough to be interrupted from outside, done without an interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    do(*training(folder, cell="mog8-lc-ip", training=LONG))
    return folder


def process(*arguments: object) -> subprocess.Popen[bytes]:
    """``introprior`` on its way."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [warm.programs() / "introprior", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until_saved(child: subprocess.Popen[bytes], state: Path) -> None:
    """Wait until a training has kept its state, in the folder for it, for the first time."""
    while not list(state.glob("train-*.pt")):
        time.sleep(0.002)
        assert child.poll() is None, child.stderr and child.stderr.read()
