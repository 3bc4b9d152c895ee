"""Data of one's own, pictures in folders and arrays, points in files: found, converted, refused, used."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from introprior import cli
from introprior.data import catalogue, density, images, points
from introprior.data.images import folders, splits
from introprior.evaluation.density import Ensemble
from introprior.experiment import jobs
from introprior.experiment.config import Configuration, load
from introprior.game.randomness import Streams
from introprior.metrics import classifier as classifiers
from introprior.operations import provenance
from introprior.reporting import read
from introprior.reporting.tables.sheets import Request, measured, summarise
from tests.commands import EVALUATION, TRAINING, do, refused, rows, stopping

CASES = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text())["own data"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test makes known is unknown to the next."""
    before = [(known, dict(known)) for known in (catalogue.DATASETS, images.DATASETS)]
    yield
    for known, entries in before:
        known.clear()
        known.update(entries)


def picture(path: Path, grey: int = 100, size: tuple[int, int] = (20, 24), mode: str = "RGB") -> Path:
    """A picture of one grey, with another right of its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0]), grey, np.uint8)
    pixels[:, size[0] // 2 :] = 255 - grey
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def album(folder: Path, classes: dict[str, int], suffix: str = "png") -> Path:
    """So many pictures in folders of these names; empty for the folder itself."""
    for name, count in classes.items():
        for i in range(count):
            picture(folder / name / f"{i:03}.{suffix}", 2 * i)
    return folder


def prepared(source: Path, out: Path, size: int = 8, channels: int = 1) -> tuple[splits.ImageSplit, splits.ImageSplit]:
    images.add(folders.describe("mine", source, size, channels))
    images.prepare("mine", out)
    return splits.load(out, "train"), splits.load(out, "test")


SMALL = """\
images:
  datasets: [mine]
  by_dataset: {mine: {size: 8, batch_size: 16, latent_dim: 2, widths: [4], beta_neg: 4}}
  evaluation: {features: classifier, samples: 10, allow_few: true, latent_points: 2, grid_images: 4}
  probes: {neighbours: [1, 2]}
