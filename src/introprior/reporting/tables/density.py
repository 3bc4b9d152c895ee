"""The 2D tables of the paper, 1, 3 and 4, from result files: tidy numbers, and the table as the paper lays it out.

Table 1 compares the six cells, Table 4 the baseline under several settings, two of them quoted, and Table 3 lists the
hyperparameters. Tables 1 and 4 are :func:`density_table`, Table 3 is :func:`hyperparameter_table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from introprior import paper
from introprior.errors import UserError, unknown
from introprior.experiment import cells as naming
from introprior.reporting import read as results
from introprior.reporting.tables.captions import spread_sentence
from introprior.reporting.tables.common import (
    DIVERGED,
    Column,
    Request,
    by_place,
    cell_columns,
    entries,
    headings,
    labelled,
    plain,
)
from introprior.reporting.tables.layout import Entry, Heading, Row, Table

METRICS = ("gnELBO", "KL", "JSD")
"""The rows of the paper's 2D tables; the tidy files hold the other metrics too."""

TIDY_COLUMNS = (*results.SUMMARY_COLUMNS, "paper_mean", "paper_spread")

HYPERPARAMETER_HEADING = Heading("", ("β_rec", "β_kl", "β_neg", "origin"))

_QUOTED = (
    Column("reported", ("quoted from the paper", "reported", "c"), quoted=True),
    Column("official_reproduced", ("quoted from the paper", "official (reproduced)", "c"), quoted=True),
)


def density_table(number: str, paths: Iterable[str | Path], request: Request) -> tuple[pd.DataFrame, Table]:
    """Table ``1`` or ``4``.

    Args:
        number: which one.
        paths: ``metrics.csv`` files that hold every dataset, cell and seed of the request; more does no harm.
        request: what to show.

    Returns:
        The tidy table, columns :data:`TIDY_COLUMNS`, all metrics (quoted columns have only the published values);
        and the table laid out as in the paper.
    """
    if number not in ("1", "4"):
        raise unknown("table", number, ("1", "4"))
    summary = results.summarise(results.read_metrics(paths), request.datasets, request.cells, request.seeds)
    absent = [metric for metric in METRICS if metric not in set(summary["metric"])]
    if absent:
        raise UserError(f"table {number}: no {absent[0]} in the results; delete the metrics.csv files and run again")
    published = (paper.table1() if number == "1" else _settings_as_cells()).rename(
        columns={"mean": "paper_mean", "spread": "paper_spread"}
    )[["dataset", "cell", "metric", "paper_mean", "paper_spread"]]
    tidy = summary.merge(published, how="left", on=["dataset", "cell", "metric"])
    columns = density_columns(number, request.cells)
    if number == "4":
        columns = [*_QUOTED, *columns]
        quoted = published[published["cell"].isin(paper.QUOTED_SETTINGS) & published["dataset"].isin(request.datasets)]
        tidy = pd.concat([quoted.reindex(columns=tidy.columns).astype({"n": "Int64", "diverged": "Int64"}), tidy])
    tidy = tidy[list(TIDY_COLUMNS)].reset_index(drop=True)
    rows = by_place(tidy)
    blocks = tuple(
        tuple(
            Row((dataset, labelled(metric)), entries(rows, dataset, metric, columns, request.spread))
            for metric in METRICS
        )
        for dataset in request.datasets
    )
    caption = _density_caption(number, tidy, request)
    return tidy, Table(number, f"table{number}", caption, ("", ""), density_headings(number, columns), blocks)


def hyperparameter_table(paths: Iterable[str | Path], request: Request) -> tuple[pd.DataFrame, Table]:
    """Table ``3``: the hyperparameters in use, Daniel and Tamar's in parentheses, and where they came from.

    Args:
        paths: ``hyperparameters.json`` files that hold every dataset and cell of the request.
        request: what to show; seeds and spread don't matter.

    Returns:
        The tidy table (:data:`TIDY_COLUMNS`, ``metric`` being the hyperparameter, ``paper_mean`` the optimum of
        Table 3; then daniel_tamar, source, settings, settings_diverged, KL), and the table laid out.
    """
    choices = _choices(paths, request)
    tidy = pd.DataFrame([record for choice in choices for record in _hyperparameter_records(choice)])
    tidy = tidy.astype({"n": "Int64", "settings": "Int64", "settings_diverged": "Int64"})
    defaults = {(row.dataset, row.cell, row.metric): row.daniel_tamar for row in tidy.itertuples()}
    blocks = []
    for dataset in request.datasets:
        rows = []
        for choice in choices:
            if choice.dataset == dataset:
                values = (
                    _with_default(getattr(choice, name), defaults[dataset, choice.cell, name])
                    for name in paper.HYPERPARAMETERS
                )
                label = naming.parse(choice.cell).label
                rows.append(Row((dataset, label), (*map(Entry, values), Entry(_origin(choice)))))
        blocks.append(tuple(rows))
    sentences = [
        "Hyperparameters of the 2D experiments; a search takes those of the lowest histogram KL, one run per setting.",
        "In parentheses those of Daniel and Tamar (2021), known for the standard Gaussian prior alone.",
        request.scale,
    ]
    caption = " ".join(filter(None, sentences))
    return tidy, Table("3", "table3", caption, ("2D dataset", "prior"), (HYPERPARAMETER_HEADING,), tuple(blocks))


