"""The image half through its commands: data to probes, shared warm-ups, resuming, and what the numbers are made of."""

from __future__ import annotations

import copy
import json
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import scipy.linalg
import torch

from introprior.data.images.splits import ImageSplit, load, to_unit
from introprior.evaluation import images as evaluation
from introprior.experiment.jobs import Distances, EvaluateImages
from introprior.experiment.run import ImageRun
from introprior.metrics import classifier as classifiers
from introprior.metrics import registry
from introprior.metrics.frechet import Statistics, frechet_distance
from introprior.metrics.inception import truncated
from introprior.metrics.probes import knn_accuracy, svm_accuracy
from introprior.reporting import read
from introprior.training import checkpoints, images
from introprior.training.loop import Training
from tests import commands, naive
from tests.commands import do, refused, rows, shorten, stopping
from tests.runs import a_member, image_run, statistics

introprior = commands.introprior  # a fixture

CPU = torch.device("cpu")
DATASET, OTHER = "digits16", "digits"
"""Small images, to be quick."""
TRAIN, TEST, BATCH = 240, 120, 96
PER_EPOCH = 3
WARMUP = {"warmup_iterations": 2 * PER_EPOCH, "mixture_warmup_iterations": PER_EPOCH, "batch_size": BATCH}
WARMUP |= {"latent_dim": 4, "widths": [2, 4], "monte_carlo_samples": 4, "learning_rate": 0.002}
GAME = WARMUP | {"iterations": 4 * PER_EPOCH}
LOOK = {"features": ["fd_classifier"], "samples": 200}


def options(**values: Any) -> list[str]:
    return ["--options", json.dumps({"dataset": DATASET, **values})]


def warming(folder: Path, data: Path, cell: str, *more: object, **values: Any) -> list[object]:
    values = {"cell": cell, "seeds": [0], "training": WARMUP, "snapshots": [0]} | values
    return ["warmup", "--data", data, *options(**values), "--output", folder / "warmup.pt", "--device", "cpu", *more]


def playing(folder: Path, data: Path, cell: str, *more: object, **values: Any) -> list[object]:
    values = {"cell": cell, "seeds": [0], "training": GAME, "snapshots": [2, 4], "betas": [1, 1, 8]} | values
    outputs = ["--output", folder / "snapshots.pt", "--history", folder / "history.csv"]
    return ["train", "--data", data, *options(**values), *outputs, "--device", "cpu", *more]


