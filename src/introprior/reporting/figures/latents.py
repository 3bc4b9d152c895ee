"""Latent spaces of image runs, for Figures 5 and 6."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from introprior.experiment.cells import Cell
from introprior.reporting.figures.panels import chosen_runs, regularisation
from introprior.reporting.figures.style import MUTED, TEXT_WIDTH, Run, blocks, class_colours, key, legend, there
from introprior.reporting.read import Choices

SHAPE = 0.75
"""Height of a panel over its width."""


def latent_spaces(
    panels: Iterable[Run],
    chosen: Choices,
    datasets: Sequence[str],
    cells: Sequence[str],
    show: Callable[[Axes, Run], None],
    more: Sequence[Artist] = (),
) -> Figure:
    """A block for each dataset, with a line of panels for each size of each family of mixtures; ``show`` draws one run.

    The legend has the classes, and ``more``.

    Where a cell has no run of the chosen r_entropy its panel says so, and where the run diverged too.
    """
    runs = chosen_runs(panels, chosen)
    lines = arrange(cells)
    columns = max(3, *map(len, lines))
    height = 0.4 + len(lines) * (0.2 + SHAPE * TEXT_WIDTH / columns)
    figure = Figure(figsize=(TEXT_WIDTH, len(datasets) * height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.02, wspace=0, hspace=0)
    for dataset, block in blocks(figure, datasets, fontsize=8, x=0.005):
        grid = block.add_gridspec(len(lines), columns)
        for place, cell in ((grid[i, j], cell) for i, line in enumerate(lines) for j, cell in enumerate(line) if cell):
            axis = block.add_subplot(place, xticks=[], yticks=[], box_aspect=SHAPE)
            axis.set_title(Cell.parse(cell).label, loc="left", pad=2.5)
            if run := there(runs, (dataset, cell), axis):
                show(axis, run)
                axis.set_title(" ".join(regularisation(run)), loc="right", fontsize=6, color=MUTED, pad=2.5)
        names = next((run["classes"] for key_, run in runs.items() if key_[0] == dataset), ())
        colours = zip(names, class_colours(len(names)), strict=True)
        handles = [*(key(name, color=colour, marker="o", ms=2.5) for name, colour in colours), *more]
        rows = math.ceil(sum(0.3 + 0.055 * len(str(handle.get_label())) for handle in handles) / TEXT_WIDTH)  # inches
        legend(block, handles, ncols=math.ceil(len(handles) / max(rows, 1)), handletextpad=0, columnspacing=1)
    return figure


def arrange(cells: Sequence[str]) -> list[list[str]]:
    """Cells in lines by family and number of components.

    Those without components open the first line, and leave their place empty in others.
    """
    alone = [cell for cell in cells if not Cell.parse(cell).family.components]
    groups: dict[str, list[str]] = {}
    for cell in cells:
        if cell not in alone:
            groups.setdefault(Cell.parse(cell).prior_label, []).append(cell)
    first, *others = groups.values() or [[]]
    return [[*alone, *first], *([*[""] * len(alone), *group] for group in others)]


def scatter(axis: Axes, points: np.ndarray, run: Run) -> None:
    """Codes ``[N, 2]`` coloured by class; of few the dots are larger."""
    classes, area = len(run["classes"]), min(1.3 * math.sqrt(2000 / max(len(points), 1)), 8)
    sns.scatterplot(
        x=points[:, 0], y=points[:, 1], hue=run["labels"][: len(points)], hue_order=range(classes), legend=False,
        palette=class_colours(classes), s=area, linewidth=0, alpha=0.8, rasterized=True, ax=axis,
    )  # fmt: skip


def window(axis: Axes, low: np.ndarray, high: np.ndarray) -> None:
    """Show [low, high] with a margin, and as much more of one dimension as the panel has room for on equal scales."""
    shape = np.array([1, SHAPE])
    half = max(float(((high - low) / shape).max()), 1e-6) * 1.08 * shape / 2
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    axis.set(xlim=(left, right), ylim=(bottom, top))


def two(points: np.ndarray) -> np.ndarray:
    """The first two coordinates; a single one gets a zero beside it."""
    return np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))[:, :2]
