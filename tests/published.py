"""Tiny editions of published image datasets, in the real formats, under the checksums of the real ones."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torchvision.datasets

from introprior.data import images
from introprior.data.images.catalogue import SPLITS, ImageDataset
from introprior.data.images.standins import Splits

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
META = (
    b"\x80\x02}q\x01(U\x13num_cases_per_batchq\x02M\x10'U\x0blabel_namesq\x03]q\x04(U\x08airplaneq\x05U\nautomobileq"
    b"\x06U\x04birdq\x07U\x03catq\x08U\x04deerq\tU\x03dogq\nU\x04frogq\x0bU\x05horseq\x0cU\x04shipq\rU\x05truckq\x0eeU"
    b"\x07num_visq\x0fM\x00\x0cu."
)
"""CIFAR-10's batches.meta, as published."""

Files = dict[str, bytes]


@dataclasses.dataclass
class Tiny:
    """A tiny edition: its files as torchvision reads them, as they are published, both by path, and their arrays."""

    entry: ImageDataset
    files: Files
    packed: Files
    arrays: Splits


def publish(
    patch: pytest.MonkeyPatch, entry: ImageDataset, counts: tuple[int, int] = (20, 10), address: str = "http://nowhere/"
) -> Tiny:
    """Make a tiny edition that the catalogue and torchvision take for the real one, downloaded from ``address``."""
    rng, reader = np.random.default_rng(len(entry.name)), getattr(torchvision.datasets, entry.torchvision)
    arrays: Splits = {
        split: (rng.integers(0, 256, (n, *entry.shape), dtype=np.uint8), (np.arange(n) + len(entry.name)) % 10)
        for split, n in zip(SPLITS, counts, strict=True)
    }
    (x, y), (tx, ty) = arrays["train"], arrays["test"]
    if entry.archive:
        parts = [*zip(x.reshape(5, -1, 3072), y.reshape(5, -1), strict=True), (tx.reshape(-1, 3072), ty)]
        contents = {name: cifar_bytes(p, q.tolist()) for name, (p, q) in zip(BATCHES, parts, strict=True)}
        contents["batches.meta"] = META
        files = {f"{entry.folder}/{name}": data for name, data in contents.items()}
        packed = {entry.archive[0]: tar_bytes(files | {f"{entry.folder}/readme.html": b"hello"})}
        entry = dataclasses.replace(entry, archive=(entry.archive[0], sha256(packed[entry.archive[0]])))
        *train, test = ([name, md5(contents[name])] for name in BATCHES)
        published = {"train_list": train, "test_list": [test], "tgz_md5": md5(packed[reader.filename])}
        published |= {"url": address + reader.filename}
    else:
        contents = dict(zip(IDX, map(idx_bytes, (x[:, 0], y, tx[:, 0], ty)), strict=True))
        files = {f"{entry.folder}/{name}": data for name, data in contents.items()}
        packed = zipped(files)
        published = {"resources": [(Path(name).name, md5(data)) for name, data in packed.items()]}
        published |= {"mirrors": [address]}
    for name, value in published.items():
        patch.setattr(reader, name, value)
    entry = dataclasses.replace(entry, files={name: sha256(data) for name, data in contents.items()}, debian=None)
    patch.setitem(images.DATASETS, entry.name, entry)
    return Tiny(entry, files, packed, arrays)


def idx_header(*axes: int) -> bytes:
    return struct.pack(f">BBBB{len(axes)}I", 0, 0, 8, len(axes), *axes)


def idx_bytes(array: np.ndarray) -> bytes:
    return idx_header(*array.shape) + array.astype(np.uint8).tobytes()


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


def tar_bytes(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def zipped(files: Files) -> Files:
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def write(root: Path, files: Files) -> Path:
    """Write files by their paths below ``root``, which is returned."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root
