"""The one reader of results: what is missing, cut short or foreign is refused in one line, never averaged.

Columns and entries say which run a file is of, its path never does. Rows are plain dictionaries, for commands that make
do without pandas; a number that a run does not have, as it diverged, is NaN. Every function raises `UserError` where no
file is given, one is absent, damaged or cut short, or something in it is unknown or given twice.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from introprior.errors import UserError, one_line
from introprior.metrics.registry import metric
from introprior.operations.files import read_json

if TYPE_CHECKING:
    import pandas as pd

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
NO_FAILURE = ("unlabelled", "inapplicable")
"""Statuses of what has no value, though nothing went wrong: the data has no labels, or the prior no components."""

_STATUSES = ("ok", "diverged", *NO_FAILURE)


def _measured(text: str) -> float:
    return float(text or "nan")


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"could not convert string to a finite number: {text!r}")
    return value


def _status(text: str) -> str:
    if text not in _STATUSES:
        raise ValueError(f"unknown status {text!r}")
    return text


_CELL: Columns = {"dataset": str, "cell": str}
_RUN: Columns = {**_CELL, "r_entropy": _number, "seed": int}
_FATE: Columns = {"value": _measured, "status": _status, "detail": str}
MEASURED = [*_RUN, "metric", *_FATE]
_NUMBERS = ("beta_rec", "beta_kl", "beta_neg", "settings", "diverged", "KL")
_HYPERPARAMETERS = ("dataset", "cell", "source", *_NUMBERS)
_INFORMATION: Columns = {"information": _number}
_BETAS: Columns = {"beta_rec": _number, "beta_kl": _number, "beta_neg": _measured}


def of(path: str | Path, found: Rows | dict[str, Any], **run: Any) -> Any:
    """What was found in a file, if it is of the run that it lies beside.

    Raises:
        UserError: it is another's.
    """
    for row in found if isinstance(found, list) else [found]:
        for key, wanted in run.items():
            if row.get(key, wanted) != wanted:
                raise UserError(f"{path}: of the {key} {row[key]}, not {wanted}; {_REMEDY}")
    return found


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


def text(path: str | Path) -> str:
    """A text of ours."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read ({one_line(error)}); {_REMEDY}") from error


