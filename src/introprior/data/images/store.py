"""From published files to prepared ones: one memory-mappable array of images per split, its labels, and a manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from introprior.data.images.catalogue import DATASETS, Embedded, ImageDataset, Publication, dataset
from introprior.data.images.download import Unreachable, fetch, sha256_of
from introprior.data.images.formats import SPLITS, Content, Splits, open_archive, open_file
from introprior.errors import UserError
from introprior.operations import files

SOURCE_KEY = "images.source"
"""The configuration's key for a folder with local copies (on the command line: ``--source``)."""

VERIFY_KEY = "images.verify"
"""The configuration's key that allows other files than the published ones."""

MANIFEST = "manifest.json"
FILES = (MANIFEST, *(f"{split}-{kind}.npy" for split in SPLITS for kind in ("images", "labels")))
"""What `prepare` writes into a folder."""

_FORMAT = {"format": "introprior-images", "version": 1}
_AGAIN = "run `introprior prepare` to make it anew"

Manifest = dict[str, Any]
"""Keys: format, version, dataset, title, stand_in_for, origin, verified, shape, classes, splits; a split has count,
images and labels, each of them file and sha256."""


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
        name: a key of `DATASETS`.
        folder: where to write. An interrupted download waits there, too, for the next attempt.
        source: folder with local copies: the published files, packed or not, there or in a folder of the dataset's
            name (or where torchvision puts them). Looked into first, then the folders of the Linux distribution.
        offline: download nothing.
        verify: refuse files that differ from the published ones.

    Returns:
        The manifest.

    Raises:
        UserError: unknown dataset; files that are missing, truncated, damaged, of other shapes or not the published
            ones; no way to download them; a folder that cannot be written.
    """
    entry, folder = dataset(name), Path(folder)
    present = _intact(folder, entry)
    if present is not None and present["verified"]:  # a user's own files may have changed
        return present
    files.check_writable(folder / MANIFEST)
    if isinstance(entry.source, Embedded):
        splits, origin, verified = entry.source.make(), entry.source.origin, True
    else:
        contents, origin = _obtain(entry, entry.source, folder, source, offline)
        splits = entry.source.read(contents, entry.shape)
        verified = _verified(entry, entry.source, contents, verify)
    _check_labels(entry, splits)
    (folder / MANIFEST).unlink(missing_ok=True)  # it must not describe a mixture of old and new files
    manifest = _written(entry, splits, folder) | {"origin": origin, "verified": verified}
    files.write_json(folder / MANIFEST, manifest)
    shutil.rmtree(_downloads(folder), ignore_errors=True)
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
    if not isinstance(manifest, dict) or manifest | _FORMAT != manifest:
        raise UserError(f"{path}: not a manifest of an image dataset (version {_FORMAT['version']}); {_AGAIN}")
    return manifest


def check_file(folder: Path, file: Mapping[str, str]) -> None:
    """Compare a file with the checksum that the manifest has for it.

    Raises:
        UserError: it is missing or differs.
    """
    path = folder / file["file"]
    if not path.exists():
        raise UserError(f"{path}: missing; {_AGAIN}")
    if sha256_of(path) != file["sha256"]:
        raise UserError(f"{path}: damaged (its SHA-256 is not the manifest's); {_AGAIN}")


def _intact(folder: Path, entry: ImageDataset) -> Manifest | None:
    """The manifest in ``folder`` if it is this dataset's and all files are as it says."""
    try:
        manifest = read_manifest(folder)
        holds, _ = manifest["dataset"], manifest["verified"]
        for split in SPLITS:
            for kind in ("images", "labels"):
                check_file(folder, manifest["splits"][split][kind])
    except (UserError, KeyError, TypeError):
        return None
    if holds != entry.name:
        raise UserError(f"{folder}: holds {holds}, not {entry.name}; give each dataset its own folder")
    return manifest


# Finding