def density_columns(number: str, cells: Sequence[str]) -> list[Column]:
    """The measured columns of Table 1 or 4."""
    return cell_columns(cells) if number == "1" else [Column(cell, _setting(naming.parse(cell))) for cell in cells]


def density_headings(number: str, columns: Sequence[Column]) -> tuple[Heading, ...]:
    """The head of Table 1 (model, prior, LC, IP) or of Table 4 (whose numbers, setting, KL computation)."""
    return headings(columns) if number == "1" else headings(columns, ("", "", "KL calculation"))


def _setting(cell: naming.Cell) -> tuple[str, ...]:
    """What stands above a cell's column in Table 4."""
    setting = "ours (reproduced)" if cell.published_betas else "ours (replicated)"
    prior = f", {cell.prior_label}" if cell.family.learns else ""
    return ("measured here", setting + prior, "c" if cell.closed_form_kl else "s")


def _settings_as_cells() -> pd.DataFrame:
    """Table 4 with the quoted settings standing in the column of cells under their own names."""
    table = paper.table4()
    table["cell"] = table["cell"].where(table["cell"] != "", table["setting"])
    return table


def _density_caption(number: str, tidy: pd.DataFrame, request: Request) -> str:
    taken = tidy[tidy["metric"].isin(METRICS) & tidy["n"].notna()]
    sentences = {
        "1": ["Quantitative performance on the 2D datasets."],
        "4": [
            "Baseline performance (S-IntroVAE, standard Gaussian prior) across settings. Columns marked † are quoted "
            "from the paper, not measured here; “reproduced” uses the hyperparameters of Daniel and Tamar (2021), "
            "“replicated” those of Table 3; c and s: closed-form and sample-based KL divergence."
        ],
    }[number]
    sentences.append(spread_sentence(request.spread, len(request.seeds)))
    if request.scale:
        sentences.append(request.scale)
    sentences.append("Best measured mean of a row in bold.")
    if (taken["diverged"] > 0).any():
        sentences.append(DIVERGED)
    floors = [
        f"{dataset} {', '.join(parts)}"
        for dataset in request.datasets
        if (parts := [_floor(tidy, dataset, metric) for metric in ("KL", "JSD") if _floor(tidy, dataset, metric)])
    ]
    if floors:
        sentences.append(f"Two samples of the data itself score on average: {'; '.join(floors)}.")
    return " ".join(sentences)


def _floor(tidy: pd.DataFrame, dataset: str, metric: str) -> str:
    means = tidy.loc[(tidy["dataset"] == dataset) & (tidy["metric"] == f"{metric}_floor"), "mean"].dropna()
    return f"{metric} {means.mean():.2f}" if len(means) else ""


def _choices(paths: Iterable[str | Path], request: Request) -> list[Any]:
    """The requested hyperparameters, in the order of the request."""
    found: dict[tuple[str, str], Any] = {}
    for row in results.read_hyperparameters(paths).itertuples():
        if (row.dataset, row.cell) in found:
            raise UserError(f"table 3: hyperparameters of {row.dataset}, {row.cell} given twice; name each file once")
        found[row.dataset, row.cell] = row
    wanted = [(dataset, cell) for dataset in request.datasets for cell in request.cells]
    absent = [", ".join(key) for key in wanted if key not in found]
    if absent:
        raise UserError(f"table 3: no hyperparameters of {absent[0]}; run again, or drop it from the configuration")
    return [found[key] for key in wanted]


def _hyperparameter_records(choice: Any) -> Iterable[dict[str, Any]]:
    """The rows of the tidy Table 3 that one choice gives."""
    published = paper.table3().set_index(["dataset", "cell", "hyperparameter"])
    for name in paper.HYPERPARAMETERS:
        key = (choice.dataset, choice.cell, name)
        theirs = published.loc[key] if key in published.index else {}
        yield {
            "dataset": choice.dataset,
            "cell": choice.cell,
            "metric": name,
            "mean": getattr(choice, name),
            "std": math.nan,
            "sem": math.nan,
            "n": 1,
            "diverged": 0,
            "paper_mean": theirs.get("grid_search_optimum", math.nan),
            "paper_spread": math.nan,
            "daniel_tamar": theirs.get("daniel_tamar_2021", math.nan),
            "source": choice.source,
            "settings": choice.settings,
            "settings_diverged": choice.diverged,
            "KL": choice.KL,
        }


def _with_default(value: float, default: float) -> str:
    """``0.05 (0.5)``, or the value alone."""
    return plain(value) if math.isnan(default) else f"{plain(value)} ({plain(default)})"


def _origin(choice: Any) -> str:
    """``grid search, 210 settings, 3 diverged``."""
    origin = results.SOURCES[choice.source]
    if not math.isnan(choice.settings):
        origin += f", {int(choice.settings)} settings"
    if not math.isnan(choice.diverged) and choice.diverged:
        origin += f", {int(choice.diverged)} diverged"
    return origin
