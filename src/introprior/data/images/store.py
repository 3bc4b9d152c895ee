"""From published files to prepared ones: one memory-mappable array of images per split, its labels, and a manifest.

torchvision downloads and reads. In between each file is unpacked to a place apart and compared with the catalogue's
checksum: of what is there already torchvision checks CIFAR-10 by MD5 and MNIST not at all, and pickles can run code.
"""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from introprior.data.images import folders
from introprior.data.images.catalogue import DATASETS, KINDS, SPLITS, ImageDataset, dataset
from introprior.errors import UserError, one_line
from introprior.operations import files
from introprior.operations.downloads import downloading

if TYPE_CHECKING:
    from introprior.data.images.standins import Splits

MANIFEST = "manifest.json"
FILES = (MANIFEST, *(f"{split}-{kind}.npy" for split in SPLITS for kind in KINDS))
"""What `prepare` writes into a folder."""

LARGEST = 1 << 30
"""Bytes of the largest file that is unpacked: a few kilobytes of gzip can hold as much as a disk."""

_FORMAT = {"format": "introprior-images", "version": 1}
_AGAIN = "run `introprior prepare` to make it anew"

Manifest = dict[str, Any]
"""Keys: format, version, dataset, title, stand_in_for, origin, verified, shape, classes, splits; a split has count,
images and labels, each of them file and sha256. Of one's own pictures there is source, too, their fingerprint."""


def prepare(
    name: str,
    folder: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    offline: bool = False,
    verify: bool = True,
) -> Manifest:
    """Find or download a dataset, check it, and write it into ``folder`` as `FILES`. Does nothing where that is done.

    Args:
        folder: where to write. What a download that failed has got waits there, too, for the next attempt.
        source: torchvision's root, e.g. with MNIST's files in ``MNIST/raw``. It is only read, and nothing is looked for
            elsewhere. None: the folder of Debian's package, else a download.
        verify: refuse files that differ from the published ones. Only those of MNIST and its kin may differ.

    Raises:
        UserError: unknown dataset; files that are missing, truncated, damaged, of other shapes or not the published
            ones; no way to download them; a folder that cannot be written.
    """
    entry, folder = dataset(name), Path(folder)
    present = _intact(folder, entry)
    source_of: dict[str, Any] = {"shape": list(entry.shape)}
    if entry.own:
        source_of["source"] = folders.fingerprint(entry.own)
    if present is not None and present["verified"] and present | source_of == present:  # one's own files may change
        return present
    files.check_writable(folder / MANIFEST)
    if entry.stand_in_for:
        from introprior.data.images import standins

        splits, about = getattr(standins, name)(), {"origin": entry.origin, "verified": True}
    elif entry.own:
        splits, classes = folders.read(entry)
        entry, about = replace(entry, classes=classes), {"origin": f"made of {entry.own}", "verified": True} | source_of
    else:
        try:
            splits, about = _published(entry, folder, source, offline, verify)
        except OSError as error:
            place, reason = error.filename or folder, one_line(error)
            raise UserError(f"{place}: cannot read or write ({reason}); make it accessible, or free space") from error
    (folder / MANIFEST).unlink(missing_ok=True)  # it must not describe a mixture of old and new files
    manifest = _written(entry, splits, folder) | about
    files.write_json(folder / MANIFEST, manifest)
    for leftover in (folder / ".downloads", *folder.glob(".unpacked-*")):
        shutil.rmtree(leftover, ignore_errors=True)
    return manifest


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a prepared dataset.

    Raises:
        UserError: there is none, or none of this version.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: missing, so no dataset is prepared in this folder; {_AGAIN}")
    manifest = files.read_json(path)
    whole = isinstance(manifest, dict) and manifest | _FORMAT == manifest and isinstance(manifest.get("classes"), list)
    texts = [*map(manifest.get, ("dataset", "title", "origin")), *manifest["classes"]] if whole else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: not a manifest of an image dataset (version {_FORMAT['version']}); {_AGAIN}")
    return manifest


def _intact(folder: Path, entry: ImageDataset) -> Manifest | None:
    """The manifest in ``folder`` if it is this dataset's and all files are as it says."""
    try:
        manifest = read_manifest(folder)
        holds, _ = manifest["dataset"], manifest["verified"]
        for file in (manifest["splits"][split][kind] for split in SPLITS for kind in KINDS):
            if files.checksum(folder / file["file"]) != file["sha256"]:
                return None
    except (UserError, OSError, KeyError, TypeError):
        return None
    if holds != entry.name:
        raise UserError(f"{folder}: holds {holds}, not {entry.name}; give each dataset its own folder")
    return manifest


def _published(
    entry: ImageDataset, folder: Path, source: str | os.PathLike[str] | None, offline: bool, verify: bool
) -> tuple[Splits, dict[str, Any]]:
    """The arrays of published files; where these were found, and whether they are as published."""
    root, place, origin = folder / ".downloads", folder / ".downloads" / entry.folder, "downloaded by torchvision"
    if source is not None:
        root, place, origin = Path(source), Path(source, entry.folder), f"found in {source}"
        if not root.is_dir():
            raise UserError(f"images.source: {root} is not a folder; name torchvision's root, or none to have it found")
    elif entry.debian and Path(entry.debian[1]).is_dir():
        root = place = Path(entry.debian[1])
        origin = f"found in {place}"
    elif offline:
        raise UserError(f"{entry.name}: nothing may be downloaded (offline); {_advice(entry)}")
    else:
        with downloading(entry.name, root, _advice(entry)):
            for name in entry.files:  # unpacked by a process that was killed, perhaps in part: they would be trusted
                (place / name).unlink(missing_ok=True)
            reader = _reader(entry).__new__(_reader(entry))  # its constructor would read what is not checked yet
            reader.root = root
            reader.download()
    with TemporaryDirectory(prefix=".unpacked-", dir=folder) as scratch:
        if not all((place / name).is_file() for name in entry.files):
            place = _extracted(entry, root, Path(scratch, "archive")) or place
        verified = _unpack(entry, place, Path(scratch), verify)
        return _read(entry, Path(scratch), origin), {"origin": origin, "verified": verified}


