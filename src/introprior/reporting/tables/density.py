"""The 2D tables: 1, the cells; 4, the baseline under several settings, two of them quoted; 3, the hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from introprior import paper
from introprior.errors import UserError
from introprior.experiment.cells import Cell
from introprior.metrics.registry import METRICS
from introprior.reporting import read
from introprior.reporting.tables import captions, sheets
from introprior.reporting.tables.layout import Entry, Heading, Row, Table
from introprior.reporting.tables.sheets import KEY, Columns, Request, Sheet

OPENINGS = {
    "1": "Quantitative performance on the 2D datasets.",
    "4": "Baseline performance (S-IntroVAE, standard Gaussian prior) across settings. Columns marked † are quoted from "
    "the paper, not measured here; “reproduced” uses the hyperparameters of Daniel and Tamar (2021), “replicated” "
    "those of Table 3; c and s: closed-form and sample-based KL divergence.",
}

HYPERPARAMETERS = Heading("", ("β_rec", "β_kl", "β_neg", "origin"))

_QUOTED: Columns = {
    "reported": ("quoted from the paper", "reported", "c"),
    "official_reproduced": ("quoted from the paper", "official (reproduced)", "c"),
}


def density_sheet(number: str, runs: pd.DataFrame, request: Request) -> Sheet:
    """What Table ``1`` or ``4`` shows; runs that the request does not name do no harm.

    Raises:
        UserError: something is missing.
    """
    rows = [name for name, metric in METRICS.items() if number in metric.tables]
    theirs = sheets.published(number)
    tidy = sheets.summarise(runs, request, rows).merge(theirs, how="left", on=KEY)
    columns, titles = sheets.cell_columns(request.cells), ["", "", "LC", "IP"]
    if number == "4":
        columns, titles = _QUOTED | _settings(request.cells), ["", "", "KL calculation"]
        quoted = theirs[theirs["cell"].isin(_QUOTED) & theirs["dataset"].isin(request.datasets)]
        tidy = pd.concat([quoted.reindex(columns=tidy.columns).astype(sheets.COUNTS), tidy], ignore_index=True)
    caption = captions.caption(
        OPENINGS[number],
        captions.spread_sentence(request.spread, len(request.seeds)),
        request.scale,
        "Best measured mean of a row in bold.",
        captions.DIVERGED * bool((tidy.loc[tidy["metric"].isin(rows), "diverged"] > 0).any()),
        _floors(tidy, rows, request.datasets),
    )
    names = dict(zip(request.datasets, request.datasets, strict=True))
    return Sheet(number, request, tidy, columns, titles, dict.fromkeys(rows, ""), names, caption)


def _settings(cells: Iterable[str]) -> Columns:
    """The measured columns of Table 4."""
    columns: Columns = {}
    for cell in map(Cell.parse, cells):
        setting = "ours (reproduced)" if cell.published_betas else "ours (replicated)"
        prior = f", {cell.prior_label}" * cell.family.learns
        columns[cell.name] = ("measured here", setting + prior, "c" if cell.closed_form_kl else "s")
    return columns


def _floors(tidy: pd.DataFrame, rows: Iterable[str], datasets: Iterable[str]) -> str:
    """What the data itself scores by the metrics of the rows, where it was measured."""
    means = tidy.groupby(["dataset", "metric"])["mean"].mean().dropna()
    parts = []
    for dataset in datasets:
        there = [METRICS[name] for name in rows if (dataset, f"{name}_floor") in means]
        scores = [f"{m.title or m.name} {means[dataset, f'{m.name}_floor']:.{m.decimals}f}" for m in there]
        parts += [f"{dataset} {', '.join(scores)}"] * bool(scores)
    return f"Two samples of the data itself score on average: {'; '.join(parts)}." if parts else ""


def hyperparameter_table(choices: pd.DataFrame, request: Request) -> tuple[pd.DataFrame, Table]:
    """Table 3: the hyperparameters in use, Daniel and Tamar's in parentheses, and where they came from.

    Returns:
        The tidy table (``metric`` is the hyperparameter, ``paper_mean`` the optimum of the paper's Table 3; then
        daniel_tamar, source, settings, settings_diverged, KL), and the table laid out.

    Raises:
        UserError: a choice is missing.
    """
    found = {(choice["dataset"], choice["cell"]): choice for choice in choices.to_dict("records")}
    records, blocks = [], []
    for dataset in request.datasets:
        block = []
        for cell in request.cells:
            if (choice := found.get((dataset, cell))) is None:
                raise UserError(f"table 3: no hyperparameters of {dataset}, {cell}; run again")
            optimum, default = (paper.hyperparameters(dataset, source, cell) for source in ("table3", "daniel-tamar"))
            entries = []
            for name in paper.HYPERPARAMETERS:
                summary = (dataset, cell, name, choice[name], math.nan, math.nan, 1, 0, optimum.get(name, math.nan))
                origin = (choice[key] for key in ("source", "settings", "diverged", "KL"))
                records.append((*summary, math.nan, default.get(name, math.nan), *origin))
                entries.append(Entry(sheets.shown(choice[name]) + (f" ({default[name]:g})" if default else "")))
            block.append(Row((dataset, Cell.parse(cell).label), (*entries, Entry(_origin(choice)))))
        blocks.append(tuple(block))
    columns = [*sheets.SUMMARY, *sheets.PUBLISHED, "daniel_tamar", "source", "settings", "settings_diverged", "KL"]
    kinds = sheets.COUNTS | {"settings": "Int64", "settings_diverged": "Int64"}
    tidy = pd.DataFrame(records, columns=columns).astype(kinds)
    caption = captions.caption(
        "Hyperparameters of the 2D experiments; a search takes those of the lowest histogram KL, one run per setting.",
        "In parentheses those of Daniel and Tamar (2021), known for the standard Gaussian prior alone.",
        request.scale,
    )
    return tidy, Table("3", "table3", caption, ("2D dataset", "prior"), (HYPERPARAMETERS,), tuple(blocks))


def _origin(choice: dict[str, Any]) -> str:
    """``grid search, 210 settings, 3 diverged``."""
    parts = [read.SOURCES[choice["source"]]]
    parts += [f"{choice['settings']:g} settings"] * (not math.isnan(choice["settings"]))
    parts += [f"{choice['diverged']:g} diverged"] * (choice["diverged"] > 0)
    return ", ".join(parts)
