"""The commands, in process where that suffices: what they write, what they refuse, how they stop and go on."""

from __future__ import annotations

import contextlib
import csv
import gc
import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from introprior.experiment.configuration import DATASETS
from torch import Tensor

import introprior as package
from introprior import cli
from introprior.data import density as data
from introprior.evaluation import density, search, selection
from introprior.metrics import density as metrics
from introprior.reporting.tables import common as tables
from introprior.reporting.tables import comparison
from introprior.training import checkpoints
from introprior.training.loop import Training
from tests import naive

CPU = torch.device("cpu")
SOURCES = Path(package.__file__).parents[1]

TRAINING = {"iterations": 12, "warmup_iterations": 4, "mixture_warmup_iterations": 2, "batch_size": 16}
TRAINING |= {"monte_carlo_samples": 3, "hidden_width": 8, "hidden_layers": 2, "learning_rate": 0.01, "milestones": [9]}
EVALUATION = {
    "samples": 200,
    "grid": 5,
    "data_points": 8,
    "monte_carlo_samples": 4,
    "panel_grid": 6,
    "panel_points": 40,
}
DATASET = "Checkerboard"  # on which even a hardly trained model has a point in the right place
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
    names = slices or (folder / "slice.csv",)
    output = folder / "hyperparameters.json"
    return ["select", "--dataset", DATASET, "--cell", "sg", "--slices", *names, "--output", output, *more]


def training(folder: Path, *more: object, betas: Any = BETAS, **options: Any) -> list[object]:
    """A training of two seeds; ``betas`` None leaves them to ``more``."""
    options = {"dataset": DATASET, "cell": "sg", "seeds": [0, 1], "training": TRAINING} | options
    weights = [] if betas is None else ["--betas", *betas]
    outputs = ["--output", folder / "ensemble.pt", "--history", folder / "history.csv"]
    return ["train", "--options", json.dumps(options), *weights, *outputs, "--device", "cpu", *more]


def evaluating(folder: Path, *more: object, model: Path | None = None, **options: Any) -> list[object]:
    """An evaluation of ``model``, or what was trained in ``folder``."""
    outputs = ["--metrics", folder / "metrics.csv", "--panels", folder / "panels.npz"]
    options = EVALUATION | options
    model = model or folder / "ensemble.pt"
    return ["evaluate", "--model", model, "--options", json.dumps(options), *outputs, "--device", "cpu", *more]


def do(*arguments: object) -> None:
    """Run a command that has to succeed."""
    assert cli.main([str(argument) for argument in arguments]) == 0


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained ensemble, its state file's twin ``state.pt``, and the results of a search."""
    folder = tmp_path_factory.mktemp("trained")
    do(*searching(folder))
    do(*training(folder))
    return folder


