"""The file formats of published image datasets, read without trusting them: idx, CIFAR's pickles, tar archives."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from introprior.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height, width."""

Splits = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""Images ``[N, C, H, W]`` and labels ``[N]`` of each split, `SPLITS`."""

SPLITS = ("train", "test")

REMEDY = "replace it by an intact copy, or delete it to have it found elsewhere or downloaded"

_BROKEN = (EOFError, OSError, zlib.error, tarfile.TarError)
"""What damaged gzip and tar files raise."""


@dataclass(frozen=True)
class Content:
    """The bytes of one file of a dataset, unpacked, and the place to blame for them."""

    place: str
    data: bytes


def open_file(path: Path) -> Content:
    """The content of a file, unpacked if its name ends with ``.gz``.

    Raises:
        UserError: it cannot be read or unpacked.
    """
    try:
        data = path.read_bytes()
        return Content(str(path), gzip.decompress(data) if path.suffix == ".gz" else data)
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def open_archive(path: Path, folder: str, names: Iterable[str]) -> dict[str, Content]:
    """The named files of one folder of a tar archive, read in memory: nothing is ever extracted.

    Raises:
        UserError: the archive is damaged, or a file is not in it as a plain file.
    """
    wanted = {f"{folder}/{name}": name for name in names}
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isreg() and member.name in wanted:
                    stream = archive.extractfile(member)
                    assert stream is not None  # of a regular file there is always one
                    found[wanted[member.name]] = Content(f"{path} ({member.name})", stream.read())
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    if missing := [name for name in wanted.values() if name not in found]:
        raise UserError(f"{path}: has no file {folder}/{missing[0]}, so it is another archive; {REMEDY}")
    return found


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno:
        return UserError(f"{path}: cannot read ({error.strerror}); make it readable, or move it away")
    return UserError(f"{path}: truncated or damaged ({first_line(error)}); {REMEDY}")


def first_line(error: Exception) -> str:
    """What an error says, in one line as users want it."""
    return str(error).partition("\n")[0].strip(" :") or type(error).__name__


def read_idx(contents: Mapping[str, Content], shape: Shape) -> Splits:
    """The four idx files of MNIST and its kin.

    Raises:
        UserError: a file that is no idx file, is truncated, or holds something else than such images and labels.
    """
    return {
        split: _matched(
            _idx_images(contents[f"{prefix}-images-idx3-ubyte"], shape), contents[f"{prefix}-labels-idx1-ubyte"]
        )
        for split, prefix in zip(SPLITS, ("train", "t10k"), strict=True)
    }


def _idx_images(content: Content, shape: Shape) -> NDArray[np.uint8]:
    images = idx(content)
    if images.shape[1:] != shape[1:]:
        raise UserError(
            f"{content.place}: holds {_size(images.shape)} bytes, expected N x {_size(shape[1:])}; {REMEDY}"
        )
    return images.reshape(-1, *shape)


def _matched(images: NDArray[np.uint8], content: Content) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = idx(content)
    if labels.shape != (len(images),):
        raise UserError(f"{content.place}: holds {_size(labels.shape)} labels for {len(images)} images; {REMEDY}")
    return images, labels.astype(np.int64)


def idx(content: Content) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes: two zeros, 8, the number of axes, each axis' length as 32 bits.

    Raises:
        UserError: other content, or too little or too much of it.
    """
    data, place = content.data, content.place
    if data[:3] != b"\x00\x00\x08" or len(data) < 4 or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{place}: not an idx file of unsigned bytes (it begins with 0x{data[:4].hex()}); {REMEDY}")
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4).tolist()
    have, expected = len(data) - 4 - 4 * data[3], math.prod(shape)
    if have != expected:
        what = "truncated" if have < expected else "too long"
        raise UserError(f"{place}: {what}, {have} bytes of data where its header says {_size(shape)}; {REMEDY}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def read_cifar(contents: Mapping[str, Content], shape: Shape) -> Splits:
    """The batches of CIFAR-10 for Python: of the names, those with ``test`` are the test split, in their order.

    Raises:
        UserError: a batch that is damaged, asks for forbidden things, or holds something else than such images.
    """
    splits: Splits = {}
    for split in SPLITS:
        batches = [_cifar_batch(contents[name], shape) for name in contents if ("test" in name) == (split == "test")]
        images, labels = zip(*batches, strict=True)
        splits[split] = np.concatenate(images), np.concatenate(labels)
    return splits


def _cifar_batch(content: Content, shape: Shape) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    place, batch = content.place, unpickled(content)
    images = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("labels") if isinstance(batch, dict) else None
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or not isinstance(labels, list):
        raise UserError(f"{place}: not a batch of CIFAR-10 (no array `data` and list `labels` in it); {REMEDY}")
    if images.ndim != 2 or images.shape[1] != math.prod(shape):
        raise UserError(f"{place}: holds {_size(images.shape)} bytes, expected N x {math.prod(shape)}; {REMEDY}")
    if len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise UserError(f"{place}: holds {len(labels)} labels for {len(images)} images; {REMEDY}")
    return images.reshape(-1, *shape), np.array(labels, dtype=np.int64)


def unpickled(content: Content) -> Any:
    """What is pickled in ``content``: arrays, numbers, texts, lists, dicts; all else is refused, so no code can run.

    Raises:
        UserError: damaged, or not made of these.
    """
    try:
        return _Arrays(io.BytesIO(content.data), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{content.place}: damaged or unsafe pickle ({first_line(error)}); {REMEDY}") from error
    except Exception as error:  # bytes that are no pickle make the unpickler raise almost anything
        raise UserError(f"{content.place}: truncated or damaged ({type(error).__name__}); {REMEDY}") from error


class _Arrays(pickle.Unpickler):
    """Unpickles arrays and built-in containers. CIFAR's files name numpy's modules as they were in Python 2."""

    _reconstruct = np.zeros(0).__reduce__()[0]  # numpy's own, by a public way
    _allowed: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle may call."""
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._allowed[module, name]


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
