"""Figure 4: normalised entropy of the responsibilities, and below it the distance to the data, over training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from introprior.data.images import dataset as catalogue
from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.metrics.registry import METRICS
from introprior.reporting.figures.curves import courses, cross, thinned
from introprior.reporting.figures.style import CYCLE, DATA, INK, MUTED, TEXT_WIDTH, fit_scale, key, say

DASHES: dict[bool, tuple[float, ...] | str] = {False: (1, 1.65), True: ""}
"""Lines by whether contributions are learnable: dotted and solid."""


def draw(
    histories: pd.DataFrame,
    distances: pd.DataFrame,
    datasets: Sequence[str],
    cells: Sequence[str],
    r_entropy: Sequence[float],
    seeds: Sequence[int],
    metric: str,
) -> Figure:
    """The figure: lines are means over the seeds that got so far, bands their extremes, a cross where a seed diverged.

    Args:
        histories, distances: of the runs. Where a panel has no run it says so.
        datasets: the rows.
        cells: whose mixtures are the columns, by number of components and whether they are fixed or learn (IP).
        r_entropy: the regularisations to show.
        seeds: the seeds to show.
        metric: the distance to show.
    """
    mixtures = [cell for cell in map(naming.parse, cells) if cell.prior == "mog"]
    columns = sorted({(cell.components, cell.intro_prior) for cell in mixtures})
    if not datasets or not columns or not r_entropy or not seeds:
        raise UserError("figure 4: nothing to show; name datasets, mog cells, r_entropy and seeds in the configuration")
    further = itertools.cycle(CYCLE)
    palette = {r: DATA if r == 0 else next(further) for r in r_entropy}
    learnable = {cell.name: cell.learnable_contributions for cell in mixtures}
    runs, values = (
        part[part["cell"].isin(learnable) & part["r_entropy"].isin(palette) & part["seed"].isin(seeds)]
        for part in courses(histories, distances, "responsibility_entropy", metric)
    )
    values = values.assign(learnable=values["cell"].map(learnable))
    figure = Figure(figsize=(TEXT_WIDTH, 2.1 * len(datasets) + 0.5), layout="constrained")
    blocks = np.ravel(figure.subfigures(len(datasets), 1, squeeze=False))
    for block, dataset in zip(blocks, datasets, strict=True):
        block.suptitle(catalogue(dataset, "figure 4").title, fontsize=7.5, x=0.01, ha="left")
        panels = block.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
        for column, (components, intro_prior) in zip(panels.T, columns, strict=True):
            group = [c.name for c in mixtures if (c.components, c.intro_prior) == (components, intro_prior)]
            shown = [part[(part["dataset"] == dataset) & part["cell"].isin(group)] for part in (runs, values)]
            for panel, axis in enumerate(column):
                _curves(axis, shown[0], shown[1][shown[1]["panel"] == panel], palette, {"marker": "o"} if panel else {})
            column[0].set_title(f"MoG({components}), {'IP' if intro_prior else 'fixed'}")
            column[1].set_xlabel("epoch")
        panels[0, 0].set(ylim=(-0.03, 1.03), ylabel="normalised\nentropy")
        panels[1, 0].set_ylabel(METRICS[metric].label().replace(" (", "\n("))
        fit_scale(panels[1, 0], *(line.get_ydata() for axis in panels[1] for line in axis.lines))
        panels[1, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    handles = [key(rf"r$_\mathrm{{entropy}}$ = {r:g}", color=colour, lw=1.2) for r, colour in palette.items()]
    words = {False: "without LC", True: "with LC"}
    lines = {False: ":", True: "-"}
    handles += [key(words[lc], color=INK, lw=1, ls=lines[lc]) for lc in sorted(set(learnable.values()))]
    handles += [Patch(color=MUTED, alpha=0.25, lw=0, label="range over seeds")] * (len(seeds) > 1)
    handles += [key("diverged", color=INK, marker="x", ms=4, mew=1)] * bool(runs["diverged"].notna().any())
    across = len(handles) if len(handles) <= 7 else math.ceil(len(handles) / 2)
    figure.legend(handles=handles, loc="outside lower center", ncols=across, columnspacing=1.3, handletextpad=0.5)
    return figure


def _curves(
    axis: Axes, runs: pd.DataFrame, values: pd.DataFrame, palette: Mapping[float, str], style: Mapping[str, str]
) -> None:
    """One panel: curves by learnable contributions and r_entropy."""
    sns.lineplot(
        thinned(values), x="epoch", y="value", hue="r_entropy", palette=palette, style="learnable",
        dashes=DASHES, errorbar=("pi", 100), err_kws={"alpha": 0.15, "lw": 0, "zorder": 0}, lw=1, ms=2, mew=0,
        legend=False, ax=axis, **style,
    )  # fmt: skip
    cross(axis, runs, values, "r_entropy", palette)
    if values.empty:
        say(axis, "no run" if runs.empty else "diverged")
    axis.set(xlabel="", ylabel="")
    axis.spines[["top", "right"]].set_visible(False)
