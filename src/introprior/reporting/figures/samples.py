"""Images of one dataset: generated ones, and test images over their reconstructions; a line for each cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure

from introprior.data.images import title
from introprior.experiment.cells import Cell
from introprior.reporting.figures.panels import chosen_runs, regularisation, strip
from introprior.reporting.figures.style import TEXT_WIDTH, Run, there
from introprior.reporting.read import Choices

GENERATED, PAIRS = 12, 8
"""Columns of generated images (in two rows), and pairs of an image over its reconstruction, of a cell."""


def draw(image_panels: Iterable[Run], chosen: Choices, dataset: str, cells: Sequence[str]) -> Figure:
    """The figure: a line for each cell, whose run of the chosen r_entropy is shown."""
    runs = chosen_runs(image_panels, chosen)
    figure = Figure(figsize=(TEXT_WIDTH, 0.45 + 0.62 * len(cells)), layout="constrained")
    figure.suptitle(title(dataset), fontsize=7.5, x=0.005, ha="left")
    grid = {"squeeze": False, "width_ratios": (GENERATED, PAIRS), "subplot_kw": {"xticks": [], "yticks": []}}
    panels = figure.subplots(len(cells), 2, **grid)
    for (generated, pairs), cell in zip(panels, cells, strict=True):
        label = Cell.parse(cell).label
        if run := there(runs, (dataset, cell), generated, pairs):
            label += "\n" + ", ".join([*regularisation(run), f"epoch {run['epoch']:g}"])
            strip(generated, run["samples"], GENERATED, rows=2)
            above, below = (run[name][:PAIRS] for name in ("real", "reconstructions"))
            gap = np.full((PAIRS - len(above), *above.shape[1:]), 255, np.uint8)
            strip(pairs, np.concatenate([above, gap, below, gap]), PAIRS, rows=2)
        generated.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6.5)
    for axis, above in zip(panels[0], ("generated", "test images over their reconstructions"), strict=True):
        axis.set_title(above, pad=3)
    return figure
