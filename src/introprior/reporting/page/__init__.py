"""The results page: here the runs that it shows, light, since the workflow asks at every start; ``build`` makes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from introprior.experiment.cells import TABLE4_SETTINGS
from introprior.experiment.config import Configuration
from introprior.experiment.paths import Paths
from introprior.reporting import read

os.environ["MPLBACKEND"] = "agg"  # as for the figures, before anything imports Matplotlib


@dataclass(frozen=True)
class Shown:
    """A training: an ensemble of seeds in 2D, one seed on images.

    Attributes:
        name: of its pictures, and where to find it on the page.
        r_entropy: as in paths; empty in 2D.
        trained: what its training wrote, beside which its record lies.
        log: of its training.
        panels: whether there is something to show but curves.
    """

    name: str
    dataset: str
    cell: str
    r_entropy: str
    trained: str
    log: str
    panels: bool = True

    def beside(self, name: str) -> str:
        """Another of its files."""
        return str(Path(self.trained).with_name(name))

    def read(self, reader: Callable[[str], Any], name: str) -> Any:
        """Another of its files, by a reader of :mod:`introprior.reporting.read`, if it is this run's."""
        return read.of(self.beside(name), reader(self.beside(name)), dataset=self.dataset, cell=self.cell)

    @property
    def measured(self) -> list[str]:
        """The files of its metrics."""
        return [self.beside(name) for name in ("metrics.csv", *["probes.csv"] * bool(self.r_entropy)) if self.panels]


def shown(config: Configuration, paths: Paths) -> Iterator[Shown]:
    """The runs behind the page's tables and figures: 2D, images, then the two of Figure 2."""
    tables, figures = config.page.tables, config.page.figures
    cells = {*config.tables.table1} if 1 in tables else set()
    cells |= {*TABLE4_SETTINGS.values()} if 4 in tables else set()
    cells |= {*config.figure3.cells} if "figure3" in figures else set()
    for dataset, cell in product(config.density.datasets, [cell for cell in config.density_cells if cell in cells]):
        first = config.density.datasets[0] if config.density.together else dataset
        log, trained = paths.log_2d.format(dataset=first, cell=cell), paths.ensemble.format(dataset=dataset, cell=cell)
        yield Shown(f"density-{dataset}-{cell}", dataset, cell, "", trained, log)
    cells = {cell for number in {2, 5} & {*tables} for cell in getattr(config.tables, f"table{number}")}
    runs = config.runs([cell for cell in config.image_cells if cell in cells])
    yield from _images("images", runs, paths.run, paths.log_images)
    if "figure2" in figures:
        yield from _images("clipping", config.figure2_runs, paths.clipping, paths.log_clipping)


def _images(kind: str, runs: Iterable[Mapping[str, Any]], folder: str, log: str) -> Iterator[Shown]:
    """Runs on images, by their wildcards."""
    for run in runs:
        name = "{dataset}-{cell}-r{r_entropy}-seed{seed}".format(**run)
        files = f"{folder}/snapshots.pt".format(**run), log.format(**run)
        yield Shown(f"{kind}-{name}", run["dataset"], run["cell"], run["r_entropy"], *files, kind == "images")


def claimed(config: Configuration, paths: Paths) -> tuple[list[str], list[str], list[str]]:
    """What claims are tested on: metrics of the page's runs, choices of r_entropy, histories of Figure 2."""
    runs = [*shown(config, paths)]
    chosen = paths.chosen if 5 in config.page.tables else paths.chosen_table2
    images = config.images.datasets if {2, 5} & {*config.page.tables} else ()
    return (
        [path for run in runs for path in run.measured],
        [chosen.format(dataset=dataset) for dataset in images],
        [run.beside("history.csv") for run in runs if not run.panels],
    )
