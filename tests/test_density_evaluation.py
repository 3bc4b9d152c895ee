"""The evaluation in 2D: complete, repeatable, and what it draws and averages against explicit loops."""

from __future__ import annotations

import re
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from introprior.data import density as data
from introprior.evaluation import density
from introprior.game.model import IntroVAE
from introprior.game.networks import MLPDecoder, MLPEncoder
from introprior.game.priors.gaussian import StandardGaussian
from introprior.metrics import registry
from introprior.metrics.density import floors, histogram_jsd, histogram_kl, jsd_nats
from introprior.reporting.tables.comparison import tables
from introprior.reporting.tables.sheets import Request
from tests import commands, naive
from tests.commands import DATASET, END, EVALUATION, do, evaluating, model, rows, training

pytestmark = pytest.mark.usefixtures("published_metrics")

trained = commands.trained


def test_an_evaluation_is_complete_and_the_same_twice(tmp_path, trained):
    for name in ("a", "b"):
        do(*evaluating(tmp_path / name, model=trained / "ensemble.pt"))
    measured = rows(tmp_path / "a/metrics.csv")
    assert list(measured[0]) == ["dataset", "cell", "seed", "metric", "value", "status", "detail"]
    known = floors(registry.functions("samples"), DATASET, EVALUATION["samples"], 4.0, repeats=20, seed=0)
    names = ["gnELBO", "KL", "JSD", "JSD_nats", *known]
    assert [(row["seed"], row["metric"]) for row in measured] == [(seed, name) for seed in "01" for name in names]
    for row in measured:
        assert (row["dataset"], row["cell"], row["status"], row["detail"]) == (DATASET, "sg", "ok", "")
        assert float(row["value"]) == known.get(row["metric"], float(row["value"])) > 0
    assert len({row["value"] for row in measured if row["metric"] == "KL"}) == 2
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()
    with np.load(tmp_path / "a/panels.npz") as a, np.load(tmp_path / "b/panels.npz") as b:
        assert set(a) == set(b)
        assert all(np.array_equal(a[name], b[name]) for name in a)


def inside(real: np.ndarray, generated: np.ndarray, limit: float) -> float:
    """Which share of the generated points lies in the window."""
    return float((np.abs(generated) <= limit).all(1).mean())


def test_a_metric_of_samples_is_one_function_and_one_entry(tmp_path, trained, monkeypatch):
    """It is measured, with the data's own value; a table shows both; the others stay as they are."""
    do(*evaluating(tmp_path / "before", model=trained / "ensemble.pt"))
    monkeypatch.setattr(registry.import_module("introprior.metrics.density"), "inside", inside, raising=False)
    entry = registry.Metric("inside", "↑", "Inside", ("1",), kind="samples", function="density:inside")
    with patch.dict(registry.METRICS, registry.known([entry])):
        do(*evaluating(tmp_path, model=trained / "ensemble.pt"))
        ((tidy, table), _) = tables("1", Request([DATASET], ["sg"], [0, 1]), [tmp_path / "metrics.csv"])
    found = rows(tmp_path / "metrics.csv")
    assert [row for row in found if "inside" not in row["metric"]] == rows(tmp_path / "before/metrics.csv")
    shares = [float(row["value"]) for row in found if row["metric"] == "inside"]
    assert (len(shares), 0 < min(shares) <= 1) == (2, True)
    assert [row["value"] for row in found if row["metric"] == "inside_floor"] == ["1.0", "1.0"]
    assert [row.labels[1] for row in table.blocks[0]] == ["gnELBO ↓", "KL ↓", "JSD ↓", "Inside ↑"]
    assert table.blocks[0][-1].entries[0].text.startswith(f"{np.mean(shares):.2f} ± ")
    assert ", Inside 1.00" in table.caption
    assert "inside_floor" in set(tidy["metric"])


@pytest.mark.parametrize(("cell", "components"), [("sg", 0), ("vae-sg", 0), ("mog4-lc-ip", 4)])
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
        assert np.abs(panels["latent"]).max() <= float(panels["latent_limit"])


def test_a_model_that_misses_the_window_altogether_counts_as_diverged(tmp_path, trained):
    content = model(trained)
    *_, last = (name for name in content["model"]["tensors"] if re.match(r"decoder\..*bias", name))
    content["model"]["tensors"][last] += 100
    torch.save(content, tmp_path / "ensemble.pt")
    do(*evaluating(tmp_path))
    measured = {row["metric"]: row for row in rows(tmp_path / "metrics.csv") if row["seed"] == "1"}
    for name in ("KL", "JSD", "JSD_nats"):
        assert (measured[name]["value"], measured[name]["status"]) == ("", "diverged")
        assert measured[name]["detail"] == f"{name} is not finite, as where no generated point lies in the window"
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


