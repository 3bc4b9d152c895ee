"""The one reader of results: what is missing, cut short or foreign is refused in one line, never averaged.

Columns and entries say which run a file is of, its path never does. Rows are plain dictionaries, for commands that make
do without pandas; a number that a run does not have, as it diverged, is NaN. Every function raises `UserError` where no
file is given, one is absent, damaged, cut short or incomplete, or something in it is unknown or given twice.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from introprior.errors import UserError, unknown
from introprior.metrics.registry import metric
from introprior.operations.files import read_json

Paths = Iterable[str | Path]
Rows = list[dict[str, Any]]
Columns = dict[str, Callable[[str], Any]]

SOURCES = {
    "search": "grid search",
    "own": "of the configuration",
    "table3": "published (Table 3)",
    "daniel-tamar": "published (Daniel and Tamar, 2021)",
    "vae": "in the authors' code, credited to Daniel and Tamar",
}
"""Where hyperparameters may come from."""

STUDY_CURVES = {"rec": "REC", "kl": "KL", "nelbo": "NELBO"}
STUDY_IMAGES = {"real": "real", "real_rec": "reconstructed", "fake": "generated", "fake_rec": "reconstructed"}
"""What the encoder study holds of each beta_neg and configuration, and what figures call it."""

_REMEDY = "delete it and run again to make it anew"
_STATUSES = ("ok", "diverged")


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _measured(text: str) -> float:
    return float(text or "nan")


_CELL: Columns = {"dataset": str, "cell": str}
_RUN: Columns = {**_CELL, "r_entropy": _number, "seed": int}
_FATE: Columns = {"value": _measured, "status": str, "detail": str}
_BETAS: Columns = {"beta_rec": _number, "beta_kl": _number, "beta_neg": _measured}


# ---- CSV ----


def metrics(paths: Paths) -> Rows:
    """``metrics.csv``, ``probes.csv``: dataset, cell, r_entropy (images only), seed, metric, value, status, detail."""
    rows: Rows = []
    origin: dict[tuple[str, str], str] = {}
    for where, row in _records(paths, {**_CELL, "seed": int, "metric": str, **_FATE}, {"r_entropy": _number}):
        metric(row["metric"], where)
        r_entropy = f", r_entropy {row['r_entropy']:g}" if "r_entropy" in row else ""
        run = f"{row['dataset']}, {row['cell']}{r_entropy}, seed {row['seed']}"
        key = (run, row["metric"])
        if key in origin:
            raise UserError(f"{where}: {row['metric']} of {run} stands in {origin[key]} already; {_REMEDY}")
        origin[key] = where
        rows.append(row)
    return rows


def slices(paths: Paths) -> Rows:
    """Slices of searches: dataset, cell, beta_rec, beta_kl, beta_neg (NaN for a VAE), seed, KL, status, detail."""
    columns: Columns = {**_CELL, **_BETAS, "seed": int, "KL": _measured, "status": str, "detail": str}
    return [row for _, row in _records(paths, columns)]


def distances(paths: Paths) -> Rows:
    """``distances.csv``, maybe without rows: dataset, cell, r_entropy, seed, epoch, metric, value, status, detail."""
    return [row for _, row in _records(paths, {**_RUN, "epoch": int, "metric": str, **_FATE}, empty=True)]


def histories(paths: Paths) -> Rows:
    """``history.csv`` of images: dataset, cell, r_entropy, seed, epoch (also between two), quantity, value."""
    return [row for _, row in _records(paths, {**_RUN, "epoch": _number, "quantity": str, "value": _measured})]


def _records(
    paths: Paths, columns: Columns, optional: Columns | None = None, empty: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of every row of some CSV files; they end in a newline, and have rows unless ``empty``."""
    for path in _listed(paths, "CSV files"):
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read ({getattr(error, 'strerror', None) or error}); {_REMEDY}") from error
        if not text.strip():
            raise UserError(f"{path}: empty; {_REMEDY}")
        reader = csv.DictReader(text.splitlines())
        present, where = reader.fieldnames or (), ""
        for name in columns:
            if name not in present:
                raise UserError(f"{path}: no column {name!r}; {_REMEDY}")
        wanted = columns | {name: kind for name, kind in (optional or {}).items() if name in present}
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(f"{where}: cut short or malformed; {_REMEDY}")
            yield where, {name: _converted(row[name], name, kind, where) for name, kind in wanted.items()}
        if not text.endswith("\n"):
            raise UserError(f"{path}: cut short in its last line; {_REMEDY}")
        if not where and not empty:
            raise UserError(f"{path}: a header without results; {_REMEDY}")


def _converted(text: str, name: str, kind: Callable[[str], Any], where: str) -> Any:
    if name == "status" and text not in _STATUSES:
        raise unknown("status", text, _STATUSES, where)
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{where}: {name} is {text!r}, not a number; {_REMEDY}") from None


def _listed(paths: Paths, kind: str) -> list[str | Path]:
    listed = list(paths)
    if not listed:
        raise UserError(f"results: no {kind} given; name at least one dataset and one cell to report")
    return listed


# ---- JSON ----


def hyperparameters(paths: Paths) -> Rows:
    """``hyperparameters.json``: dataset, cell, beta_rec, beta_kl, beta_neg (NaN for a VAE), source (a key of
    :data:`SOURCES`), settings, diverged and KL (NaN unless searched)."""
    rows, numbers = [], (*_BETAS, "settings", "diverged", "KL")
    for path in _listed(paths, "hyperparameters.json"):
        record = read_json(path)
        for name in ("dataset", "cell", "source", *numbers):
            if not isinstance(record, dict) or name not in record:
                raise UserError(f"{path}: no entry {name!r}; {_REMEDY}")
            if name in numbers and type(record[name]) not in (int, float, type(None)):
                raise UserError(f"{path}: {name} is {record[name]!r}, not a number; {_REMEDY}")
        if record["source"] not in SOURCES:
            raise unknown("source of hyperparameters", record["source"], SOURCES, str(path))
        rows.append({name: math.nan if value is None else value for name, value in record.items()})
    return rows