def table(path: str | Path, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame | None:
    """A table's CSV file, with columns of either kind at least; None where there is none."""
    import pandas as pd

    if not Path(path).exists():
        return None
    content = text(path)
    if not content.endswith("\n"):
        raise UserError(f"{path}: cut short; {_REMEDY}")
    try:
        kinds = dict.fromkeys(texts, str)
        frame = pd.read_csv(io.StringIO(content), keep_default_na=False, na_values=[""], dtype=kinds)
        frame[list(texts)] = frame[list(texts)].fillna("")
        return frame.astype(dict.fromkeys(numbers, float))
    except (ValueError, KeyError, OverflowError) as error:  # those of pandas are ValueErrors
        raise UserError(f"{path}: {one_line(error)}; {_REMEDY}") from error


def measured(folder: str | Path) -> Rows:
    """Every ``metrics.csv`` and ``probes.csv`` below a folder, as :func:`metrics`; the columns: :data:`MEASURED`."""
    paths = [path for name in ("metrics.csv", "probes.csv") for path in sorted(Path(folder).rglob(name))]
    if not paths:
        raise UserError(f"{folder}: no results yet; run snakemake (see introprior status)")
    return metrics(paths)


def slices(paths: Paths) -> Rows:
    """Slices of searches: dataset, cell, beta_rec, beta_kl, beta_neg (NaN for a VAE), seed, KL, status, detail."""
    columns: Columns = {**_CELL, **_BETAS, "seed": int, "KL": _measured, "status": _status, "detail": str}
    return [row for _, row in _records(paths, columns)]


def distances(paths: Paths) -> Rows:
    """``distances.csv``, maybe without rows: dataset, cell, r_entropy, seed, epoch, metric, value, status, detail."""
    return [row for _, row in _records(paths, {**_RUN, "epoch": int, "metric": str, **_FATE}, empty=True)]


def histories(paths: Paths) -> Rows:
    """``history.csv`` of images: dataset, cell, r_entropy, seed, epoch (also between two), quantity, value."""
    return [row for _, row in _records(paths, {**_RUN, "epoch": _number, "quantity": str, "value": _measured})]


def history(path: str | Path) -> Rows:
    """``history.csv`` of a run in 2D or on images: dataset, cell, seed, quantity, value, and iteration or epoch."""
    columns: Columns = {**_CELL, "seed": int, "quantity": str, "value": _measured, "iteration": _number}
    return [row for _, row in _records([path], columns, {"epoch": _number})]


def games(paths: Paths) -> Rows:
    """``theory.csv``: data, codes, game, gamma, prior, triplet, gain, player, information."""
    counts: Columns = dict.fromkeys(("data", "codes", "game"), int)
    named: Columns = dict.fromkeys(("prior", "triplet", "player"), str)
    return [row for _, row in _records(paths, {**counts, **named, "gamma": _number, "gain": _number, **_INFORMATION})]


def play(paths: Paths) -> Rows:
    """``play.csv``: order, gamma, prior, start, step, kl_data, kl_optimum, kl_posterior, information, prior_1."""
    at: Columns = {"order": str, "gamma": _number, "prior": str, "start": int, "step": int}
    values: Columns = dict.fromkeys(("kl_data", "kl_optimum", "kl_posterior", "prior_1"), _number)
    return [row for _, row in _records(paths, {**at, **values, **_INFORMATION})]


def _records(
    paths: Paths, columns: Columns, optional: Columns | None = None, empty: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of every row of some CSV files; they end in a newline, and have rows unless ``empty``."""
    for path in _listed(paths, "CSV files"):
        content = text(path)
        reader, where = csv.DictReader(content.splitlines()), ""
        try:
            present = reader.fieldnames or ()
            for name in columns:
                if name not in present:
                    raise UserError(f"{path}: no column {name!r}; {_REMEDY}")
            wanted = columns | {name: kind for name, kind in (optional or {}).items() if name in present}
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: cut short or malformed; {_REMEDY}")
                yield where, {name: kind(row[name]) for name, kind in wanted.items()}
        except (ValueError, csv.Error) as error:
            raise UserError(f"{where or path}: {one_line(error)}; {_REMEDY}") from None
        if not content.endswith("\n") or not (where or empty):
            raise UserError(f"{path}: cut short; {_REMEDY}")


def _listed(paths: Paths, kind: str) -> list[str | Path]:
    listed = list(paths)
    if not listed:
        raise UserError(f"results: no {kind} given; name at least one dataset and one cell to report")
    return listed


# ---- JSON ----


def hyperparameters(paths: Paths) -> Rows:
    """``hyperparameters.json``: dataset, cell, beta_rec, beta_kl, beta_neg (NaN for a VAE), source (a key of
    :data:`SOURCES`), settings, diverged and KL (NaN unless searched)."""
    rows = []
    for path in _listed(paths, "hyperparameters.json"):
        record = read_json(path)
        try:
            row = {name: math.nan if record[name] is None else record[name] for name in _HYPERPARAMETERS}
            row |= {name: row[name] + 0.0 for name in ("beta_rec", "beta_kl", "beta_neg", "KL")}
            named = all(isinstance(row[name], str) for name in ("dataset", "cell"))
            counts = [row[name] for name in ("settings", "diverged")]
            counted = all(math.isnan(count) or (count < 1e9 and float(count).is_integer()) for count in counts)
            if row["source"] not in SOURCES or not named or not counted:
                raise ValueError("a source, name or count that is none")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: not hyperparameters ({error!r}): {one_line(record)}; {_REMEDY}") from None
        rows.append(row)
    return rows


class Choice(NamedTuple):
    """The r_entropy taken for a cell of images, and all that were tried."""

    r_entropy: float
    candidates: tuple[float, ...]


Choices = dict[tuple[str, str], Choice]
"""By dataset and cell."""


def choices(paths: Paths) -> Choices:
    """``r_entropy.json``, one file per dataset."""
    found: Choices = {}
    for path in _listed(paths, "r_entropy.json"):
        record = read_json(path)
        try:
            for cell, entry in record["cells"].items():
                tried = tuple(float(candidate["r_entropy"]) for candidate in entry["candidates"])
                found[record["dataset"], cell] = Choice(float(entry["r_entropy"]), tried)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not a choice of r_entropy ({error!r}); {_REMEDY}") from None
    return found


# ---- Arrays ----


def codes(path: str | Path) -> dict[str, Any]:
    """Codes of a run: train and test ``[N, D]``, train_labels and test_labels ``[N]``; which run, status, detail."""
    scalars = ("dataset", "cell", "r_entropy", "seed", "status", "detail")
    found = arrays(path, {"train": 2, "train_labels": 1, "test": 2, "test_labels": 1}, scalars)
    return _paired(path, found, {"train": "train_labels", "test": "test_labels"})


def density_panels(path: str | Path) -> dict[str, Any]:
    """What Figure 3 shows of a run in 2D: points ``[N, 2]``, densities ``[G, G]``, the prior's components, if it has
    any; and ``usable``, whether there is a run to show."""
    axes = dict.fromkeys(("data", "samples", "density", "latent", "latent_density", "prior_means"), 2)
    axes["prior_weights"] = 1
    found = arrays(path, axes, ("limit", "latent_limit", "dataset", "cell", "status"))
    return _usable(_paired(path, found, {"prior_means": "prior_weights"}), axes)


def image_panels(path: str | Path) -> dict[str, Any]:
    """What figures show of a run on images: uint8 images ``[N, C, H, W]``, codes z ``[N, D]``, labels and classes, the
    prior's components, if it has any; and ``usable``, whether there is a run to show."""
    axes = dict.fromkeys(("samples", "real", "reconstructions"), 4)
    axes |= {"z": 2, "labels": 1, "prior_means": 2, "prior_weights": 1}
    scalars = ("dataset", "cell", "r_entropy", "seed", "epoch", "status")
    found = arrays(path, axes | {"classes": 1}, scalars)
    return _usable(_paired(path, found, {"z": "labels", "prior_means": "prior_weights"}), axes)


def study(path: str | Path) -> dict[str, Any]:
    """The encoder study: :data:`STUDY_CURVES` ``[2, 3, 2, T]`` (beta_neg, configuration, real or generated), iterations
    ``[T]``, beta_neg ``[2]``, :data:`STUDY_IMAGES` as ``<name>_<b>_<c>`` ``[N, C, H, W]``; dataset, cell, epoch."""
    axes = {f"{name}_{b}_{c}": 4 for name in STUDY_IMAGES for b in range(2) for c in range(3)}
    axes |= {**dict.fromkeys(STUDY_CURVES, 4), "iterations": 1, "beta_neg": 1}
    return arrays(path, axes, ("dataset", "cell", "epoch"))


def arrays(path: str | Path, axes: Mapping[str, int], scalars: Sequence[str] = ()) -> dict[str, Any]:
    """The named entries of an archive (.npz), each with so many axes, the scalars as plain values."""
    import numpy as np

    axes = {**axes, **dict.fromkeys(scalars, 0)}
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in axes if name in archive}
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run again to make it") from None
    except Exception as error:  # zipfile and NumPy raise whatever a false byte leads them to
        raise UserError(f"{path}: cut short or not an archive of arrays ({one_line(error)}); {_REMEDY}") from error
    for name, count in axes.items():
        if name not in content:
            raise UserError(f"{path}: no entry {name!r}; {_REMEDY}")
        kinds = "biufU" if not count else {"labels": "iu", "classes": "U"}.get(name.rpartition("_")[2], "biuf")
        if content[name].ndim != count or content[name].dtype.kind not in kinds:
            raise UserError(f"{path}: {name} is no array of its kind with {count} axes; {_REMEDY}")
    return content | {name: content[name].item() for name in scalars}


def _paired(path: str | Path, found: dict[str, Any], pairs: Mapping[str, str]) -> dict[str, Any]:
    """The entries, of which some have a row for each row of another."""
    for one, other in pairs.items():
        if len(found[one]) != len(found[other]):
            raise UserError(f"{path}: {one} and {other} have different lengths; {_REMEDY}")
    return found


def _usable(run: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The run, and whether there is one to show; a prior without components is no reason against it."""
    import numpy as np

    finite = all(np.isfinite(run[name]).all() for name in names)
    filled = all(run[name].size for name in names if not name.startswith("prior_"))
    return run | {"usable": run["status"] == "ok" and finite and filled}
