"""The published numbers, as data: Tables 1 to 5 of the paper, transcribed into the CSV files beside this module.

The paper prints mean ± standard deviation (Section "2D - Density estimation"), over five seeds in 2D. Of images it says
neither; the authors' code runs three seeds, and prints the standard error. Each reader adds a column ``cell`` with the
project's own name of a column of the paper, see :mod:`introprior.experiment.cells`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd

from introprior.errors import UserError, unknown
from introprior.experiment.cells import TABLE4_SETTINGS

SEEDS = 5
"""Seeds behind every 2D mean of the paper."""

IMAGE_SEEDS = 3
"""Seeds behind every mean on images, as the authors' code runs them."""

QUOTED_SETTINGS = ("reported", "official_reproduced")
"""The columns of Table 4 that other code made: they can be quoted here, not measured."""

HYPERPARAMETERS = ("beta_rec", "beta_kl", "beta_neg")

_SOURCES = {"table3": "grid_search_optimum", "daniel-tamar": "daniel_tamar_2021"}
_DESCRIPTION = ("prior", "components", "learnable_contributions", "intro_prior")


def cell_name(
    prior: str, components: int, learnable_contributions: bool, intro_prior: bool, model: str = "sintro"
) -> str:
    """The cell described by a row of the published tables, e.g. ``mog64-lc-ip``.

    Args:
        prior: ``sg`` or ``mog``.
        components: number M of mixture components, 1 for ``sg``.
        learnable_contributions: LC of the paper's header.
        intro_prior: IP of the paper's header.
        model: ``vae`` or ``sintro``.
    """
    known = {"vae": "vae-", "sintro": ""}
    if model not in known:
        raise unknown("model", model, known, "published tables")
    if prior not in ("sg", "mog"):
        raise unknown("prior", prior, ("sg", "mog"), "published tables")
    size = str(components) if prior == "mog" else ""
    return known[model] + prior + size + "-lc" * bool(learnable_contributions) + "-ip" * bool(intro_prior)


def table1() -> pd.DataFrame:
    """Table 1: dataset, cell, metric (gnELBO, KL, JSD), mean, spread (standard deviation over five seeds)."""
    return _described("table1.csv", ("model", *_DESCRIPTION))


def table2() -> pd.DataFrame:
    """Table 2, images with 100 components: dataset, cell, metric, mean, spread (empty for r_entropy).

    Its FID is taken with Inception in training mode, its entropy per batch (authors' code).
    """
    return _described("table2.csv", _DESCRIPTION)


def table3() -> pd.DataFrame:
    """Table 3: dataset, cell (``sg``), hyperparameter, grid_search_optimum, daniel_tamar_2021."""
    table = _read("table3.csv", ("dataset", "hyperparameter", "grid_search_optimum", "daniel_tamar_2021"))
    table.insert(1, "cell", "sg")
    return table


def table4() -> pd.DataFrame:
    """Table 4: dataset, setting, cell (empty for the settings of other code), metric, mean, spread."""
    table = _read("table4.csv", ("dataset", "setting", "metric", "mean", "spread"))
    strange = sorted(set(table["setting"]) - {*TABLE4_SETTINGS, *QUOTED_SETTINGS})
    if strange:
        raise unknown("setting", strange[0], (*QUOTED_SETTINGS, *TABLE4_SETTINGS), "published table4.csv")
    table.insert(2, "cell", [TABLE4_SETTINGS.get(setting, "") for setting in table["setting"]])
    return table


def table5() -> pd.DataFrame:
    """Table 5, the ablation on images: dataset, cell, metric, mean, spread (empty for r_entropy)."""
    return _described("table5.csv", _DESCRIPTION)


def hyperparameters(dataset: str, source: str = "table3") -> dict[str, float]:
    """Published beta_rec, beta_kl and beta_neg of S-IntroVAE with the standard Gaussian prior.

    Args:
        dataset: the dataset's name, as in the paper.
        source: ``table3`` for the authors' own grid search, ``daniel-tamar`` for the values in parentheses.

    Raises:
        UserError: unknown dataset or source.
    """
    if source not in _SOURCES:
        raise unknown("source of hyperparameters", source, _SOURCES)
    table = table3()
    rows = table[table["dataset"] == dataset].set_index("hyperparameter")[_SOURCES[source]]
    if rows.empty:
        raise unknown("dataset", dataset, dict.fromkeys(table["dataset"]), "published hyperparameters")
    return {name: float(rows[name]) for name in HYPERPARAMETERS}


def _described(name: str, description: tuple[str, ...]) -> pd.DataFrame:
    """A table whose rows describe the cell by several columns; they are replaced by ``cell``."""
    table = _read(name, ("dataset", *description, "metric", "mean", "spread"))
    columns = [table[column].tolist() for column in description]
    table["cell"] = [cell_name(**dict(zip(description, row, strict=True))) for row in zip(*columns, strict=True)]
    return table[["dataset", "cell", "metric", "mean", "spread"]]


def _read(name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """A fresh copy of a packaged CSV, its columns checked."""
    table = _load(name).copy()
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"published {name}: no column {missing[0]!r}; install introprior again, its data is damaged")
    return table


@cache
def _load(name: str) -> pd.DataFrame:
    source = resources.files(__name__) / name
    try:
        with source.open() as stream:
            return pd.read_csv(stream)
    except (OSError, ValueError) as error:
        raise UserError(
            f"published {name}: cannot read ({error}); install introprior again, its data is missing or damaged"
        ) from error
