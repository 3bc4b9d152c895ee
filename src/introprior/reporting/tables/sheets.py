"""What a table shows, however it is laid out: request, columns, rows, tidy numbers; and the table as in the paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from introprior import paper
from introprior.errors import UserError
from introprior.experiment.cells import Cell
from introprior.metrics.registry import DISTANCES, ENTROPIES, METRICS
from introprior.reporting.read import NO_FAILURE
from introprior.reporting.tables.layout import CROSS, TICK, Entry, Heading, Row, Table

KEY = ["dataset", "cell", "metric"]
SUMMARY = [*KEY, "mean", "std", "sem", "n", "diverged"]
PUBLISHED = ["paper_mean", "paper_spread"]
COUNTS = {"n": "Int64", "diverged": "Int64"}
"""Columns of tidy tables, and the types of those that count seeds."""

Columns = dict[str, tuple[str, ...]]
"""Cells, or settings that are quoted, and what stands above them from top to bottom."""


@dataclass(frozen=True)
class Request:
    """What a table is asked to show.

    Attributes:
        datasets, cells: its blocks and its measured columns, in order.
        seeds: the seeds that must be there.
        spread: what follows the plus-minus sign, ``std`` or ``sem``.
        scale: a sentence for the caption, see :func:`introprior.reporting.tables.captions.scale_sentence`.
        primary: of images, the distance that chose epochs and r_entropy and fills the rows GEN and REC.
        entropy: of images, the row "Entr.".
        svm_iterations, neighbours: of images, those of the probes "few" and "many"; by default the paper's.
    """

    datasets: Sequence[str]
    cells: Sequence[str]
    seeds: Sequence[int] = ()
    spread: str = "std"
    scale: str = ""
    primary: str = next(iter(DISTANCES))
    entropy: str = ENTROPIES[0]
    svm_iterations: Sequence[int] = (2000, 10000)
    neighbours: Sequence[int] = (5, 100)

    @property
    def others(self) -> set[str]:
        """The distances that the table is not about."""
        return {f"{name}_{kind}" for name in DISTANCES if name != self.primary for kind in ("gen", "rec")}


@dataclass(frozen=True)
class Sheet:
    """What a table shows: of each dataset (``names`` is what the table calls it) rows of metrics.

    Attributes:
        tidy: a row per dataset, cell and metric: :data:`SUMMARY`, of images r_entropy, and :data:`PUBLISHED`.
        titles: of the lines of its head; empty where a line needs none.
        rows: metrics, and what the table calls them, if not by their title.
        notes: sentences on what has no counterpart in the paper.
    """

    number: str
    request: Request
    tidy: pd.DataFrame
    columns: Columns
    titles: Sequence[str]
    rows: Mapping[str, str]
    names: Mapping[str, str]
    caption: str
    notes: Sequence[str] = ()


def table(sheet: Sheet) -> Table:
    """The table as the paper lays it out: datasets in blocks, metrics in rows."""
    blocks = [
        tuple(
            Row((title, METRICS[metric].label(name)), _entries(by_cell(sheet.tidy, dataset, metric), metric, sheet))
            for metric, name in sheet.rows.items()
        )
        for dataset, title in sheet.names.items()
    ]
    heads = headings(sheet.columns, sheet.titles)
    return Table(sheet.number, f"table{sheet.number}", sheet.caption, ("", ""), heads, tuple(blocks))


def headings(columns: Columns, titles: Sequence[str]) -> tuple[Heading, ...]:
    """The table's head: each title with what stands on its line over the columns."""
    return tuple(map(Heading, titles, zip(*columns.values(), strict=True)))


def by_cell(tidy: pd.DataFrame, dataset: str, metric: str) -> dict[str, Any]:
    """The rows of one dataset and metric by cell."""
    rows = tidy[(tidy["dataset"] == dataset) & (tidy["metric"] == metric)]
    return {row.cell: row for row in rows.itertuples()}


def _entries(rows: Mapping[str, Any], metric: str, sheet: Sheet) -> tuple[Entry, ...]:
    """One row of a table; bold: the best of the measured means as printed, all of them where they tie.

    A metric without a direction has no best.
    """
    decimals, direction = METRICS[metric].decimals, METRICS[metric].direction
    measurements = {cell: rows[cell] for cell in sheet.columns if cell not in paper.QUOTED_SETTINGS}
    printed = {cell: round(row.mean, decimals) for cell, row in measurements.items() if direction and row.n}
    best = (max if direction == "↑" else min)(printed.values(), default=None)
    return tuple(
        measured(rows[cell], sheet.request.spread, decimals, cell in printed and printed[cell] == best)
        if cell in measurements
        else Entry(f"{shown(rows[cell].paper_mean, rows[cell].paper_spread, decimals)} †" if cell in rows else "–")
        for cell in sheet.columns
    )


