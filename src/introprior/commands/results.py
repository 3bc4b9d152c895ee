"""The command that says in a few lines what came out: summary."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from introprior.errors import UserError
from introprior.experiment import cells


def summary(given: argparse.Namespace) -> None:
    """Print what came out.

    Raises:
        UserError: nothing did yet.
    """
    import pandas as pd

    density = sorted(given.results.glob("density/*/*/metrics.csv"))
    probes = sorted(given.results.glob("images/*/*/r*/seed*/probes.csv"))
    if not density and not probes:
        raise UserError(f"{given.results}: no results yet; run snakemake (see introprior status)")
    for paths, metric, what in (
        (density, "KL", "Histogram KL of generated points (lower is better; data: of data itself, a floor)"),
        (probes, "knn_few", "Accuracy of the nearest neighbours' class on images (higher is better)"),
    ):
        if paths:
            rows = pd.concat(map(pd.read_csv, paths))
            rows = rows[rows["metric"].isin((metric, f"{metric}_floor"))]
            labels = rows["cell"].map(lambda cell: cells.parse(cell).label).where(rows["metric"] == metric, "data")
            table = (
                rows.assign(cell=labels).pivot_table("value", "dataset", "cell").rename_axis(index=None, columns=None)
            )
            order = sorted(table, key=lambda name: (name == "data", len(name), name))
            print(f"{what}:\n{table[order].to_string(float_format='{:.2f}'.format, na_rep='diverged')}\n")
    print("\n  ".join(["Look at", *_worth_a_look(given.results)]))


def _worth_a_look(results: Path) -> Iterator[str]:
    """The pictures that say most, and the tables."""
    figures = [results / f"figures/{name}.png" for name in ("figure3", "figure5")]
    yield from map(str, filter(Path.exists, [*figures, *sorted(results.glob("figures/samples-*.png"))]))
    yield f"{results / 'tables'}/*.md"
