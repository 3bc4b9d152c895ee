"""Result files read with care: what is missing, cut short or foreign is refused in one line, never averaged."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from introprior.errors import UserError, unknown
from introprior.operations.files import read_json
from introprior.paper import HYPERPARAMETERS

ARROWS = {
    "gnELBO": "↓",
    "KL": "↓",
    "JSD": "↓",
    "JSD_nats": "↓",
    "KL_floor": "",
    "JSD_floor": "",
    "JSD_nats_floor": "",
    # Images: what describes a run, Fréchet distances of generated and reconstructed images, accuracies of probes.
    "r_entropy": "",
    "entropy_per_batch": "",
    "entropy_pooled": "",
    "fid_authors_gen": "↓",
    "fid_authors_rec": "↓",
    "fid_gen": "↓",
    "fid_rec": "↓",
    "fd_classifier_gen": "↓",
    "fd_classifier_rec": "↓",
    "svm_few": "↑",
    "svm_many": "↑",
    "knn_few": "↑",
    "knn_many": "↑",
    "checkpoint_epoch": "",
}
"""Every metric of results and tables, and which direction is better: "↓", "↑", or "" for what only describes."""

SUMMARY_COLUMNS = ("dataset", "cell", "metric", "mean", "std", "sem", "n", "diverged")

SOURCES = {
    "search": "grid search",
    "table3": "published (Table 3)",
    "daniel-tamar": "published (Daniel and Tamar, 2021)",
    "vae": "in the authors' code, credited to Daniel and Tamar",
}
"""Where hyperparameters may come from."""

_REMEDY = "delete it and run again to make it anew"
_STATUSES = ("ok", "diverged")


def read_metrics(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The runs in the given ``metrics.csv`` and ``probes.csv`` files.

    Returns:
        One row per run and metric: dataset, cell, r_entropy (float; images only), seed (int), metric, value (NaN where
        diverged), status (``ok`` or ``diverged``), detail.

    Raises:
        UserError: no files, a file that is absent, empty, cut short or malformed, an unknown metric, a run met twice.
    """
    rows: list[dict[str, Any]] = []
    origin: dict[tuple[Any, ...], str] = {}
    for path, number, row in _records(paths, ("dataset", "cell", "seed", "metric", "value", "status", "detail")):
        where = f"{path}, line {number}"
        if row["metric"] not in ARROWS:
            raise unknown("metric", row["metric"], ARROWS, where)
        row["seed"] = _number(row["seed"], int, where, "seed")
        row["value"] = _value(row, "value", where)
        run = f"{row['dataset']}, {row['cell']}"
        if "r_entropy" in row:
            row["r_entropy"] = _number(row["r_entropy"], float, where, "r_entropy")
            run += f", r_entropy {row['r_entropy']:g}"
        key = (run, row["seed"], row["metric"])
        if key in origin:
            raise UserError(
                f"{where}: {row['metric']} of {run}, seed {row['seed']} stands in {origin[key]} already; {_REMEDY}"
            )
        origin[key] = where
        rows.append(row)
    return pd.DataFrame(rows)


def summarise(runs: pd.DataFrame, datasets: Sequence[str], cells: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Mean and spread over the seeds, for each dataset, cell and metric in the order given.

    Args:
        runs: from :func:`read_metrics`.
        datasets, cells, seeds: what must be there, completely.

    Returns:
        dataset, cell, metric, mean, std (ddof = 0), sem (std / sqrt(n)), n (seeds behind the mean) and diverged (seeds
        without a finite value). With one seed the spread is NaN, not 0; with none the mean is NaN too.

    Raises:
        UserError: a run or one of its metrics is missing, or there are runs of other seeds.
    """
    groups = dict(list(runs.groupby(["dataset", "cell", "metric"], sort=False)))
    metrics = [metric for metric in ARROWS if metric in set(runs["metric"])]
    summaries = []
    for dataset in datasets:
        for cell in cells:
            for metric in metrics:
                group = groups.get((dataset, cell, metric))
                found = [] if group is None else group["seed"].tolist()
                if group is None or sorted(found) != sorted(seeds):
                    raise UserError(
                        f"results of {dataset}, {cell}: {metric} of seeds {_listed(found)} found, {_listed(seeds)} "
                        "wanted; delete its metrics.csv and run again to make it anew"
                    )
                values = [value for value in group["value"] if math.isfinite(value)]
                summaries.append((dataset, cell, metric, *moments(values), len(values), len(group) - len(values)))
    return pd.DataFrame(summaries, columns=list(SUMMARY_COLUMNS)).astype({"n": "Int64", "diverged": "Int64"})


def moments(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation (ddof = 0) and its ratio to sqrt(n); NaN where too few values tell."""
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / n) if n > 1 else math.nan
    return mean, std, std / math.sqrt(n) if n > 1 else math.nan