def a_run(cell: str, seed: int = 0, neg: float = 8.0, protocol: str = "authors", **training: Any) -> ImageRun:
    sizes = GAME | {"widths": (2, 4), "shape": (1, 16, 16)} | training
    return image_run(cell, [a_member(seed, 1.0, 1.0, neg)], DATASET, protocol, **sizes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset, classifier and reference statistics; a warm-up of mog4-lc, and a run that began with it."""
    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    do("prepare", "--dataset", DATASET, "--output", data)
    shorten(data, TRAIN, TEST)
    do("classifier", "--data", data, "--options", '{"epochs": 1}', "--output", folder / "classifier.pt")
    do(
        *("reference", "--data", data, "--classifier", folder / "classifier.pt", "--output"),
        *(folder / "fd_classifier.npz", "--options", '{"features": "fd_classifier", "samples": 200}'),
    )
    do(*warming(folder, data, "mog4-lc"))
    do(*playing(folder, data, "mog4-lc-ip", "--warmup", folder / "warmup.pt", training=GAME | {"r_entropy": 10.0}))
    for model, name, more in (
        ("warmup.pt", "warmup-distances.csv", []),
        ("snapshots.pt", "distances.csv", ["--earlier", folder / "warmup-distances.csv"]),
    ):
        do(*looking("distances", folder, folder / model), *more, "--output", folder / name)
    do(*evaluating(folder, folder))
    do("probe", "--codes", folder / "codes.npz", "--output", folder / "probes.csv", "--options", json.dumps(PROBES))
    return folder


PROBES = {"svm_iterations": [50, 500], "neighbours": [1, 9], "dataset": DATASET, "cell": "mog4-lc-ip", "seed": 0}
PROBES |= {"r_entropy": 10.0}


def looking(name: str, world: Path, model: Path, *more: object, **values: Any) -> list[object]:
    look = json.dumps(LOOK | values)
    features = ["--classifier", world / "classifier.pt", "--reference", world / "fd_classifier.npz", *more]
    return [name, "--model", model, "--data", world / "data", "--options", look, "--device", "cpu", *features]


def evaluating(folder: Path, world: Path, model: Path | str = "snapshots.pt", **values: Any) -> list[object]:
    values = {"grid_images": 6, "latent_points": 50} | values
    outputs = ["--metrics", folder / "metrics.csv", "--codes", folder / "codes.npz", "--panels", folder / "panels.npz"]
    distances = ["--distances", (folder if (folder / "distances.csv").exists() else world) / "distances.csv"]
    return [*looking("evaluate", world, world / model, **values), *distances, *outputs]


@pytest.fixture
def snapshots(world: Path) -> evaluation.Snapshots:
    return evaluation.Snapshots.read(world / "snapshots.pt")


@pytest.fixture(scope="module")
def train(world: Path) -> ImageSplit:
    return load(world / "data", "train")


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Snapshots and history are equal, bit by bit, but for the speed."""
    mine, other = (checkpoints.load(folder / "snapshots.pt") for folder in (ours, theirs))
    assert mine["run"] == other["run"]
    assert mine["records"] == other["records"]
    assert mine["snapshots"].keys() >= other["snapshots"].keys() > set()
    for epoch, snapshot in other["snapshots"].items():
        assert mine["snapshots"][epoch]["prior"] == snapshot["prior"]
        for name, tensor in snapshot["tensors"].items():
            assert torch.equal(mine["snapshots"][epoch]["tensors"][name], tensor), (epoch, name)
    mine, other = (
        [row for row in rows(folder / "history.csv") if row["quantity"] != "samples_per_second"]
        for folder in (ours, theirs)
    )
    assert mine == other


# ---- Training ----


@pytest.mark.parametrize(("cell", "r_entropy"), [("mog4-lc", 0.0), ("mog4-lc-ip-unclipped", 10.0)])
def test_a_run_from_a_shared_warmup_is_the_run_that_trains_its_own(tmp_path, world, cell, r_entropy):
    training = GAME | {"r_entropy": r_entropy}
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    do(*playing(shared, world / "data", cell, "--warmup", world / "warmup.pt", training=training))
    do(*playing(alone, world / "data", cell, training=training))
    assert_same_run(shared, alone)
    assert "prior.low" not in checkpoints.load(alone / "snapshots.pt")["snapshots"][4]["tensors"]


def test_so_is_a_clipped_one_and_the_same_seed_gives_the_same_numbers(tmp_path, world):
    do(*playing(tmp_path, world / "data", "mog4-lc-ip", training=GAME | {"r_entropy": 10.0}))
    assert_same_run(world, tmp_path)
    snapshots = checkpoints.load(world / "snapshots.pt")["snapshots"]
    assert 0 in snapshots  # the warm-up's own
    assert "prior.low" in snapshots[4]["tensors"]
    do(*looking("distances", world, tmp_path / "snapshots.pt"), "--output", tmp_path / "distances.csv")
    assert [row["value"] for row in rows(tmp_path / "distances.csv")] == [
        row["value"] for row in rows(world / "distances.csv") if row["epoch"] != "0"
    ]
    do(*evaluating(tmp_path, world))
    assert (tmp_path / "metrics.csv").read_text() == (world / "metrics.csv").read_text()
    for name in ("codes.npz", "panels.npz"):
        with np.load(tmp_path / name) as mine, np.load(world / name) as other:
            assert all((mine[key] == other[key]).all() for key in other)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cell": "mog4-ip"}, "prior"),
        ({"cell": "mog5-lc-ip"}, "prior"),
        ({"cell": "mog4-lc-ep"}, "prior"),
        ({"cell": "mog4-lc-ip-cs"}, "prior"),
        ({"seeds": [1]}, "members"),
        ({"betas": [1, 0.5, 8]}, "members"),
        ({"training": GAME | {"learning_rate": 0.001}}, "learning_rate"),
        ({"protocol": {"component_variance": "isotropic"}}, "component_variance"),
        ({"protocol": {"image_streams": "per-seed"}}, "image_streams"),
    ],
)
def test_the_warmup_of_another_run_is_refused(tmp_path, world, introprior, change, word):
    cell, run = change.get("cell", "mog4-lc-ip"), {key: value for key, value in change.items() if key != "cell"}
    outcome = introprior(*playing(tmp_path, world / "data", cell, "--warmup", world / "warmup.pt", **run))
    commands.assert_refused(outcome, "warmup.pt: the warm-up of another run (", word)
    assert not list(tmp_path.iterdir())


def test_what_only_the_game_depends_on_does_not_make_another_warmup():
    known = a_run("mog4").warmup
    assert known == a_run("mog4-ip", neg=128.0, r_entropy=100.0, iterations=99, alpha=1.0).warmup
    assert known != a_run("mog4-lc").warmup
    assert known != a_run("mog4", clip_steepness=5.0).warmup  # the mixture that the conversion makes knows it


def test_a_run_that_stopped_and_stopped_again_goes_on_to_the_same_end(tmp_path, world, monkeypatch, introprior):
    """At its beginning, when the game starts, and in the middle of an epoch."""
    run = {"training": GAME | {"r_entropy": 10.0}, "snapshots": [0, 1, 2, 3, 4]}
    parts = playing(tmp_path / "parts", world / "data", "mog4-lc-ip", "--state", tmp_path / "state", **run)
    for at in (1, 2 * PER_EPOCH, 2 * PER_EPOCH + 2):
        with stopping(monkeypatch, at):
            assert introprior(*parts)[0] == 143
    code, said = introprior(*parts)
    assert (code, any(f"going on from iteration {at}" in line for line in said)) == (0, True)
    assert_same_run(tmp_path / "parts", world)
    assert not list((tmp_path / "state").iterdir())