@dataclass(frozen=True)
class Choice:
    """The r_entropy taken for a cell of images, and all that were tried."""

    r_entropy: float
    candidates: tuple[float, ...]


Choices = dict[tuple[str, str], Choice]
"""By dataset and cell."""


def choices(paths: Paths, by: str = "") -> Choices:
    """``r_entropy.json``, one file per dataset; ``by`` is the metric by which they must have been made, if given."""
    found: Choices = {}
    for path in _listed(paths, "r_entropy.json"):
        record = read_json(path)
        try:
            chosen_by = record["metric"]
            made = {
                (record["dataset"], cell): Choice(
                    float(entry["r_entropy"]), tuple(float(tried["r_entropy"]) for tried in entry["candidates"])
                )
                for cell, entry in record["cells"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not a choice of r_entropy ({error!r}); {_REMEDY}") from None
        if by and chosen_by != by:
            raise UserError(f"{path}: chosen by {chosen_by}, while the table shows {by}; {_REMEDY}")
        if twice := made.keys() & found.keys():
            raise UserError(f"{path}: {', '.join(min(twice))} was chosen in another file already; name each file once")
        found |= made
    return found


# ---- Arrays ----


def codes(path: str | Path) -> dict[str, Any]:
    """Codes of a run: train and test ``[N, D]``, train_labels and test_labels ``[N]``; status, detail."""
    return arrays(path, ("train", "train_labels", "test", "test_labels"), ("status", "detail"))


def density_panels(path: str | Path) -> dict[str, Any]:
    """What Figure 3 shows of a run in 2D: points ``[N, 2]``, densities ``[G, G]``, the prior's components, if it has
    any; and ``usable``, whether there is a run to show."""
    names = ("data", "samples", "density", "latent", "latent_density", "prior_means", "prior_weights")
    return _usable(arrays(path, names, ("limit", "latent_limit", "dataset", "cell", "status")), names)


def image_panels(path: str | Path) -> dict[str, Any]:
    """What figures show of a run on images: uint8 images ``[N, C, H, W]``, codes z ``[N, D]``, labels and classes, the
    prior's components, if it has any; and ``usable``, whether there is a run to show."""
    names = ("samples", "real", "reconstructions", "z", "labels", "prior_means", "prior_weights")
    scalars = ("dataset", "cell", "r_entropy", "seed", "epoch", "status")
    run = _usable(arrays(path, (*names, "classes"), scalars), names)
    if not run["usable"]:
        return run
    _check_axes(path, run, {"samples": 4, "real": 4, "reconstructions": 4, "z": 2, "prior_means": 2})
    for one, other in (("z", "labels"), ("real", "reconstructions"), ("prior_means", "prior_weights")):
        if len(run[one]) != len(run[other]):
            raise UserError(f"{path}: {len(run[one])} {one}, but {len(run[other])} {other}; {_REMEDY}")
    if run["labels"].min() < 0 or run["labels"].max() >= len(run["classes"]):
        raise UserError(f"{path}: labels reach {run['labels'].max()}, with {len(run['classes'])} classes; {_REMEDY}")
    return run


def study(path: str | Path) -> dict[str, Any]:
    """The encoder study: :data:`STUDY_CURVES` ``[2, 3, 2, T]`` (beta_neg, configuration, real or generated), iterations
    ``[T]``, beta_neg ``[2]``, :data:`STUDY_IMAGES` as ``<name>_<b>_<c>`` ``[N, C, H, W]``; dataset, cell, epoch."""
    images = [f"{name}_{b}_{c}" for name in STUDY_IMAGES for b in range(2) for c in range(3)]
    content = arrays(path, (*STUDY_CURVES, "iterations", "beta_neg", *images), ("dataset", "cell", "epoch"))
    for name in STUDY_CURVES:
        shape, wanted = list(content[name].shape), [2, 3, 2, content["iterations"].size]
        if shape != wanted:
            raise UserError(f"{path}: {name} has shape {shape}, not {wanted}; {_REMEDY}")
    _check_axes(path, content, dict.fromkeys(images, 4))
    return content


def arrays(path: str | Path, names: Sequence[str], scalars: Sequence[str] = ()) -> dict[str, Any]:
    """The named entries of an archive (.npz), the scalars as plain values."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in (*names, *scalars) if name in archive}
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run again to make it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cut short or not an archive of arrays ({error}); {_REMEDY}") from error
    for name in (*names, *scalars):
        if name not in content:
            raise UserError(f"{path}: no entry {name!r}; {_REMEDY}")
    for name in scalars:
        if content[name].size != 1:
            raise UserError(f"{path}: {name} has shape {list(content[name].shape)}, not a single value; {_REMEDY}")
        content[name] = content[name].item()
    return content


def _usable(run: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The run, and whether there is one to show; a prior without components is no reason against it."""
    import numpy as np

    finite = all(np.isfinite(run[name]).all() for name in names)
    filled = all(run[name].size for name in names if not name.startswith("prior_"))
    return run | {"usable": run["status"] == "ok" and finite and filled}


def _check_axes(path: str | Path, content: Mapping[str, Any], axes: Mapping[str, int]) -> None:
    for name, number in axes.items():
        if content[name].ndim != number:
            raise UserError(f"{path}: {name} has shape {list(content[name].shape)}, not {number} axes; {_REMEDY}")
