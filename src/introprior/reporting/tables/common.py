"""What all tables share: what a table is asked to show, its columns, its numbers as printed, its three files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from introprior.errors import UserError, unknown
from introprior.experiment import cells as naming
from introprior.operations.files import write_text, written
from introprior.reporting import read as results
from introprior.reporting.tables import latex
from introprior.reporting.tables.layout import CROSS, TICK, Entry, Heading, Table, markdown

DIVERGED = "Seeds that diverged are left out of the mean and counted beside it; “diverged” stands where all did."

Rows = Mapping[tuple[str, str, str], Any]
"""Rows of a tidy table by dataset, metric and cell."""


@dataclass(frozen=True)
class Request:
    """What a table shows.

    Attributes:
        datasets: its blocks, in order.
        cells: its measured columns, in order.
        seeds: the seeds that must be there.
        spread: what follows the plus-minus sign, ``std`` or ``sem``.
        scale: a sentence for the caption, see :func:`introprior.reporting.tables.captions.scale_sentence`.
    """

    datasets: tuple[str, ...]
    cells: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    spread: str = "std"
    scale: str = ""

    def __post_init__(self) -> None:
        if self.spread not in ("std", "sem"):
            raise unknown("spread", self.spread, ("std", "sem"))
        if not self.datasets or not self.cells:
            raise UserError("tables: nothing to show; name at least one dataset and one cell in the configuration")
        for cell in self.cells:
            naming.parse(cell)


@dataclass(frozen=True)
class Column:
    """One column: the cell behind it, what stands above it from top to bottom, and whether it's quoted."""

    cell: str
    head: tuple[str, ...]
    quoted: bool = False


def write(tidy: pd.DataFrame, table: Table, folder: Path) -> None:
    """Write a table into a folder as tidy CSV, Markdown and LaTeX."""
    with written(folder / f"{table.label}.csv") as temporary:
        tidy.to_csv(temporary, index=False)
    write_text(folder / f"{table.label}.md", markdown(table))
    write_text(folder / f"{table.label}.tex", latex.fragment(table))


def headings(columns: Sequence[Column], titles: Sequence[str] = ("", "", "LC", "IP")) -> tuple[Heading, ...]:
    """The table's head: each title with what stands on its line over the columns."""
    return tuple(Heading(title, tuple(column.head[i] for column in columns)) for i, title in enumerate(titles))


def cell_columns(cells: Sequence[str]) -> list[Column]:
    """Measured columns under model, prior, LC and IP, as in Tables 1, 2 and 5."""
    return [Column(cell, _head(naming.parse(cell))) for cell in cells]


def by_place(tidy: pd.DataFrame) -> Rows:
    """The rows of a tidy table by dataset, metric and cell."""
    return {(row.dataset, row.metric, row.cell): row for row in tidy.itertuples()}


def labelled(metric: str, name: str = "") -> str:
    """``KL ↓``; ``name`` is what the table calls the metric, if not as the files do."""
    return f"{name or metric} {results.ARROWS[metric]}".strip()


def shown(mean: float, spread: float, decimals: int = 2) -> str:
    """``0.51 ± 0.15``, or the mean alone."""
    return f"{mean:.{decimals}f}" + ("" if math.isnan(spread) else f" ± {spread:.{decimals}f}")


def plain(value: float) -> str:
    """A hyperparameter: ``0.05``, ``1``, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:g}"


def measured(row: Any, spread: str, bold: bool = False, decimals: int = 2) -> Entry:
    """A measured mean and spread; says how many seeds are behind it when some diverged, ``diverged`` when all did.

    Args:
        row: of a tidy table.
        spread: ``std`` or ``sem``.
        bold: whether it's the best of its row.
        decimals: how many to print.
    """
    if row.n == 0:
        return Entry("diverged")
    note = f"{row.n}/{row.n + row.diverged} seeds" if row.diverged else ""
    return Entry(shown(row.mean, getattr(row, spread), decimals), bold, note)


def entries(
    rows: Rows, dataset: str, metric: str, columns: Sequence[Column], spread: str, decimals: int = 2
) -> tuple[Entry, ...]:
    """One row of a table; bold: the best of the measured means as printed, all of them where they tie.

    A metric without a direction (:data:`introprior.reporting.read.ARROWS`) has no best.
    """
    printed = {
        column.cell: round(rows[dataset, metric, column.cell].mean, decimals)
        for column in columns
        if results.ARROWS[metric] and not column.quoted and rows[dataset, metric, column.cell].n
    }
    best = (max if results.ARROWS[metric] == "↑" else min)(printed.values(), default=None)
    line = []
    for column in columns:
        row = rows.get((dataset, metric, column.cell))
        if column.quoted:
            line.append(Entry("–" if row is None else f"{shown(row.paper_mean, row.paper_spread, decimals)} †"))
        else:
            line.append(measured(row, spread, column.cell in printed and printed[column.cell] == best, decimals))
    return tuple(line)


def _head(cell: naming.Cell) -> tuple[str, ...]:
    """What stands above a cell's column."""
    named = cell.notes
    prior = cell.prior_label
    return (
        "S-IntroVAE" if cell.adversarial else "VAE",
        prior + (f" ({', '.join(named)})" if named else ""),
        TICK if cell.learnable_contributions else CROSS,
        TICK if cell.intro_prior else CROSS,
    )