tables: {table2: [sg, mog4-ip], table5: [sg, mog4-ip]}
latents: {cells: [sg, mog4-ip]}
figure2: {dataset: mine, cell: mog4-ip}
figureS2: {dataset: mine, cell: mog4-ip}
"""


def section(folder: Path, /, **more: Any) -> dict[str, Any]:
    """A configuration of small pictures."""
    values = yaml.safe_load(SMALL)
    values["images"]["by_dataset"]["mine"] |= {"folder": str(folder)} | more
    return values


# Pictures


def test_class_folders(tmp_path: Path) -> None:
    album(tmp_path / "in", {"cat": 30, "dog/deeper": 21, "eel": 9})
    picture(tmp_path / "in/.hidden/x.png")
    (tmp_path / "in/cat/notes.txt").write_text("no picture")
    train, test = prepared(tmp_path / "in", tmp_path / "out")
    assert train.manifest["classes"] == ["cat", "dog", "eel"]
    assert train.images.shape == (54, 1, 8, 8)
    counts = Counter(test.labels.tolist())
    assert sum(counts.values()) == 6
    assert all(abs(counts[label] - size / 10) < 1 for label, size in enumerate((30, 21, 9)))
    assert len(set(train.labels[:10].tolist())) > 1  # mixed
    both = torch.cat([train.images, test.images]).flatten(1)
    assert (both[:, 0] + both[:, -1] == 255).all()
    found = sorted(zip(both[:, 0].tolist(), torch.cat([train.labels, test.labels]).tolist(), strict=True))
    assert found == sorted((2 * i, label) for label, size in enumerate((30, 21, 9)) for i in range(size))


def test_one_folder_without_classes(tmp_path: Path) -> None:
    train, test = prepared(album(tmp_path / "in", {"": 25}, "JPG"), tmp_path / "out", channels=3)
    assert (len(train.images), len(test.images)) == (23, 2)
    assert train.images.shape[1:] == (3, 8, 8)
    assert (train.manifest["classes"], train.labels.unique().tolist()) == ([folders.UNLABELLED], [0])
    again = prepared(tmp_path / "in", tmp_path / "again", channels=3)[1]
    assert torch.equal(test.images, again.images)  # the same are held out


@pytest.mark.parametrize("names", [("",), ("a", "b")])
def test_train_and_test_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    for split, count in (("train", 5), ("test", 3)):
        album(tmp_path / "in" / split, dict.fromkeys(names, count))
    train, test = prepared(tmp_path / "in", tmp_path / "out")
    assert (len(train.images), len(test.images)) == (5 * len(names), 3 * len(names))
    assert len(train.manifest["classes"]) == len(names)
    assert test.labels.bincount().tolist() == [3] * len(names)


def test_a_picture_is_turned_resized_and_cut(tmp_path: Path) -> None:
    """The left half is dark, the right one light; lying on its side by its own account it is dark above."""
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    for i in range(10):
        Image.fromarray(pixels).save(tmp_path / f"in/{i}.png", exif=exif)
    train, _ = prepared(tmp_path / "in", tmp_path / "out")
    shown = train.images[0, 0].numpy()
    assert (shown[0] < 9).all()
    assert (shown[-1] > 191).all()
    np.testing.assert_array_equal(shown[:, 0], shown[:, -1])


@pytest.mark.parametrize(
    "names", [("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train")]
)
def test_arrays(tmp_path: Path, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = np.repeat([3, 12], 20)[:, None]
    arrays = dict(zip(names, (pixels, labels, pixels[:6], labels[:6]), strict=False))
    np.savez_compressed(tmp_path / "in.npz", **arrays, other=np.zeros(2))
    train, test = prepared(tmp_path / "in.npz", tmp_path / "out", channels=3)
    assert train.manifest["classes"] == ["3", "12"]
    assert (len(train.images), len(test.images)) == ((40, 6) if len(names) == 4 else (36, 4))
    known = {image.tobytes(): i // 20 for i, image in enumerate(pixels.transpose(0, 3, 1, 2))}
    for part in (train, test):  # as they were, each with its label
        assert [known[image.numpy().tobytes()] for image in part.images] == part.labels.tolist()


@pytest.mark.parametrize("shape", [(20, 12, 9), (20, 12, 9, 1), (20, 12, 9, 3)])
def test_an_array_of_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "in.npy", np.full(shape, 77, np.uint8))
    train, test = prepared(tmp_path / "in.npy", tmp_path / "out")
    assert train.images.unique().tolist() == [77]
    assert (tuple(train.images.shape), len(test.images)) == ((18, 1, 8, 8), 2)


def test_changed_pictures_are_prepared_anew(tmp_path: Path) -> None:
    source, out = album(tmp_path / "in", {"": 20}), tmp_path / "out"
    prepared(source, out)
    before = folders.fingerprint(source), (out / "manifest.json").stat().st_mtime_ns
    prepared(source, out)
    assert before == (folders.fingerprint(source), (out / "manifest.json").stat().st_mtime_ns)
    picture(source / "000.png", 250)
    assert folders.fingerprint(source) != before[0]
    train, test = prepared(source, out)
    assert 250 in torch.cat([train.images, test.images])
    assert prepared(source, out, size=4)[0].images.shape[2:] == (4, 4)


PIXELS = np.zeros((20, 8, 8), np.uint8)


def cut(path: Path, array: np.ndarray) -> None:
    np.save(path, array)
    os.truncate(path, 60)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "nothing there": ("in", lambda at: None, "in: is not there; correct the path"),
    "empty": ("in", Path.mkdir, "in: holds no pictures (.png, .jpg, .jpeg)"),
    "mixed": ("in", lambda at: album(at, {"": 3, "a": 5}), "has 3 pictures in itself and 5 in folders"),
    "few": ("in", lambda at: album(at, {"": 9}), "in: has only 9 pictures, and one in 10 is held out"),
    "empty test": ("in", lambda at: [album(at / "train", {"": 9}), (at / "test").mkdir()], "has only 9 pictures"),
    "a pipe": ("in.npy", os.mkfifo, "must be a folder of pictures, an .npz or an"),
    "a text": ("in.txt", lambda at: at.write_text("x"), "must be a folder of pictures, an .npz or an"),
    "floats": ("in.npy", lambda at: np.save(at, PIXELS / 1), "in.npy is float64 [20, 8, 8]; images"),
    "shape": ("in.npy", lambda at: np.save(at, PIXELS.reshape(5, 4, 8, 8)), "is uint8 [5, 4, 8, 8]; images"),
    "none": ("in.npy", lambda at: np.save(at, PIXELS[:0]), "is uint8 [0, 8, 8]; images"),
    "cut": ("in.npy", lambda at: cut(at, PIXELS), "damaged, or no array"),
    "no zip": ("in.npz", lambda at: at.write_text("x"), "damaged, or no array (File is not a zip file)"),
    "names": ("in.npz", lambda at: np.savez(at, pixels=[1]), "no array of images; call it train_images or"),
    "labels": (
        *("in.npz", lambda at: np.savez(at, images=PIXELS, labels=np.arange(19))),
        "has 19 train labels for 20 images; give one for each",
    ),
    "kind of labels": (
        *("in.npz", lambda at: np.savez(at, images=PIXELS, labels=np.zeros(20))),
        "labels is float64 [20]; labels must be whole numbers or text",
    ),
    "pickles": ("in.npz", lambda at: np.savez(at, images=np.array([{}] * 20)), "is object [20]; images must be"),
    "labels alone": ("in.npz", lambda at: np.savez(at, labels=[1]), "has train labels, but no train images"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_configuration_refuses(tmp_path: Path, fault: str) -> None:
    name, make, said = FAULTS[fault]
    make(tmp_path / name)
    refused(lambda: load(section(tmp_path / name)), f"configuration: images.by_dataset.mine.folder: {tmp_path}", said)


@pytest.mark.parametrize(("changes", "said"), CASES["pictures"])
def test_keys_of_pictures(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    refused(lambda: load(section(album(tmp_path / "in", {"": 20}), **changes)), said)


def test_names_of_pictures(tmp_path: Path) -> None:
    own = section(album(tmp_path / "in", {"": 20}))["images"]["by_dataset"]["mine"]
    for name, said in (("a/b", "must be letters, digits"), ("MNIST", "there is a dataset MNIST already")):
        refused(lambda name=name: load({"images": {"datasets": [name], "by_dataset": {name: own}}}), said)


def cut_picture(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(path)
    os.truncate(path, 900)


BAD_PICTURES: dict[str, Callable[[Path], object]] = {
    "empty": lambda at: at.write_bytes(b""),
    "text": lambda at: at.write_bytes(b"no picture"),
    "16 bits": lambda at: Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(at),
    "cut": cut_picture,
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_bad_picture(tmp_path: Path, kind: str) -> None:
    source = album(tmp_path / "in", {"": 20})
    BAD_PICTURES[kind](source / "007.png")
    refused(lambda: prepared(source, tmp_path / "out"), "007.png: no 8-bit picture (", "); mend or remove it")
    assert not (tmp_path / "out/manifest.json").exists()


def test_pictures_without_labels_from_preparation_to_tables(tmp_path: Path) -> None:
    """Through the commands, told what the configuration makes of a folder."""
    source = album(tmp_path / "in", {"": 40})
    values, short = section(source, channels=1), {"epochs": 4, "warmup_epochs": 2, "mixture_warmup_epochs": 1}
    values["images"]["training"] = short | {"monte_carlo_samples": 2}
    values["images"]["evaluation"] |= {"epochs": [4], "classifier_epochs": 1, "monte_carlo_samples": 2}
    values["figure2"] |= {"epochs": 4, "every": 2}
    config, data = load(values), tmp_path / "data"
    do("prepare", "--dataset", "mine", *jobs.pictures(config, "mine"), "--output", data)
    run = {"dataset": "mine", "cell": "mog4-ip", "r_entropy": "10", "seed": "0"}
    of_runs = (jobs.game, jobs.distances, jobs.evaluate_images, jobs.probe)
    game, distances, evaluation, probe = (jobs.as_json(resolve(config, **run)) for resolve in of_runs)
    classifier = jobs.as_json(jobs.classifier(config, "mine"))
    reference = jobs.as_json(jobs.reference(config, "mine", "fd_classifier"))
    del images.DATASETS["mine"]  # the other commands know of the prepared data alone

    def at(*names: str) -> list[Path]:
        return [tmp_path / name for name in names]

    network, model = ["--classifier", *at("classifier.pt")], at("snapshots.pt")
    measure = [*network, "--reference", *at("fd_classifier.npz"), "--data", data, "--model", *model]
    do("classifier", "--data", data, "--options", classifier, "--output", network[1])
    do("reference", "--data", data, "--options", reference, *network, "--output", *at("fd_classifier.npz"))
    do("train", "--data", data, "--options", game, "--output", *model, "--history", *at("history.csv"))
    do("distances", *measure, "--options", distances, "--output", *at("distances.csv"))
    outputs = [part for name in ("metrics.csv", "codes.npz", "panels.npz") for part in (f"--{name[:-4]}", *at(name))]
    do("evaluate", *measure, "--options", evaluation, "--distances", *at("distances.csv"), *outputs)
    do("probe", "--codes", *at("codes.npz"), "--options", probe, "--output", *at("probes.csv"))

    assert classifiers.load(network[1]).head.weight.shape[0] == 4  # rotations
    assert all(row["status"] == "ok" and row["value"] for row in rows(*at("metrics.csv")))
    for row in rows(*at("probes.csv")):
        assert (row["value"], row["status"]) == ("", "unlabelled")
        assert "nothing to tell apart" in row["detail"]
    found = pd.DataFrame(read.metrics(at("metrics.csv", "probes.csv")))
    summary = summarise(found, Request(["mine"], ["mog4-ip"], [0]), ["knn_few"]).set_index("metric")
    for row in summary.loc[["svm_few", "knn_many"]].itertuples():
        assert (row.n, row.diverged, measured(row, "std", 3).text) == (0, 0, "–")
    assert read.image_panels(*at("panels.npz"))["classes"].tolist() == [folders.UNLABELLED]


def test_the_small_classifier_learns_which_way_up_without_labels() -> None:
    """A bright edge, above in all images: a quarter of the turned ones each way."""
    pixels = torch.randint(0, 100, (200, 1, 8, 8), dtype=torch.uint8)
    pixels[:, :, :2] += 120
    none = torch.zeros(200, dtype=torch.long)
    found = classifiers.train_classifier(pixels, none, test=(pixels[:50], none[:50]), epochs=12, seed=0, device="cpu")
    assert found.test_accuracy > 0.9


def test_what_prepare_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = album(tmp_path / "in", {"": 20})
    for more, said in (
        ([], "--size is missing"),
        (["--size", "2"], "--size: must be at least 4, is 2"),
        (["--size", "8", "--dataset", "a/b"], "--dataset: 'a/b' has more than letters"),
        (["--size", "8", "--output", str(folder / "out")], "lies in the folder of the pictures"),
        (["--size", "8", "--output", str(folder)], "lies in the folder of the pictures"),
    ):
        told = ["prepare", "--dataset", "mine", "--pictures", str(folder), "--output", str(tmp_path / "out"), *more]
        assert cli.main(told) == 2
        assert said in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [folder]
    assert len([*folder.iterdir()]) == 20


def test_the_record_of_an_array_names_it_though_its_path_was_quoted(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "in.npy", PIXELS)
    do("prepare", "--dataset", "mine", "--pictures", "~/in.npy", "--size", "8", "--output", tmp_path / "out")
    (record,) = (tmp_path / "out").glob("*.provenance.json")
    assert [*provenance.read(record)["inputs"]] == ["../in.npy"]


# Points


def some_points(n: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2)).round(3)


@pytest.mark.parametrize("kind", ["csv", "header", "npy", "integers"])
def test_points_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    wanted, path = some_points(), tmp_path / ("p.npy" if kind == "npy" else "p.csv")
    if kind == "npy":
        np.save(path, wanted)
    else:
        wanted = (wanted * 100).astype(int) if kind == "integers" else wanted
        lines = [f"{x},{y}" for x, y in wanted]
        path.write_text("\n".join(["x, y"] * (kind == "header") + lines), encoding="utf-8-sig")
    np.testing.assert_array_equal(points.read(path), wanted.astype(np.float32))
    assert points.half_width(path) == pytest.approx(1.25 * np.abs(wanted).max(), rel=0.005)
    assert points.half_width(path, 300.0) == 300


def test_draws_are_points_of_the_file_each_as_likely(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", known := some_points(20))
    catalogue.add("mine", str(tmp_path / "p.npy"), None)
    streams = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    drawn = density.sample_members("mine", 8000, Streams(streams))
    assert torch.equal(drawn[1], density.sample("mine", 8000, torch.Generator().manual_seed(1)))
    for row in drawn.numpy():
        counts = Counter(map(tuple, row.tolist()))
        assert counts.keys() == set(map(tuple, known.astype(np.float32).tolist()))
        assert all(abs(count - 400) < 5 * 20 for count in counts.values())


@pytest.mark.parametrize(("content", "said"), [*CASES["files of points"], (os.mkfifo, "is no file; name a CSV or")])
def test_bad_points(tmp_path: Path, content: str | Callable[[Path], None] | None, said: str) -> None:
    if isinstance(content, str):
        (tmp_path / "p.csv").write_text(content)
    elif content:
        content(tmp_path / "p.csv")
    own = {"density": {"points": {"mine": {"file": str(tmp_path / "p.csv")}}, "datasets": ["mine"]}}
    refused(lambda: load(own), f"configuration: density.points.mine.file: {tmp_path}/p.csv: ", said)


@pytest.mark.parametrize(("name", "more", "said"), CASES["points"])
def test_keys_of_points(tmp_path: Path, name: str, more: dict[str, Any], said: str) -> None:
    np.save(tmp_path / "p.npy", some_points())
    refused(lambda: load({"density": {"points": {name: {"file": str(tmp_path / "p.npy"), **more}}}}), said)


def test_only_the_window_leaves_a_training_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", some_points())

    def told(**more: Any) -> list[str]:
        own = {"points": {"mine": {"file": str(tmp_path / "p.npy"), **more}}, "datasets": ["mine", "Rings"]}
        config = load({"density": own})
        assert "points" not in jobs.train(config, "sg", "Rings")
        resolved = jobs.train(config, "sg"), jobs.search(config, "mine", "sg", 0), jobs.evaluate(config, "sg")
        return [jobs.as_json(one) for one in resolved]

    narrow, wide = told(half_width=3.0), told(half_width=5.0)
    assert [ours == theirs for ours, theirs in zip(narrow, wide, strict=True)] == [True, False, False]
    assert "points" not in jobs.train(Configuration(), "sg")


def test_a_training_on_other_points_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def training(folder: str, *more: object) -> list[object]:
        own = {"points": {"mine": {"file": "p.npy"}}, "dataset": "mine", "cell": "sg", "seeds": [0]}
        told = json.dumps(own | {"training": TRAINING, "betas": [1, 0.05, 0.15]})
        return ["train", "--options", told, "--output", f"{folder}/e.pt", "--history", f"{folder}/h.csv", *more]

    np.save("p.npy", some_points())
    with stopping(monkeypatch, 8):
        assert cli.main([*training("stopped", "--state", "state")]) != 0
    assert list(Path("state").rglob("train-*.pt"))
    np.save("p.npy", 2 * some_points())
    density._read.cache_clear()  # as in a process of its own
    do(*training("stopped", "--state", "state"))
    do(*training("undisturbed"))
    assert Path("stopped/h.csv").read_text() == Path("undisturbed/h.csv").read_text()


def test_points_are_trained_on_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savetxt(tmp_path / "p.csv", some_points(500), delimiter=",")
    monkeypatch.setenv("HOME", str(tmp_path))
    own = {"points": {"mine": {"file": "~/p.csv", "half_width": 4.0}}, "dataset": "mine"}
    ensemble, metrics, panels = (tmp_path / name for name in ("ensemble.pt", "metrics.csv", "panels.npz"))
    told = json.dumps({**own, "cell": "mog4-ip", "seeds": [0, 1], "training": TRAINING, "betas": [1, 0.05, 0.15]})
    do("train", "--options", told, "--output", ensemble, "--history", tmp_path / "history.csv")
    catalogue.DATASETS.pop("mine")
    outputs = ["--metrics", metrics, "--panels", panels]
    do("evaluate", "--model", ensemble, "--options", json.dumps(own | EVALUATION), *outputs)
    found = {(row["metric"], row["seed"]): float(row["value"]) for row in rows(metrics) if row["value"]}
    assert {("KL_floor", "0"), ("KL_floor", "1"), ("gnELBO", "0")} <= found.keys()
    assert Ensemble.read(ensemble, CPU).run.dataset == "mine"
    shown = read.density_panels(panels)
    assert shown["limit"] == 4
    assert {*map(tuple, shown["data"].tolist())} <= {*map(tuple, points.read(tmp_path / "p.csv").tolist())}
    overwriting = ["--output", str(ensemble), "--history", str(tmp_path / "p.csv")]
    assert cli.main(["train", "--options", told, *overwriting]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    made = [provenance.read(provenance.path_of(path)) for path in (ensemble, metrics)]
    assert all(record["inputs"]["p.csv"] == provenance.checksum(tmp_path / "p.csv") for record in made)
