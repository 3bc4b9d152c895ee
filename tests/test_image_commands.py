"""The image half through its commands: data to probes, shared warm-ups, resuming, and what the numbers are made of."""

from __future__ import annotations

import copy
import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from introprior import cli
from introprior.data.images.splits import load, to_unit
from introprior.errors import UserError
from introprior.evaluation import images as evaluation
from introprior.experiment.jobs import Distances, EvaluateImages
from introprior.metrics import classifier as classifiers
from introprior.metrics.frechet import Statistics, frechet_distance
from introprior.metrics.inception import truncated
from introprior.metrics.probes import knn_accuracy, svm_accuracy
from introprior.training import checkpoints, images
from introprior.training.loop import Training
from tests import naive
from tests.commands import do, rows, shorten, stopping
from tests.runs import a_member, image_run, statistics

CPU = torch.device("cpu")
TRAIN, TEST, BATCH = 240, 120, 96
PER_EPOCH = 3
WARMUP = {"warmup_iterations": 2 * PER_EPOCH, "mixture_warmup_iterations": PER_EPOCH, "batch_size": BATCH}
WARMUP |= {"latent_dim": 4, "widths": [2, 4], "monte_carlo_samples": 4, "learning_rate": 0.002}
GAME = WARMUP | {"iterations": 4 * PER_EPOCH}
LOOK = {"features": ["fd_classifier"], "samples": 200}


def command(*arguments: object) -> int:
    """Run a command; its exit code."""
    return cli.main([str(argument) for argument in arguments])


def options(**values: Any) -> list[str]:
    return ["--options", json.dumps({"dataset": "digits", **values})]


def warming(folder: Path, data: Path, cell: str, *more: object, **values: Any) -> list[object]:
    values = {"cell": cell, "seeds": [0], "training": WARMUP, "snapshots": [0]} | values
    return ["warmup", "--data", data, *options(**values), "--output", folder / "warmup.pt", "--device", "cpu", *more]


