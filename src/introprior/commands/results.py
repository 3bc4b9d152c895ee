"""The commands that say what came out: summary, in a few lines; collect, in one file; claims and page, of whatever is
there."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import pandas as pd

from introprior.errors import UserError
from introprior.experiment.cells import Cell
from introprior.experiment.config import Configuration, load
from introprior.experiment.jobs import named
from introprior.experiment.paths import Paths
from introprior.metrics.registry import METRICS
from introprior.operations import dag, files
from introprior.reporting import read


def summary(given: argparse.Namespace) -> None:
    """Print what came out.

    Raises:
        UserError: nothing did yet.
    """
    with suppress(UserError):  # a folder that no run has begun in
        _configuration(given.results)  # whose priors may be the user's own
    everything = pd.DataFrame(read.measured(given.results))
    for metric, what in (
        ("KL", f"Histogram KL of generated points ({METRICS['KL'].better}; data: of data itself, a floor)"),
        ("knn_few", f"Accuracy of the nearest neighbours' class on images ({METRICS['knn_few'].better})"),
    ):
        rows = everything[everything["metric"].isin((metric, f"{metric}_floor"))].query("status != 'unlabelled'")
        if len(rows):
            labels = rows["cell"].map(lambda cell: Cell.parse(cell).label).where(rows["metric"] == metric, "data")
            table = rows.assign(cell=labels).pivot_table("value", "dataset", "cell")
            table = table.rename_axis(index=None, columns=None)
            order = sorted(table, key=lambda name: (name == "data", len(name), name))
            print(f"{what}:\n{table[order].to_string(float_format='{:.2f}'.format, na_rep='diverged')}\n")
    figures = [given.results / f"figures/{name}.png" for name in ("figure3", "figure5")]
    pictures = [given.results / "index.html", *figures, *sorted(given.results.glob("figures/samples-*.png"))]
    there = map(str, filter(Path.exists, pictures))
    print("\n  ".join(["Look at", *there, f"{given.results / 'tables'}/*.md"]))


def collect(given: argparse.Namespace) -> None:
    """Write all metrics of all runs into one CSV file."""
    rows = pd.DataFrame(read.measured(given.results), columns=read.MEASURED)
    with files.written(given.output) as temporary:
        rows.to_csv(temporary, index=False)


def claims(given: argparse.Namespace) -> None:
    """Print what the paper says in words, and whether its numbers, and those of an experiment, support it."""
    from introprior.reporting import claims as evaluated  # late: it brings scipy

    published = given.results is None
    tested = evaluated.evaluate(evaluated.read(), "published") if published else _tested(given.results)
    print(evaluated.markdown(*tested), end="")


def page(given: argparse.Namespace) -> None:
    """Make the results page of what there is."""
    from introprior.reporting import claims as evaluated
    from introprior.reporting.page import build

    evaluated.write(given.results / "claims", *_tested(given.results))
    build.write(_configuration(given.results), given.results)
    print(given.results / "index.html")


def _configuration(results: Path) -> Configuration:
    return load(dag.read(results).configuration)


def _tested(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The claims, of the experiment's cells that have results."""
    from introprior.reporting import claims as evaluated
    from introprior.reporting.page import claimed

    config = _configuration(results)
    files = claimed(config, Paths(results.name, str(results.parent)))
    there = ([path for path in paths if Path(path).exists()] for paths in files)
    return evaluated.tested(*there, **named(config))