def read_hyperparameters(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The choices in the given ``hyperparameters.json`` files.

    Returns:
        One row per file: dataset, cell, beta_rec, beta_kl, beta_neg (NaN for a VAE), source (a key of
        :data:`SOURCES`), settings, diverged and KL (all three NaN unless searched).

    Raises:
        UserError: no files, or one that is absent, malformed, incomplete or of unknown source.
    """
    fields = ("dataset", "cell", *HYPERPARAMETERS, "source", "settings", "diverged", "KL")
    rows = []
    for path in _listing(paths, "hyperparameters.json"):
        record = read_json(path)
        absent = [name for name in fields if not isinstance(record, dict) or name not in record]
        if absent:
            raise UserError(f"{path}: no entry {absent[0]!r}; {_REMEDY}")
        if record["source"] not in SOURCES:
            raise unknown("source of hyperparameters", record["source"], SOURCES, str(path))
        for name in (*HYPERPARAMETERS, "settings", "diverged", "KL"):
            if record[name] is not None and (
                isinstance(record[name], bool) or not isinstance(record[name], int | float)
            ):
                raise UserError(f"{path}: {name} is {record[name]!r}, not a number; {_REMEDY}")
        rows.append({name: math.nan if record[name] is None else record[name] for name in fields})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Choice:
    """The r_entropy taken for a cell of images, and all that were tried."""

    r_entropy: float
    candidates: tuple[float, ...]


def read_choices(paths: Iterable[str | Path], metric: str) -> dict[tuple[str, str], Choice]:
    """The choices in the given ``r_entropy.json`` files, by dataset and cell.

    Args:
        paths: one file per dataset, see :func:`introprior.evaluation.selection.choose_r_entropy`.
        metric: by which the choices must have been made.

    Raises:
        UserError: no files, one that is absent or malformed or chose by another metric, or a dataset met twice.
    """
    choices: dict[tuple[str, str], Choice] = {}
    for path in _listing(paths, "r_entropy.json"):
        record = read_json(path)
        try:
            dataset, chosen_by = record["dataset"], record["metric"]
            found = {
                (dataset, cell): Choice(
                    float(entry["r_entropy"]), tuple(float(tried["r_entropy"]) for tried in entry["candidates"])
                )
                for cell, entry in record["cells"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not a choice of r_entropy ({error!r}); {_REMEDY}") from None
        if chosen_by != metric:
            raise UserError(f"{path}: chosen by {chosen_by}, while the table shows {metric}; {_REMEDY}")
        if twice := found.keys() & choices.keys():
            raise UserError(f"{path}: {', '.join(min(twice))} was chosen in another file already; name each file once")
        choices |= found
    return choices


def read_slices(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The settings tried by a hyperparameter search, from its ``slice-<k>.csv`` files.

    Returns:
        One row per setting: beta_rec, beta_kl, beta_neg (NaN for a VAE), seed, KL (NaN where diverged), status.

    Raises:
        UserError: no files, or one that is absent, empty, cut short or malformed.
    """
    rows = []
    for path, number, row in _records(paths, (*HYPERPARAMETERS, "seed", "KL", "status")):
        where = f"{path}, line {number}"
        rows.append(
            {
                "beta_rec": _number(row["beta_rec"], float, where, "beta_rec"),
                "beta_kl": _number(row["beta_kl"], float, where, "beta_kl"),
                "beta_neg": _number(row["beta_neg"] or "nan", float, where, "beta_neg"),
                "seed": _number(row["seed"], int, where, "seed"),
                "KL": _value(row, "KL", where),
                "status": row["status"],
            }
        )
    return pd.DataFrame(rows)


def _records(paths: Iterable[str | Path], columns: Sequence[str]) -> Iterable[tuple[Path, int, dict[str, Any]]]:
    """Path, line number and fields of every row of some CSV files that must have ``columns`` and end in a newline."""
    for path in _listing(paths, "CSV files"):
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot read ({getattr(error, 'strerror', None) or error}); {_REMEDY}") from error
        if not text.strip():
            raise UserError(f"{path}: empty; {_REMEDY}")
        reader = csv.DictReader(text.splitlines())
        absent = [column for column in columns if column not in (reader.fieldnames or ())]
        if absent:
            raise UserError(f"{path}: no column {absent[0]!r}; {_REMEDY}")
        before = reader.line_num
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{path}, line {reader.line_num}: cut short or malformed; {_REMEDY}")
            yield Path(path), reader.line_num, row
        if not text.endswith("\n"):
            raise UserError(f"{path}: cut short in its last line; {_REMEDY}")
        if reader.line_num == before:
            raise UserError(f"{path}: a header without results; {_REMEDY}")


def _listing(paths: Iterable[str | Path], kind: str) -> list[str | Path]:
    listing = list(paths)
    if not listing:
        raise UserError(f"tables and figures: no {kind} given; name at least one dataset and one cell to report")
    return listing


def _value(row: dict[str, Any], column: str, where: str) -> float:
    """A measured number; NaN where the run diverged or the metric was undefined."""
    if row["status"] not in _STATUSES:
        raise unknown("status", row["status"], _STATUSES, where)
    return _number(row[column] or "nan", float, where, column)


def _number(text: str, kind: type, where: str, column: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{where}: {column} is {text!r}, not a number; {_REMEDY}") from None


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(seeds))) or "none"