def _obtain(
    entry: ImageDataset, published: Publication, folder: Path, source: str | os.PathLike[str] | None, offline: bool
) -> tuple[dict[str, Content], str]:
    """The contents of the published files, and where they are from."""
    places = [*published.system]
    if source is not None:
        root = Path(source)
        if not root.is_dir():
            raise UserError(f"{SOURCE_KEY}: {root} is not a folder; name the folder that holds copies of the files")
        places = [*(root / below for below in published.folders), root, *published.system]
    for place in places:
        if contents := _found(published, place):
            return contents, f"found in {place}"
    looked = f"not found in {source}" if source is not None else "no local copy is named"
    advice = (
        f"download {', '.join(published.files)} from {published.mirrors[0]} by hand into a folder"
        f"{f', or {published.hint}' if published.hint else ''}, and name that folder in {SOURCE_KEY} (or --source)"
    )
    if offline:
        raise UserError(f"{entry.name}: {looked}, and nothing may be downloaded (offline); {advice}")
    store, origins = _downloads(folder), set()
    try:
        for file, sha256 in published.files.items():
            if not (store / file).exists():
                address = fetch([mirror + file for mirror in published.mirrors], store / file, sha256)
                origins.add(address.removesuffix(file))
    except Unreachable as error:
        raise UserError(f"{entry.name}: {looked}; {error}; {advice}") from error
    contents = _found(published, store)
    assert contents, "the downloaded files hold the contents"
    return contents, f"downloaded from {', '.join(sorted(origins)) or 'a mirror'}"


def _downloads(folder: Path) -> Path:
    return folder / "downloads"


def _found(published: Publication, place: Path) -> dict[str, Content] | None:
    """The contents that lie in ``place``; None where there is none of them.

    Raises:
        UserError: some are missing, or cannot be read.
    """
    paths = {}
    for name in published.contents:
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                paths[name] = path
                break
    if len(paths) == len(published.contents):
        return {name: open_file(path) for name, path in paths.items()}
    if published.archive and (place / published.archive[0]).is_file():
        return open_archive(place / published.archive[0], published.archive[1], published.contents)
    if paths:
        missing = ", ".join(name for name in published.contents if name not in paths)
        raise UserError(f"{place}: lacks {missing} (packed or not); copy what is missing there, or move the rest away")
    return None


# Checking


def _verified(entry: ImageDataset, published: Publication, contents: Mapping[str, Content], demanded: bool) -> bool:
    """Whether these are the published bytes."""
    for name, content in contents.items():
        digest = hashlib.sha256(content.data).hexdigest()
        if digest == published.contents[name]:
            continue
        if owner := _owner(name, digest):
            raise UserError(
                f"{content.place}: this is a file of {owner}, not of {entry.name}; "
                f"give each dataset a folder of its name below {SOURCE_KEY}"
            )
        if demanded:
            raise UserError(
                f"{content.place}: not as published (SHA-256 differs): damaged, or of another dataset; replace it, "
                f"or set {VERIFY_KEY}: false to use it as it is"
            )
        return False
    return True


def _owner(name: str, digest: str) -> str | None:
    """The dataset that published this."""
    published = ((entry.name, entry.source) for entry in DATASETS.values() if isinstance(entry.source, Publication))
    return next((owner for owner, source in published if source.contents.get(name) == digest), None)


def _check_labels(entry: ImageDataset, splits: Splits) -> None:
    for split, (images, labels) in splits.items():
        if not len(images):
            raise UserError(f"{entry.name}: its {split} split holds no images; replace the files by the published ones")
        if labels.min() < 0 or labels.max() >= len(entry.classes):
            raise UserError(
                f"{entry.name}: labels of its {split} split run from {labels.min()} to {labels.max()}, expected "
                f"0 to {len(entry.classes) - 1}; replace the files by the published ones"
            )


# Writing


def _written(entry: ImageDataset, splits: Splits, folder: Path) -> Manifest:
    """Write the arrays; what the manifest says of them."""
    described: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        images, labels = splits[split]
        described[split] = {"count": len(images)}
        for kind, array in (("images", images), ("labels", labels)):
            path = folder / f"{split}-{kind}.npy"
            with files.written(path) as temporary:
                np.save(temporary, np.ascontiguousarray(array))
            described[split][kind] = {"file": path.name, "sha256": sha256_of(path)}
    return {
        **_FORMAT,
        "dataset": entry.name,
        "title": entry.title,
        "stand_in_for": entry.stand_in_for,
        "shape": list(entry.shape),
        "classes": list(entry.classes),
        "splits": described,
    }
