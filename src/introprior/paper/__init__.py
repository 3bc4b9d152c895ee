"""The published numbers, as data: Tables 1 to 5 of the paper, transcribed into the CSV files beside this module.

The paper prints mean ± standard deviation (Section "2D - Density estimation"), over five seeds in 2D. Of images it says
neither; the authors' code runs three seeds, and prints the standard error. The column ``cell`` has the project's own
name of a column of the paper, see :mod:`introprior.experiment.cells`.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

SEEDS = 5
"""Seeds behind every 2D mean of the paper."""

IMAGE_SEEDS = 3
"""Seeds behind every mean on images, as the authors' code runs them."""

QUOTED_SETTINGS = ("reported", "official_reproduced")
"""The columns of Table 4 that other code made: they can be quoted here, not measured."""

HYPERPARAMETERS = ("beta_rec", "beta_kl", "beta_neg")

_SOURCES = {"table3": "grid_search_optimum", "daniel-tamar": "daniel_tamar_2021"}


def table(number: int | str) -> pd.DataFrame:
    """A table: dataset, cell, metric, mean, spread (empty for r_entropy); Table 4 has ``setting``, its name there, too.

    Table 3 is dataset, cell, hyperparameter, grid_search_optimum, daniel_tamar_2021. The FID of Tables 2 and 5 is taken
    with Inception in training mode, their entropy per batch (authors' code).
    """
    return pd.read_csv(resources.files(__name__) / f"table{number}.csv")


def hyperparameters(dataset: str, source: str = "table3", cell: str = "sg") -> dict[str, float]:
    """Published beta_rec, beta_kl and beta_neg; empty where there are none.

    ``source`` is ``table3`` for the authors' own grid search, ``daniel-tamar`` for the values in parentheses.
    """
    rows = table(3).query("dataset == @dataset and cell == @cell")
    return dict(zip(rows["hyperparameter"], rows[_SOURCES[source]], strict=True))