def playing(folder: Path, data: Path, cell: str, *more: object, **values: Any) -> list[object]:
    values = {"cell": cell, "seeds": [0], "training": GAME, "snapshots": [2, 4], "betas": [1, 1, 8]} | values
    outputs = ["--output", folder / "snapshots.pt", "--history", folder / "history.csv"]
    return ["train", "--data", data, *options(**values), *outputs, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset, classifier and reference statistics; a warm-up of mog4-lc, and a run that began with it."""
    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    do("prepare", "--dataset", "digits", "--output", data)
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


PROBES = {"svm_iterations": [50, 500], "neighbours": [1, 9], "dataset": "digits", "cell": "mog4-lc-ip", "seed": 0}
PROBES |= {"r_entropy": 10.0}


def looking(name: str, world: Path, model: Path, **values: Any) -> list[object]:
    look = json.dumps(LOOK | values)
    features = ["--classifier", world / "classifier.pt", "--reference", world / "fd_classifier.npz"]
    return [name, "--model", model, "--data", world / "data", "--options", look, *features, "--device", "cpu"]


def evaluating(folder: Path, world: Path, model: Path | str = "snapshots.pt", **values: Any) -> list[object]:
    values = {"grid_images": 6, "latent_points": 50} | values
    outputs = ["--metrics", folder / "metrics.csv", "--codes", folder / "codes.npz", "--panels", folder / "panels.npz"]
    distances = ["--distances", (folder if (folder / "distances.csv").exists() else world) / "distances.csv"]
    return [*looking("evaluate", world, world / model, **values), *distances, *outputs]


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


@pytest.mark.parametrize(
    ("cell", "r_entropy"), [("mog4-lc", 0.0), ("mog4-lc-ip", 10.0), ("mog4-lc-ip-unclipped", 10.0)]
)
def test_a_run_from_a_shared_warmup_is_the_run_that_trains_its_own(tmp_path, world, cell, r_entropy):
    training = GAME | {"r_entropy": r_entropy}
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    do(*playing(shared, world / "data", cell, "--warmup", world / "warmup.pt", training=training))
    do(*playing(alone, world / "data", cell, training=training))
    assert_same_run(shared, alone)
    assert 0 in checkpoints.load(shared / "snapshots.pt")["snapshots"]  # the warm-up's own
    final = checkpoints.load(shared / "snapshots.pt")["snapshots"][4]["tensors"]
    assert ("prior.low" in final) is (cell == "mog4-lc-ip")


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
def test_the_warmup_of_another_run_is_refused(tmp_path, world, capsys, change, word):
    cell, run = change.get("cell", "mog4-lc-ip"), {key: value for key, value in change.items() if key != "cell"}
    assert command(*playing(tmp_path, world / "data", cell, "--warmup", world / "warmup.pt", **run)) == 2
    line = capsys.readouterr().err
    assert re.search(rf"^introprior train: .*warmup.pt: the warm-up of another run \(.*{word}", line, re.M), line
    assert not list(tmp_path.iterdir())


def test_what_only_the_game_depends_on_does_not_make_another_warmup():
    def run(cell: str, neg: float, **training: Any) -> dict[str, Any]:
        return image_run(cell, [a_member(0, 1.0, 1.0, neg)], **GAME | {"widths": (2, 4)} | training).warmup

    known = run("mog4", 8.0)
    assert known == run("mog4-ip", 128.0, r_entropy=100.0, iterations=99, alpha=1.0)
    assert known != run("mog4-lc", 8.0)
    assert known != run("mog4", 8.0, clip_steepness=5.0)  # the mixture that the conversion makes knows it


def test_a_run_that_stopped_and_stopped_again_goes_on_to_the_same_end(tmp_path, world, monkeypatch, capsys):
    """At its beginning, when the game starts, and in the middle of an epoch."""
    run = {"training": GAME | {"r_entropy": 10.0}, "snapshots": [0, 1, 2, 3, 4]}
    do(*playing(tmp_path / "whole", world / "data", "mog4-lc-ip", **run))
    parts = playing(tmp_path / "parts", world / "data", "mog4-lc-ip", "--state", tmp_path / "state", **run)
    for at in (1, 2 * PER_EPOCH, 2 * PER_EPOCH + 2):
        with stopping(monkeypatch, at):
            assert command(*parts) == 143
    capsys.readouterr()
    do(*parts)
    assert f"going on from iteration {at}" in capsys.readouterr().err
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert not list((tmp_path / "state").iterdir())


def test_seeds_share_their_stream_only_where_the_protocol_says_so(world):
    def begun(seed: int, protocol: str) -> Training:
        run = image_run("mog4", [a_member(seed, 1.0, 1.0, 8.0)], protocol=protocol, **GAME | {"widths": (2, 4)})
        return images.begin(run, CPU, world / "data")

    for protocol, shared in (("authors", True), ("text", False)):
        one, two = begun(1, protocol), begun(2, protocol)
        assert torch.equal(one.batch(5, one.streams), two.batch(5, two.streams)) is shared
        assert torch.equal(one.streams.normal(3), two.streams.normal(3)) is shared
        for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
            if ours.numel() > 100:  # weights and pseudo-inputs are the seed's own, biases of BatchNorm are not drawn
                assert not torch.equal(ours, theirs)


def test_the_history_tells_losses_prior_responsibilities_and_speed_by_epoch(world):
    history = rows(world / "history.csv")
    run = ["dataset", "cell", "r_entropy", "seed"]
    assert list(history[0]) == [*run[:3], "iteration", "epoch", "seed", "quantity", "value"]
    assert {tuple(row[name] for name in run) for row in history} == {("digits", "mog4-lc-ip", "10", "0")}
    found = {(row["quantity"], float(row["epoch"])): float(row["value"]) for row in history}
    assert ("vae_loss", 1.0) in found
    assert ("encoder_loss", 4.0) in found
    assert ("prior_logvar_max", 1.0) not in found  # still a VampPrior
    for epoch in (2.0, 4.0):
        assert found["prior_logvar_max", epoch] >= found["prior_logvar_min", epoch]
        assert found["samples_per_second", epoch] > 0
    assert 0 < found["responsibility_entropy", 4.0] <= 1
    mixture = evaluation.Snapshots.read(world / "snapshots.pt").model(4, CPU).distribution().member(0)
    assert found["prior_logvar_max", 4.0] == pytest.approx(mixture.logvars.max().item())


@pytest.mark.parametrize("cell", ["mog4-ip", "mog4-ep"])
def test_looking_more_often_changes_nothing(world, cell):
    def weights(every: int) -> list[torch.Tensor]:
        run = image_run(cell, [a_member(0, 1.0, 1.0, 8.0)], **GAME | {"widths": (2, 4), "r_entropy": 1.0})
        training = images.begin(run, CPU, world / "data")
        training.advance(10, log_every=every)
        return [*training.model.parameters(), *training.model.buffers()]

    assert all(map(torch.equal, weights(1), weights(100)))


# ---- Distances ----


def test_distances_are_those_of_batches_generated_as_in_training(world):
    """Against scipy on features of images made step by step, with quantities of the definition only."""
    snapshots = evaluation.Snapshots.read(world / "snapshots.pt")
    classifier = classifiers.load(world / "classifier.pt")
    train = load(world / "data", "train")
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


def test_the_last_batch_is_normalised_over_all_its_images(world):
    """Of reconstructions, too: as full as the split allows, and cut afterwards."""
    model = evaluation.Snapshots.read(world / "snapshots.pt").model(4, CPU).train()
    train, order = load(world / "data", "train"), np.random.PCG64([0, 0]).random_raw(TRAIN).argsort(kind="stable")
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


def test_running_statistics_are_those_of_the_last_batches(world):
    model = evaluation.Snapshots.read(world / "snapshots.pt").model(4, CPU)
    train, generator = load(world / "data", "train"), torch.Generator().manual_seed(1)
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
    with pytest.raises(UserError, match="none called fd_classifier_gen"):
        evaluation.choose_checkpoint(known, "fd_classifier_gen", rule)


def test_inception_sees_the_images_once_for_both_protocols(world, inception_network, monkeypatch):
    """The whole path with the real network (random weights): one set of images, both features, batch by batch."""
    snapshots = evaluation.Snapshots.read(world / "snapshots.pt")
    snapshots.states = {4: snapshots.states[4]}
    train = load(world / "data", "train")
    made: list[torch.Tensor] = []
    generated = evaluation.generated

    def counted(*arguments: Any) -> Any:
        for batch in generated(*arguments):
            made.append(batch)
            yield batch

    monkeypatch.setattr(evaluation, "generated", counted)
    extractor = evaluation.Extractor(["fid_authors", "fid"], inception_network)
    references = extractor.gather(evaluation.real_batches(train, 3, 3))
    look = Distances(samples=3)
    with pytest.raises(UserError, match="3 samples are too few for features of 2048 dimensions"):
        evaluation.distances(snapshots, train, references, extractor, look, CPU)
    assert made == []
    # What takes the roots of covariances is test_frechet.py's; of these dimensions that takes half a minute.
    monkeypatch.setattr(evaluation, "frechet_distance", lambda a, b, **_: float(((a.mean - b.mean) ** 2).sum()))
    few = Distances(samples=3, allow_few=True)
    found = evaluation.distances(snapshots, train, references, extractor, few, CPU)
    told = [(row["epoch"], row["metric"], row["status"]) for row in found]
    assert told == [(4, "fid_authors_gen", "ok"), (4, "fid_gen", "ok")]
    assert len(made) == 1
    with torch.no_grad():
        inception_network.train()
        (expected,) = inception_network(truncated(made[0]).expand(-1, 3, -1, -1))
    mean = expected.flatten(1).double().mean(0).numpy()
    np.testing.assert_allclose(extractor.gather(made[:1])["fid_authors"].mean, mean, rtol=1e-4, atol=1e-6)


# ---- Evaluation and probes ----


def test_an_evaluation_tells_the_distances_entropies_and_codes_of_the_chosen_checkpoint(world):
    measured = {row["metric"]: row for row in rows(world / "metrics.csv")}
    assert {(r["dataset"], r["cell"], r["r_entropy"], r["seed"], r["status"]) for r in measured.values()} == {
        ("digits", "mog4-lc-ip", "10", "0", "ok")
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
        assert codes["train_labels"].tolist() == load(world / "data", "train").labels.tolist()
        assert panels["samples"].shape == (6, 1, 28, 28)
        assert panels["reconstructions"].shape == panels["real"].shape == (3, 1, 28, 28)
        assert (panels["real"] == load(world / "data", "test").images[:3].numpy()).all()
        assert (panels["z"] == codes["test"][:50]).all()
        assert panels["prior_weights"].sum() == pytest.approx(1)
        assert str(panels["title"]) == "Digits (stand-in for MNIST)"
        model = evaluation.Snapshots.read(world / "snapshots.pt").model(epoch, CPU)
        mixture = model.distribution().member(0) if epoch > 1 else None
        if mixture is not None:
            assert (panels["prior_means"] == mixture.means.numpy()).all()


def test_codes_are_sampled_in_evaluation_mode_around_the_posteriors(world, tmp_path):
    do(*evaluating(tmp_path, world, checkpoint="last"))
    snapshots = evaluation.Snapshots.read(world / "snapshots.pt")
    model, train = snapshots.model(4, CPU), load(world / "data", "train")
    evaluation.estimate_running_statistics(model, train, BATCH, evaluation.stream(snapshots.run, 4, 3, CPU))
    posterior = evaluation.posteriors(model, train.images, CPU)
    with np.load(tmp_path / "codes.npz") as codes:
        z = torch.from_numpy(codes["train"])
    standard = (z - posterior.mean) / (0.5 * posterior.logvar).exp()
    assert standard.mean().abs() < 0.15  # of 960
    assert standard.std() == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_numbers(world, tmp_path):
    do(*playing(tmp_path, world / "data", "mog4-lc-ip", training=GAME | {"r_entropy": 10.0}))
    do(*looking("distances", world, tmp_path / "snapshots.pt"), "--output", tmp_path / "distances.csv")
    assert [row["value"] for row in rows(tmp_path / "distances.csv")] == [
        row["value"] for row in rows(world / "distances.csv") if row["epoch"] != "0"
    ]
    do(*evaluating(tmp_path, world))
    assert (tmp_path / "metrics.csv").read_text() == (world / "metrics.csv").read_text()
    for name in ("codes.npz", "panels.npz"):
        with np.load(tmp_path / name) as mine, np.load(world / name) as other:
            assert all((mine[key] == other[key]).all() for key in other)


@pytest.mark.parametrize("sampling", ["batch", "running"])
def test_the_standard_gaussian_and_both_ways_of_sampling(world, tmp_path, sampling):
    do(*playing(tmp_path, world / "data", "sg"))
    model, distances = tmp_path / "snapshots.pt", tmp_path / "distances.csv"
    do(*looking("distances", world, model, sampling=sampling), "--output", distances)
    do(*evaluating(tmp_path, world, model, sampling=sampling, checkpoint="last", train_images=20))
    value = {row["metric"]: float(row["value"]) for row in rows(tmp_path / "metrics.csv")}
    assert (value["entropy_per_batch"], value["entropy_pooled"]) == (0, 0)
    assert value["checkpoint_epoch"] == 4
    with np.load(tmp_path / "codes.npz") as codes:
        assert len(codes["train"]) == 20


def test_probes_are_those_of_the_codes(world):
    found = {row["metric"]: row for row in rows(world / "probes.csv")}
    with np.load(world / "codes.npz") as codes:
        data = [codes[name] for name in ("train", "train_labels", "test", "test_labels")]
    expected = {"svm_few": svm_accuracy(*data, 50), "svm_many": svm_accuracy(*data, 500)}
    expected |= {"knn_few": knn_accuracy(*data, 1), "knn_many": knn_accuracy(*data, 9)}
    assert {name: float(row["value"]) for name, row in found.items()} == expected
    names = ("dataset", "cell", "r_entropy", "seed")
    assert {tuple(row[name] for name in names) for row in found.values()} == {("digits", "mog4-lc-ip", "10", "0")}


def test_a_run_that_diverges_is_recorded_all_the_way(world, tmp_path, capsys):
    wild = {"training": GAME | {"learning_rate": 1e6}, "snapshots": [0, 1, 2, 3, 4]}
    do(*playing(tmp_path, world / "data", "mog4-ip", **wild))
    assert "diverged" in capsys.readouterr().err
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

FEW, ONE, NONE = '{"features": "fd_classifier", "samples": 241}', '{"neighbours": [5]}', '{"iterations": 0}'


def of_another_dataset(world: Path, folder: Path) -> Path:
    """The same data, classifier and statistics, under the name of another dataset."""
    manifest = json.loads((world / "data/manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"dataset": "digits16"}))
    network = classifiers.load(world / "classifier.pt")
    network.dataset = "digits16"
    classifiers.save(folder / "classifier.pt", network)
    replace(Statistics.load(world / "fd_classifier.npz"), dataset="digits16").save(folder / "fd_classifier.npz")
    return folder


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(world, tmp_path, capsys, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained nevertheless"))
    monkeypatch.setenv("INTROPRIOR_DEVICE", "cpu")
    data, out = world / "data", tmp_path / "out"
    foreign = world / "classifier.pt"

    def without(arguments: list[Any], flag: str, count: int = 2) -> list[Any]:
        at = arguments.index(flag)
        return arguments[:at] + arguments[at + count :]

    others = of_another_dataset(world, tmp_path_factory.mktemp("others"))
    model = world / "snapshots.pt"
    d, r, p = (["--output", out / name] for name in ("d.csv", "r.npz", "p.csv"))
    reference = ["reference", "--data", data, *r]
    cases: list[tuple[list[Any], str]] = [
        (without(playing(out, data, "sg"), "--data"), r"--data is missing; give the folder that `introprior prepare`"),
        (playing(out, data, "sg", betas=[1, 1]), "beta_neg is missing"),
        (playing(out, data, "sg", "--hyperparameters", "x.json"), "--hyperparameters: of no use for images"),
        (playing(out, data, "sg", seeds=[0, 1]), "image runs have one member each"),
        (playing(out, data, "sg", snapshots=[5]), r"snapshots: must be whole numbers from 0 to 4, are \[5\]"),
        (playing(out, data, "sg", iterations_per_epoch=4), "has 3 batches of 96, not the 4 that were planned"),
        (playing(out, data, "sg", training=GAME | {"hidden": 3}), "training: unknown key 'hidden'"),
        (playing(out, data, "sg", training=GAME | {"widths": [1.5]}), r"widths\[0\]: must be a whole number, is 1.5"),
        (playing(out, data, "sg", "--dataset", "MINST"), "unknown image dataset 'MINST'; did you mean 'MNIST'"),
        (playing(out, data, "mog300"), "300 components, but only 240 training images"),
        (playing(out, data, "sg", "--warmup", foreign), "classifier.pt: not a warm-up"),
        (playing(out, out / "none", "sg"), "manifest.json: missing, so no dataset is prepared"),
        (warming(out, data, "mog4", betas=["x", 1]), r"betas\[0\]: must be a number, is 'x'"),
        (["prepare", "--dataset", "digit", "--output", out], "unknown image dataset 'digit'; did you mean 'digits'"),
        (["weights", "--source", foreign, *r], "classifier.pt: not the weights of FID"),
        (["weights", "--source", out / "no", *r], "no such file of Inception weights"),
        (reference, "features: fid(_authors)? needs --weights, Inception's"),
        ([*reference, "--classifier", foreign, "--options", FEW], "samples: 241 are more than the 240 images"),
        ([*looking("distances", world, model, features=["fid"]), *d], "features: fid(_authors)? needs --weights"),
        ([*looking("distances", world, model, features=["fd"]), *d], r"features\[0\]: must be 'fid_authors', "),
        ([*looking("distances", world, model, batch_size=128), *d], "of the batch_size 96, not 128; give another"),
        ([*looking("distances", world, model, samples=20), *d], "20 samples are too few for features of 64 dimensions"),
        ([*looking("distances", world, foreign), *d], "holds no snapshots"),
        ([*looking("distances", world, model), "--earlier", world / "probes.csv", *d], "probes.csv: no column 'epoch'"),
        (evaluating(out, world, sampling="both"), "sampling: must be 'batch' or 'running', is 'both'"),
        (evaluating(out, world, train_images=0), "train_images: must be at least 1 or"),
        (evaluating(out, world, cell="sg"), "of the cell mog4-lc-ip, not sg; give another --model"),
        (without(evaluating(out, world), "--codes"), "--codes is missing; images need it"),
        (["evaluate", "--model", model, "--metrics", out / "m", "--panels", out / "p"], "evaluating them takes --data"),
        (["probe", "--codes", world / "panels.npz", *p], "panels.npz: no entry 'train'"),
        (["probe", "--codes", world / "codes.npz", *p, "--options", ONE], "neighbours: must have at least 2"),
        (["overfit", "--model", model, "--distances", world / "distances.csv", "--data", data, *p, "--options", NONE],
         "iterations: must be at least 1, is 0"),
        # Another run's files.
        ([*looking("distances", world, model, seed=1), *d], "snapshots.pt: of the seed 0, not 1; give another --model"),
        ([*looking("distances", world, model, r_entropy=1.0), *d], "of the r_entropy 10.0, not 1.0; give another --m"),
        ([*looking("distances", world, model), "--earlier", world / "distances.csv", *d],
         "distances.csv: of the cell mog4-lc-ip, not mog4-lc; give another --earlier"),
        ([*without(evaluating(out, world), "--distances"), "--distances", world / "warmup-distances.csv"],
         "warmup-distances.csv: of the cell mog4-lc, not mog4-lc-ip; give another --distances"),
        (["overfit", "--model", model, "--distances", world / "warmup-distances.csv", "--data", data, *p],
         "warmup-distances.csv: of the cell mog4-lc, not mog4-lc-ip; give another --distances"),
        ([*without(looking("distances", world, model), "--data"), "--data", others, *d],
         "others0: of the dataset digits16, not digits; give another --data"),
        ([*without(looking("distances", world, model), "--classifier"), "--classifier", others / "classifier.pt", *d],
         "classifier.pt: of the dataset digits16, not digits; give another --classifier"),
        ([*without(looking("distances", world, model), "--reference"), "--reference", others / "fd_classifier.npz", *d],
         "fd_classifier.npz: of the dataset digits16, not digits; give another --reference"),
        (["probe", "--codes", world / "codes.npz", *p, "--options", '{"cell": "sg"}'],
         "codes.npz: of the cell mog4-lc-ip, not sg; give another --codes"),
        (playing(out, data, "sg", "--dataset", "MNIST"),
         "data: of the dataset digits, not MNIST; give another --data"),
    ]  # fmt: skip
    for arguments, message in cases:
        capsys.readouterr()
        assert command(*arguments) == 2, arguments
        said = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line and "%|" not in line]
        assert len(said) == 1, said
        assert re.match(r"introprior \w+: ", said[0])
        assert re.search(message, said[0]), said[0]
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert left == [], (arguments, left)


def test_what_is_not_told_is_the_papers(world, tmp_path, monkeypatch):
    seen: list[Training] = []

    class Enough(Exception):
        signal_number = signal.SIGTERM

    def stop(training: Training, *_: object, **__: object) -> None:
        seen.append(training)
        raise Enough

    monkeypatch.setattr(Training, "advance", stop)
    for name, more in (("train", ["--betas", 1, 1, 128, "--history", tmp_path / "h"]), ("warmup", [])):
        flags = ["--dataset", "digits", "--cell", "mog10-ip", "--data", world / "data", "--output", tmp_path / "o"]
        assert command(name, *flags, *more) == 143
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