@pytest.mark.parametrize("cell", ["sg", "mog4-lc-ip"])
def test_evaluation_agrees_with_explicit_loops(tmp_path, exact, cell):
    do(*training(tmp_path, cell=cell, seeds=[5, 2]))
    content = model(tmp_path)
    *_, last = (name for name in content["model"]["tensors"] if re.match(r"decoder\..*weight", name))
    content["model"]["tensors"][last] *= 30  # spread what it generates over the window
    torch.save(content, tmp_path / "ensemble.pt")
    do(*evaluating(tmp_path, panel_seed=2, samples=600))
    limit = 4.0
    ensemble = density.Ensemble.read(tmp_path / "ensemble.pt", torch.device("cpu"))
    measured = {(int(row["seed"]), row["metric"]): float(row["value"]) for row in rows(tmp_path / "metrics.csv")}

    def plane(side: int) -> list[Tensor]:
        axis = [-limit + 2 * limit * i / (side - 1) for i in range(side)]
        return [torch.tensor([x, y]) for y in axis for x in axis]

    player, draws = naive.Model(ensemble.model, 1), Replayed(2 + END - 1)
    for names in (["KL"], ["JSD", "JSD_nats"]):
        drawn, generated = draws.real(DATASET, 600), draws.generated(player, 600)
        assert (generated.abs() < limit).all(-1).sum() > 50  # else the divergences would say little
        for name, divergence in {"KL": histogram_kl, "JSD": histogram_jsd, "JSD_nats": jsd_nats}.items():
            if name in names:
                assert measured[2, name] == pytest.approx(divergence(drawn, generated, limit), rel=1e-9)
    noise = draws.normal(4, 2)
    grid = [negative_elbo(player, point, noise) for point in plane(5)]
    real = [negative_elbo(player, point, noise) for point in draws.real(DATASET, 8)]
    gnelbo = 1e7 * (sum(real) / 8) / (1024**2 * sum(grid) / 25 + 12_800 * sum(real) / 8)
    assert measured[2, "gnELBO"] == pytest.approx(gnelbo, rel=1e-6)

    draws = Replayed(2 + END)  # the panels' own, of the member called for
    real, noise = draws.real(DATASET, 40), draws.normal(4, 2)
    energies = torch.tensor([negative_elbo(player, point, noise) for point in plane(6)])
    mixture = player.mixture()
    with np.load(tmp_path / "panels.npz") as panels:
        wanted = {
            "data": real,
            "density": (torch.softmax(-energies, 0) / (8 / 5) ** 2).view(6, 6),
            "latent": player.encode(real)[0],
            "samples": draws.generated(player, 40),
            "prior_means": mixture.means if cell != "sg" else torch.empty(0, 2),
            "prior_weights": mixture.log_weights.exp() if cell != "sg" else torch.empty(0),
        }
        for name, values in wanted.items():
            np.testing.assert_allclose(panels[name], values.detach(), rtol=2e-5, atol=2e-6, err_msg=name)
        side = torch.linspace(-float(panels["latent_limit"]), float(panels["latent_limit"]), 6)
        window = torch.stack([torch.stack([x, y]) for y in side for x in side])
        prior = naive.log_prob(window, mixture).exp().view(6, 6).detach()
        np.testing.assert_allclose(panels["latent_density"], prior, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("logvar", "counted"), [(-79.0, -79.0), (-100.0, -80.0)])
@torch.no_grad()
def test_log_variances_count_for_no_less_than_minus_80(float64, logvar, counted):
    generators = [torch.Generator().manual_seed(0)]
    networks = (network(2, 2, 8, 1, generators) for network in (MLPEncoder, MLPDecoder))
    model = IntroVAE(*networks, StandardGaussian(torch.zeros(1, 2)))
    last = model.encoder.body[-1]
    last.weight[:, 2:], last.bias[:, 2:] = 0, logvar
    points, noise = torch.randn(5, 2), torch.randn(1, 4, 2)
    mean = model.encode(points[None]).mean
    kl = 0.5 * (mean**2 - counted - (noise**2).mean(1)).sum(-1)  # without any width, to rounding
    rec = ((model.decode(mean) - points) ** 2).sum(-1)
    torch.testing.assert_close(density.negative_elbo(model, points, noise), kl + rec)