def measured(row: Any, spread: str, decimals: int | None, bold: bool = False) -> Entry:
    """A measured mean and spread; says how many seeds are behind it when some diverged, ``diverged`` when all did.

    A dash stands for what would need labels, or components, where there are none.
    """
    if row.n == 0:
        return Entry("diverged" if row.diverged else "–")
    note = f"{row.n}/{row.n + row.diverged} seeds" if row.diverged else ""
    return Entry(shown(row.mean, getattr(row, spread), decimals), bold, note)


def shown(mean: float, spread: float = math.nan, decimals: int | None = None) -> str:
    """``0.51 ± 0.15``, or the mean alone; without decimals a setting: ``0.05``, or a dash where there is none."""
    if decimals is None:
        return "–" if math.isnan(mean) else f"{mean:g}"
    return f"{mean:.{decimals}f}" + ("" if math.isnan(spread) else f" ± {spread:.{decimals}f}")


def cell_columns(cells: Sequence[str]) -> Columns:
    """Columns under model, prior, LC and IP, as in Tables 1, 2 and 5."""
    columns = {}
    for cell in map(Cell.parse, cells):
        prior = cell.prior_label + f" ({', '.join(cell.notes)})" * bool(cell.notes)
        ticks = (TICK if on else CROSS for on in (cell.learnable_contributions, cell.intro_prior))
        columns[cell.name] = ("S-IntroVAE" if cell.adversarial else "VAE", prior, *ticks)
    return columns


def summarise(runs: pd.DataFrame, request: Request, needed: Iterable[str]) -> pd.DataFrame:
    """Mean and spread over the seeds, for each dataset, cell and metric in order.

    Args:
        runs: a row per run and metric, see :func:`introprior.reporting.read.metrics`.
        request: datasets, cells and seeds that must be there, completely.
        needed: metrics that must be there.

    Returns:
        the columns :data:`SUMMARY`: std with ddof = 0, sem = std / sqrt(n), n seeds behind the mean, diverged seeds
        without a finite value (data without labels, or a prior without components, is no divergence). With one seed the
        spread is NaN, not 0; with none the mean is NaN too.

    Raises:
        UserError: a run or one of its metrics is missing, or there are runs of other seeds.
    """
    groups, present = dict(list(runs.groupby(KEY, sort=False))), set(runs["metric"])
    summaries = []
    for key in ((d, c, m) for d in request.datasets for c in request.cells for m in METRICS if m in present):
        found = groups[key]["seed"].tolist() if key in groups else []
        if sorted(found) != sorted(request.seeds):
            there, wanted = (", ".join(map(str, sorted(seeds))) or "none" for seeds in (found, request.seeds))
            raise UserError(
                f"results of {key[0]}, {key[1]}: {key[2]} of seeds {there} found, {wanted} wanted; delete its "
                "metrics.csv and run again to make it anew"
            )
        values = [value for value in groups[key]["value"] if math.isfinite(value)]
        lost = len(found) - len(values) - int(groups[key]["status"].isin(NO_FAILURE).sum())
        summaries.append((*key, *moments(values), len(values), lost))
    for metric in needed:
        if metric not in present:
            raise UserError(f"tables: no {metric} in the results; delete metrics.csv and probes.csv and run again")
    return pd.DataFrame(summaries, columns=SUMMARY).astype(COUNTS)


def moments(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation (ddof = 0) and its ratio to sqrt(n); NaN where too few values tell."""
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / n) if n > 1 else math.nan
    return mean, std, std / math.sqrt(n) if n > 1 else math.nan


def published(number: str, incomparable: Iterable[str] = ()) -> pd.DataFrame:
    """The paper's values under our metrics' names, but for those that ours cannot be compared with."""
    same = {m.paper: name for name, m in METRICS.items() if m.paper and number in m.tables and name not in incomparable}
    values = paper.table(number)
    values = values[values["metric"].isin(same)].replace({"metric": same})
    return values.rename(columns={"mean": "paper_mean", "spread": "paper_spread"})[KEY + PUBLISHED]
