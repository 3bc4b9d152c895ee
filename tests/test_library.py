"""Work after the runs: models as they were trained, numbers as they were measured; and docs/tutorial.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import introprior
from introprior import cli
from introprior.data import density as data
from introprior.data.images.splits import load, to_unit
from introprior.evaluation.density import Ensemble
from introprior.reporting import read
from tests.commands import EVALUATION, TRAINING, do, evaluating, refused, shorten, training

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and measured ensemble of a learned mixture."""
    folder = tmp_path_factory.mktemp("results") / "density/Checkerboard/mog8-lc-ip"
    do(*training(folder, cell="mog8-lc-ip"))
    do(*evaluating(folder))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained run on images with snapshots after epochs 1 and 2, and its data."""
    folder = tmp_path_factory.mktemp("images")
    do("prepare", "--dataset", "digits16", "--output", folder / "data")
    shorten(folder / "data", train=150, test=20)
    sizes = {"batch_size": 30, "latent_dim": 4, "widths": [2, 4], "monte_carlo_samples": 2, "iterations": 10}
    sizes |= {"warmup_iterations": 5, "mixture_warmup_iterations": 1}
    options = {"dataset": "digits16", "cell": "mog4-ip", "seeds": [3], "training": sizes, "snapshots": [1, 2]}
    outputs = ["--output", folder / "run/snapshots.pt", "--history", folder / "run/history.csv"]
    do("train", "--data", folder / "data", "--options", json.dumps(options), "--betas", 1, 1, 8, *outputs)
    return folder / "run", folder / "data"


def test_a_member_is_what_it_was_in_its_ensemble(cell):
    whole = Ensemble.read(cell / "ensemble.pt", CPU)
    x = data.sample("Checkerboard", 20, torch.Generator().manual_seed(5))
    for row, seed in enumerate((0, 1)):
        one = introprior.load(cell, seed=seed)
        assert not one.model.training
        posterior = whole.model.encode(x.expand(2, -1, -1))
        torch.testing.assert_close(one.encode(x), type(posterior)(posterior.mean[row], posterior.logvar[row]))
        wanted = whole.model.decode(posterior.mean)[row]
        torch.testing.assert_close(one.reconstruct(x.tolist()), wanted)
        prior = whole.model.distribution()
        torch.testing.assert_close(one.log_prob(x), prior.log_prob(x.expand(2, -1, -1))[row])
        walk = one.interpolate(x[0], x[1], steps=3)
        ends = posterior.mean[row, :2]
        middle = whole.model.decode(ends.mean(0).expand(2, 1, 2))[row]
        torch.testing.assert_close(walk, torch.stack((wanted[0], middle[0], wanted[1])))
    assert introprior.load(cell / "ensemble.pt").member.seed == 0


def test_samples_are_those_of_the_prior_or_of_one_component(cell):
    one = introprior.load(cell)
    assert torch.equal(one.sample(50, seed=4), one.decode(one.sample_prior(50, seed=4)))
    assert torch.equal(one.sample(50, seed=4), one.sample(50, seed=4))
    assert not torch.equal(one.sample(50, seed=4), one.sample(50, seed=5))
    mixture = one.prior.components()
    z = one.sample_prior(40_000, component=3)
    spread = mixture.logvars[3].exp().sqrt()
    assert ((z.mean(0) - mixture.means[3]).abs() < 5 * spread / 200).all()
    np.testing.assert_allclose(z.std(0), spread, rtol=0.02)


def test_history_and_metrics_are_of_the_member_whose_inputs_take_gradients(cell):
    one = introprior.load(cell, seed=1)
    for frame, rows in (
        (one.history, read.history(cell / "history.csv")),
        (one.metrics, read.metrics([cell / "metrics.csv"])),
    ):
        wanted = [row for row in rows if row["seed"] == 1]
        assert len(frame) == len(wanted) < len(rows)
        assert list(frame["value"]) == [row["value"] for row in wanted]
        assert {"dataset", "cell", "seed"} < set(frame)

    z = torch.zeros(1, 2, requires_grad=True)
    one.log_prob(z).sum().backward()
    assert z.grad is not None
    assert not any(parameter.requires_grad for parameter in one.model.parameters())


def test_images_come_from_the_reported_snapshot_or_the_last(run):
    folder, prepared = run
    last = introprior.load(folder)
    assert (last.epoch, last.member.seed, repr(last)) == (2, 3, "<digits16 mog4-ip, seed 3, epoch 2: ok>")
    images = load(prepared, "test").images[:5]
    assert torch.equal(last.reconstruct(images), last.reconstruct(to_unit(images)))
    for made in (last.sample(3, component=0), last.interpolate(images[0], images[1], 3)):
        assert made.shape == (3, *images.shape[1:])
    assert not torch.equal(introprior.load(folder, epoch=1).sample(3), last.sample(3))
    assert "epoch" in last.history
    header = "dataset,cell,r_entropy,seed,metric,value,status,detail"
    (folder / "metrics.csv").write_text(f"{header}\ndigits16,mog4-ip,0,3,checkpoint_epoch,1.0,ok,\n")
    try:
        assert introprior.load(folder).epoch == 1
    finally:
        (folder / "metrics.csv").unlink()


def test_with_the_data_batches_are_normalised_as_codes_were(run):
    from introprior.evaluation.images import Snapshots, estimate_running_statistics, posteriors, stream

    folder, prepared = run
    train, snapshots = load(prepared, "train"), Snapshots.read(folder / "snapshots.pt")
    model = snapshots.model(2, CPU)
    estimate_running_statistics(model, train, 30, stream(snapshots.run, 2, 3, CPU))
    wanted = posteriors(model, train.images[:9], CPU)
    assert torch.equal(introprior.load(folder, data=prepared).encode(train.images[:9]).mean, wanted.mean)
    assert not torch.allclose(introprior.load(folder).encode(train.images[:9]).mean, wanted.mean)


def test_all_results_are_one_table_and_one_file(cell, tmp_path):
    (other := tmp_path / "images/digits/sg/r0/seed0").mkdir(parents=True)
    (tmp_path / "metrics.csv").write_bytes((cell / "metrics.csv").read_bytes())
    header = "dataset,cell,r_entropy,seed,metric,value,status,detail\n"
    (other / "metrics.csv").write_text(f"{header}digits,sg,0,0,fid_gen,,diverged,not finite\n")
    (other / "probes.csv").write_text(f"{header}digits,sg,0,0,knn_few,0.5,ok,\n")
    found = introprior.results(tmp_path)
    assert list(found) == header.strip().split(",")
    assert len(found) == len(read.metrics([cell / "metrics.csv"])) + 2
    assert list(found.loc[found["dataset"] == "digits", "metric"]) == ["fid_gen", "knn_few"]
    assert found.loc[found["cell"] == "mog8-lc-ip", "r_entropy"].isna().all()
    do("collect", tmp_path, "--output", tmp_path / "all.csv")
    written = pd.read_csv(tmp_path / "all.csv", keep_default_na=False, na_values={"value": "", "r_entropy": ""})
    pd.testing.assert_frame_equal(written, found)


def test_what_is_wrong_is_said_in_one_line(cell, run, tmp_path):
    one, image, (folder, prepared) = introprior.load(cell), introprior.load(run[0]), run
    (tmp_path / "manifest.json").write_text((prepared / "manifest.json").read_text().replace('"digits16"', '"other"'))
    for name in prepared.glob("*.npy"):
        (tmp_path / name.name).symlink_to(name)
    refused(lambda: introprior.load(cell.parent), "no trained run in this folder")
    refused(lambda: introprior.load(cell / "missing.pt"), "no such checkpoint")
    refused(lambda: introprior.load(cell, seed=7), "seed: 7 is not among those of ", "[0, 1]")
    refused(lambda: introprior.load(cell, epoch=1), "epoch: of no use")
    refused(lambda: introprior.load(folder, epoch=7), "epoch: 7 is not among those of ", "[1, 2]")
    refused(lambda: introprior.load(folder, data=tmp_path), "is other, the run is of digits16")
    refused(lambda: one.encode([0.0, 1.0]), "x: must have the shape [N, 2], has [2]")
    refused(lambda: image.encode(torch.zeros(1, 2)), "x: must have the shape [N, 1,")
    refused(lambda: one.encode("spam"), "x: not numbers")
    refused(lambda: one.decode(torch.zeros(3, 3)), "z: must have the shape [N, 2]")
    refused(lambda: one.sample(1, component=8), "component: must be from 0 to 7, is 8")
    refused(lambda: one.interpolate([0.0, 0.0], [1.0, 1.0, 1.0]), "b: must have the shape [2], has [3]")
    refused(lambda: one.sample(0), "count: must be at least 1")
    refused(lambda: one.interpolate([0.0, 0.0], [1.0, 1.0], 1), "steps: must be at least 2")
    refused(lambda: image.metrics, "no results yet")
    refused(lambda: introprior.results(tmp_path / "none"), "no results yet")


def test_a_prior_without_components_has_none_to_sample_from(tmp_path):
    do(*training(tmp_path))
    refused(lambda: introprior.load(tmp_path).sample(1, component=0), "component: the prior of sg has none")
    with pytest.raises(AttributeError, match="no attribute 'spam'"):
        _ = introprior.spam


HEAVY = "torch torchvision sklearn pandas numpy yaml"
SHOWING = ("tables.captions", "tables.latex", "read"), ("tables.comparison", "figures.figure3")
LIGHT = {
    ("introprior", "introprior.experiment.jobs"): HEAVY,
    ("introprior.data.images", "introprior.metrics.registry"): HEAVY.removesuffix(" yaml"),
    ("introprior.evaluation.selection", *(f"introprior.reporting.{name}" for name in SHOWING[0])): "torch pandas",
    tuple(f"introprior.reporting.{name}" for name in SHOWING[1]): "torch",
}
"""What some modules do without."""


def test_imports_stay_light():
    """One after the other in one process, first what needs least."""
    code = f"""
import importlib, sys
for modules, absent in {LIGHT}.items():
    for module in modules:
        importlib.import_module(module)
        print(*(f"{{module}} needs {{name}}" for name in absent.split() if name in sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_tutorial(tmp_path, monkeypatch):
    """Its blocks in their order, with a hundredth of the work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        if language == "json":
            sizes = json.loads(code)["training"] | TRAINING | {"iterations": 40}
            Path("small.json").write_text(json.dumps({"training": sizes}))
        elif language == "python":
            exec(code.replace("iteration > 1800", "iteration > 36"), names)
        else:
            assert language == "sh"
            for line in code.splitlines():
                program, command, *arguments = shlex.split(line)
                more = ["--options", json.dumps(EVALUATION)] if command == "evaluate" else []
                assert (program, cli.main([command, *arguments, *more, "--device", "cpu"])) == ("introprior", 0)
    assert names["walk"].shape == (200, 2)
    assert set(names["results"]["cell"]) == {"mog64-lc-ip", "sg"}
    assert {path.name for path in tmp_path.glob("*.png")} == {"game.png", "tutorial.png"}
