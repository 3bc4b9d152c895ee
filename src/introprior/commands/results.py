"""The commands that look at finished results: summary, verify."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from introprior.errors import UserError
from introprior.experiment import cells
from introprior.operations import verification


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


def verify(given: argparse.Namespace) -> None:
    """Check a results tree.

    Raises:
        UserError: something is wrong with it; what, is printed.
    """
    found = verification.verify(given.results, given.partial)
    if given.json:
        print(json.dumps({"ok": not found["problems"], **found}, indent=2))
    else:
        for path, what in found["problems"]:
            print(f"{given.results / path}: {what}")
        for note in found["notes"]:
            print(f"note: {note}")
    if found["problems"]:
        raise UserError(f"{given.results}: {len(found['problems'])} problem(s), see above")
    if not given.json:
        print(f"{given.results}: {found['files']:,} files of {found['records']:,} jobs are as they were made")
