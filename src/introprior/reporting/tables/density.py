"""The 2D tables: 1, the cells; 4, the baseline under several settings, two of them quoted; 3, the hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from introprior import paper
from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.metrics.registry import METRICS
from introprior.reporting import read
from introprior.reporting.tables.captions import DIVERGED, spread_sentence
from introprior.reporting.tables.layout import Entry, Heading, Row, Table
from introprior.reporting.tables.sheet import (
    COUNTS,
    KEY,
    PUBLISHED,
    SUMMARY,
    Columns,
    Request,
    Sheet,
    cell_columns,
    published,
    shown,
    summarise,
)

OPENINGS = {
    "1": "Quantitative performance on the 2D datasets.",
    "4": "Baseline performance (S-IntroVAE, standard Gaussian prior) across settings. Columns marked † are quoted from "
    "the paper, not measured here; “reproduced” uses the hyperparameters of Daniel and Tamar (2021), “replicated” those "
    "of Table 3; c and s: closed-form and sample-based KL divergence.",
}

HYPERPARAMETERS = Heading("", ("β_rec", "β_kl", "β_neg", "origin"))

_QUOTED: Columns = {
    "reported": ("quoted from the paper", "reported", "c"),
    "official_reproduced": ("quoted from the paper", "official (reproduced)", "c"),
}


def density_sheet(number: str, runs: pd.DataFrame, request: Request) -> Sheet:
    """What Table ``1`` or ``4`` shows.

    Args:
        number: which one.
        runs: every dataset, cell and seed of the request, see :func:`introprior.reporting.read.metrics`; more does no
            harm.
        request: what to show.

    Raises:
        UserError: something is missing.
    """
    rows = [name for name, metric in METRICS.items() if number in metric.tables]
    theirs = published(number)
    if number == "4":
        theirs["cell"] = theirs["cell"].where(theirs["cell"] != "", theirs["setting"])
    theirs = theirs[KEY + PUBLISHED]
    tidy = summarise(runs, request, rows).merge(theirs, how="left", on=KEY)
    if number == "4":
        quoted = theirs[theirs["cell"].isin(_QUOTED) & theirs["dataset"].isin(request.datasets)]
        tidy = pd.concat([quoted.reindex(columns=tidy.columns).astype(COUNTS), tidy], ignore_index=True)
    taken = tidy[tidy["metric"].isin(rows) & tidy["n"].notna()]
    sentences = [
        OPENINGS[number],
        spread_sentence(request.spread, len(request.seeds)),
        request.scale,
        "Best measured mean of a row in bold.",
        DIVERGED if (taken["diverged"] > 0).any() else "",
        _floors(tidy, request.datasets),
    ]
    shown_ = dict.fromkeys(rows, ""), dict(zip(request.datasets, request.datasets, strict=True))
    caption = " ".join(filter(None, sentences))
    if number == "1":
        return Sheet(number, request, tidy, cell_columns(request.cells), *shown_, caption)
    return Sheet(number, request, tidy, _QUOTED | _settings(request), *shown_, caption, ("", "", "KL calculation"))


def _settings(request: Request) -> Columns:
    """The measured columns of Table 4."""
    columns = {}
    for cell in map(naming.parse, request.cells):
        setting = "ours (reproduced)" if cell.published_betas else "ours (replicated)"
        prior = "" if cell.prior == "sg" else f", MoG({cell.components})"
        columns[cell.name] = ("measured here", setting + prior, "c" if cell.closed_form_kl else "s")
    return columns


def _floors(tidy: pd.DataFrame, datasets: Iterable[str]) -> str:
    """What the data itself scores, where it was measured."""
    means = tidy.groupby(["dataset", "metric"])["mean"].mean().dropna()
    parts = []
    for dataset in datasets:
        scores = [f"{m} {means[dataset, f'{m}_floor']:.2f}" for m in ("KL", "JSD") if (dataset, f"{m}_floor") in means]
        parts += [f"{dataset} {', '.join(scores)}"] * bool(scores)
    return f"Two samples of the data itself score on average: {'; '.join(parts)}." if parts else ""


def hyperparameter_table(choices: pd.DataFrame, request: Request) -> tuple[pd.DataFrame, Table]:
    """Table 3: the hyperparameters in use, Daniel and Tamar's in parentheses, and where they came from.

    Args:
        choices: of every dataset and cell of the request, see :func:`introprior.reporting.read.hyperparameters`.
        request: what to show; seeds and spread don't matter.

    Returns:
        The tidy table (``metric`` is the hyperparameter, ``paper_mean`` the optimum of the paper's Table 3; then
        daniel_tamar, source, settings, settings_diverged, KL), and the table laid out.

    Raises:
        UserError: a choice is missing or given twice.
    """
    given = choices[["dataset", "cell"]].value_counts()
    for key in ((dataset, cell) for dataset in request.datasets for cell in request.cells):
        if given.get(key, 0) != 1:
            what, remedy = (
                (f"hyperparameters of {', '.join(key)} given twice", "name each file once")
                if key in given
                else (f"no hyperparameters of {', '.join(key)}", "run again, or drop it from the configuration")
            )
            raise UserError(f"table 3: {what}; {remedy}")
    about = ["source", "settings", "settings_diverged", "KL"]
    theirs = {"hyperparameter": "metric", "grid_search_optimum": "paper_mean", "daniel_tamar_2021": "daniel_tamar"}
    tidy = (
        pd.MultiIndex.from_product([request.datasets, request.cells, paper.HYPERPARAMETERS], names=KEY)
        .to_frame(index=False)
        .merge(
            choices.rename(columns={"diverged": "settings_diverged"}).melt(
                ["dataset", "cell", *about], paper.HYPERPARAMETERS, "metric", "mean"
            ),
        )
        .merge(paper.table3().rename(columns=theirs), how="left", on=KEY)
        .assign(std=math.nan, sem=math.nan, n=1, diverged=0, paper_spread=math.nan)
        .astype(COUNTS | {"settings": "Int64", "settings_diverged": "Int64"})[
            [*SUMMARY, *PUBLISHED, "daniel_tamar", *about]
        ]
    )
    blocks = [
        tuple(
            Row((dataset, naming.parse(cell).label), (*map(_with_default, rows), Entry(_origin(rows[0]))))
            for (_, cell), rows in (
                (key, list(group.itertuples())) for key, group in part.groupby(["dataset", "cell"], sort=False)
            )
        )
        for dataset, part in tidy.groupby("dataset", sort=False)
    ]
    sentences = [
        "Hyperparameters of the 2D experiments; a search takes those of the lowest histogram KL, one run per setting.",
        "In parentheses those of Daniel and Tamar (2021), known for the standard Gaussian prior alone.",
        request.scale,
    ]
    caption = " ".join(filter(None, sentences))
    return tidy, Table("3", "table3", caption, ("2D dataset", "prior"), (HYPERPARAMETERS,), tuple(blocks))


def _with_default(row: Any) -> Entry:
    """``0.05 (0.5)``, or the value alone."""
    default = "" if math.isnan(row.daniel_tamar) else f" ({row.daniel_tamar:g})"
    return Entry(shown(row.mean, math.nan, None) + default)


def _origin(row: Any) -> str:
    """``grid search, 210 settings, 3 diverged``."""
    settings = "" if pd.isna(row.settings) else f", {row.settings} settings"
    diverged = (
        "" if pd.isna(row.settings_diverged) or not row.settings_diverged else f", {row.settings_diverged} diverged"
    )
    return read.SOURCES[row.source] + settings + diverged
