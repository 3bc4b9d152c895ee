"""Pictures of one's own: a folder of PNG and JPEG files, or an array in a file, as the arrays of both splits.

Light until pixels are read: a configuration is checked by names of files and headers of arrays alone.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introprior.data.images.catalogue import SPLITS, ImageDataset
from introprior.errors import UserError, cut, one_line

if TYPE_CHECKING:
    import numpy as np

    from introprior.data.images.standins import Splits

SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAYS = {
    ("train", "images"): ("train_images", "x_train", "images"),
    ("train", "labels"): ("train_labels", "y_train", "labels"),
    ("test", "images"): ("test_images", "x_test"),
    ("test", "labels"): ("test_labels", "y_test"),
}
"""The names of arrays in an ``.npz`` file, the first that is there counts; an ``.npy`` file is all images."""

HELD_OUT = 10
"""Where there is no test split, one in so many images is held out."""

UNLABELLED = "unlabelled"
"""The one class of images without labels."""

Found = dict[str, tuple[Any, Any]]
"""By split the images, paths or uint8 ``[N, H, W(, C)]``, and their labels: ``[N]``, None where there are none."""


def describe(name: str, path: str | os.PathLike[str], size: int, channels: int) -> ImageDataset:
    """An entry for the catalogue, as far as names of files and headers of arrays tell; it knows no classes yet.

    Args:
        path: a folder, an ``.npz`` or an ``.npy`` file.
        size: height and width that pictures are brought to.
        channels: 1, grey, or 3, colour.

    Raises:
        UserError: nothing there, nothing that can be used, or too few pictures to hold some out.
    """
    path = Path(path)
    counts = _counts(path)
    if "test" not in counts:
        counts["test"] = counts["train"] // HELD_OUT
        counts["train"] -= counts["test"]
    if not counts["test"]:
        few = f"{counts['train']} picture{'s' * (counts['train'] != 1)}"
        raise UserError(f"{path}: has only {few}, and one in {HELD_OUT} is held out for testing; add some")
    return ImageDataset(name, name, (channels, size, size), counts["train"], counts["test"], (), own=str(path))


def fingerprint(path: str | os.PathLike[str]) -> str:
    """What differs once a file was added, removed, replaced or edited: SHA-256 of names, sizes and times of change."""
    path = Path(path)
    listed = [
        (file.relative_to(path).as_posix(), (state := file.stat()).st_size, state.st_mtime_ns)
        for file in (_below(path) if path.is_dir() else [path])
    ]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def read(entry: ImageDataset) -> tuple[Splits, tuple[str, ...]]:
    """Both splits, uint8 ``[N, C, size, size]`` and int64 ``[N]``, and what the labels mean.

    Pictures are turned as their camera says, made grey or colour, resized (bicubic, antialiased) until the shorter side
    fits, and cut to the square in the middle. Where there is no test split, one in ten is held out, the same every
    time: of the images shuffled with seed 0 and sorted by class every tenth, so that each class gives its share.

    Raises:
        UserError: a picture that cannot be read, or labels that do not fit.
    """
    import numpy as np

    path = Path(entry.own)
    with _told(path):
        found = _listed(path) if path.is_dir() else _loaded(path)
    if any(labels is None for _, labels in found.values()):
        found = {split: (images, np.repeat(UNLABELLED, len(images))) for split, (images, _) in found.items()}
    classes, numbers = np.unique(np.concatenate([labels for _, labels in found.values()]), return_inverse=True)
    first = len(found["train"][0])
    if "test" in found:
        chosen = {"train": np.arange(first), "test": np.arange(len(found["test"][0]))}
    else:
        mixed = _shuffled(first)
        test = mixed[numbers[mixed].argsort(kind="stable")][HELD_OUT - 1 :: HELD_OUT]
        chosen = {"train": np.setdiff1d(mixed, test), "test": np.sort(test)}
    splits: Splits = {}
    for split, ordered in chosen.items():
        rows = ordered[_shuffled(len(ordered))]  # batches of a single class would mislead some metrics
        apart = split if split in found else "train"
        labels = numbers[rows + (first if apart == "test" else 0)].astype(np.int64)
        splits[split] = _fitted(found[apart][0], rows, entry.shape), labels
    return splits, tuple(map(str, classes))


def _shuffled(count: int) -> np.ndarray:
    """The numbers below ``count`` in an order that never changes: numpy promises so of raw numbers."""
    import numpy as np

    return np.random.PCG64(0).random_raw(count).argsort(kind="stable")


def _fitted(images: Sequence[Path] | np.ndarray, rows: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The images of these rows, made to fit: uint8 ``[len(rows), *shape]``."""
    import numpy as np
    from PIL import Image, ImageOps
    from tqdm import tqdm

    channels, size = shape[0], shape[1:]
    fitted = np.empty((len(rows), *shape), np.uint8)
    for place, row in enumerate(tqdm(rows, desc="pictures", disable=None)):
        source = images[row]
        try:
            picture = Image.open(source) if isinstance(source, Path) else Image.fromarray(source)
            with picture:
                if picture.mode[0] in "IF":
                    raise ValueError("more than 8 bits a channel")
                picture = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
            square = ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
        except Exception as error:  # Pillow reads what anybody made, and may fail anywhere
            raise UserError(f"{source}: no 8-bit picture ({one_line(error)}); mend or remove it") from error
        fitted[place] = np.asarray(square).reshape(*size, channels).transpose(2, 0, 1)
    return fitted


