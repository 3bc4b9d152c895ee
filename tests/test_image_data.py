"""Image datasets: published formats read from folders, archives and mirrors; stand-ins; loading; epochs.

The files are tiny but in the real formats, and the mirrors are a server on this machine with the faults of real ones.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from introprior.data import images
from introprior.data.images import catalogue, download, formats, splits, standins
from introprior.data.images.catalogue import ImageDataset, Publication
from introprior.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

Files = dict[str, bytes]


# Tiny files in the real formats


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2 did, which wrote CIFAR's files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def cifar_bytes(pixels: np.ndarray, labels: list[int]) -> bytes:
    stream = io.BytesIO()
    batch = {"data": pixels, "labels": labels, "batch_label": "a batch", "filenames": ["x.png"] * len(labels)}
    Python2Pickler(stream, protocol=2).dump(batch)
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def tar_bytes(files: Files, folder: str = "cifar-10-batches-py") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def zipped(files: Files) -> Files:
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}


def digest(files: Files) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@dataclasses.dataclass
class Tiny:
    """A tiny edition of a published dataset, registered under its name, with checksums of its own."""

    entry: ImageDataset
    contents: Files
    downloads: Files
    arrays: formats.Splits


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """Register a tiny edition of MNIST, FMNIST or CIFAR-10."""

    def tiny(name: str, mirrors: tuple[str, ...] = (), counts: tuple[int, int] = (20, 10)) -> Tiny:
        entry = images.DATASETS[name]
        rng = np.random.default_rng(len(name))
        arrays: formats.Splits = {
            split: (rng.integers(0, 256, (n, *entry.shape), dtype=np.uint8), np.arange(n) % 10)
            for split, n in zip(formats.SPLITS, counts, strict=True)
        }
        (x, y), (tx, ty) = arrays["train"], arrays["test"]
        if name == "CIFAR-10":
            parts = [*zip(x.reshape(5, -1, 3072), y.reshape(5, -1), strict=True), (tx.reshape(-1, 3072), ty)]
            contents = {name: cifar_bytes(p, q.tolist()) for name, (p, q) in zip(BATCHES, parts, strict=True)}
            downloads = {"cifar-10-python.tar.gz": tar_bytes(contents | {"readme.html": b"hello"})}
        else:
            contents = dict(zip(IDX, map(idx_bytes, (x[:, 0], y, tx[:, 0], ty)), strict=True))
            downloads = zipped(contents)
        assert isinstance(entry.source, Publication)
        sums = {"files": digest(downloads), "contents": digest(contents)}
        source = dataclasses.replace(entry.source, **sums, mirrors=mirrors or ("nowhere/",), system=())
        entry = dataclasses.replace(entry, source=source)
        monkeypatch.setitem(catalogue.DATASETS, name, entry)
        return Tiny(entry, contents, downloads, arrays)

    return tiny


def assert_prepared(folder: Path, tiny: Tiny) -> None:
    for split, (pixels, labels) in tiny.arrays.items():
        loaded = splits.load(folder, split, checksum=True)
        assert loaded.images.dtype == torch.uint8
        np.testing.assert_array_equal(loaded.images.numpy(), pixels)
        np.testing.assert_array_equal(loaded.labels.numpy(), labels)
    assert sorted(path.name for path in folder.iterdir()) == sorted(images.FILES)


def refused(act: Callable[[], object], *said: str) -> str:
    """That ``act`` is refused in one line which says all this."""
    with pytest.raises(UserError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    for part in said:
        assert part in line, line
    return line


def snapshot(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


# Finding


@pytest.mark.parametrize("below", [".", "MNIST", "MNIST/raw", "mnist"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_found_in_a_folder(
    publish: Callable[..., Tiny], tmp_path: Path, below: str, packed: bool
) -> None:
    tiny = publish("MNIST")
    write(tmp_path / "copies" / below, zipped(tiny.contents) if packed else tiny.contents)
    manifest = images.prepare("MNIST", tmp_path / "out", source=tmp_path / "copies", offline=True)
    assert_prepared(tmp_path / "out", tiny)
    assert manifest == images.read_manifest(tmp_path / "out")
    assert manifest["verified"] is True
    assert manifest["stand_in_for"] is None
    assert manifest["shape"] == [1, 28, 28]
    assert {split: part["count"] for split, part in manifest["splits"].items()} == {"train": 20, "test": 10}
    assert manifest["origin"].startswith(f"found in {tmp_path / 'copies'}")
    for part in manifest["splits"].values():
        for file in (part["images"], part["labels"]):
            assert hashlib.sha256((tmp_path / "out" / file["file"]).read_bytes()).hexdigest() == file["sha256"]


@pytest.mark.parametrize("below", [".", "cifar-10-batches-py", "CIFAR-10/cifar-10-batches-py"])
def test_cifar_batches_are_found_in_a_folder(publish: Callable[..., Tiny], tmp_path: Path, below: str) -> None:
    tiny = publish("CIFAR-10")
    write(tmp_path / "copies" / below, tiny.contents)
    images.prepare("CIFAR-10", tmp_path / "out", source=tmp_path / "copies", offline=True)
    assert_prepared(tmp_path / "out", tiny)


def test_cifar_archive_is_found_in_a_folder(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    tiny = publish("CIFAR-10")
    write(tmp_path / "copies", tiny.downloads)
    images.prepare("CIFAR-10", tmp_path / "out", source=tmp_path / "copies", offline=True)
    assert_prepared(tmp_path / "out", tiny)


def test_distribution_is_looked_into(
    publish: Callable[..., Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = publish("FMNIST")
    installed = write(tmp_path / "installed", zipped(tiny.contents))
    source = dataclasses.replace(tiny.entry.source, system=(installed,))
    monkeypatch.setitem(catalogue.DATASETS, "FMNIST", dataclasses.replace(tiny.entry, source=source))
    manifest = images.prepare("FMNIST", tmp_path / "out", offline=True)
    assert_prepared(tmp_path / "out", tiny)
    assert manifest["origin"] == f"found in {installed}"


@pytest.mark.skipif(not DEBIAN.exists(), reason="apt-get install dataset-fashion-mnist")
def test_real_fashion_mnist(tmp_path: Path) -> None:
    manifest = images.prepare("FMNIST", tmp_path / "out", offline=True)
    assert manifest["verified"] is True
    assert {split: part["count"] for split, part in manifest["splits"].items()} == images.DATASETS["FMNIST"].counts
    train = splits.load(tmp_path / "out", "train")
    assert train.labels.bincount().tolist() == [6000] * 10
    assert train.images.double().mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # known of this dataset
    assert train.images.double().std() / 255 == pytest.approx(0.3530, abs=1e-4)


@pytest.mark.skipif(not DEBIAN.exists(), reason="apt-get install dataset-fashion-mnist")
@pytest.mark.parametrize("name", IDX)
def test_both_checksums_of_fashion_mnist_are_of_the_same_bytes(name: str) -> None:
    # Debian has taken name and time out of the gzip headers. With them back, the file is the published one.
    source = images.DATASETS["FMNIST"].source
    assert isinstance(source, Publication)
    packed = (DEBIAN / f"{name}.gz").read_bytes()
    seconds = 1504176606 if name.startswith("train") else 1504176627
    published = b"\x1f\x8b\x08\x08" + struct.pack("<I", seconds) + packed[8:10] + name.encode() + b"\0" + packed[10:]
    assert hashlib.sha256(published).hexdigest() == source.files[f"{name}.gz"]
    assert hashlib.sha256(gzip.decompress(published)).hexdigest() == source.contents[name]


def test_prepared_is_left_alone(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    copies = write(tmp_path / "copies", publish("MNIST").contents)
    first = images.prepare("MNIST", tmp_path / "out", source=copies)
    before = snapshot(tmp_path / "out")
    for path in copies.iterdir():
        path.unlink()
    assert images.prepare("MNIST", tmp_path / "out", offline=True) == first
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("file", images.FILES)
@pytest.mark.parametrize("damage", ["remove", "truncate", "flip"])
def test_damaged_preparation_is_made_anew(publish: Callable[..., Tiny], tmp_path: Path, file: str, damage: str) -> None:
    tiny = publish("MNIST")
    copies = write(tmp_path / "copies", tiny.contents)
    images.prepare("MNIST", tmp_path / "out", source=copies)
    path = tmp_path / "out" / file
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-3] if damage == "truncate" else b"!" + data[1:])
    images.prepare("MNIST", tmp_path / "out", source=copies)
    assert_prepared(tmp_path / "out", tiny)
    assert path.read_bytes() == data


def test_one_folder_holds_one_dataset(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    write(tmp_path / "copies" / "MNIST", publish("MNIST").contents)
    write(tmp_path / "copies" / "FMNIST", publish("FMNIST", counts=(30, 20)).contents)
    images.prepare("MNIST", tmp_path / "out", source=tmp_path / "copies")
    refused(lambda: images.prepare("FMNIST", tmp_path / "out", source=tmp_path / "copies"), "MNIST", "FMNIST", "out")
    images.prepare("FMNIST", tmp_path / "other", source=tmp_path / "copies")
    assert len(splits.load(tmp_path / "other", "train").images) == 30


def test_own_files_are_used_only_when_asked(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    own = publish("MNIST", counts=(30, 20)).contents
    publish("MNIST")  # as published, from now on
    copies = write(tmp_path / "copies", own)
    refused(
        lambda: images.prepare("MNIST", tmp_path / "out", source=copies),
        str(copies / IDX[0]),
        "SHA-256",
        "images.verify: false",
    )
    manifest = images.prepare("MNIST", tmp_path / "out", source=copies, verify=False)
    assert manifest["verified"] is False
    assert manifest["splits"]["train"]["count"] == 30
    write(copies, publish("MNIST", counts=(40, 20)).contents)
    publish("MNIST")
    manifest = images.prepare("MNIST", tmp_path / "out", source=copies, verify=False)
    assert manifest["splits"]["train"]["count"] == 40  # their content may change
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=copies), "SHA-256")


# Bad files: one line each, and nothing written

Change = Callable[[Files], Files]


def replaced(name: str, data: bytes) -> Change:
    return lambda files: files | {name: data}


def edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda files: files | {name: edit(files[name])}


def without(name: str) -> Change:
    return lambda files: {other: data for other, data in files.items() if other != name}


def packed_but_cut(files: Files) -> Files:
    return {f"{name}.gz": data[: len(data) // 2] for name, data in zipped(files).items() for name in [name[:-3]]}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


ZEROS = np.zeros((20, 28, 28))
BAD_IDX: dict[str, tuple[Change, tuple[str, ...]]] = {
    "truncated": (edited(IDX[0], lambda data: data[:-5]), (IDX[0], "truncated", "20 x 28 x 28")),
    "only a header": (edited(IDX[0], lambda data: data[:9]), (IDX[0], "not an idx file")),
    "three bytes": (replaced(IDX[1], b"\0\0\x08"), (IDX[1], "not an idx file")),
    "empty": (replaced(IDX[2], b""), (IDX[2], "not an idx file")),
    "too long": (edited(IDX[2], lambda data: data + b"x"), (IDX[2], "too long")),
    "a web page": (replaced(IDX[0], b"<!doctype html>"), (IDX[0], "not an idx file")),
    "other numbers": (replaced(IDX[0], b"\0\0\x0d\x01" + bytes(8)), (IDX[0], "not an idx file")),
    "wrong shape": (replaced(IDX[0], idx_bytes(ZEROS[:, :20])), (IDX[0], "20 x 20 x 28", "N x 28 x 28")),
    "labels for images": (replaced(IDX[0], idx_bytes(ZEROS[:, 0, 0])), (IDX[0], "N x 28 x 28")),
    "images for labels": (replaced(IDX[1], idx_bytes(ZEROS)), (IDX[1], "labels for 20 images")),
    "too few labels": (replaced(IDX[1], idx_bytes(np.zeros(19))), (IDX[1], "19 labels for 20 images")),
    "one bit": (edited(IDX[2], flipped), (IDX[2], "SHA-256 differs")),
    "missing": (without(IDX[3]), (IDX[3], "lacks")),
    "packed and cut": (packed_but_cut, (f"{IDX[0]}.gz", "truncated or damaged")),
    "packed is not": (lambda files: {f"{n}.gz": d for n, d in files.items()}, (f"{IDX[0]}.gz", "damaged")),
}


@pytest.mark.parametrize("fault", BAD_IDX)
def test_bad_idx_files(publish: Callable[..., Tiny], tmp_path: Path, fault: str) -> None:
    change, said = BAD_IDX[fault]
    copies = write(tmp_path / "copies", change(publish("MNIST").contents))
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=copies), str(copies), *said)
    assert not any((tmp_path / "out").iterdir())


def batch(data: object, labels: object) -> bytes:
    return pickle.dumps({"data": data, "labels": labels}, protocol=2)


B = BATCHES[2]
BAD_CIFAR: dict[str, tuple[Change, tuple[str, ...]]] = {
    "truncated": (edited(B, lambda data: data[: len(data) // 2]), (B, "damaged")),
    "empty": (replaced(B, b""), (B, "damaged")),
    "no pickle": (replaced(B, b"<!doctype html>"), (B, "damaged")),
    "no batch": (replaced(B, pickle.dumps([1, 2])), (B, "not a batch")),
    "no labels": (replaced(B, pickle.dumps({"data": [1]})), (B, "not a batch")),
    "lists for pixels": (replaced(B, batch([[0] * 3072], [0])), (B, "not a batch")),
    "wrong shape": (replaced(B, cifar_bytes(np.zeros((4, 784), np.uint8), [0] * 4)), (B, "4 x 784", "N x 3072")),
    "wrong type": (replaced(B, cifar_bytes(np.zeros((4, 3072), np.int16), [0] * 4)), (B, "not a batch")),
    "too few labels": (replaced(B, cifar_bytes(np.zeros((4, 3072), np.uint8), [0])), (B, "1 labels for 4 images")),
    "labels are text": (replaced(B, cifar_bytes(np.zeros((1, 3072), np.uint8), ["cat"])), (B, "1 labels for 1 images")),
    "one bit": (edited(B, flipped), (B,)),
    "missing": (without(B), (B, "lacks")),
}


@pytest.mark.parametrize("fault", BAD_CIFAR)
def test_bad_cifar_batches(publish: Callable[..., Tiny], tmp_path: Path, fault: str) -> None:
    change, said = BAD_CIFAR[fault]
    copies = write(tmp_path / "copies", change(publish("CIFAR-10").contents))
    refused(lambda: images.prepare("CIFAR-10", tmp_path / "out", source=copies), str(copies), *said)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda contents: tar_bytes(contents)[:-200], "truncated or damaged"),
        (lambda contents: b"no archive", "truncated or damaged"),
        (lambda contents: tar_bytes(without(B)(contents)), f"no file cifar-10-batches-py/{B}"),
        (lambda contents: tar_bytes(contents, folder="elsewhere"), "no file cifar-10-batches-py/data_batch_1"),
        (lambda contents: tar_bytes(edited(B, lambda data: data[:-9])(contents)), f"cifar-10-batches-py/{B}"),
    ],
    ids=["truncated", "no archive", "lacks a batch", "other archive", "bad batch"],
)
def test_bad_archives(publish: Callable[..., Tiny], tmp_path: Path, fault: Callable[[Files], bytes], said: str) -> None:
    contents = publish("CIFAR-10").contents
    copies = write(tmp_path / "copies", {"cifar-10-python.tar.gz": fault(contents)})
    refused(lambda: images.prepare("CIFAR-10", tmp_path / "out", source=copies), str(copies), said)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("verify", [True, False])
def test_labels_out_of_range(publish: Callable[..., Tiny], tmp_path: Path, verify: bool) -> None:
    contents = publish("MNIST").contents | {IDX[1]: idx_bytes(np.arange(20))}
    copies = write(tmp_path / "copies", contents)
    said = ("SHA-256",) if verify else ("train", "0 to 19", "0 to 9")
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=copies, verify=verify), *said)


def test_empty_split(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    contents = publish("MNIST").contents
    contents |= {IDX[2]: idx_bytes(np.zeros((0, 28, 28))), IDX[3]: idx_bytes(np.zeros(0))}
    copies = write(tmp_path / "copies", contents)
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=copies, verify=False), "test split", "no images")


def test_files_of_another_dataset(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    publish("MNIST")
    copies = write(tmp_path / "copies", publish("FMNIST").contents)
    for verify in (True, False):
        refused(
            lambda verify=verify: images.prepare("MNIST", tmp_path / "out", source=copies, verify=verify),
            "a file of FMNIST, not of MNIST",
        )


def test_bad_arguments(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    publish("MNIST")
    refused(lambda: images.prepare("FMNST", tmp_path / "out"), "FMNST", "did you mean 'FMNIST'?")
    refused(lambda: images.prepare("MNIST", tmp_path / "out", source=tmp_path / "none"), "images.source", "none")
    (tmp_path / "file").touch()
    refused(lambda: images.prepare("MNIST", tmp_path / "file", offline=True), "file", "cannot write")


# Untrusted files


class Evil:
    """Runs a command where it is unpickled naively."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_run_no_code(publish: Callable[..., Tiny], tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "was here"
    evil = pickle.dumps({"data": Evil(marker), "labels": []}, protocol=protocol)
    contents = publish("CIFAR-10").contents | {"test_batch": evil}
    copies = write(tmp_path / "copies", contents)
    for verify in (True, False):
        refused(
            lambda verify=verify: images.prepare("CIFAR-10", tmp_path / "out", source=copies, verify=verify),
            "test_batch",
            "unsafe pickle",
            "system",
        )
    assert not marker.exists()


