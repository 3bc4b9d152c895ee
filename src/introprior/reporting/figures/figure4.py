"""Figure 4: normalised entropy of the responsibilities, and below it the distance to the data, over training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from introprior.experiment.cells import Cell
from introprior.metrics.registry import METRICS
from introprior.reporting.figures.curves import courses, draw_curves
from introprior.reporting.figures.style import CYCLE, DATA, INK, MUTED, TEXT_WIDTH, blocks, fit_scale, key, legend

LINES = {False: (":", (1, 1.65), "without LC"), True: ("-", "", "with LC")}
"""By whether contributions are learnable: the line in the key, its dashes, and what it is called."""


def draw(
    histories: pd.DataFrame,
    distances: pd.DataFrame,
    datasets: Sequence[str],
    cells: Sequence[str],
    r_entropy: Sequence[float],
    seeds: Sequence[int],
    metric: str,
) -> Figure:
    """The figure: lines are means over the seeds that got so far, bands their range, a cross where a seed diverged.

    Datasets are rows; the columns are the mixtures among the cells, by number of components, whether they are fixed
    or learn (IP), family, and what else they are noted for. A panel without a run says so.
    """
    mixtures = [cell for cell in map(Cell.parse, cells) if cell.family.components]
    columns = sorted(set(map(_kind, mixtures)))
    further = itertools.cycle(CYCLE)
    palette = {r: DATA if r == 0 else next(further) for r in r_entropy}
    learnable = {cell.name: cell.learnable_contributions for cell in mixtures}
    runs, values = (
        part[part["r_entropy"].isin(palette) & part["seed"].isin(seeds)].assign(learnable=part["cell"].map(learnable))
        for part in courses(histories, distances, "responsibility_entropy", metric)
    )
    figure = Figure(figsize=(TEXT_WIDTH, 2.1 * len(datasets) + 0.5), layout="constrained")
    for dataset, block in blocks(figure, datasets, fontsize=7.5, x=0.01):
        panels = block.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
        for column, kind in zip(panels.T, columns, strict=True):
            group = [cell.name for cell in mixtures if _kind(cell) == kind]
            there, points = (part[(part["dataset"] == dataset) & part["cell"].isin(group)] for part in (runs, values))
            for panel, axis in enumerate(column):
                shown, dashes = points[points["panel"] == panel], {lc: line[1] for lc, line in LINES.items()}
                draw_curves(axis, there, shown, "r_entropy", palette, style="learnable", dashes=dashes, lw=1, ms=2)
            column[0].set_title(kind[-1])
            column[1].set_xlabel("epoch")
        panels[0, 0].set(ylim=(-0.03, 1.03), ylabel="normalised\nentropy")
        panels[1, 0].set_ylabel(METRICS[metric].label().replace(" (", "\n("))
        fit_scale(panels[1, 0], *(line.get_ydata() for axis in panels[1] for line in axis.lines))
        panels[1, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    handles = [key(rf"r$_\mathrm{{entropy}}$ = {r:g}", color=colour, lw=1.2) for r, colour in palette.items()]
    handles += [key(LINES[lc][2], color=INK, lw=1, ls=LINES[lc][0]) for lc in sorted(set(learnable.values()))]
    handles += [Patch(color=MUTED, alpha=0.25, lw=0, label="range over seeds")] * (len(seeds) > 1)
    handles += [key("diverged", color=INK, marker="x", ms=4, mew=1)] * bool(runs["diverged"].notna().any())
    across = len(handles) if len(handles) <= 7 else math.ceil(len(handles) / 2)
    legend(figure, handles, ncols=across, columnspacing=1.3, handletextpad=0.5)
    return figure


def _kind(cell: Cell) -> tuple[int, bool, str]:
    """What the mixtures of a column share, in the columns' order, its title last."""
    learns = "IP" if cell.intro_prior else "" if cell.prior_encoder else "fixed"
    return cell.size, cell.intro_prior, ", ".join(filter(None, [cell.prior_label, learns, *cell.notes]))