# ---- Folders ----


def _below(folder: Path) -> list[Path]:
    """All pictures in a folder and its folders, hidden ones apart, in the order of their names."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return sorted(found)


def _listed(folder: Path) -> Found:
    """The pictures of a folder: in folders by class, or all in itself; or so in its folders train and test."""
    holds = {child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != "." and _below(child)}
    if holds == set(SPLITS):
        return {split: _by_class(folder / split) for split in SPLITS}
    return {"train": _by_class(folder)}


def _by_class(folder: Path) -> tuple[list[Path], list[str] | None]:
    pictures = _below(folder)
    classes = [picture.relative_to(folder).parts[0] for picture in pictures]
    direct = sum(picture.parent == folder for picture in pictures)
    if not pictures:
        raise UserError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)}); name the folder that does")
    if 0 < direct < len(pictures):
        problem = f"has {direct} pictures in itself and {len(pictures) - direct} in folders, which name classes"
        raise UserError(f"{folder}: {problem}; put all of them into folders, or none")
    return pictures, None if direct else classes


# ---- Files of arrays ----


def _counts(path: Path) -> dict[str, int]:
    """Images of each split that there is."""
    if path.is_dir():
        with _told(path):
            return {split: len(images) for split, (images, _) in _listed(path).items()}
    shapes = _shapes(path)
    for split in SPLITS:
        if (labels := shapes.get((split, "labels"))) and labels[0] != (images := shapes[split, "images"])[0]:
            raise UserError(f"{path}: has {labels[0]} {split} labels for {images[0]} images; give one for each")
    return {split: shapes[split, "images"][0] for split in SPLITS if (split, "images") in shapes}


def _shapes(path: Path) -> dict[tuple[str, str], tuple[int, ...]]:
    """The shapes of the arrays in a file by split and kind, checked, from their headers alone."""
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    with _told(path), _streams(path) as (names, opened):
        for (split, kind), name in names.items():
            with opened(name) as stream:
                shape, dtype = _header(stream)
            if kind == "images":
                grey = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
                if dtype != "uint8" or not grey or 0 in shape:
                    wanted = "uint8 [N, H, W] or, of 1 or 3 channels, [N, H, W, C]"
                    raise UserError(f"{path}: {name} is {dtype} {list(shape)}; images must be {wanted}")
            elif dtype.kind not in "iubU" or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
                raise UserError(f"{path}: {name} is {dtype} {list(shape)}; labels must be whole numbers or text, [N]")
            shapes[split, kind] = shape
    for split, kind in shapes:
        if (split, "images") not in shapes:
            raise UserError(f"{path}: has {split} {kind}, but no {split} images; add {ARRAYS[split, 'images'][0]}")
    if ("train", "images") not in shapes:
        known = ", ".join(ARRAYS["train", "images"])
        raise UserError(f"{path}: holds no array of images; call it {known.replace(', ', ' or ')}")
    return shapes


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    return shape, dtype


@contextmanager
def _streams(path: Path) -> Iterator[tuple[dict[tuple[str, str], str], Any]]:
    """The arrays in a file, split and kind to name, and what opens one."""
    if path.suffix == ".npy":
        yield {("train", "images"): path.name}, lambda name: path.open("rb")
        return
    with zipfile.ZipFile(path) as archive:
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        names = {
            key: next(name for name in known if name in there) for key, known in ARRAYS.items() if there & {*known}
        }
        yield names, lambda name: archive.open(f"{name}.npy")


def _loaded(path: Path) -> Found:
    """The arrays of a file."""
    import numpy as np

    _shapes(path)
    arrays: dict[tuple[str, str], np.ndarray] = {}
    with _told(path), _streams(path) as (names, opened):
        for key, name in names.items():
            with opened(name) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
            shape = array.shape[: 3 if key[1] == "images" else 1]
            arrays[key] = array.reshape(shape) if array.shape[len(shape) :] == (1,) else array
    images = [split for split in SPLITS if (split, "images") in arrays]
    return {split: (arrays[split, "images"], arrays.get((split, "labels"))) for split in images}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong with a source, in one line."""
    if not path.exists():
        raise UserError(f"{path}: is not there; correct the path (it is relative to where you start)")
    if not path.is_dir() and not (path.is_file() and path.suffix in (".npz", ".npy")):
        raise UserError(f"{path}: must be a folder of pictures, an .npz or an .npy file")
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); make it accessible") from error
    except (ValueError, EOFError, KeyError, SyntaxError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or no array ({cut(one_line(error), 200)}); save it anew") from error