@pytest.fixture
def exact(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings and evaluations in float64, so that members agree alone and in company to rounding."""
    draw = data.sample_members
    monkeypatch.setattr(data, "sample_members", lambda *arguments: draw(*arguments).double())


# ---- What the commands write ----


RECORDED = {
    *("format", "command", "options", "inputs", "outputs"),
    *("seeds", "iterations", "resumed", "records"),
}
"""What the record of a training says beyond what its checkpoint does."""


@pytest.mark.parametrize("cell", ["vae-sg", "sg", "mog8-lc-ip"])
def test_training_writes_the_ensemble_and_its_history(tmp_path, introprior, cell):
    assert introprior(*training(tmp_path, "--state", tmp_path / "state", cell=cell)) == (0, [])
    assert below(tmp_path) == {tmp_path / "ensemble.pt", tmp_path / "history.csv"}
    content = torch.load(tmp_path / "ensemble.pt", weights_only=True)
    neg = None if cell == "vae-sg" else 0.9
    expected = [{"seed": seed, "beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": neg} for seed in (0, 1)]
    assert content["run"]["members"] == expected
    assert (content["run"]["dataset"], content["run"]["cell"]) == (DATASET, cell)
    assert content["run"]["training"].items() >= TRAINING.items()
    assert [record["status"] for record in content["records"]] == ["ok", "ok"]
    record = json.loads((tmp_path / "ensemble.provenance.json").read_text())
    assert record.keys() - content["provenance"].keys() == RECORDED
    assert all(content["provenance"][key] == record[key] for key in ("code", "commit", "libraries", "device"))
    assert (record["command"], record["device"], record["seeds"]) == ("train", "cpu", [0, 1])
    assert (record["iterations"], record["resumed"]) == (END, 0)
    assert record["records"] == [{"seed": seed, "status": "ok", "detail": ""} for seed in (0, 1)]
    assert record["options"]["training"] == TRAINING
    for name, made in record["outputs"].items():
        content_of = (tmp_path / name).read_bytes()
        assert made == {"sha256": hashlib.sha256(content_of).hexdigest(), "bytes": len(content_of)}
    assert set(record["outputs"]) == {"ensemble.pt", "history.csv"}
    assert not list(tmp_path.glob(".*progress*"))
    assert all(tensor.isfinite().all() for tensor in content["model"]["tensors"].values())
    history = rows(tmp_path / "history.csv")
    assert list(history[0]) == ["iteration", "seed", "quantity", "value"]
    logged = {(row["iteration"], row["seed"]) for row in history}
    assert logged == {(str(i), seed) for i in range(1, END + 1) for seed in "01"}
    played = {row["quantity"] for row in history if row["iteration"] == str(END)}
    assert ("encoder_loss" in played) is (cell != "vae-sg")
    assert all(math.isfinite(float(row["value"])) for row in history)


def test_a_search_writes_one_row_per_setting_in_the_order_of_the_grid(trained):
    found = rows(trained / "slice.csv")
    assert list(found[0]) == ["beta_rec", "beta_kl", "beta_neg", "seed", "KL", "JSD", "status", "detail"]
    assert [[float(row[name]) for name in ("beta_rec", "beta_kl", "beta_neg")] for row in found] == GRID
    assert {(row["seed"], row["status"], row["detail"]) for row in found} == {("0", "ok", "")}
    assert all(float(row["KL"]) > 0 and float(row["JSD"]) > 0 for row in found)


def test_a_searched_setting_is_the_same_as_one_trained_alone(tmp_path, exact):
    do(*searching(tmp_path, cell="mog8-lc-ip", seed=3, samples=2000))
    found = rows(tmp_path / "slice.csv")
    assert len({row["KL"] for row in found}) == len(GRID)
    for row, betas in list(zip(found, GRID, strict=True))[1:3]:
        do(*training(tmp_path, cell="mog8-lc-ip", seeds=[3], betas=betas))
        do(*evaluating(tmp_path, samples=2000))
        alone = {measured["metric"]: measured["value"] for measured in rows(tmp_path / "metrics.csv")}
        for metric in ("KL", "JSD"):
            assert float(row[metric]) == pytest.approx(float(alone[metric]), rel=1e-9)


def test_the_lowest_kl_of_all_slices_is_selected(tmp_path, introprior):
    header = "beta_rec,beta_kl,beta_neg,seed,KL,JSD,status,detail\n"
    (tmp_path / "0.csv").write_text(header + "1,2,3,0,9.5,1,ok,\n4,5,6,0,,,diverged,encoder_loss not finite\n")
    (tmp_path / "1.csv").write_text(header + "7,8,9,0,10.25,1,ok,\n0.1,0.2,0.3,0,9.25,1,ok,\n1,1,1,0,9.25,1,ok,\n")
    slices = (tmp_path / "0.csv", tmp_path / "1.csv")
    assert introprior(*selecting(tmp_path, slices=slices)) == (0, [])
    assert json.loads((tmp_path / "hyperparameters.json").read_text()) == {
        "dataset": DATASET,
        "cell": "sg",
        "source": "search",
        "beta_rec": 0.1,
        "beta_kl": 0.2,
        "beta_neg": 0.3,
        "KL": 9.25,
        "settings": 5,
        "diverged": 1,
    }


@pytest.mark.parametrize(("cell", "grid"), [("sg", GRID), ("vae-mog4", [[0.2, 0.3, None], [0.8, 0.1, None]])])
def test_what_was_selected_is_what_is_trained(tmp_path, cell, grid):
    do(*searching(tmp_path, cell=cell, betas=grid))
    do(*selecting(tmp_path, "--cell", cell))
    chosen = json.loads((tmp_path / "hyperparameters.json").read_text())
    found = rows(tmp_path / "slice.csv")
    best = min(range(len(found)), key=lambda i: float(found[i]["KL"]))
    assert [chosen[name] for name in ("beta_rec", "beta_kl", "beta_neg")] == grid[best]
    do(*training(tmp_path, "--hyperparameters", tmp_path / "hyperparameters.json", betas=None, cell=cell))
    (member, _) = torch.load(tmp_path / "ensemble.pt", weights_only=True)["run"]["members"]
    assert [member[name] for name in ("beta_rec", "beta_kl", "beta_neg")] == grid[best]


def test_flags_and_options_are_two_ways_to_say_the_same(tmp_path):
    do(*training(tmp_path, seeds=[4], protocol={"conversion": "at-game"}))
    wanted = torch.load(tmp_path / "ensemble.pt", weights_only=True)
    (tmp_path / "options.json").write_text(json.dumps({"training": TRAINING | {"iterations": 90}, "cell": "mog9"}))
    flags = ["--options", tmp_path / "options.json", "--dataset", DATASET, "--cell", "sg", "--seeds", "4"]
    flags += ["--set", "training.iterations=12", "--set", "protocol.conversion=at-game"]
    do("train", *flags, "--betas", *BETAS, "--output", tmp_path / "b.pt", "--history", tmp_path / "b.csv")
    given = torch.load(tmp_path / "b.pt", weights_only=True)
    assert given["run"] == wanted["run"]
    for name, tensor in wanted["model"]["tensors"].items():
        assert torch.equal(given["model"]["tensors"][name], tensor)


def test_a_protocol_can_be_chosen_by_name(tmp_path):
    do(*training(tmp_path, "--protocol", "text", protocol={"loss_scale": "per-element"}))
    chosen = torch.load(tmp_path / "ensemble.pt", weights_only=True)["run"]["protocol"]
    assert (chosen["conversion"], chosen["loss_scale"]) == ("at-game", "per-element")


# ---- Successive halving ----

HALVING = {"keep": 0.5, "at": [0.5]}


def test_halving_drops_the_worse_settings_and_says_so(tmp_path, exact, monkeypatch):
    do(*searching(tmp_path))
    whole = rows(tmp_path / "slice.csv")
    judged = []
    finished = search.finished
    monkeypatch.setattr(search, "finished", lambda *arguments: judged.append(finished(*arguments)) or judged[-1])
    do(*searching(tmp_path, halving=HALVING))
    halved, early = rows(tmp_path / "slice.csv"), judged[0]
    assert [[float(row[name]) for name in ("beta_rec", "beta_kl", "beta_neg")] for row in halved] == GRID
    losers = sorted(range(4), key=lambda i: early[i]["KL"])[2:]
    for i, row in enumerate(halved):
        if i in losers:
            assert row["detail"] == "dropped by successive halving at iteration 6"
            assert float(row["KL"]) == early[i]["KL"]
        else:
            assert row["detail"] == ""
            assert float(row["KL"]) == pytest.approx(float(whole[i]["KL"]), rel=1e-9)
    assert {row["status"] for row in halved} == {"ok"}


def test_what_was_dropped_is_not_selected_while_others_finished(tmp_path):
    row = {"beta_rec": "1", "beta_kl": "1", "beta_neg": "1", "seed": "0", "JSD": "1", "status": "ok"}
    dropped = {**row, "KL": "2.0", "detail": "dropped by successive halving at iteration 6"}
    finished = {**row, "beta_rec": "5", "KL": "3.0", "detail": ""}
    diverged = {**row, "KL": "", "status": "diverged", "detail": "vae_loss not finite"}
    assert selection.choose([dropped, diverged, finished])["beta_rec"] == 5
    assert selection.choose([dropped, diverged])["KL"] == 2.0


@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_search_that_was_interrupted_around_a_rung_ends_alike(tmp_path, introprior, monkeypatch, at):
    do(*searching(tmp_path, halving=HALVING))
    whole = (tmp_path / "slice.csv").read_text()
    (tmp_path / "slice.csv").unlink()
    command = searching(tmp_path, "--state", tmp_path / "state", halving=HALVING)
    with stopping(monkeypatch, at):
        assert introprior(*command)[0] == 143
    code, said = introprior(*command)
    assert code == 0
    assert f"going on from iteration {at}" in said[0]
    assert (tmp_path / "slice.csv").read_text() == whole
    assert below(tmp_path) == {tmp_path / "slice.csv"}


# ---- Evaluation ----


def test_an_evaluation_is_complete(tmp_path, trained):
    do(*evaluating(tmp_path, model=trained / "ensemble.pt"))
    measured = rows(tmp_path / "metrics.csv")
    assert list(measured[0]) == ["dataset", "cell", "seed", "metric", "value", "status", "detail"]
    floors = metrics.floors(DATASET, EVALUATION["samples"], 4.0, repeats=20, seed=0)
    names = ["gnELBO", "KL", "JSD", "JSD_nats", *floors]
    assert [(row["seed"], row["metric"]) for row in measured] == [(seed, name) for seed in "01" for name in names]
    assert {(row["dataset"], row["cell"], row["status"], row["detail"]) for row in measured} == {
        (DATASET, "sg", "ok", "")
    }
    for row in measured:
        assert float(row["value"]) == floors.get(row["metric"], float(row["value"]))
        assert float(row["value"]) > 0
    assert len({row["value"] for row in measured if row["metric"] == "KL"}) == 2


def test_an_evaluation_is_the_same_twice(tmp_path, trained):
    for name in ("a", "b"):
        do(*evaluating(tmp_path / name, model=trained / "ensemble.pt"))
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()
    with np.load(tmp_path / "a/panels.npz") as a, np.load(tmp_path / "b/panels.npz") as b:
        assert set(a) == set(b)
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("cell", "components"), [("sg", 1), ("vae-sg", 1), ("mog4-lc-ip", 4)])
def test_panels_have_all_that_the_figure_shows(tmp_path, cell, components):
    do(*training(tmp_path, cell=cell, dataset="Rings"))
    do(*evaluating(tmp_path, panel_grid=40, panel_seed=1))
    with np.load(tmp_path / "panels.npz") as panels:
        shapes = {name: value.shape for name, value in panels.items()}
        assert shapes == {
            **dict.fromkeys(("data", "samples", "latent"), (40, 2)),
            **dict.fromkeys(("density", "latent_density"), (40, 40)),
            "prior_means": (components, 2),
            "prior_weights": (components,),
            **dict.fromkeys(("limit", "latent_limit", "dataset", "cell", "seed", "status", "detail"), ()),
        }
        assert (str(panels["dataset"]), str(panels["cell"]), int(panels["seed"])) == ("Rings", cell, 1)
        assert (str(panels["status"]), str(panels["detail"]), float(panels["limit"])) == ("ok", "", 4.0)
        assert panels["density"].sum() * (8 / 39) ** 2 == pytest.approx(1, abs=1e-5)
        assert panels["density"].min() >= 0
        assert panels["prior_weights"].sum() == pytest.approx(1, abs=1e-6)
        assert np.abs(panels["latent"]).max() <= float(panels["latent_limit"])
        if components == 1:  # the standard Gaussian, on a grid of its own
            side = np.linspace(-float(panels["latent_limit"]), float(panels["latent_limit"]), 40)
            wanted = np.exp(-(side[:, None] ** 2 + side**2) / 2) / (2 * math.pi)
            np.testing.assert_allclose(panels["latent_density"], wanted, rtol=1e-4)


def test_a_model_that_misses_the_window_altogether_counts_as_diverged(tmp_path, trained):
    content = torch.load(trained / "ensemble.pt", weights_only=True)
    *_, last = (name for name in content["model"]["tensors"] if re.match(r"decoder\..*bias", name))
    content["model"]["tensors"][last] += 100
    torch.save(content, tmp_path / "ensemble.pt")
    do(*evaluating(tmp_path))
    measured = {row["metric"]: row for row in rows(tmp_path / "metrics.csv") if row["seed"] == "1"}
    for name in ("KL", "JSD", "JSD_nats"):
        assert (measured[name]["value"], measured[name]["status"]) == ("", "diverged")
        assert measured[name]["detail"] == f"{name} is not finite: no generated point lies in the window"
    assert (measured["gnELBO"]["status"], measured["KL_floor"]["status"]) == ("ok", "ok")


class Replayed:
    """One member's random numbers for an evaluation, in the order in which the evaluation draws them."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.empty(shape).normal_(generator=self.generator)

    def real(self, name: str, n: int) -> Tensor:
        return data.sample(name, n, self.generator)

    @torch.no_grad()
    def generated(self, model: naive.Model, n: int) -> Tensor:
        noise = self.normal(n, 2)
        return model.decode(naive.draw(model.mixture(), noise, torch.empty(n).uniform_(generator=self.generator)))


@torch.no_grad()
def negative_elbo(model: naive.Model, point: Tensor, noise: Tensor) -> float:
    """KL + reconstruction error of one point; every draw by itself."""
    mean, logvar = model.encode(point.unsqueeze(0))
    logvar = logvar.clamp(min=-80)
    mixture, kl = model.mixture(), 0.0
    for eps in noise:
        z = mean + (logvar / 2).exp() * eps
        kl += float(naive.log_gaussian(z, mean, logvar) - naive.log_prob(z, mixture)) / len(noise)
    return kl + float(((model.decode(mean)[0] - point) ** 2).sum())


def probabilities(points: Tensor, limit: float) -> list[float]:
    """Counted shares of 100 x 100 bins."""
    counts = [0] * 10_000
    for x, y in points.tolist():
        if abs(x) < limit and abs(y) < limit:
            counts[100 * int((x + limit) / (2 * limit) * 100) + int((y + limit) / (2 * limit) * 100)] += 1
    total = sum(counts)
    return [count / total for count in counts]


def divergence(p: list[float], q: list[float], scale: float = 1.0, guard: float = 0.0) -> float:
    """Sum of ``scale p (log scale p - log(scale q + guard))``."""
    return sum(scale * a * (math.log(scale * a) - math.log(scale * b + guard)) for a, b in zip(p, q, strict=True) if a)


@pytest.mark.parametrize("cell", ["sg", "mog4-lc-ip"])
def test_evaluation_agrees_with_explicit_loops(tmp_path, exact, cell):
    do(*training(tmp_path, cell=cell, seeds=[5, 2]))
    content = torch.load(tmp_path / "ensemble.pt", weights_only=True)
    *_, last = (name for name in content["model"]["tensors"] if re.match(r"decoder\..*weight", name))
    content["model"]["tensors"][last] *= 30  # spread what it generates over the window
    torch.save(content, tmp_path / "ensemble.pt")
    do(*evaluating(tmp_path, panel_seed=2, samples=600))
    limit, bins_per_area = 4.0, 100**2 / 8**2
    ensemble = density.Ensemble.read(tmp_path / "ensemble.pt", CPU)
    measured = {(int(row["seed"]), row["metric"]): float(row["value"]) for row in rows(tmp_path / "metrics.csv")}

    def plane(side: int) -> list[Tensor]:
        axis = [-limit + 2 * limit * i / (side - 1) for i in range(side)]
        return [torch.tensor([x, y]) for y in axis for x in axis]

    model, draws = naive.Model(ensemble.model, 1), Replayed(2 + END - 1)
    p, q = (probabilities(s, limit) for s in (draws.real(DATASET, 600), draws.generated(model, 600)))
    assert measured[2, "KL"] == pytest.approx(divergence(p, q, bins_per_area, 1e-14) / 100, rel=1e-9)
    p, q = (probabilities(s, limit) for s in (draws.real(DATASET, 600), draws.generated(model, 600)))
    assert sum(a > 0 < b for a, b in zip(p, q, strict=True)) > 3  # else the divergences would say little
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    jsd = sum(divergence(m, part, bins_per_area, 1e-14) for part in (p, q)) / 200
    assert measured[2, "JSD"] == pytest.approx(jsd, rel=1e-9)
    assert measured[2, "JSD_nats"] == pytest.approx((divergence(p, m) + divergence(q, m)) / 2, rel=1e-9)
    noise = draws.normal(4, 2)
    grid = [negative_elbo(model, point, noise) for point in plane(5)]
    real = [negative_elbo(model, point, noise) for point in draws.real(DATASET, 8)]
    gnelbo = 1e7 * (sum(real) / 8) / (sum(grid) + sum(real))
    assert measured[2, "gnELBO"] == pytest.approx(gnelbo, rel=1e-6)

    draws = Replayed(2 + END)  # the panels' own, of the member called for
    real, noise = draws.real(DATASET, 40), draws.normal(4, 2)
    energies = torch.tensor([negative_elbo(model, point, noise) for point in plane(6)])
    mixture = model.mixture()
    with np.load(tmp_path / "panels.npz") as panels:
        wanted = {
            "data": real,
            "density": (torch.softmax(-energies, 0) / (8 / 5) ** 2).view(6, 6),
            "latent": model.encode(real)[0],
            "samples": draws.generated(model, 40),
            "prior_means": mixture.means if cell != "sg" else torch.empty(0, 2),
            "prior_weights": mixture.log_weights.exp() if cell != "sg" else torch.empty(0),
        }
        for name, values in wanted.items():
            np.testing.assert_allclose(panels[name], values.detach(), rtol=2e-5, atol=2e-6, err_msg=name)
        side = torch.linspace(-float(panels["latent_limit"]), float(panels["latent_limit"]), 6)
        window = torch.stack([torch.stack([x, y]) for y in side for x in side])
        prior = naive.log_prob(window, mixture).exp().view(6, 6).detach()
        np.testing.assert_allclose(panels["latent_density"], prior, rtol=1e-4, atol=1e-7)


# ---- Bad input ----

Case = tuple[Callable[[Path], list[object]], list[str]]

REFUSED: dict[str, Case] = {
    "dataset": (lambda f: training(f, dataset="8Gausian"), ["--dataset", "'8Gausian'", "did you mean '8Gaussian'"]),
    "dataset-of-search": (lambda f: searching(f, dataset="rings"), ["--dataset", "did you mean 'Rings'"]),
    "dataset-of-select": (lambda f: selecting(f, "--dataset", "Ring"), ["--dataset", "did you mean 'Rings'"]),
    "no-dataset": (lambda f: training(f, dataset=None), ["--dataset is missing"]),
    "no-cell": (lambda f: searching(f, cell=None), ["--cell is missing"]),
    "cell": (lambda f: training(f, cell="mog-64"), ["--cell", "'mog-64'", "for example vae-sg"]),
    "cell-of-select": (lambda f: selecting(f, "--cell", "sq"), ["--cell", "'sq'"]),
    "no-components": (lambda f: training(f, cell="mog0"), ["--cell", "at least 1 component"]),
    "contradictory-cell": (lambda f: searching(f, cell="sg-lc"), ["--cell", "nothing to learn"]),
    "key": (lambda f: training(f, seed=[1]), ["--options", "'seed'", "did you mean 'seeds'"]),
    "key-of-search": (lambda f: searching(f, sampels=3), ["--options", "did you mean 'samples'"]),
    "key-of-evaluate": (lambda f: evaluating(f, gird=3), ["--options", "did you mean 'grid'"]),
    "key-of-training": (lambda f: training(f, training={"iteration": 3}), ["training", "did you mean 'iterations'"]),
    "key-of-protocol": (lambda f: training(f, protocol={"conversions": 1}), ["protocol", "did you mean 'conversion'"]),
    "choice-of-protocol": (lambda f: training(f, protocol={"loss_scale": "no"}), ["loss_scale", "per-element, none"]),
    "protocol": (lambda f: training(f, "--protocol", "paper"), ["--protocol", "'paper'", "authors"]),
    "protocol-as-text": (lambda f: training(f, protocol="text"), ["protocol", "a section of keys", "'text'"]),
    "beta_rec": (lambda f: training(f, betas=(0, 0.3, 0.9)), ["--betas: beta_rec: 0.0 is not positive"]),
    "beta_kl": (lambda f: training(f, betas=(0.2, -0.3, 0.9)), ["--betas: beta_kl: -0.3 is not positive"]),
    "beta_neg": (lambda f: searching(f, betas=[[0.2, 0.3, 0]]), ["betas: beta_neg: 0 is not positive"]),
    "beta-nan": (lambda f: training(f, betas=(0.2, 0.3, "nan")), ["--betas", "nan"]),
    "beta-inf": (lambda f: training(f, betas=(0.2, 0.3, "inf")), ["--betas", "inf"]),
    "beta-text": (lambda f: training(f, betas=(0.2, 0.3, "x")), ["--betas", "invalid float value: 'x'", "--help"]),
    "one-beta": (lambda f: training(f, betas=(0.2,)), ["--betas", "beta_rec, beta_kl and"]),
    "four-betas": (lambda f: training(f, betas=(1, 1, 1, 1)), ["--betas", "beta_rec, beta_kl and"]),
    "two-betas-for-a-game": (lambda f: training(f, betas=(0.2, 0.3)), ["beta_neg is missing"]),
    "no-setting": (lambda f: searching(f, betas=[]), ["betas", "at least one"]),
    "settings-as-text": (lambda f: searching(f, betas=[["0.2", 1, 1]]), ["betas", "must be the numbers"]),
    "settings-flat": (lambda f: searching(f, betas=[0.2, 0.3, 0.9]), ["betas", "must be the numbers"]),
    "setting-twice": (lambda f: searching(f, betas=[*GRID, GRID[0]]), ["occurs twice", "once"]),
    "no-betas": (lambda f: training(f, betas=None), ["--hyperparameters", "--betas", "required"]),
    "no-seeds": (lambda f: training(f, seeds=[]), ["at least one seed"]),
    "no-seeds-by-flag": (lambda f: training(f, "--seeds"), ["--seeds", "at least one argument"]),
    "seed-twice": (lambda f: training(f, "--seeds", 3, 3), ["occurs twice", "once"]),
    "negative-seed": (lambda f: training(f, seeds=[-1]), ["seeds", "from 0 to 4294967295", "-1"]),
    "seed-as-text": (lambda f: training(f, seeds=["a"]), ["seeds", "'a'"]),
    "seed-as-list": (lambda f: searching(f, seed=[0]), ["seed", "a whole number", "[0]"]),
    "batch-of-rings": (
        lambda f: training(f, dataset="Rings", training=TRAINING | {"batch_size": 18}),
        ["training.batch_size", "Rings", "multiple of 4", "16 or 20"],
    ),
    "samples-of-rings": (lambda f: searching(f, dataset="Rings", samples=201), ["samples", "multiple of 4"]),
    "no-iterations": (lambda f: training(f, training={"iterations": 0}), ["training.iterations", "not positive"]),
    "text-for-a-number": (
        lambda f: training(f, "--set", "training.iterations=many"),
        ["training.iterations", "a whole number", "'many'"],
    ),
    "fraction-of-a-batch": (lambda f: training(f, training={"batch_size": 2.5}), ["training.batch_size", "whole"]),
    "text-for-a-rate": (lambda f: training(f, training={"learning_rate": "1e-4"}), ["learning_rate", "finite number"]),
    "milestone": (lambda f: training(f, training={"milestones": 3}), ["training.milestones", "list of whole numbers"]),
    "training-as-number": (lambda f: training(f, "--set", "training=3"), ["training", "section of keys"]),
    "key-of-a-value": (lambda f: training(f, "--set", "cell.name=sg"), ["--set cell.name=sg", "no keys"]),
    "set-nothing": (lambda f: training(f, "--set", "training.alpha"), ["--set training.alpha", "KEY=VALUE"]),
    "halving": (lambda f: searching(f, halving={"at": [0.5]}), ["halving", "'keep': 0.5"]),
    "halving-beyond": (lambda f: searching(f, halving={"keep": 2, "at": [0.5]}), ["halving", "from 0 to 1"]),
    "halving-at": (lambda f: searching(f, halving={"keep": 0.5, "at": 0.5}), ["halving", "'at': [0.25, 0.5]"]),
    "grid": (lambda f: evaluating(f, grid=1), ["grid", "at least 2"]),
    "no-samples": (lambda f: evaluating(f, samples=0), ["samples", "at least 1"]),
    "samples-as-text": (lambda f: evaluating(f, samples="200"), ["samples", "a whole number", "'200'"]),
    "panel-seed": (
        lambda f: evaluating(f, model=f.parent / "ensemble.pt", panel_seed=7),
        ["seed", "7", "not among the trained seeds [0, 1]", "choose one"],
    ),
    "other-dataset": (
        lambda f: evaluating(f, model=f.parent / "ensemble.pt", dataset="Rings"),
        ["ensemble.pt", "trained for the dataset Checkerboard, not Rings", "--model"],
    ),
    "other-cell": (
        lambda f: evaluating(f, model=f.parent / "ensemble.pt", cell="mog64"),
        ["ensemble.pt", "trained for the cell sg, not mog64", "--model"],
    ),
    "json": (lambda f: [*training(f), "--options", '{"cell": '], ["--options", "not valid JSON"]),
    "json-of-another-kind": (lambda f: [*training(f), "--options", f.parent / "list.json"], ["list.json", "section"]),
    "file-of-options": (lambda f: [*training(f), "--options", f / "none.json"], ["none.json", "No such file"]),
    "file-of-slices": (lambda f: selecting(f), ["slice.csv", "No such file"]),
    "file-of-the-model": (lambda f: evaluating(f), ["ensemble.pt", "no such checkpoint"]),
    "file-of-hyperparameters": (
        lambda f: training(f, "--hyperparameters", f / "none.json", betas=None),
        ["none.json", "No such file"],
    ),
    "device": (lambda f: training(f, "--device", "gpu"), ["device", "'gpu'", "auto, cpu, cuda or cuda:N"]),
    "no-gpu": (lambda f: training(f, "--device", "cuda"), ["device", "0 GPU(s)", "use auto or cpu"]),
    "gpu-9": (lambda f: evaluating(f, "--device", "cuda:9"), ["device", "'cuda:9'", "0 GPU(s)"]),
    "command": (lambda f: ["trian"], ["invalid choice: 'trian'", "train"]),
    "no-command": (lambda f: [], ["COMMAND", "--help"]),
    "no-output": (lambda f: ["search"], ["--output", "required"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line(tmp_path, introprior, trained, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained nevertheless"))
    shutil.copy(trained / "ensemble.pt", tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    before = below(tmp_path)
    command, words = REFUSED[name]
    assert_refused(introprior(*command(tmp_path / "results")), *words)
    assert below(tmp_path) == before


def assert_refused(outcome: tuple[int, list[str]], *words: object) -> None:
    """Exit code 2, and one line that begins with the command and has all the words."""
    code, said = outcome
    assert (code, len(said)) == (2, 1), said
    assert re.match(r"introprior( search| select| train| evaluate)?: ", said[0])
    assert [word for word in words if str(word) not in said[0]] == [], said[0]


def test_more_gpus_than_there_are(tmp_path, introprior, monkeypatch):
    monkeypatch.setenv("INTROPRIOR_SIMULATED_GPUS", "2")
    assert_refused(introprior(*training(tmp_path, "--device", "cuda:2")), "'cuda:2'", "2 GPU(s)")


def test_the_environment_chooses_the_device(tmp_path, introprior, monkeypatch):
    monkeypatch.setenv("INTROPRIOR_DEVICE", "gpu")
    command = training(tmp_path)
    del command[command.index("--device") :]
    assert_refused(introprior(*command), "device: unknown 'gpu'")


def test_known_datasets_need_no_torch_to_be_known():
    assert set(DATASETS) == set(data.DATASETS)


# ---- Damaged files ----


@pytest.mark.parametrize("part", [0, 0.3, 0.99])
def test_a_truncated_model_is_refused(tmp_path, introprior, trained, part):
    whole = (trained / "ensemble.pt").read_bytes()
    (tmp_path / "ensemble.pt").write_bytes(whole[: int(part * len(whole))])
    assert_refused(introprior(*evaluating(tmp_path)), tmp_path / "ensemble.pt", "damaged", "delete it and run again")
    assert below(tmp_path) == {tmp_path / "ensemble.pt"}


def test_truncated_hyperparameters_are_refused(tmp_path, introprior, trained):
    do(*selecting(tmp_path, slices=(trained / "slice.csv",)))
    path = tmp_path / "hyperparameters.json"
    whole = path.read_text().rstrip()
    for size in (0, 1, 40, len(whole) - 1):
        path.write_text(whole[:size])
        command = training(tmp_path, "--hyperparameters", path, betas=None)
        assert_refused(introprior(*command), path, "delete it and run again")
    path.write_text('{"beta_rec": 0.1, "beta_kl": 0.2}')
    assert_refused(introprior(*training(tmp_path, "--hyperparameters", path, betas=None)), path, "beta_neg")
    path.write_text('{"beta_rec": null, "beta_kl": 0.2, "beta_neg": 1}')
    assert_refused(introprior(*training(tmp_path, "--hyperparameters", path, betas=None)), path, "numbers")
    assert below(tmp_path) == {path}


def test_a_truncated_slice_is_refused_wherever_it_was_cut(tmp_path, introprior, trained):
    whole, path = (trained / "slice.csv").read_text(), tmp_path / "slice.csv"
    cuts = [cut for cut in range(len(whole)) if whole[:cut].count("\n") < 2 or not whole[:cut].endswith("\n")]
    for cut in cuts:
        path.write_text(whole[:cut])
        assert_refused(introprior(*selecting(tmp_path)), path, "truncated", "delete it and run again")
    assert below(tmp_path) == {path}


def test_the_state_of_another_run_is_refused(tmp_path, introprior, monkeypatch):
    states = []
    for seed in (0, 1):
        with stopping(monkeypatch, 6):
            introprior(*training(tmp_path, "--state", tmp_path / str(seed), seeds=[seed]))
        states += below(tmp_path / str(seed))
    assert states[0].name != states[1].name
    shutil.copy(states[1], states[0])
    command = training(tmp_path, "--state", tmp_path / "0", seeds=[0])
    assert_refused(introprior(*command), states[0], "another run", "delete it")
    assert below(tmp_path) == set(states)


def test_a_state_is_no_model(tmp_path, introprior, monkeypatch):
    with stopping(monkeypatch, 6):
        introprior(*training(tmp_path, "--state", tmp_path / "state"))
    (state,) = below(tmp_path)
    assert_refused(introprior(*evaluating(tmp_path, model=state)), state, "not a trained ensemble", "introprior train")


# ---- Places that cannot be written ----


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


@pytest.fixture(params=["below-a-file", "read-only"])
def unwritable(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that nothing can be written to."""
    folder = tmp_path / "place"
    if request.param == "below-a-file":
        folder.write_text("in the way")
        yield folder / "results"
    elif os.geteuid() != 0:  # whom permissions bind
        folder.mkdir(mode=0o555)
        yield folder
    else:
        with mounted(folder, "ro"):
            yield folder


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk without a free byte."""
    folder = tmp_path / "place"
    with mounted(folder, "size=64k"):
        with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        yield folder


def writing(option: str, folder: Path, place: Path) -> list[object]:
    """A command one of whose files is in ``place``; the others are in ``folder``."""
    kind, _, option = option.partition(" ")
    name = {"--output": "file.out", "--state": "", "--history": "h.csv", "--metrics": "m.csv", "--panels": "p.npz"}
    makers = {"search": searching, "select": selecting, "train": training, "evaluate": evaluating}
    return makers[kind](folder, option, place / name[option], *["--checkpoint-seconds", 0] * (option == "--state"))


PLACES = ("search --output", "search --state", "select --output", "train --output", "train --history", "train --state")
PLACES += ("evaluate --metrics", "evaluate --panels")


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_cannot_be_written_is_found_out_at_once(
    tmp_path, introprior, trained, unwritable, monkeypatch, place
):
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained nevertheless"))
    monkeypatch.setattr(density, "measure", lambda *arguments: pytest.fail("evaluated nevertheless"))
    for name in ("slice.csv", "ensemble.pt"):
        shutil.copy(trained / name, tmp_path)
    before = below(tmp_path)
    command = writing(place, tmp_path, unwritable)
    assert_refused(introprior(*command), unwritable, "cannot write", "point the results elsewhere")
    assert below(tmp_path) == before


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_leaves_nothing_half_written(tmp_path, introprior, trained, full, place):
    for name in ("slice.csv", "ensemble.pt"):
        shutil.copy(trained / name, tmp_path)
    assert_refused(introprior(*writing(place, tmp_path, full)), full, "cannot write", "free some space")
    assert [path.name for path in below(full)] == ["ballast"]
    assert not [path for path in below(tmp_path) if ".part" in path.name]
    for path in below(tmp_path) - {full / "ballast"}:  # what else was written is whole
        if path.suffix == ".pt":
            checkpoints.load(path)


@pytest.mark.parametrize("make", [searching, selecting, training, evaluating])
def test_a_file_that_may_not_grow_leaves_nothing_half_written(tmp_path, introprior, trained, make):
    for name in ("slice.csv", "ensemble.pt"):
        shutil.copy(trained / name, tmp_path)
    command = [str(argument).replace("slice.csv", "new.csv") for argument in make(tmp_path)]
    command = [str(argument).replace("ensemble.pt", "new.pt") for argument in command]
    for old, new in (("slice.csv", "new.csv"), ("ensemble.pt", "new.pt")):
        if make in (selecting, evaluating):
            shutil.copy(tmp_path / old, tmp_path / new)
    before = below(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        outcome = introprior(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert_refused(outcome, tmp_path, "cannot write", "free some space")
    gc.collect()
    assert below(tmp_path) == before


# ---- Interruptions ----


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


@pytest.mark.parametrize("at", [1, GAME, END - 1])
def test_the_same_command_goes_on_where_it_was_stopped(tmp_path, introprior, monkeypatch, at):
    do(*training(tmp_path / "whole", cell="mog8-lc-ip"))
    command = training(tmp_path, "--state", tmp_path / "state", cell="mog8-lc-ip")
    with stopping(monkeypatch, at):
        code, said = introprior(*command)
    (state,) = below(tmp_path) - below(tmp_path / "whole")
    message = f"Checkerboard mog8-lc-ip: stopped at iteration {at}; saved to {state}: run the same command to go on"
    assert (code, said) == (143, [f"introprior train: {message}"])
    assert introprior(*command) == (0, [f"Checkerboard mog8-lc-ip: going on from iteration {at} of {state}"])
    assert not state.exists()
    assert_same_training(tmp_path, tmp_path / "whole")


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Ensemble and history are equal, bit by bit."""
    mine, other = (torch.load(folder / "ensemble.pt", weights_only=True) for folder in (ours, theirs))
    assert mine["run"] == other["run"]
    assert mine["records"] == other["records"]
    assert mine["model"]["tensors"].keys() == other["model"]["tensors"].keys()
    for name, tensor in other["model"]["tensors"].items():
        assert torch.equal(mine["model"]["tensors"][name], tensor), name
    assert (ours / "history.csv").read_text() == (theirs / "history.csv").read_text()


def test_without_a_folder_for_the_state_a_stopped_command_says_so(tmp_path, introprior, monkeypatch):
    with stopping(monkeypatch, 3, signal.SIGINT):
        code, (line,) = introprior(*training(tmp_path))
    assert code == 130
    assert line == "introprior train: Checkerboard sg: stopped at iteration 3; nothing was saved"
    assert below(tmp_path) == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("what", ["train", "search", "evaluate"])
def test_a_signal_while_results_are_written_leaves_nothing_half_written(
    tmp_path, introprior, trained, monkeypatch, number, code, what
):
    shutil.copy(trained / "ensemble.pt", tmp_path / "model.pt")

    def half(*arguments: Any, **_: Any) -> None:
        place = next(each for each in arguments if not isinstance(each, dict))
        path = place if isinstance(place, Path) else Path(place.name)
        path.write_bytes(b"half of it")
        if ".part" in path.name and not re.search(r"\.(probe|progress)", path.name):
            signal.raise_signal(number)

    monkeypatch.setattr(torch, "save", half)
    monkeypatch.setattr(np, "savez_compressed", half)
    write_text = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text: half(path) if text else write_text(path, text))
    handler = signal.getsignal(signal.SIGTERM)
    commands = {"train": training(tmp_path), "search": searching(tmp_path)}
    commands["evaluate"] = evaluating(tmp_path, model=tmp_path / "model.pt")
    outcome = introprior(*commands[what])
    assert outcome == (code, [f"introprior {what}: interrupted; run the same command again"])
    assert signal.getsignal(signal.SIGTERM) is handler
    assert below(tmp_path) == {tmp_path / "model.pt"}


LONG = TRAINING | {"iterations": 200, "batch_size": 128, "monte_carlo_samples": 20, "milestones": [150]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training long enough to be interrupted from outside, done without an interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    do(*training(folder, cell="mog8-lc-ip", training=LONG))
    return folder


def process(*arguments: object) -> subprocess.Popen[bytes]:
    """``python -m introprior`` on its way."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "introprior", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_training_process_that_is_stopped_or_killed_is_gone_on_with(tmp_path, introprior, undisturbed, number, code):
    killed = number == signal.SIGKILL
    command = training(
        tmp_path, "--state", tmp_path / "state", "--checkpoint-seconds", 0.05 if killed else 300,
        cell="mog8-lc-ip", training=LONG,
    )  # fmt: skip
    with process(*command) as child:
        seen = b""
        while b"it/s" not in seen if not killed else not list((tmp_path / "state").glob("train-*.pt")):
            if killed:
                time.sleep(0.002)
            else:
                seen += os.read(child.stderr.fileno(), 1000)
            assert child.poll() is None, seen
        child.send_signal(number)
        printed = (seen + child.communicate(timeout=60)[1]).decode()
    assert child.returncode == code
    (state,) = (tmp_path / "state").glob("train-*.pt")
    reached = checkpoints.load(state)["iteration"]
    assert 0 < reached < LONG["iterations"]
    if not killed:
        where = f"Checkerboard mog8-lc-ip: stopped at iteration {reached}; saved to {state}"
        assert lines(printed) == [f"introprior train: {where}: run the same command to go on"]
        assert below(tmp_path) == {state}
    assert not (tmp_path / "ensemble.pt").exists()
    assert not (tmp_path / "history.csv").exists()
    code, said = introprior(*command)
    assert (code, said) == (0, [f"Checkerboard mog8-lc-ip: going on from iteration {reached} of {state}"])
    assert not state.exists()
    assert_same_training(tmp_path, undisturbed)


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_never_train_the_same_run_at_a_time(tmp_path, undisturbed, killed):
    """As after a Snakemake that was killed and started again, whose first job still runs."""
    flags = ["--state", tmp_path / "state", "--checkpoint-seconds", 0.05]
    command = training(tmp_path, *flags, cell="mog8-lc-ip", training=LONG)
    with process(*command) as first:
        while not list((tmp_path / "state").glob("train-*.pt")):
            time.sleep(0.002)
            assert first.poll() is None
        with process(*command) as second:
            seen = b""
            while b"waiting" not in seen:
                seen += os.read(second.stderr.fileno(), 1000)
                assert second.poll() is None, seen
            if killed:
                first.kill()
            first.communicate(timeout=60)
            said = lines((seen + second.communicate(timeout=60)[1]).decode())
    assert (first.returncode, second.returncode) == (-9 if killed else 0, 0)
    label = "Checkerboard mog8-lc-ip"
    assert said[0] == f"{label}: another process is at it; waiting until that one ends"
    if killed:
        assert re.fullmatch(rf"{label}: going on from iteration \d+ of .*", said[1])
    else:
        assert said[1:] == [f"{label}: the other process has finished it"]
    assert_same_training(tmp_path, undisturbed)
    assert not list((tmp_path / "state").iterdir())


# ---- Divergence ----


def table(folder: Path, number: str, results: Path, *seeds: int) -> str:
    """A table of one dataset and cell, in Markdown."""
    comparison.write_both(number, [results], tables.Request((DATASET,), ("sg",), seeds), folder)
    return (folder / f"table{number}.md").read_text()


def test_a_seed_that_diverges_is_told_of_down_to_the_table(tmp_path, introprior, monkeypatch):
    do(*training(tmp_path / "whole"))
    step = Training.step

    def poisoned(self: Training) -> dict[str, Tensor]:
        if self.iteration == 7:
            self.model.encoder.body[0].weight.data[1] = math.inf
        return step(self)

    monkeypatch.setattr(Training, "step", poisoned)
    code, said = introprior(*training(tmp_path))
    assert code == 0
    (line,) = said
    assert "Checkerboard sg, seed 1: diverged, encoder_loss not finite at iteration 7 (last finite: vae_loss" in line
    ok, diverged = torch.load(tmp_path / "ensemble.pt", weights_only=True)["records"]
    assert (ok["status"], diverged["status"], diverged["iteration"]) == ("ok", "diverged", 7)
    for folder in (tmp_path, tmp_path / "whole"):
        do(*evaluating(folder))
    measured, whole = rows(tmp_path / "metrics.csv"), rows(tmp_path / "whole/metrics.csv")
    assert [row for row in measured if row["seed"] == "0"] == [row for row in whole if row["seed"] == "0"]
    for row in measured:
        if row["seed"] == "1" and not row["metric"].endswith("_floor"):
            assert (row["value"], row["status"]) == ("", "diverged")
            assert "not finite at iteration 7" in row["detail"]
    assert "(1/2 seeds)" in table(tmp_path, "4", tmp_path / "metrics.csv", 0, 1).replace("*", "")


def test_absurd_weights_are_a_result_down_to_the_tables(tmp_path, introprior):
    code, said = introprior(*training(tmp_path, betas=(0.2, 0.3, 1e30)))
    assert code == 0
    assert [line.partition(", encoder_loss")[0] for line in said] == [
        f"Checkerboard sg, seed {s}: diverged" for s in "01"
    ]
    assert introprior(*evaluating(tmp_path)) == (0, [])
    measured = [row for row in rows(tmp_path / "metrics.csv") if not row["metric"].endswith("_floor")]
    assert {(row["value"], row["status"]) for row in measured} == {("", "diverged")}
    with np.load(tmp_path / "panels.npz") as panels:
        assert str(panels["status"]) == "diverged"
        assert "not finite" in str(panels["detail"])
    written = table(tmp_path, "4", tmp_path / "metrics.csv", 0, 1)
    assert written.count("diverged") >= 3  # one for each metric, and the caption


def test_a_setting_that_diverges_leaves_the_others_as_they_were(tmp_path, exact):
    do(*searching(tmp_path, betas=GRID[:2]))
    whole = rows(tmp_path / "slice.csv")
    do(*searching(tmp_path, betas=[GRID[0], [0.2, 0.3, 1e300], GRID[1]]))
    first, diverged, second = rows(tmp_path / "slice.csv")
    assert (diverged["KL"], diverged["JSD"], diverged["status"]) == ("", "", "diverged")
    assert "encoder_loss not finite at iteration" in diverged["detail"]
    for row, alone in zip((first, second), whole, strict=True):
        assert float(row["KL"]) == pytest.approx(float(alone["KL"]), rel=1e-9)
    do(*selecting(tmp_path))
    chosen = json.loads((tmp_path / "hyperparameters.json").read_text())
    assert (chosen["settings"], chosen["diverged"]) == (3, 1)


def test_when_every_setting_diverges_the_choice_says_so(tmp_path):
    do(*searching(tmp_path, betas=[[0.2, 0.3, 1e30], [0.2, 0.3, 1e31]]))
    assert {row["status"] for row in rows(tmp_path / "slice.csv")} == {"diverged"}
    do(*selecting(tmp_path))
    chosen = json.loads((tmp_path / "hyperparameters.json").read_text())
    assert (chosen["beta_neg"], chosen["KL"], chosen["settings"], chosen["diverged"]) == (1e30, None, 2, 2)
    written = table(tmp_path, "3", tmp_path / "hyperparameters.json")
    assert "grid search, 2 settings, 2 diverged" in written


# ---- Help ----

FLAGS = {
    "search": ["--options", "--device", "--dataset", "--cell", "--set", "--protocol", "--state", "--output"],
    "select": ["--slices", "--dataset", "--cell", "--output"],
    "train": ["--options", "--device", "--dataset", "--cell", "--set", "--protocol", "--state", "--checkpoint-seconds"],
    "evaluate": ["--model", "--options", "--device", "--metrics", "--panels"],
}
FLAGS["train"] += ["--hyperparameters", "--betas", "--seeds", "--output", "--history"]


@pytest.mark.parametrize("command", FLAGS)
def test_a_commands_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for flag in FLAGS[command]:
        assert re.search(rf"^  {flag} .*\n?.*\w{{3}}", printed, re.MULTILINE), flag
    for key in {"search": cli.SEARCH_KEYS, "train": cli.TRAIN_KEYS, "evaluate": cli.EVALUATE_KEYS}.get(command, ()):
        assert re.search(rf"\b{key}\b", printed), key


def test_help_and_choosing_are_quick_since_they_do_without_torch(tmp_path, trained):
    """Also: the exit codes and the single line of a real process."""
    with process("--help") as helped:
        printed = helped.communicate()[0].decode()
    assert helped.returncode == 0
    assert all(re.search(rf"^    {command} ", printed, re.MULTILINE) for command in FLAGS)
    with process("select", "--dataset", "x", "--cell", "sg", "--slices", "y", "--output", tmp_path / "z") as refused:
        out, err = refused.communicate()
    assert (refused.returncode, out) == (2, b"")
    assert_refused((2, lines(err.decode())), "--dataset", "unknown dataset 'x'")
    arguments = [str(argument) for argument in selecting(tmp_path, slices=(trained / "slice.csv",))]
    code = f"import sys; from introprior import cli; cli.main({arguments!r}); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "hyperparameters.json").exists()
    assert not {"torch", "numpy", "pandas"} & set(done.stdout.split())


def test_versions(introprior, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"introprior {package.__version__}\n"