@pytest.mark.parametrize(
    "call", [b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nfromfile\n", b"c_codecs\ndecode\n"]
)
def test_pickles_call_nothing_but_arrays(call: bytes) -> None:
    refused(lambda: formats.unpickled(formats.Content("here", b"\x80\x02" + call + b"(S'1'\ntR.")), "here", "asks for")


def test_archives_write_nothing_and_follow_no_links(publish: Callable[..., Tiny], tmp_path: Path) -> None:
    tiny = publish("CIFAR-10")
    stream = io.BytesIO(tiny.downloads["cifar-10-python.tar.gz"])
    for name in ("../escaped", str(tmp_path / "absolute"), "cifar-10-batches-py/../../escaped"):
        extra = tar_bytes({name: b"x"} | {f"cifar-10-batches-py/{n}": d for n, d in tiny.contents.items()}, folder="")
        copies = write(tmp_path / "a" / "b" / "copies", {"cifar-10-python.tar.gz": extra})
        before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
        images.prepare("CIFAR-10", tmp_path / "out", source=copies)
        assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert_prepared(tmp_path / "out", tiny)

    secret = write(tmp_path / "secret", {"test_batch": tiny.contents["test_batch"]}) / "test_batch"
    stream = io.BytesIO(tar_bytes(without("test_batch")(tiny.contents)))
    with tarfile.open(fileobj=stream) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    copies = write(tmp_path / "linked", {"cifar-10-python.tar.gz": stream.getvalue()})
    refused(
        lambda: images.prepare("CIFAR-10", tmp_path / "new", source=copies), "no file cifar-10-batches-py/test_batch"
    )


# Downloads


class Mirrors(ThreadingHTTPServer):
    """Serves ``files`` below /good/, and with a fault below the fault's name; keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: Files = {}
        self.asked: list[tuple[str, str | None]] = []
        self.times: dict[str, int] = {}

    def url(self, fault: str = "good") -> str:
        return f"http://127.0.0.1:{self.server_port}/{fault}/"


class Answer(BaseHTTPRequestHandler):
    """One answer of the server."""

    server: Mirrors

    def do_GET(self) -> None:
        _, fault, name = self.path.split("/")
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        self.server.times[self.path] = self.server.times.get(self.path, 0) + 1
        if fault == "missing" or name not in self.server.files:
            return self.send_error(404)
        if fault == "busy" and self.server.times[self.path] < 3:
            return self.send_error(503)
        data = self.server.files[name]
        if fault == "corrupt":
            data = flipped(data)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if fault == "rangeless":
            start = 0
        if start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if fault == "muddled":
                data = data[::-1]
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if fault == "cut" or (fault == "flaky" and self.server.times[self.path] == 1):
            end = (start + end) // 2
        self.wfile.write(data[start:end])
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrors]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Mirrors() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


DATA = bytes(range(256)) * 4096
SHA = hashlib.sha256(DATA).hexdigest()


def fetched(server: Mirrors, path: Path, *faults: str) -> str:
    server.files["data.bin"] = DATA
    return download.fetch([server.url(fault) + "data.bin" for fault in faults], path, SHA, timeout=5)


@pytest.mark.parametrize("name", ["MNIST", "FMNIST", "CIFAR-10"])
def test_download(publish: Callable[..., Tiny], mirrors: Mirrors, tmp_path: Path, name: str) -> None:
    tiny = publish(name, (mirrors.url(),))
    mirrors.files = tiny.downloads
    manifest = images.prepare(name, tmp_path / "out")
    assert manifest["origin"] == f"downloaded from {mirrors.url()}"
    assert [path for path, _ in mirrors.asked] == [f"/good/{file}" for file in tiny.downloads]
    assert_prepared(tmp_path / "out", tiny)  # and the downloads are gone
    images.prepare(name, tmp_path / "out")
    assert len(mirrors.asked) == len(tiny.downloads)


@pytest.mark.parametrize("fault", ["missing", "corrupt", "busy", "cut"])
def test_another_mirror_helps(mirrors: Mirrors, tmp_path: Path, fault: str) -> None:
    assert fetched(mirrors, tmp_path / "data.bin", fault, "good") == mirrors.url() + "data.bin"
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_download_goes_on_where_it_stopped(mirrors: Mirrors, tmp_path: Path) -> None:
    fetched(mirrors, tmp_path / "data.bin", "flaky")
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert mirrors.asked == [("/flaky/data.bin", None), ("/flaky/data.bin", f"bytes={len(DATA) // 2}-")]


def test_next_run_goes_on_with_a_download(publish: Callable[..., Tiny], mirrors: Mirrors, tmp_path: Path) -> None:
    tiny = publish("CIFAR-10", (mirrors.url("cut"),))
    mirrors.files = tiny.downloads
    line = refused(lambda: images.prepare("CIFAR-10", tmp_path / "out"), "the connection broke after", "by hand")
    assert mirrors.url("cut") in line
    part = tmp_path / "out" / "downloads" / "cifar-10-python.tar.gz.part"
    size = part.stat().st_size
    assert 0 < size < len(tiny.downloads["cifar-10-python.tar.gz"])
    mirrors.asked.clear()
    source = dataclasses.replace(tiny.entry.source, mirrors=(mirrors.url(),))
    catalogue.DATASETS["CIFAR-10"] = dataclasses.replace(tiny.entry, source=source)
    images.prepare("CIFAR-10", tmp_path / "out")
    assert mirrors.asked == [("/good/cifar-10-python.tar.gz", f"bytes={size}-")]
    assert_prepared(tmp_path / "out", tiny)


@pytest.mark.parametrize("fault", ["rangeless", "muddled"])
def test_mirrors_that_cannot_resume(mirrors: Mirrors, tmp_path: Path, fault: str) -> None:
    (tmp_path / "data.bin.part").write_bytes(DATA[:1000])
    fetched(mirrors, tmp_path / "data.bin", fault)
    assert (tmp_path / "data.bin").read_bytes() == DATA


@pytest.mark.parametrize("left", [DATA, DATA + b"x", b"x" * 1000, b""], ids=["whole", "too long", "other", "empty"])
def test_whatever_a_part_holds(mirrors: Mirrors, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "data.bin.part").write_bytes(left)
    fetched(mirrors, tmp_path / "data.bin", "good")
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_busy_mirrors_are_asked_again_but_not_those_without_the_file(mirrors: Mirrors, tmp_path: Path) -> None:
    assert fetched(mirrors, tmp_path / "data.bin", "missing", "busy") == mirrors.url("busy") + "data.bin"
    assert mirrors.times == {"/missing/data.bin": 1, "/busy/data.bin": 3}


def test_wrong_downloads_are_not_kept(mirrors: Mirrors, tmp_path: Path) -> None:
    refused(
        lambda: fetched(mirrors, tmp_path / "data.bin", "corrupt", "missing"), "data.bin", "SHA-256 differs", "HTTP 404"
    )
    assert mirrors.times == {"/corrupt/data.bin": 3, "/missing/data.bin": 1}
    assert not any(tmp_path.iterdir())


def test_pauses_grow(mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download, "PAUSE", 1.0)
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    refused(lambda: fetched(mirrors, tmp_path / "data.bin", "corrupt"))
    assert pauses == [1.0, 2.0]


def test_download_folder_cannot_be_written(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(lambda: fetched(mirrors, tmp_path / "file" / "data.bin", "good"), "file", "cannot write")
    assert "by hand" not in line
    assert not mirrors.asked


@pytest.mark.parametrize("source", [False, True])
def test_offline_says_what_to_do(publish: Callable[..., Tiny], mirrors: Mirrors, tmp_path: Path, source: bool) -> None:
    tiny = publish("FMNIST", (mirrors.url(),))
    copies = write(tmp_path / "copies", {"readme.txt": b""}) if source else None
    refused(
        lambda: images.prepare("FMNIST", tmp_path / "out", source=copies, offline=True),
        "FMNIST",
        "offline",
        *tiny.downloads,
        mirrors.url(),
        "apt-get install dataset-fashion-mnist",
        "images.source",
        *([str(copies)] if copies else []),
    )
    assert not mirrors.asked


def test_no_network_says_what_to_do(
    publish: Callable[..., Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Mirrors() as closed:
        address = closed.url()
    publish("MNIST", (address,))
    refused(
        lambda: images.prepare("MNIST", tmp_path / "out"),
        f"127.0.0.1:{closed.server_port}: Connection refused",
        "by hand",
        address,
        "images.source",
    )


# Stand-ins


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_stand_ins(name: str, tmp_path: Path) -> None:
    entry = images.DATASETS[name]
    manifest = images.prepare(name, tmp_path, offline=True)
    assert manifest["stand_in_for"] == entry.stand_in_for
    assert f"stand-in for {entry.stand_in_for}" in manifest["title"]
    assert images.DATASETS[str(entry.stand_in_for)].shape == entry.shape
    assert "scikit-learn" in manifest["origin"]
    for split, count in entry.counts.items():
        loaded = splits.load(tmp_path, split)
        assert loaded.images.shape == (count, *entry.shape)
        share = loaded.labels.bincount(minlength=10) / count
        assert ((share - 0.1).abs() < 0.005).all()
        first = loaded.labels[:128].bincount(minlength=10)
        assert first.min() >= 3, "the classes come mixed"
    again = images.prepare(name, tmp_path / "again")
    assert again["splits"] == manifest["splits"]


def test_digits_are_enlarged_bilinearly() -> None:
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images)[:, None]
    large = interpolate(small, size=(20, 20), mode="bilinear", align_corners=False) * 255 / 16
    expected = torch.nn.functional.pad(large, (4, 4, 4, 4))
    made = standins.digits()
    pixels = {split: torch.from_numpy(made[split][0]).double() for split in made}
    assert sum(map(len, pixels.values())) == len(small)
    rows = {tuple(image.flatten().round().tolist()): image for image in expected}
    for image in (*pixels["train"][:100], *pixels["test"][:50]):
        nearest = (expected - image).abs().amax(dim=(1, 2, 3)).min()
        assert nearest <= 0.5 + 1e-9
    assert len(rows) == len(small)  # no two alike, so the splits are disjoint


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
        train, test = (set(places[split].flatten().tolist()) for split in formats.SPLITS)
        assert not train & test
    else:
        for split, (_, labels) in made.items():
            np.testing.assert_array_equal(places[split] // 85, (labels % 5)[:, None, None] + 0 * places[split])


def test_every_dataset_is_described_fully() -> None:
    for name, entry in images.DATASETS.items():
        assert entry.name == name
        assert len(entry.classes) == len(set(entry.classes)) == 10
        assert set(entry.counts) == set(formats.SPLITS)
        if isinstance(entry.source, Publication):
            assert all(mirror.endswith("/") for mirror in entry.source.mirrors)
            assert len(entry.source.mirrors) > 1
            for checksum in (*entry.source.files.values(), *entry.source.contents.values()):
                assert len(bytes.fromhex(checksum)) == 32


def test_names_and_counts_come_without_torch() -> None:
    code = "import sys; from introprior.data.images import DATASETS, prepare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Loading


@pytest.fixture
def prepared(publish: Callable[..., Tiny], tmp_path: Path) -> Path:
    copies = write(tmp_path / "copies", publish("MNIST").contents)
    images.prepare("MNIST", tmp_path / "out", source=copies)
    return tmp_path / "out"


def test_loaded_images_may_be_changed_but_not_their_file(prepared: Path) -> None:
    before = (prepared / "train-images.npy").read_bytes()
    splits.load(prepared, "train").images.zero_()
    assert (prepared / "train-images.npy").read_bytes() == before


def save(path: Path, array: np.ndarray) -> None:
    np.save(path, array)


SPOILS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no manifest": ("manifest.json", Path.unlink, "missing"),
    "cut manifest": ("manifest.json", lambda path: path.write_text(path.read_text()[:50]), "not valid JSON"),
    "other JSON": ("manifest.json", lambda path: path.write_text("[1]"), "not a manifest"),
    "other version": (
        "manifest.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2})),
        "version 1",
    ),
    "incomplete manifest": (
        "manifest.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": {}})),
        "incomplete",
    ),
    "no images": ("train-images.npy", Path.unlink, "missing"),
    "cut images": ("train-images.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
    "empty images": ("train-images.npy", lambda path: path.write_bytes(b""), "truncated"),
    "no array": ("train-images.npy", lambda path: path.write_bytes(b"hello" * 100), "truncated or damaged"),
    "wrong shape": (
        "train-images.npy",
        lambda path: save(path, np.zeros((20, 1, 28, 27), np.uint8)),
        "uint8 [20, 1, 28, 27]",
    ),
    "wrong type": ("train-images.npy", lambda path: save(path, np.zeros((20, 1, 28, 28))), "float64"),
    "no labels": ("train-labels.npy", Path.unlink, "missing"),
    "cut labels": ("train-labels.npy", lambda path: path.write_bytes(path.read_bytes()[:-8]), "truncated"),
    "other labels": ("train-labels.npy", lambda path: save(path, np.zeros(19, np.int64)), "int64 [19]"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_loading_what_is_spoilt(prepared: Path, spoil: str) -> None:
    file, act, said = SPOILS[spoil]
    act(prepared / file)
    refused(
        lambda: splits.load(prepared, "train"), str(prepared / file), said, "again" if "JSON" in said else "prepare"
    )


def test_checksum_on_demand(prepared: Path) -> None:
    path = prepared / "test-images.npy"
    path.write_bytes(flipped(path.read_bytes()))
    splits.load(prepared, "test")
    refused(lambda: splits.load(prepared, "test", checksum=True), str(path), "damaged", "introprior prepare")


def test_bad_split(prepared: Path) -> None:
    refused(lambda: splits.load(prepared, "tests"), "'tests'", "did you mean 'test'?")


# Epochs


@pytest.mark.parametrize(("name", "batch_size", "iterations"), [("FMNIST", 128, 469), ("CIFAR-10", 32, 1563)])
def test_iterations_per_epoch(name: str, batch_size: int, iterations: int) -> None:
    n = images.DATASETS[name].counts["train"]
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


def test_a_run_goes_on_with_the_batches_it_would_have_got() -> None:
    whole, later = splits.Epochs(numbered(), 32), splits.Epochs(numbered(), 32)
    batches = [whole(i, [5]) for i in range(12)]
    for i in range(6, 12):
        assert torch.equal(later(i, [5]), batches[i])


def test_seeds_side_by_side_get_what_they_get_alone() -> None:
    together, alone = splits.Epochs(numbered(), 32), splits.Epochs(numbered(), 32)
    for i in range(6):
        shown = together(i, [4, 9, 4])
        assert torch.equal(shown, torch.stack([alone(i, [seed])[0] for seed in (4, 9, 4)]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_shows_the_same_order() -> None:
    here, there = splits.Epochs(numbered(), 32), splits.Epochs(numbered(), 32, "cuda")
    for i in range(6):
        shown = there(i, [1, 2])
        assert shown.is_cuda
        torch.testing.assert_close(shown.cpu(), here(i, [1, 2]))


def test_batch_size_must_be_positive() -> None:
    refused(lambda: splits.Epochs(numbered(), 0), "batch_size", "0")