def test_seeds_share_their_stream_only_where_the_protocol_says_so(world):
    for protocol, shared in (("authors", True), ("text", False)):
        one, two = (images.begin(a_run("mog4", seed, protocol=protocol), CPU, world / "data") for seed in (1, 2))
        assert torch.equal(one.batch(5, one.streams), two.batch(5, two.streams)) is shared
        assert torch.equal(one.streams.normal(3), two.streams.normal(3)) is shared
        for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
            if ours.numel() > 100:  # weights and pseudo-inputs are the seed's own, biases of BatchNorm are not drawn
                assert not torch.equal(ours, theirs)


def test_the_history_tells_losses_prior_responsibilities_and_speed_by_epoch(world, snapshots):
    history = rows(world / "history.csv")
    run = ["dataset", "cell", "r_entropy", "seed"]
    assert list(history[0]) == [*run[:3], "iteration", "epoch", "seed", "quantity", "value"]
    assert {tuple(row[name] for name in run) for row in history} == {(DATASET, "mog4-lc-ip", "10", "0")}
    found = {(row["quantity"], float(row["epoch"])): float(row["value"]) for row in history}
    assert ("vae_loss", 1.0) in found
    assert ("encoder_loss", 4.0) in found
    assert ("prior_logvar_max", 1.0) not in found  # still a VampPrior
    for epoch in (2.0, 4.0):
        assert found["prior_logvar_max", epoch] >= found["prior_logvar_min", epoch]
        assert found["samples_per_second", epoch] > 0
    assert 0 < found["responsibility_entropy", 4.0] <= 1
    mixture = snapshots.model(4, CPU).distribution().member(0)
    assert found["prior_logvar_max", 4.0] == pytest.approx(mixture.logvars.max().item())


@pytest.mark.parametrize("cell", ["mog4-ip", "mog4-ep"])
def test_looking_more_often_changes_nothing(world, cell):
    def weights(every: int) -> list[torch.Tensor]:
        training = images.begin(a_run(cell, r_entropy=1.0), CPU, world / "data")
        training.advance(10, log_every=every)
        return [*training.model.parameters(), *training.model.buffers()]

    assert all(map(torch.equal, weights(1), weights(100)))


# ---- Distances ----


