"""Every table beside the paper's: published value, ours, the difference, and whether chance explains it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from introprior import paper
from introprior.experiment.cells import Cell
from introprior.metrics.registry import METRICS
from introprior.operations.files import write_text, written
from introprior.reporting import read
from introprior.reporting.tables import captions
from introprior.reporting.tables.density import HYPERPARAMETERS, density_sheet, hyperparameter_table
from introprior.reporting.tables.images import image_sheet
from introprior.reporting.tables.latex import fragment
from introprior.reporting.tables.layout import CROSS, TICK, Entry, Row, Table, markdown
from introprior.reporting.tables.sheets import Request, Sheet, by_cell, headings, measured, shown, table

_COLUMNS = ["metric", "paper_mean", "paper_spread", "paper_sem", "mean", "std", "sem", "n", "diverged"]
_COLUMNS += ["difference", "tolerance", "within"]
_MARKS = {"yes": f" {TICK}", "no": f" {CROSS}", "NA": ""}

PathLike = str | Path


def write(
    number: str, request: Request, folder: PathLike, results: Iterable[PathLike], chosen: Iterable[PathLike] = ()
) -> None:
    """Write ``table<number>`` and ``table<number>_vs_paper`` into a folder, each as CSV, Markdown and LaTeX."""
    for numbers, laid_out in tables(number, request, results, chosen):
        with written(Path(folder, f"{laid_out.label}.csv")) as temporary:
            numbers.to_csv(temporary, index=False)
        write_text(Path(folder, f"{laid_out.label}.md"), markdown(laid_out))
        write_text(Path(folder, f"{laid_out.label}.tex"), fragment(laid_out))


def tables(
    number: str, request: Request, results: Iterable[PathLike], chosen: Iterable[PathLike] = ()
) -> list[tuple[pd.DataFrame, Table]]:
    """A table and its companion beside the paper's, each as tidy numbers and laid out.

    Args:
        number: ``1`` to ``5``.
        request: what to show.
        results: ``metrics.csv`` files, for Tables 2 and 5 ``probes.csv`` too, for Table 3 ``hyperparameters.json``.
        chosen: ``r_entropy.json`` files, for Tables 2 and 5.

    Raises:
        UserError: a file that is missing or damaged; results that are not complete.
    """
    if number == "3":
        tidy, laid_out = hyperparameter_table(pd.DataFrame(read.hyperparameters(results)), request)
        return [(tidy, laid_out), hyperparameter_comparison(tidy, request.scale)]
    runs = pd.DataFrame(read.metrics(results))
    if number in ("1", "4"):
        sheet = density_sheet(number, runs, request)
    else:
        sheet = image_sheet(number, runs, read.choices(chosen), request)
    return [(sheet.tidy, table(sheet)), comparison(sheet)]


def comparison(sheet: Sheet) -> tuple[pd.DataFrame, Table]:
    """A table beside the paper's: :func:`compare`'s rows, and three lines a metric: published, ours, the difference."""
    images = "r_entropy" in sheet.tidy
    compared = compare(sheet.tidy, paper.IMAGE_SEEDS if images else paper.SEEDS)
    columns = {cell: head for cell, head in sheet.columns.items() if cell not in paper.QUOTED_SETTINGS}
    rows = {metric: name for metric, name in sheet.rows.items() if metric not in sheet.request.others}
    blocks = []
    for dataset, title in sheet.names.items():
        block: list[Row] = []
        for metric, name in rows.items():
            found, ours = (by_cell(frame, dataset, metric) for frame in (compared, sheet.tidy))
            decimals = METRICS[metric].decimals
            entries = [measured(ours[cell], sheet.request.spread, decimals) for cell in columns]
            labels = (title, METRICS[metric].label(name))
            block += _three(labels, [found.get(cell) for cell in columns], entries, decimals)
        blocks.append(tuple(block))
    judged = compared["metric"].isin([metric for metric in rows if METRICS[metric].decimals is not None])
    answers = compared.loc[judged, "within"].tolist()
    caption = captions.caption(
        "Ours is the mean over all seeds that finished, never the best one, "
        f"± {captions.SPREADS[sheet.request.spread]}.",
        *sheet.notes,
        captions.verdict(answers, images) if answers else "",
        sheet.request.scale,
    )
    return compared, _beside(sheet.number, caption, ("", "", ""), headings(columns, sheet.titles), blocks)


def _beside(number: str, caption: str, stubs: tuple[str, ...], heads: Any, blocks: Iterable[Any]) -> Table:
    return Table(f"{number}, beside the paper", f"table{number}_vs_paper", caption, stubs, heads, tuple(blocks))


def compare(tidy: pd.DataFrame, seeds: int, *more: str) -> pd.DataFrame:
    """The rows of a tidy table that the paper has too, with some further columns of it.

    ``difference`` is ours minus the paper's. ``within`` is ``yes`` where its size is at most ``tolerance``, twice the
    combined standard error ``sqrt(sem_ours^2 + sem_paper^2)``; the paper's spread is read as a standard deviation over
    ``seeds`` seeds. ``NA`` where fewer than two of our seeds gave a number, or the paper has no value or spread.
    """
    compared = tidy[tidy["n"].notna() & tidy["paper_mean"].notna()].reset_index(drop=True)
    compared["paper_sem"] = compared["paper_spread"] / math.sqrt(seeds)
    compared["difference"] = compared["mean"] - compared["paper_mean"]
    compared["tolerance"] = 2 * (compared["sem"] ** 2 + compared["paper_sem"] ** 2) ** 0.5
    met = compared["difference"].abs() <= compared["tolerance"]
    compared["within"] = _answers(met, (compared["n"] >= 2) & compared["tolerance"].notna())
    return compared[["dataset", "cell", *["r_entropy"] * ("r_entropy" in compared), *_COLUMNS, *more]]


def _answers(met: pd.Series, known: pd.Series) -> pd.Series:
    return met.map({True: "yes", False: "no"}).where(known, "NA")


def hyperparameter_comparison(tidy: pd.DataFrame, scale: str) -> tuple[pd.DataFrame, Table]:
    """Table 3 beside the paper's, with the columns of :func:`compare` and ``source``, and three lines per dataset.

    A grid has no uncertainty, so ``within`` says whether a search found the same value, ``NA`` where there was none.
    """
    compared = compare(tidy, paper.SEEDS, "source")
    same = np.isclose(compared["mean"], compared["paper_mean"], rtol=1e-9, atol=0)
    known = (compared["source"] == "search") & compared["mean"].notna()
    compared["within"] = _answers(pd.Series(same, compared.index), known)
    blocks = []
    for (dataset, cell), group in compared.groupby(["dataset", "cell"], sort=False):
        betas = list(group.itertuples())
        lines = _three((dataset, Cell.parse(cell).label), betas, [Entry(shown(row.mean)) for row in betas], None)
        origins = ("grid search", read.SOURCES[betas[0].source], "")
        blocks.append(tuple(Row(labels, (*line, Entry(o))) for (labels, line), o in zip(lines, origins, strict=True)))
    caption = captions.caption(
        f"{TICK}: our search chose the same value, {CROSS}: another one; unmarked: not searched here, hence nothing to "
        f"judge. {captions.tally(compared['within'].tolist())}",
        scale,
    )
    return compared, _beside("3", caption, ("2D dataset", "prior", ""), (HYPERPARAMETERS,), blocks)


def _three(labels: tuple[str, str], theirs: Sequence[Any], ours: Sequence[Entry], decimals: int | None) -> list[Row]:
    """Three lines below one another: the paper's values, ours, and the differences."""
    lines = {
        "paper": [Entry("–" if row is None else shown(row.paper_mean, row.paper_spread, decimals)) for row in theirs],
        "ours": ours,
        "ours − paper": [_difference(row, decimals) for row in theirs],
    }
    return [Row((*labels, name), tuple(line)) for name, line in lines.items()]


def _difference(row: Any, decimals: int | None) -> Entry:
    if row is None or math.isnan(row.difference):
        return Entry("–")
    style = "+g" if decimals is None else f"+.{decimals}f"
    rounded = round(row.difference, 10 if decimals is None else decimals) + 0.0  # no −0.00
    return Entry(format(rounded, style).replace("-", "−") + _MARKS[row.within])