def _advice(entry: ImageDataset) -> str:
    """Which files to put where."""
    wanted = f"{entry.archive[0]} into ROOT" if entry.archive else f"{', '.join(entry.files)} into ROOT/{entry.folder}"
    package = f", or apt-get install {entry.debian[0]} and name no source" if entry.debian else ""
    return (
        f"put {wanted} (with a network torchvision.datasets.{entry.torchvision}('ROOT', download=True) does) "
        f"and name ROOT in images.source (or --source){package}"
    )


def _reader(entry: ImageDataset) -> Any:
    """torchvision's class."""
    import torchvision.datasets  # late: it takes seconds

    return getattr(torchvision.datasets, entry.torchvision)


def _extracted(entry: ImageDataset, root: Path, target: Path) -> Path | None:
    """Where the files lie that the archive in ``root`` held; None where there is no such archive."""
    if entry.archive is None or not (archive := root / entry.archive[0]).is_file():
        return None
    if files.checksum(archive) != entry.archive[1]:
        raise UserError(f"{archive}: not as published (SHA-256 differs): damaged, or another archive; replace it")
    shutil.unpack_archive(archive, target)
    return target / entry.folder


def _unpack(entry: ImageDataset, place: Path, root: Path, verify: bool) -> bool:
    """Copy the files to where torchvision reads them below ``root``; whether they are the published ones."""
    there = {name: path for end in (".gz", "") for name in entry.files if (path := place / f"{name}{end}").is_file()}
    if missing := [name for name in entry.files if name not in there]:
        lacking = ", ".join(missing) if there else f"all files of {entry.name}"
        raise UserError(f"{place}: lacks {lacking}; {_advice(entry)}")
    idx = issubclass(_reader(entry), _reader(DATASETS["MNIST"]))
    known = {digest: f"{other.name}'s {name}" for other in DATASETS.values() for name, digest in other.files.items()}
    verified = True
    for name, published in entry.files.items():
        path, copy = there[name], root / entry.folder / name
        _copy(path, copy)
        if (found := files.checksum(copy)) == published:
            continue
        if found in known:
            raise UserError(f"{path}: is {known[found]}, not {entry.name}'s {name}; put each file in its place")
        if verify or not idx:  # the others are pickles
            remedy = ", or set images.verify: false to use it as it is" if idx else "; it could run code"
            raise UserError(f"{path}: not as published (SHA-256 differs): damaged, or another file; replace it{remedy}")
        verified = False
    return verified


def _copy(path: Path, target: Path) -> None:
    """Copy a file and unpack it, without trusting it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as packed, target.open("wb") as file:
            while piece := packed.read(1 << 20):
                if file.tell() + len(piece) > LARGEST:
                    raise UserError(f"{path}: holds more than {LARGEST:,} bytes; replace it by an intact copy")
                file.write(piece)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged ({one_line(error)}); replace it by an intact copy") from error


def _read(entry: ImageDataset, root: Path, origin: str) -> Splits:
    """Both splits as torchvision reads them.

    Raises:
        UserError: they are not as the catalogue says; only files that nobody published can be so.
    """
    import numpy as np

    channels, *size = entry.shape
    splits: Splits = {}
    for split in SPLITS:
        try:
            read = _reader(entry)(root, train=split == "train")
            images, labels = np.asarray(read.data), np.asarray(read.targets, np.int64)
            wanted = [*size, channels] if channels > 1 else size
            if list(images.shape) != [len(labels), *wanted] or labels.ndim != 1:
                shapes = f"images {list(images.shape)}, labels {list(labels.shape)}"
                raise ValueError(f"{shapes}, not [N, {', '.join(map(str, wanted))}] and [N]")
            if labels.min() < 0 or labels.max() >= len(entry.classes):
                raise ValueError(f"labels from {labels.min()} to {labels.max()}, not 0 to {len(entry.classes) - 1}")
        except Exception as error:  # torchvision trusts what it reads, and may fail anywhere
            problem = f"its {split} files are damaged, or others ({one_line(error)})"
            raise UserError(f"{entry.name}, {origin}: {problem}; replace them by the published ones") from error
        splits[split] = images.reshape(-1, *size, channels).transpose(0, 3, 1, 2), labels
    return splits


def _written(entry: ImageDataset, splits: Splits, folder: Path) -> Manifest:
    """Write the arrays; what the manifest says of them."""
    import numpy as np

    described: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        images, labels = splits[split]
        described[split] = {"count": len(images)}
        for kind, array in zip(KINDS, (images, labels), strict=True):
            path = folder / f"{split}-{kind}.npy"
            with files.written(path) as temporary:
                np.save(temporary, np.ascontiguousarray(array))
            described[split][kind] = {"file": path.name, "sha256": files.checksum(path)}
    shown = {"dataset": entry.name, "title": entry.title, "stand_in_for": entry.stand_in_for}
    return {**_FORMAT, **shown, "shape": list(entry.shape), "classes": list(entry.classes), "splits": described}
