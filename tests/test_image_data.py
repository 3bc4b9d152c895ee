"""Image datasets: published files found, checked and converted; stand-ins; loading; epochs. Downloads: test_downloads.

The files are tiny but in the real formats, and torchvision reads them.
"""

from __future__ import annotations

import dataclasses
import gzip
import pickle
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from torch.nn.functional import interpolate

from introprior import cli
from introprior.data import images
from introprior.data.images import catalogue, splits, standins, store
from tests import published
from tests.commands import refused
from tests.published import BATCHES, IDX, Files, Tiny, idx_bytes, idx_header, md5, sha256, tar_bytes, write, zipped

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
Publish = Callable[..., Tiny]
needs_debian = pytest.mark.skipif(not DEBIAN.exists(), reason="apt-get install dataset-fashion-mnist")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Make a tiny edition of MNIST, FMNIST or CIFAR-10."""
    entries = dict(images.DATASETS)
    return lambda name, counts=(20, 10): published.publish(monkeypatch, entries[name], counts)


def assert_prepared(folder: Path, tiny: Tiny) -> None:
    for split, (pixels, labels) in tiny.arrays.items():
        loaded = splits.load(folder, split)
        assert loaded.images.dtype == torch.uint8
        np.testing.assert_array_equal(loaded.images.numpy(), pixels)
        np.testing.assert_array_equal(loaded.labels.numpy(), labels)
    assert sorted(path.name for path in folder.iterdir()) == sorted(images.FILES)


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# Finding


@pytest.mark.parametrize("name", ["MNIST", "FMNIST", "CIFAR-10"])
@pytest.mark.parametrize("kind", ["open", "gzipped", "as published", "unpacked", "unpacked in part"])
def test_files_are_found_in_torchvisions_root(publish: Publish, tmp_path: Path, name: str, kind: str) -> None:
    tiny = publish(name)
    kinds = {"open": tiny.files, "gzipped": zipped(tiny.files), "as published": tiny.packed}
    kinds |= {"unpacked": tiny.packed | tiny.files, "unpacked in part": tiny.packed | dict([*tiny.files.items()][:2])}
    root = write(tmp_path / "root", kinds[kind])
    before = snapshot(root)
    manifest = images.prepare(name, tmp_path / "out", source=root)
    assert_prepared(tmp_path / "out", tiny)
    assert snapshot(root) == before, "a source is only read"
    assert manifest == images.read_manifest(tmp_path / "out")
    told = {"verified": True, "stand_in_for": None, "shape": list(tiny.entry.shape), "origin": f"found in {root}"}
    assert manifest | told == manifest
    assert {split: part["count"] for split, part in manifest["splits"].items()} == {"train": 20, "test": 10}
    for file in (part[kind] for part in manifest["splits"].values() for kind in ("images", "labels")):
        assert sha256((tmp_path / "out" / file["file"]).read_bytes()) == file["sha256"]
    before = snapshot(tmp_path / "out")
    assert images.prepare(name, tmp_path / "out", offline=True) == manifest
    assert snapshot(tmp_path / "out") == before, "what is prepared is left alone"


def test_debians_package_is_found_where_no_source_is_named(publish, tmp_path, monkeypatch):
    tiny = publish("FMNIST")
    installed = write(tmp_path / "installed", {Path(name).name: data for name, data in tiny.packed.items()})
    entry = dataclasses.replace(tiny.entry, debian=("dataset-fashion-mnist", str(installed)))
    monkeypatch.setitem(images.DATASETS, "FMNIST", entry)
    manifest = images.prepare("FMNIST", tmp_path / "out", offline=True)
    assert_prepared(tmp_path / "out", tiny)
    assert manifest["origin"] == f"found in {installed}"
    root = write(tmp_path / "root", {"readme.txt": b""})
    said = (f"{root}/FashionMNIST/raw: lacks all files of FMNIST", *IDX, "name no source")
    refused(lambda: images.prepare("FMNIST", tmp_path / "other", source=root), *said)  # and none is taken instead
    assert not any((tmp_path / "other").iterdir())


@needs_debian
def test_real_fashion_mnist(tmp_path: Path) -> None:
    assert images.prepare("FMNIST", tmp_path, offline=True)["verified"] is True
    found = [sha256((tmp_path / file).read_bytes())[:16] for file in images.FILES[1:]]  # train, test: images, labels
    assert found == ["4d6d54d7b7f1d114", "eb6efccc70db136c", "4cdcdb7b44ef667e", "33e7c41e1d27e7ea"]
    train = splits.load(tmp_path, "train")
    assert train.labels.bincount().tolist() == [6000] * 10
    assert train.images.double().mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # known of this dataset
    assert train.images.double().std() / 255 == pytest.approx(0.3530, abs=1e-4)


@needs_debian
def test_checksums_of_fashion_mnist_are_of_the_bytes_that_torchvision_downloads() -> None:
    # Debian has taken name and time out of the gzip headers. With them back, the file is the published one.
    for file, digest in torchvision.datasets.FashionMNIST.resources:
        name, packed = file.removesuffix(".gz"), (DEBIAN / file).read_bytes()
        seconds = struct.pack("<I", 1504176606 if name.startswith("train") else 1504176627)
        assert md5(b"\x1f\x8b\x08\x08" + seconds + packed[8:10] + name.encode() + b"\0" + packed[10:]) == digest
        assert sha256(gzip.decompress(packed)) == images.DATASETS["FMNIST"].files[name]


def test_checksums_of_cifars_names_are_of_the_same_bytes() -> None:
    assert md5(published.META) == torchvision.datasets.CIFAR10.meta["md5"]
    assert sha256(published.META) == images.DATASETS["CIFAR-10"].files["batches.meta"]
    assert tuple(pickle.loads(published.META)["label_names"]) == images.DATASETS["CIFAR-10"].classes


@pytest.mark.parametrize("file", images.FILES)
@pytest.mark.parametrize("damage", ["remove", "truncate", "flip"])
def test_damaged_preparation_is_made_anew(publish: Publish, tmp_path: Path, file: str, damage: str) -> None:
    tiny = publish("MNIST")
    root = write(tmp_path / "root", tiny.files)
    images.prepare("MNIST", tmp_path / "out", source=root)
    path = tmp_path / "out" / file
    data = path.read_bytes()
    path.write_bytes(data[:-3] if damage == "truncate" else b"!" + data[1:])
    if damage == "remove":
        path.unlink()
    images.prepare("MNIST", tmp_path / "out", source=root)
    assert_prepared(tmp_path / "out", tiny)
    assert path.read_bytes() == data


@pytest.mark.parametrize("saved", range(4))
def test_interrupted_preparation_is_not_trusted(publish, tmp_path, monkeypatch, saved):
    def save(path: Path, array: np.ndarray) -> None:
        nonlocal saved
        if not saved:
            raise KeyboardInterrupt
        saved -= 1
        np.lib.format.write_array(path.open("wb"), array)

    old, tiny = publish("MNIST", (30, 10)), publish("MNIST")
    images.prepare("MNIST", tmp_path / "out", source=write(tmp_path / "old", old.files), verify=False)
    root = write(tmp_path / "root", tiny.files)
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(KeyboardInterrupt):
            images.prepare("MNIST", tmp_path / "out", source=root)
    refused(lambda: splits.load(tmp_path / "out", "test"), "no dataset is prepared")
    # What a process that was killed leaves behind.
    write(tmp_path / "out" / ".unpacked-k1ll3d", {name: data[:99] for name, data in tiny.files.items()})
    write(tmp_path / "out" / ".downloads", {name: data[:99] for name, data in tiny.files.items()})
    images.prepare("MNIST", tmp_path / "out", source=root)
    assert_prepared(tmp_path / "out", tiny)


def test_one_folder_holds_one_dataset(publish: Publish, tmp_path: Path) -> None:
    mnist, fmnist = publish("MNIST"), publish("FMNIST", (30, 20))
    root = write(tmp_path / "root", mnist.files | fmnist.files)
    images.prepare("MNIST", tmp_path / "out", source=root)
    refused(lambda: images.prepare("FMNIST", tmp_path / "out", source=root), "MNIST", "FMNIST", "out")
    images.prepare("FMNIST", tmp_path / "other", source=root)
    assert_prepared(tmp_path / "other", fmnist)


def test_own_files_are_used_only_when_asked(publish: Publish, tmp_path: Path) -> None:
    own, others = publish("MNIST", (30, 25)), publish("MNIST", (40, 25))
    publish("MNIST")  # as published, from now on
    root = write(tmp_path / "root", own.files)
    said = (f"{root}/MNIST/raw/{IDX[0]}", "SHA-256", "images.verify: false")
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=root), *said)
    for tiny in (own, others):  # their content may change
        manifest = images.prepare("MNIST", tmp_path / "out", source=write(root, tiny.files), verify=False)
        assert manifest["verified"] is False
        assert_prepared(tmp_path / "out", tiny)
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=root), "SHA-256")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("owner", ["MNIST", "FMNIST"])
def test_files_of_another_dataset_or_split_are_never_used(
    publish: Publish, tmp_path: Path, owner: str, verify: bool
) -> None:
    published = {name: publish(name).files for name in ("MNIST", "FMNIST")}
    _, _, test_images, _ = published[owner].values()
    root = write(tmp_path / "root", published["MNIST"] | {f"MNIST/raw/{IDX[0]}": test_images})
    said = f"{root}/MNIST/raw/{IDX[0]}: is {owner}'s {IDX[2]}, not MNIST's {IDX[0]}; put each file in its place"
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=root, verify=verify), said)


# Bad files: one line each, and nothing written

Change = Callable[[Files], Files]


def edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    """One file changed, named by the end of its path."""
    return lambda files: {path: edit(data) if path.endswith(name) else data for path, data in files.items()}


def without(name: str) -> Change:
    return lambda files: {path: data for path, data in files.items() if not path.endswith(name)}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


ZEROS = np.zeros((20, 28, 28))
BAD_IDX: dict[str, tuple[int, Callable[[bytes], bytes], str | None]] = {
    "truncated": (0, lambda data: data[:-5], "its train files are damaged"),
    "only a header": (0, lambda data: data[:9], "its train files are damaged"),
    "three bytes": (1, lambda data: data[:3], "its train files are damaged"),
    "empty": (2, lambda data: b"", "its test files are damaged"),
    "too long": (2, lambda data: data + b"x", "its test files are damaged"),
    "a web page": (0, lambda data: b"<!doctype html>", "its train files are damaged"),
    "other numbers": (0, lambda data: b"\0\0\x0d\x01" + bytes(4), "its train files are damaged"),
    "65 axes": (0, lambda data: idx_header(*[1] * 65) + b"x", "its train files are damaged"),
    "6 GB": (0, lambda data: idx_header(8_000_000, 28, 28) + b"x", "its train files are damaged"),
    "2^96 bytes": (0, lambda data: idx_header(*[2**32 - 1] * 3) + b"x", "its train files are damaged"),
    "2^64 bytes, in 64 bits none": (0, lambda data: idx_header(2**31, 2**31, 4), "its train files are damaged"),
    "wrong shape": (0, lambda data: idx_bytes(ZEROS[:, :20]), "[20, 20, 28], labels [20], not [N, 28, 28] and [N]"),
    "labels for images": (0, lambda data: idx_bytes(ZEROS[:, 0, 0]), "should have 3 dimension instead of 1"),
    "images for labels": (1, lambda data: idx_bytes(ZEROS), "should have 1 dimension instead of 3"),
    "too few labels": (1, lambda data: idx_bytes(np.zeros(19)), "images [20, 28, 28], labels [19], not"),
    "labels out of range": (1, lambda data: idx_bytes(np.arange(20)), "labels from 0 to 19, not 0 to 9"),
    "no images": (2, lambda data: idx_bytes(ZEROS[:0]), "its test files are damaged"),
    "one bit": (2, flipped, None),
}
"""Which file is changed, how, and what is said of it where it need not be the published one; None: it is taken."""


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("fault", BAD_IDX)
def test_bad_idx_files(publish: Publish, tmp_path: Path, fault: str, verify: bool) -> None:
    number, change, said = BAD_IDX[fault]
    root, out = write(tmp_path / "root", edited(IDX[number], change)(publish("MNIST").files)), tmp_path / "out"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if verify:
        refused(lambda: images.prepare("MNIST", out, source=root), f"{root}/MNIST/raw/{IDX[number]}: not as published")
    elif said:
        refused(lambda: images.prepare("MNIST", out, source=root, verify=False), f"MNIST, found in {root}: ", said)
    else:
        assert images.prepare("MNIST", out, source=root, verify=False)["verified"] is False
    assert any(out.iterdir()) is (said is None and not verify)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500_000, "kilobytes: no header is believed"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(IDX[3]), f"raw: lacks {IDX[3]}; put"),
        (lambda files: edited(f"{IDX[0]}.gz", halved)(zipped(files)), f"{IDX[0]}.gz: truncated or damaged"),
        (lambda files: {f"{path}.gz": data for path, data in files.items()}, f"{IDX[0]}.gz: truncated or damaged"),
        (lambda files: zipped(edited(IDX[2], lambda _: bytes(10**7))(files)), f"{IDX[2]}.gz: holds more than 100,000"),
    ],
    ids=["missing", "packed and cut", "not packed", "packed without end"],
)
def test_bad_packing(publish, tmp_path, monkeypatch, change, said, verify):
    monkeypatch.setattr(store, "LARGEST", 100_000)
    root = write(tmp_path / "root", change(publish("MNIST").files))
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=root, verify=verify), str(root), said)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fault", ["evil", "truncated", "one bit", "missing", "escaping"])
def test_bad_cifar_files(publish: Publish, tmp_path: Path, fault: str, packed: bool, verify: bool) -> None:
    evil = f"cos\nmkdir\n(V{tmp_path}/was here\ntR.".encode()  # makes this folder where it is unpickled
    change, said = {
        "evil": (edited("test_batch", lambda _: evil), "test_batch: not as published"),
        "truncated": (edited(BATCHES[2], halved), f"{BATCHES[2]}: not as published"),
        "one bit": (edited("batches.meta", flipped), "batches.meta: not as published"),
        "missing": (without(BATCHES[2]), f"lacks {BATCHES[2]}"),
        "escaping": (lambda files: {"../escaped": b"x"} if packed else {"x": b""}, "lacks all files"),
    }[fault]
    files = change(publish("CIFAR-10").files)
    root = write(tmp_path / "root", {"cifar-10-python.tar.gz": tar_bytes(files)} if packed else files)
    said = "cifar-10-python.tar.gz: not as published" if packed else said
    refused(lambda: images.prepare("CIFAR-10", tmp_path / "out", source=root, verify=verify), str(root), said)
    assert pickle.loads(evil.replace(b"was here", b"could be")) is None
    (tmp_path / "could be").rmdir()
    assert {path.name for path in tmp_path.iterdir()} == {"root", "out"}
    assert not any((tmp_path / "out").iterdir())


def test_bad_arguments(publish: Publish, tmp_path: Path) -> None:
    root = write(tmp_path / "root", publish("MNIST").files)
    (tmp_path / "file").touch()
    refused(lambda: images.prepare("FMNST", tmp_path / "out"), "FMNST", "did you mean 'FMNIST'?")
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=tmp_path / "none"), "images.source", "none")
    refused(lambda: images.prepare("MNIST", tmp_path / "file", source=root), "file", "cannot write")
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source="x" * 999), "xxx: cannot read", "name too long")


# A new dataset


def test_the_page_on_adding_a_dataset(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs/add-an-image-dataset.md").read_text()
    entry, use, _ = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    tiny = published.publish(monkeypatch, eval(entry, vars(catalogue)))
    write(tmp_path / "data", tiny.packed)
    checksums = iter(tiny.entry.files.values())
    added = eval(re.sub(r'"\.\.\."', lambda _: f'"{next(checksums)}"', entry), vars(catalogue))
    assert added == tiny.entry
    monkeypatch.chdir(tmp_path)
    exec(use.replace('"/data"', '"data"'), {})
    assert_prepared(tmp_path / "results/data/KMNIST", tiny)
    assert cli.main(["prepare", "--dataset", "KMNIST", "--source", "data", "--output", "other"]) == 0
    assert "Kuzushiji-MNIST, 20 train, 10 test; found in data" in capsys.readouterr().out


# Stand-ins


@pytest.mark.parametrize("name", ["digits", "digits16", "photos"])
def test_stand_ins(name: str, tmp_path: Path) -> None:
    entry = images.DATASETS[name]
    manifest = images.prepare(name, tmp_path, offline=True)
    assert manifest["stand_in_for"] == entry.stand_in_for
    assert f"stand-in for {entry.stand_in_for}" in manifest["title"]
    assert images.DATASETS[str(entry.stand_in_for)].shape[0] == entry.shape[0]
    assert "scikit-learn" in manifest["origin"]
    for split, count in (("train", entry.train), ("test", entry.test)):
        loaded = splits.load(tmp_path, split)
        assert loaded.images.shape == (count, *entry.shape)
        assert loaded.labels.bincount(minlength=10).numpy() / count == pytest.approx(0.1, abs=0.005)
        assert loaded.labels[:128].bincount(minlength=10).min() >= 3, "the classes come mixed"
    assert images.prepare(name, tmp_path / "again")["splits"] == manifest["splits"]


@pytest.mark.parametrize(("name", "side", "frame"), [("digits", 20, 4), ("digits16", 16, 0)])
def test_digits_are_enlarged_bilinearly(name: str, side: int, frame: int) -> None:
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images)[:, None]
    large = interpolate(small, size=(side, side), mode="bilinear", align_corners=False) * 255 / 16
    expected = torch.nn.functional.pad(large, [frame] * 4)
    made = {split: torch.from_numpy(pixels).double() for split, (pixels, _) in getattr(standins, name)().items()}
    assert sum(map(len, made.values())) == len(small)
    for image in (*made["train"][:100], *made["test"][:50]):
        assert (expected - image).abs().amax(dim=(1, 2, 3)).min() <= 0.5 + 1e-9
    assert len(expected.round().flatten(1).unique(dim=0)) == len(small)  # no two alike, so the splits are disjoint


@pytest.mark.parametrize("axis", [0, 1])
def test_photos_share_no_pixel_between_splits(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs whose pixels tell their row (axis 0) or column (axis 1)."""
    place = np.indices((427, 640))[axis]
    photograph = np.stack((place // 256, place % 256, place * 0), axis=-1).astype(np.uint8)
    monkeypatch.setattr("sklearn.datasets.load_sample_image", lambda name: photograph)
    made = standins.photos()
    places = {split: pixels[:, 0].astype(int) * 256 + pixels[:, 1] for split, (pixels, _) in made.items()}
    assert (places["train"].max(axis=(1, 2)) - places["train"].min(axis=(1, 2)) == 31).all()  # 32 in a row
    if axis == 1:
        train, test = (set(places[split].flatten().tolist()) for split in catalogue.SPLITS)
        assert not train & test
    else:
        for split, (_, labels) in made.items():
            np.testing.assert_array_equal(places[split] // 85, (labels % 5)[:, None, None] + 0 * places[split])


def test_every_dataset_is_described_fully() -> None:
    for name, entry in images.DATASETS.items():
        assert entry.name == name
        assert len(entry.classes) == len(set(entry.classes)) == 10
        if entry.stand_in_for:
            assert callable(getattr(standins, name))
        else:
            digests, reader = [*entry.files.values()], getattr(torchvision.datasets, entry.torchvision)
            if entry.archive:
                assert entry.archive[0] == reader.filename
                digests.append(entry.archive[1])
            assert {len(bytes.fromhex(digest)) for digest in digests} == {32}


# Loading


@pytest.fixture
def prepared(publish: Publish, tmp_path: Path) -> Path:
    images.prepare("MNIST", tmp_path / "out", source=write(tmp_path / "root", publish("MNIST").files))
    return tmp_path / "out"


def test_loaded_images_may_be_changed_but_not_their_file(prepared: Path) -> None:
    before = (prepared / "train-images.npy").read_bytes()
    splits.load(prepared, "train").images.zero_()
    assert (prepared / "train-images.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("manifest.json", None, ["missing", "prepare"]),
        ("manifest.json", lambda data: data[:50], ["not valid JSON", "again"]),
        ("manifest.json", lambda data: b"[1]", ["not a manifest", "prepare"]),
        ("manifest.json", lambda data: b'{"version": 2}', ["version 1", "prepare"]),
        ("train-images.npy", None, ["missing", "prepare"]),
        ("train-images.npy", lambda data: data[:-1], ["truncated", "prepare"]),
        ("train-images.npy", lambda data: b"", ["truncated", "prepare"]),
        ("train-images.npy", lambda data: b"hello" * 100, ["truncated or damaged", "prepare"]),
        ("train-labels.npy", None, ["missing", "prepare"]),
        ("train-labels.npy", lambda data: data[:-1], ["truncated", "prepare"]),
    ],
)
def test_loading_what_is_spoilt(prepared, file, spoil, said):
    path = prepared / file
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    refused(lambda: splits.load(prepared, "train"), path, *said)


# Epochs


@pytest.mark.parametrize(("name", "batch_size", "iterations"), [("FMNIST", 128, 469), ("CIFAR-10", 32, 1563)])
def test_iterations_per_epoch(name: str, batch_size: int, iterations: int) -> None:
    n = images.DATASETS[name].train
    epochs = splits.Epochs(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), batch_size)
    assert epochs.iterations == iterations
    sizes = [epochs(i, [0]).shape[1] for i in (0, iterations - 2, iterations - 1, iterations)]
    assert sizes == [batch_size, batch_size, n - (iterations - 1) * batch_size, batch_size]


def numbered(n: int = 100) -> torch.Tensor:
    """Images that tell their number."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()


def order(epochs: splits.Epochs, epoch: int, seed: int) -> list[int]:
    batches = [epochs(epoch * epochs.iterations + i, [seed])[0] for i in range(epochs.iterations)]
    return (torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()


def test_every_epoch_shows_every_image_once_in_a_new_order() -> None:
    epochs = splits.Epochs(numbered(), 32)
    orders = [order(epochs, epoch, seed) for epoch in range(3) for seed in range(3)]
    for seen in orders:
        assert sorted(seen) == list(range(100))
    assert len({tuple(seen) for seen in orders}) == 9
    assert order(epochs, 0, 0) == orders[0]  # also after others


def test_orders_are_fair() -> None:
    epochs = splits.Epochs(numbered(10), 10)
    places = torch.zeros(10, 10)
    for epoch in range(2000):
        places[torch.tensor(order(epochs, epoch, 7)), torch.arange(10)] += 1
    # 10 x 10 cells of mean 200 and variance 180, whose rows and columns add up: chi-square with 81 degrees of freedom
    statistic = ((places - 200) ** 2 / 200).sum() * 9 / 10
    assert 81 - 4.5 * 162**0.5 < statistic < 81 + 4.5 * 162**0.5


def test_batches_are_bytes_divided_by_255() -> None:
    pixels = torch.randint(0, 256, (40, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    epochs = splits.Epochs(pixels, 40)
    shown = epochs(0, [3])[0]
    assert shown.dtype == torch.float32
    rows = torch.tensor([int((pixels.float() / 255 == image).all(dim=(1, 2, 3)).nonzero()) for image in shown])
    assert sorted(rows.tolist()) == list(range(40))


def test_seeds_get_the_same_batches_alone_and_side_by_side_and_from_any_iteration_on() -> None:
    together, alone, later = (splits.Epochs(numbered(), 32) for _ in range(3))
    for i in range(12):
        shown = together(i, [4, 9, 4])
        assert torch.equal(shown, torch.stack([alone(i, [seed])[0] for seed in (4, 9, 4)]))
        if i >= 6:  # as a run that goes on
            assert torch.equal(later(i, [9])[0], shown[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_shows_the_same_order() -> None:
    here, there = splits.Epochs(numbered(), 32), splits.Epochs(numbered(), 32, "cuda")
    for i in range(6):
        shown = there(i, [1, 2])
        assert shown.is_cuda
        torch.testing.assert_close(shown.cpu(), here(i, [1, 2]))