def test_distances_are_those_of_batches_generated_as_in_training(world, snapshots, train):
    """Against scipy on features of images made step by step, with quantities of the definition only."""
    classifier = classifiers.load(world / "classifier.pt")
    order = np.random.PCG64([0, 0]).random_raw(TRAIN).argsort(kind="stable")[:200]

    def described(images_: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        found = classifiers.features(classifier, images_).double().numpy()
        return found.mean(0), np.cov(found.T)

    real = described(train.images[order])
    found = {int(row["epoch"]): float(row["value"]) for row in rows(world / "distances.csv")}
    assert sorted(found) == [0, 2, 4]
    for epoch in (2, 4):
        model = snapshots.model(epoch, CPU).train()
        generator = evaluation.stream(snapshots.run, epoch, 0, CPU)
        mixture = model.distribution().member(0)
        z = [mixture.sample(96, 4, generator) for _ in range(3)]  # the last batch is full, too, and cut afterwards
        fake = described(torch.cat([model.decode(part.unsqueeze(0))[0] for part in z])[:200])
        root = scipy.linalg.sqrtm(real[1] @ fake[1]).real
        expected = ((real[0] - fake[0]) ** 2).sum() + np.trace(real[1] + fake[1] - 2 * root)
        assert found[epoch] == pytest.approx(expected, rel=1e-4)


def test_the_last_batch_is_normalised_over_all_its_images(snapshots, train):
    """Of reconstructions, too: as full as the split allows, and cut afterwards."""
    model, order = snapshots.model(4, CPU).train(), np.random.PCG64([0, 0]).random_raw(TRAIN).argsort(kind="stable")
    real = list(evaluation.real_batches(train, 100, BATCH, cut=False))
    assert [batch.tolist() for batch in real] == [train.images[part].tolist() for part in (order[:96], order[96:192])]
    assert [len(batch) for batch in evaluation.real_batches(train, TRAIN, BATCH, cut=False)] == [96, 96, TRAIN - 192]
    found = list(evaluation.reconstructed(model, real, torch.Generator().manual_seed(1), 100))
    assert [len(batch) for batch in found] == [96, 4]
    whole = list(evaluation.reconstructed(model, real, torch.Generator().manual_seed(1)))
    alone = list(evaluation.reconstructed(model, [real[0], real[1][:4]], torch.Generator().manual_seed(1)))
    torch.testing.assert_close(found[1], whole[1][:4])
    assert (found[1] - alone[1]).abs().max() > 1e-3
    samples = list(evaluation.generated(model, 100, BATCH, torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in samples] == [96, 4]


def test_the_shared_snapshot_is_measured_once(tmp_path, world, monkeypatch):
    measured: list[int] = []
    model = evaluation.Snapshots.model
    noted = lambda self, epoch, device: measured.append(epoch) or model(self, epoch, device)  # noqa: E731
    monkeypatch.setattr(evaluation.Snapshots, "model", noted)
    earlier = ["--earlier", world / "warmup-distances.csv"]
    do(*looking("distances", world, world / "snapshots.pt"), *earlier, "--output", tmp_path / "d.csv")
    assert measured == [2, 4]
    assert rows(tmp_path / "d.csv") == rows(world / "distances.csv")  # same seed, same device, same numbers
    assert {(row["cell"], row["r_entropy"]) for row in rows(tmp_path / "d.csv")} == {("mog4-lc-ip", "10")}


def test_running_statistics_are_those_of_the_last_batches(snapshots, train):
    model, generator = snapshots.model(4, CPU), torch.Generator().manual_seed(1)
    naive = copy.deepcopy(model)
    evaluation.estimate_running_statistics(model, train, BATCH, generator)
    assert not model.training
    norm = naive.encoder.body[1]
    mean, passes = norm.running_mean.clone(), 0
    while 0.9 ** (3 * passes) >= 0.01:  # the share of what was there before
        passes += 1
        order = np.random.PCG64([0, passes - 1]).random_raw(TRAIN).argsort(kind="stable")
        for part in np.split(order, [96, 192]):
            seen = naive.encoder.body[0](to_unit(train.images[part]))
            mean = 0.9 * mean + 0.1 * seen.mean((0, 2, 3))
    assert passes == 15
    torch.testing.assert_close(model.encoder.body[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    after, before = (each.decoder.body[0].body[1].running_mean for each in (model, naive))
    assert not torch.allclose(after, before)


@pytest.mark.parametrize(("rule", "expected"), [("best", 80), ("last", 219)])
def test_the_checkpoint_is_the_best_evaluated_one_or_the_last(rule, expected):
    values = {0: 9.0, 80: 1.0, 120: float("nan"), 160: 1.0, 219: 3.0}
    known = [{"metric": "fid_gen", "epoch": epoch, "value": 0.0} for epoch in (0, 300)]
    known += [{"metric": "fid_authors_gen", "epoch": epoch, "value": value} for epoch, value in values.items()]
    assert evaluation.choose_checkpoint(known, "fid_authors_gen", rule) == expected
    refused(lambda: evaluation.choose_checkpoint(known, "fd_classifier_gen", rule), "none called fd_classifier_gen")


def test_inception_sees_the_images_once_for_both_protocols(snapshots, train, inception_network, monkeypatch):
    """The whole path with the real network (random weights): one set of images, both features, batch by batch."""
    snapshots.states = {4: snapshots.states[4]}
    made: list[torch.Tensor] = []
    generated = evaluation.generated

    def counted(*arguments: Any) -> Any:
        for batch in generated(*arguments):
            made.append(batch)
            yield batch

    monkeypatch.setattr(evaluation, "generated", counted)
    extractor = evaluation.Extractor(["fid_authors", "fid"], inception_network)
    references = extractor.gather(evaluation.real_batches(train, 3, 3))
    measure = partial(evaluation.distances, snapshots, train, references, extractor)
    refused(lambda: measure(Distances(samples=3), CPU), "3 samples are too few for features of 2048 dimensions")
    assert made == []
    # What takes the roots of covariances is test_frechet.py's; of these dimensions that takes half a minute.
    monkeypatch.setattr(evaluation, "frechet_distance", lambda a, b, **_: float(((a.mean - b.mean) ** 2).sum()))
    found = measure(Distances(samples=3, allow_few=True), CPU)
    told = [(row["epoch"], row["metric"], row["status"]) for row in found]
    assert told == [(4, "fid_authors_gen", "ok"), (4, "fid_gen", "ok")]
    assert len(made) == 1
    with torch.no_grad():
        inception_network.train()
        (expected,) = inception_network(truncated(made[0]).expand(-1, 3, -1, -1))
    mean = expected.flatten(1).double().mean(0).numpy()
    np.testing.assert_allclose(extractor.gather(made[:1])["fid_authors"].mean, mean, rtol=1e-4, atol=1e-6)


# ---- Evaluation and probes ----


def test_an_evaluation_tells_the_distances_entropies_and_codes_of_the_chosen_checkpoint(world, snapshots, train):
    measured = {row["metric"]: row for row in rows(world / "metrics.csv")}
    assert {(r["dataset"], r["cell"], r["r_entropy"], r["seed"], r["status"]) for r in measured.values()} == {
        (DATASET, "mog4-lc-ip", "10", "0", "ok")
    }
    value = {name: float(row["value"]) for name, row in measured.items()}
    assert set(value) == {
        *("checkpoint_epoch", "fd_classifier_gen", "fd_classifier_rec", "entropy_per_batch", "entropy_pooled")
    }
    known = {int(row["epoch"]): float(row["value"]) for row in rows(world / "distances.csv")}
    epoch = min(known, key=known.__getitem__)
    assert value["checkpoint_epoch"] == epoch
    assert value["fd_classifier_gen"] == known[epoch]
    assert 0 < value["entropy_per_batch"] <= value["entropy_pooled"] + 1e-9 <= 1 + 1e-6
    with np.load(world / "codes.npz") as codes, np.load(world / "panels.npz") as panels:
        assert codes["train"].shape == (TRAIN, 4)
        assert codes["test"].shape == (TEST, 4)
        assert codes["train_labels"].tolist() == train.labels.tolist()
        assert panels["samples"].shape == (6, 1, 16, 16)
        assert panels["reconstructions"].shape == panels["real"].shape == (3, 1, 16, 16)
        assert (panels["real"] == load(world / "data", "test").images[:3].numpy()).all()
        assert (panels["z"] == codes["test"][:50]).all()
        assert panels["prior_weights"].sum() == pytest.approx(1)
        assert str(panels["title"]) == "Digits, 16x16 (stand-in for MNIST)"
        if epoch > 1:
            mixture = snapshots.model(epoch, CPU).distribution().member(0)
            assert (panels["prior_means"] == mixture.means.numpy()).all()


def test_the_standard_gaussian_and_both_ways_of_sampling(world, tmp_path):
    do(*playing(tmp_path, world / "data", "sg"))
    model, distances = tmp_path / "snapshots.pt", tmp_path / "distances.csv"
    for sampling in ("batch", "running"):
        do(*looking("distances", world, model, sampling=sampling), "--output", distances)
        do(*evaluating(tmp_path, world, model, sampling=sampling, checkpoint="last", train_images=20))
        value = {row["metric"]: float(row["value"]) for row in rows(tmp_path / "metrics.csv")}
        names = ("entropy_per_batch", "entropy_pooled", "checkpoint_epoch")
        assert [value[name] for name in names] == [0, 0, 4], sampling
        with np.load(tmp_path / "codes.npz") as codes:
            assert len(codes["train"]) == 20


def test_a_prior_without_components_has_no_entropy_of_responsibilities(world, tmp_path):
    """Unlike the standard Gaussian, the one component of which answers for everything: no 0, and no divergence."""
    do(*playing(tmp_path, world / "data", "flow"))
    do(*looking("distances", world, tmp_path / "snapshots.pt"), "--output", tmp_path / "distances.csv")
    do(*evaluating(tmp_path, world, tmp_path / "snapshots.pt"))
    found = {row["metric"]: row for row in rows(tmp_path / "metrics.csv")}
    for name, row in found.items():
        fate = (
            ("", "inapplicable", "does not apply to this prior or data")
            if "entropy" in name
            else (row["value"], "ok", "")
        )
        assert (row["value"], row["status"], row["detail"]) == fate
    assert {"entropy_per_batch", "entropy_pooled", "fd_classifier_rec"} <= found.keys()
    assert len(read.metrics([tmp_path / "metrics.csv"])) == len(found)


def test_probes_are_those_of_the_codes(world):
    found = {row["metric"]: row for row in rows(world / "probes.csv")}
    with np.load(world / "codes.npz") as codes:
        data = [codes[name] for name in ("train", "train_labels", "test", "test_labels")]
    expected = {"svm_few": svm_accuracy(*data, 50), "svm_many": svm_accuracy(*data, 500)}
    expected |= {"knn_few": knn_accuracy(*data, 1), "knn_many": knn_accuracy(*data, 9)}
    assert {name: float(row["value"]) for name, row in found.items()} == expected
    names = ("dataset", "cell", "r_entropy", "seed")
    assert {tuple(row[name] for name in names) for row in found.values()} == {(DATASET, "mog4-lc-ip", "10", "0")}


def test_a_metric_of_codes_is_one_function_and_one_entry(world, tmp_path, monkeypatch):
    """With a setting of the others, or without one."""
    for name, function in {"mean": lambda *of: float(of[2].mean()), "times": lambda *of: 10.0 * of[4]}.items():
        monkeypatch.setattr(registry.import_module("introprior.metrics.probes"), name, function, raising=False)
    entries = (
        registry.Metric("mean", kind="probe", function="probes:mean"),
        registry.Metric("times", kind="probe", function="probes:times", setting=("neighbours", 1)),
    )
    command = ("probe", "--codes", world / "codes.npz", "--output", tmp_path / "probes.csv", "--options")
    with patch.dict(registry.METRICS, registry.known(entries)):
        do(*command, json.dumps(PROBES))
        assert len(read.metrics([tmp_path / "probes.csv"])) == 6
    *others, mean, times = rows(tmp_path / "probes.csv")
    assert others == rows(world / "probes.csv")
    with np.load(world / "codes.npz") as codes:
        assert float(mean["value"]) == pytest.approx(codes["test"].mean(), rel=1e-6)
    assert (times["metric"], times["value"], times["status"]) == ("times", "90.0", "ok")


def test_a_run_that_diverges_is_recorded_all_the_way(world, tmp_path, introprior):
    wild = {"training": GAME | {"learning_rate": 1e6}, "snapshots": [0, 1, 2, 3, 4]}
    code, said = introprior(*playing(tmp_path, world / "data", "mog4-ip", **wild))
    assert (code, any("diverged" in line for line in said)) == (0, True)
    content = checkpoints.load(tmp_path / "snapshots.pt")
    assert content["records"][0]["status"] == "diverged"
    assert 0 in content["snapshots"]
    assert 4 not in content["snapshots"]
    do(*looking("distances", world, tmp_path / "snapshots.pt"), "--output", tmp_path / "distances.csv")
    do(*evaluating(tmp_path, world, tmp_path / "snapshots.pt"))
    measured = rows(tmp_path / "metrics.csv")
    assert {(row["status"], row["value"]) for row in measured} == {("diverged", "")}
    assert "not finite at iteration" in measured[0]["detail"]
    do("probe", "--codes", tmp_path / "codes.npz", "--output", tmp_path / "probes.csv")
    assert {(row["status"], row["value"]) for row in rows(tmp_path / "probes.csv")} == {("diverged", "")}


# ---- Bad input ----

FEW = '{"features": "fd_classifier", "samples": 241}'


def of_another_dataset(world: Path, folder: Path) -> Path:
    """The same data, classifier and statistics, under the name of another dataset."""
    manifest = json.loads((world / "data/manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"dataset": OTHER}))
    network = classifiers.load(world / "classifier.pt")
    network.dataset = OTHER
    classifiers.save(folder / "classifier.pt", network)
    replace(Statistics.load(world / "fd_classifier.npz"), dataset=OTHER).save(folder / "fd_classifier.npz")
    return folder


def test_bad_input_is_one_line_and_leaves_nothing(world, tmp_path, introprior, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained nevertheless"))
    monkeypatch.setenv("INTROPRIOR_DEVICE", "cpu")
    data, out, model, foreign = world / "data", tmp_path / "out", world / "snapshots.pt", world / "classifier.pt"
    others = of_another_dataset(world, tmp_path_factory.mktemp("others"))

    def without(flag: str, arguments: list[Any]) -> list[Any]:
        at = arguments.index(flag)
        return arguments[:at] + arguments[at + 2 :]

    d, r, p = (["--output", out / name] for name in ("d.csv", "r.npz", "p.csv"))
    train, distances = partial(playing, out, data, "sg"), partial(looking, "distances", world, model, *d)
    reference, probe = ["reference", "--data", data, *r], ["probe", "--codes", world / "codes.npz", *p]
    overfit = ["overfit", "--model", model, "--data", data, *p, "--distances"]
    cases: list[tuple[list[Any], str]] = [
        (without("--data", train()), r"--data is missing; give the folder that `introprior prepare`"),
        (train(betas=[1, 1]), "beta_neg is missing"),
        (train("--hyperparameters", "x.json"), "--hyperparameters: of no use for images"),
        (train(seeds=[0, 1]), "image runs have one member each"),
        (train(snapshots=[5]), r"snapshots: must be whole numbers from 0 to 4, are \[5\]"),
        (train(iterations_per_epoch=4), "has 3 batches of 96, not the 4 that were planned"),
        (train(training=GAME | {"hidden": 3}), "training: unknown key 'hidden'"),
        (train(training=GAME | {"widths": [1.5]}), r"widths\[0\]: must be a whole number, is 1.5"),
        (train("--dataset", "MINST"), "unknown image dataset 'MINST'; did you mean 'MNIST'"),
        (train("--cell", "mog300"), "300 components, but only 240 training images"),
        (train("--warmup", foreign), "classifier.pt: not a warm-up"),
        (train("--data", out / "none"), "manifest.json: missing, so no dataset is prepared"),
        (warming(out, data, "mog4", betas=["x", 1]), r"betas\[0\]: must be a number, is 'x'"),
        (["prepare", "--dataset", "digit", "--output", out], "unknown image dataset 'digit'; did you mean 'digits'"),
        (["weights", "--source", foreign, *r], "classifier.pt: not the weights of FID"),
        (["weights", "--source", out / "no", *r], "no such file of Inception weights"),
        (reference, "features: fid(_authors)? needs --weights, Inception's"),
        ([*reference, "--classifier", foreign, "--options", FEW], "samples: 241 are more than the 240 images"),
        (distances(features=["fid"]), "features: fid(_authors)? needs --weights"),
        (distances(features=["fd"]), r"features\[0\]: must be 'fid_authors', "),
        (distances(batch_size=128), "of the batch_size 96, not 128; give another"),
        (distances(samples=20), "20 samples are too few for features of 64 dimensions"),
        (distances("--model", foreign), "holds no snapshots"),
        (distances("--earlier", world / "probes.csv"), "probes.csv: no column 'epoch'"),
        (evaluating(out, world, sampling="both"), "sampling: must be 'batch' or 'running', is 'both'"),
        (evaluating(out, world, train_images=0), "train_images: must be at least 1 or"),
        (evaluating(out, world, cell="sg"), "of the cell mog4-lc-ip, not sg; give another --model"),
        (without("--codes", evaluating(out, world)), "--codes is missing; images need it"),
        (["evaluate", "--model", model, "--metrics", out / "m", "--panels", out / "p"], "evaluating them takes --data"),
        ([*probe, "--codes", world / "panels.npz"], "panels.npz: no entry 'train'"),
        ([*probe, "--options", '{"neighbours": [5]}'], "neighbours: must have at least 2"),
        ([*overfit, world / "distances.csv", "--options", '{"iterations": 0}'], "iterations: must be at least 1, is 0"),
        # Another run's files.
        (distances(seed=1), "snapshots.pt: of the seed 0, not 1; give another --model"),
        (distances(r_entropy=1.0), "of the r_entropy 10.0, not 1.0; give another --model"),
        (distances("--earlier", world / "distances.csv"), "distances.csv: of the cell mog4-lc-ip, not mog4-lc; give"),
        ([*evaluating(out, world), "--distances", world / "warmup-distances.csv"],
         "warmup-distances.csv: of the cell mog4-lc, not mog4-lc-ip; give another --distances"),
        ([*overfit, world / "warmup-distances.csv"],
         "warmup-distances.csv: of the cell mog4-lc, not mog4-lc-ip; give another --distances"),
        (distances("--data", others), "others0: of the dataset digits, not digits16; give another --data"),
        (distances("--classifier", others / "classifier.pt"),
         "classifier.pt: of the dataset digits, not digits16; give another --classifier"),
        (distances("--reference", others / "fd_classifier.npz"),
         "fd_classifier.npz: of the dataset digits, not digits16; give another --reference"),
        ([*probe, "--options", '{"cell": "sg"}'], "codes.npz: of the cell mog4-lc-ip, not sg; give another --codes"),
        (train("--dataset", "MNIST"), "data: of the dataset digits16, not MNIST; give another --data"),
    ]  # fmt: skip
    for arguments, message in cases:
        code, said = introprior(*arguments)
        assert (code, len(said)) == (2, 1), (arguments, said)
        assert re.match(rf"introprior \w+: .*{message}", said[0]), said[0]
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert left == [], (arguments, left)


def test_what_is_not_told_is_the_papers(world, tmp_path, monkeypatch, introprior):
    seen: list[Training] = []

    class Enough(Exception):
        signal_number = signal.SIGTERM

    def stop(training: Training, *_: object, **__: object) -> None:
        seen.append(training)
        raise Enough

    monkeypatch.setattr(Training, "advance", stop)
    for name, more in (("train", ["--betas", 1, 1, 128, "--history", tmp_path / "h"]), ("warmup", [])):
        flags = ["--dataset", DATASET, "--cell", "mog10-ip", "--data", world / "data", "--output", tmp_path / "o"]
        assert introprior(name, *flags, *more)[0] == 143
    game, warmup = seen
    assert (game.conversion, game.game_start, game.run.training.iterations) == (15 * 2, 20 * 2, 220 * 2)  # 240 images
    told = game.run.training
    assert (told.batch_size, told.latent_dim, told.widths) == (128, 32, (64, 128))
    assert game.run.warmup == warmup.run.warmup


def test_the_paper_as_written_goes_through_too(world, tmp_path):
    """Protocol `text`: conversion when the game starts, from a shared warm-up; running statistics; the last epoch."""
    data, text = world / "data", ["--protocol", "text"]
    do(*warming(tmp_path, data, "mog4-lc", *text))
    training = GAME | {"r_entropy": 1.0}
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    do(*playing(shared, data, "mog4-lc-ip", "--warmup", tmp_path / "warmup.pt", *text, training=training))
    do(*playing(alone, data, "mog4-lc-ip", *text, training=training))
    assert_same_run(shared, alone)
    snapshots = checkpoints.load(shared / "snapshots.pt")["snapshots"]
    kinds = [snapshots[epoch]["prior"]["class"] for epoch in (0, 2, 4)]
    assert kinds == ["VampPrior", "VampPrior", "LearnedMixture"]
    assert snapshots[4]["tensors"]["prior.logvars"].shape == (1, 4, 1)  # isotropic
    do(*looking("distances", world, shared / "snapshots.pt", sampling="running"), "--output", shared / "distances.csv")
    do(*evaluating(shared, world, shared / "snapshots.pt", sampling="running", checkpoint="last"))
    value = {row["metric"]: row["value"] for row in rows(shared / "metrics.csv")}
    assert value["checkpoint_epoch"] == "4.0"
    assert float(value["entropy_per_batch"]) <= float(value["entropy_pooled"]) + 1e-9


@pytest.mark.parametrize("sampling", ["batch", "running"])
@torch.no_grad()
def test_an_evaluation_agrees_with_a_plain_script(world, tmp_path, sampling):
    """Of the last snapshot: every number and picture made step by step, from the same streams."""
    do(*evaluating(tmp_path, world, checkpoint="last", sampling=sampling))
    value = {row["metric"]: row["value"] for row in rows(tmp_path / "metrics.csv")}
    snapshots, classifier = evaluation.Snapshots.read(world / "snapshots.pt"), classifiers.load(world / "classifier.pt")
    train, test = (load(world / "data", split) for split in ("train", "test"))
    model = snapshots.model(4, CPU)
    fakes, reconstructions, looks, passes = (evaluation.stream(snapshots.run, 4, purpose, CPU) for purpose in range(4))
    mixture = model.distribution().member(0)

    def sampled(images_: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        mean, logvar = model.encode(to_unit(images_).unsqueeze(0))
        return (mean + (logvar / 2).exp() * torch.empty_like(mean).normal_(generator=stream))[0]

    def decoded(z: torch.Tensor) -> torch.Tensor:
        return model.decode(z.unsqueeze(0))[0]

    def in_bytes(images_: torch.Tensor) -> list:
        return (255 * images_.clamp(0, 1) + 0.5).floor().byte().tolist()

    assert not model.training
    if sampling == "batch":
        model.train()
    else:
        evaluation.estimate_running_statistics(model, train, BATCH, passes)
    order = np.random.PCG64([0, 0]).random_raw(TRAIN).argsort(kind="stable")
    made = torch.cat([decoded(sampled(train.images[part], reconstructions)) for part in np.split(order, [96, 192])])
    found = statistics([classifiers.features(classifier, made[:200])])
    distance = frechet_distance(found, Statistics.load(world / "fd_classifier.npz"))
    assert float(value["fd_classifier_rec"]) == pytest.approx(distance, rel=1e-4)
    samples = decoded(mixture.sample(BATCH, 4, fakes))[:6]
    if sampling == "batch":
        evaluation.estimate_running_statistics(model, train, BATCH, passes)

    mean, logvar = (part[0] for part in model.encode(to_unit(test.images).unsqueeze(0)))
    parts = naive.Mixture(mixture.means, mixture.logvars, mixture.log_weights)
    shares = [
        naive.mean_responsibilities(m, v, parts, torch.randn(100, *m.shape, generator=looks))
        for m, v in zip(mean.split(BATCH), logvar.split(BATCH), strict=True)
    ]
    pooled = (BATCH * shares[0] + (TEST - BATCH) * shares[1]) / TEST
    *of_batches, of_all = (-(c * (c + 1e-8).log()).sum().item() / np.log(4) for c in (*shares, pooled))
    of_batches = (BATCH * of_batches[0] + (TEST - BATCH) * of_batches[1]) / TEST
    assert float(value["entropy_per_batch"]) == pytest.approx(of_batches, rel=1e-4)
    assert float(value["entropy_pooled"]) == pytest.approx(of_all, rel=1e-4)
    with np.load(tmp_path / "codes.npz") as codes, np.load(tmp_path / "panels.npz") as panels:
        for name, split in (("train", train), ("test", test)):
            np.testing.assert_allclose(codes[name], sampled(split.images, looks), rtol=1e-3, atol=1e-4)
            assert codes[f"{name}_labels"].tolist() == split.labels.tolist()
        assert panels["reconstructions"].tolist() == in_bytes(decoded(sampled(test.images[:3], looks)))
        assert panels["samples"].tolist() == in_bytes(samples)
        np.testing.assert_allclose(panels["prior_weights"], mixture.log_weights.exp())


def test_nothing_is_looked_at_with_the_numbers_of_something_else(world):
    run, looks = evaluation.Snapshots.read(world / "snapshots.pt").run, [(e, p) for e in (0, 4) for p in range(4)]
    assert len({evaluation.stream(run, *look, CPU).initial_seed() for look in looks}) == len(looks)


def test_the_first_kind_of_features_chooses_the_checkpoint(world, monkeypatch):
    train, test = (load(world / "data", split) for split in ("train", "test"))
    # In Inception's place, which takes long, the classifier.
    monkeypatch.setattr(evaluation.inception, "features", lambda network, x, protocol: classifiers.features(network, x))
    classifier = classifiers.load(world / "classifier.pt")
    extractor = evaluation.Extractor(["fid_authors", "fd_classifier"], classifier, classifier)
    references = extractor.gather(evaluation.real_batches(train, 3, 3))
    tried = {"fid_authors": {2: 1.0, 4: 2.0}, "fd_classifier": {2: 4.0, 4: 3.0}}
    known = [{"metric": f"{k}_gen", "epoch": e, "value": v} for k, values in tried.items() for e, v in values.items()]
    snapshots, look = evaluation.Snapshots.read(world / "snapshots.pt"), EvaluateImages(samples=3, allow_few=True)
    measured, _, panels = evaluation.evaluate(snapshots, known, train, test, references, extractor, look, CPU)
    value = {row["metric"]: row["value"] for row in measured}
    assert panels["epoch"] == value["checkpoint_epoch"] == 2
    assert (value["fid_authors_gen"], value["fd_classifier_gen"]) == (1.0, 4.0)
