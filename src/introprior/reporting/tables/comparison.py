"""Every table beside the paper's: published value, ours, the difference, and whether chance explains it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from introprior import paper
from introprior.experiment import cells as naming
from introprior.reporting import read as results
from introprior.reporting.tables.common import (
    Column,
    Request,
    Rows,
    by_place,
    cell_columns,
    headings,
    labelled,
    measured,
    plain,
    shown,
    write,
)
from introprior.reporting.tables.density import (
    HYPERPARAMETER_HEADING,
    METRICS,
    density_columns,
    density_headings,
    density_table,
    hyperparameter_table,
)
from introprior.reporting.tables.images import DECIMALS, ImageRequest, image_table, incomparable, line, row_names, title
from introprior.reporting.tables.layout import CROSS, TICK, Entry, Row, Table

_VALUES = (
    *("metric", "paper_mean", "paper_spread", "paper_sem"),
    *("mean", "std", "sem", "n", "diverged", "difference", "tolerance", "within"),
)
COLUMNS = ("dataset", "cell", *_VALUES)
IMAGE_COLUMNS = ("dataset", "cell", "r_entropy", *_VALUES)

_MARKS = {"yes": f" {TICK}", "no": f" {CROSS}", "NA": ""}


def compare(tidy: pd.DataFrame, seeds: int = paper.SEEDS) -> pd.DataFrame:
    """The rows of a tidy table that the paper has too, columns :data:`COLUMNS`, or :data:`IMAGE_COLUMNS` of images.

    ``difference`` is ours minus the paper's. ``within`` is ``yes`` where its size is at most ``tolerance``, twice the
    combined standard error ``sqrt(sem_ours^2 + sem_paper^2)``; the paper's spread is read as a standard deviation over
    ``seeds`` seeds. ``NA`` where fewer than two of our seeds gave a number, or the paper has no value or spread.
    """
    table = tidy[tidy["n"].notna() & tidy["paper_mean"].notna()].copy()
    table["paper_sem"] = table["paper_spread"] / math.sqrt(seeds)
    table["difference"] = table["mean"] - table["paper_mean"]
    table["tolerance"] = 2 * (table["sem"] ** 2 + table["paper_sem"] ** 2) ** 0.5
    table["within"] = [
        _answer(abs(row.difference) <= row.tolerance, row.n >= 2 and not math.isnan(row.tolerance))
        for row in table.itertuples()
    ]
    return table[list(IMAGE_COLUMNS if "r_entropy" in table else COLUMNS)].reset_index(drop=True)


def density_comparison(number: str, tidy: pd.DataFrame, request: Request) -> tuple[pd.DataFrame, Table]:
    """Table 1 or 4 beside the paper's.

    Args:
        number: ``1`` or ``4``.
        tidy: from :func:`introprior.reporting.tables.common.density_table`.
        request: the same as there.

    Returns:
        :func:`compare`'s rows, and a table with three lines per metric: the paper's, ours, and the difference.
    """
    compared = compare(tidy)
    columns, theirs, ours = density_columns(number, request.cells), by_place(compared), by_place(tidy)
    blocks = []
    for dataset in request.datasets:
        block: list[Row] = []
        for metric in METRICS:
            measurements = [measured(ours[dataset, metric, column.cell], request.spread) for column in columns]
            block += _three((dataset, labelled(metric)), (dataset, metric), columns, theirs, measurements, 2)
        blocks.append(tuple(block))
    shown_rows = compared[compared["metric"].isin(METRICS)]
    caption = (
        f"{_spreads(request.spread)} {TICK}: the difference is at most twice "
        f"the combined standard error √(sem² of ours + sem² of the paper), {CROSS}: it is larger; unmarked: fewer than "
        "two seeds gave a number. The paper's ± is read as the standard deviation over five seeds. "
        f"{_tally(shown_rows)} {request.scale}"
    ).strip()
    stubs = ("", "", "")
    return compared, Table(
        f"{number}, beside the paper",
        f"table{number}_vs_paper",
        caption,
        stubs,
        density_headings(number, columns),
        tuple(blocks),
    )


def image_comparison(number: str, tidy: pd.DataFrame, request: ImageRequest) -> tuple[pd.DataFrame, Table]:
    """Table 2 or 5 beside the paper's; what the paper has no counterpart of is shown beside dashes.

    Args:
        number: ``2`` or ``5``.
        tidy: from :func:`introprior.reporting.tables.images.image_table`.
        request: the same as there.

    Returns:
        :func:`compare`'s rows, and a table with three lines per metric: the paper's, ours, and the difference.
    """
    compared = compare(tidy, paper.IMAGE_SEEDS)
    columns, theirs, ours = cell_columns(request.cells), by_place(compared), by_place(tidy)
    rows = row_names(number, request, ())  # without the standard FID, which the paper does not have
    blocks = []
    for dataset in request.datasets:
        block: list[Row] = []
        for metric, name in rows.items():
            measurements = [
                dataclasses.replace(entry, bold=False) for entry in line(ours, dataset, metric, columns, request.spread)
            ]
            decimals = None if metric == "r_entropy" else DECIMALS
            labels = (title(dataset), labelled(metric, name))
            block += _three(labels, (dataset, metric), columns, theirs, measurements, decimals)
        blocks.append(tuple(block))
    judged = compared[compared["metric"].isin(rows) & (compared["metric"] != "r_entropy")]
    sentences = [_spreads(request.spread), *incomparable(request)]
    if len(judged):
        sentences.append(
            f"{TICK}: the difference is at most twice the combined standard error √(sem² of ours + sem² of the paper), "
            f"{CROSS}: it is larger; unmarked: fewer than two seeds gave a number, or the paper prints no spread. The "
            "paper's ± is read as the standard deviation over three seeds; it may be the standard error, which would "
            f"widen the tolerance. {_tally(judged)}"
        )
    caption = " ".join(filter(None, [*sentences, request.scale]))
    label = f"table{number}_vs_paper"
    return compared, Table(f"{number}, beside the paper", label, caption, ("",) * 3, headings(columns), tuple(blocks))


def hyperparameter_comparison(tidy: pd.DataFrame, request: Request) -> tuple[pd.DataFrame, Table]:
    """Table 3 beside the paper's: a grid has no uncertainty, so ``within`` says whether a search found the same value.

    Args:
        tidy: from :func:`introprior.reporting.tables.common.hyperparameter_table`.
        request: the same as there.

    Returns:
        Rows with the columns :data:`COLUMNS` and ``source``; ``within`` is ``NA`` for values that were not searched;
        and a table with three lines per dataset: the paper's optimum, ours, and the difference.
    """
    compared = tidy[tidy["paper_mean"].notna()].copy()
    compared["paper_sem"] = compared["tolerance"] = math.nan
    compared["difference"] = compared["mean"] - compared["paper_mean"]
    compared["within"] = [
        _answer(math.isclose(row.mean, row.paper_mean), row.source == "search" and not math.isnan(row.mean))
        for row in compared.itertuples()
    ]
    compared = compared[[*COLUMNS, "source"]].reset_index(drop=True)
    blocks = []
    for (dataset, cell), group in compared.groupby(["dataset", "cell"], sort=False):
        by_name = {row.metric: row for row in group.itertuples()}
        betas = [by_name[name] for name in paper.HYPERPARAMETERS]
        origin = results.SOURCES[betas[0].source]
        lines = {
            "paper": [*(Entry(plain(row.paper_mean)) for row in betas), Entry("grid search")],
            "ours": [*(Entry(plain(row.mean)) for row in betas), Entry(origin)],
            "ours − paper": [*(_difference(row, "+g") for row in betas), Entry("")],
        }
        label = naming.parse(cell).label
        blocks.append(tuple(Row((dataset, label, name), tuple(line)) for name, line in lines.items()))
    caption = (
        f"{TICK}: our search chose the same value, {CROSS}: another one; unmarked: not searched here, hence nothing to "
        f"judge. {_tally(compared)} {request.scale}"
    ).strip()
    stubs, heads = ("2D dataset", "prior", ""), (HYPERPARAMETER_HEADING,)
    return compared, Table("3, beside the paper", "table3_vs_paper", caption, stubs, heads, tuple(blocks))


def write_both(
    number: str,
    paths: Iterable[str | Path],
    request: Request,
    folder: str | Path,
    chosen: Iterable[str | Path] = (),
) -> None:
    """Write ``table<number>`` and ``table<number>_vs_paper`` into a folder, each as CSV, Markdown and LaTeX.

    Args:
        number: ``1`` to ``5``.
        paths: ``metrics.csv`` files, for Tables 2 and 5 ``probes.csv`` too, for Table 3 ``hyperparameters.json`` files.
        request: what the table shows; of Tables 2 and 5 an :class:`ImageRequest`.
        folder: where to write.
        chosen: ``r_entropy.json`` files, for Tables 2 and 5.
    """
    if isinstance(request, ImageRequest):
        tidy, table = image_table(number, paths, chosen, request)
        compared, beside = image_comparison(number, tidy, request)
    elif number == "3":
        tidy, table = hyperparameter_table(paths, request)
        compared, beside = hyperparameter_comparison(tidy, request)
    else:
        tidy, table = density_table(number, paths, request)
        compared, beside = density_comparison(number, tidy, request)
    write(tidy, table, Path(folder))
    write(compared, beside, Path(folder))


def _three(
    labels: tuple[str, str],
    place: tuple[str, str],
    columns: Sequence[Column],
    theirs: Rows,
    ours: Sequence[Entry],
    decimals: int | None,
) -> list[Row]:
    """Three lines below one another: the paper's value, ours, and the difference.

    Args:
        labels: of the rows.
        place: dataset and metric.
        columns: the columns.
        theirs: the compared rows; where there is none a dash stands.
        ours: what we measured, per column.
        decimals: how many to print; None for a setting, a bare number.
    """
    found = [theirs.get((*place, column.cell)) for column in columns]
    lines = {
        "paper": [_published(row, decimals) for row in found],
        "ours": ours,
        "ours − paper": [_difference(row, "+g" if decimals is None else f"+.{decimals}f") for row in found],
    }
    return [Row((*labels, name), tuple(line)) for name, line in lines.items()]


def _published(row: Any, decimals: int | None) -> Entry:
    if row is None:
        return Entry("–")
    return Entry(plain(row.paper_mean) if decimals is None else shown(row.paper_mean, row.paper_spread, decimals))


def _answer(yes: bool, known: bool) -> str:
    return ("yes" if yes else "no") if known else "NA"


def _difference(row: Any, style: str = "+.2f") -> Entry:
    if row is None or math.isnan(row.difference):
        return Entry("–")
    decimals = int(style[2:-1]) if style.endswith("f") else 10
    value = format(round(row.difference, decimals) + 0.0, style).replace("-", "−")  # no −0.00
    return Entry(value + _MARKS[row.within])


def _tally(compared: pd.DataFrame) -> str:
    """``Of 72 published values 60 can be judged; 41 of these are met.``"""
    answers: Sequence[str] = compared["within"].tolist()
    judged = [answer for answer in answers if answer != "NA"]
    if not judged:
        return f"None of {len(answers)} published values can be judged."
    return f"Of {len(answers)} published values {len(judged)} can be judged; {judged.count('yes')} of these are met."


def _spreads(spread: str) -> str:
    ours = {"std": "standard deviation (ddof = 0)", "sem": "standard error of the mean"}[spread]
    return f"Ours is the mean over all seeds that finished, never the best one, ± {ours}."
