"""Figure 2: the largest log-variance of the prior and the distance to the data, with and without clipping."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from introprior.data.images import dataset as catalogue
from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.metrics.registry import METRICS
from introprior.reporting.figures.curves import courses, draw_curves
from introprior.reporting.figures.style import DATA, FRAME, MODEL, TEXT_WIDTH, fit_scale, key


def draw(histories: pd.DataFrame, distances: pd.DataFrame, metric: str, cell: str) -> Figure:
    """The figure.

    Args:
        histories, distances: of two runs of one dataset, those of ``cell`` and ``<cell>-unclipped``.
        metric: the distance to show.
        cell: the clipped cell.
    """
    runs, values = courses(histories, distances, "prior_logvar_max", metric)
    palette = {cell: DATA, f"{cell}-unclipped": MODEL}
    if sorted(runs["cell"]) != sorted(palette) or runs["dataset"].nunique() != 1:
        found = ", ".join(runs["dataset"] + "/" + runs["cell"])
        raise UserError(f"figure 2: runs of {' and '.join(palette)} wanted, of one dataset; got {found}")
    figure = Figure(figsize=(TEXT_WIDTH, 2.3), layout="constrained")
    title = catalogue(runs["dataset"][0], "figure 2").title
    figure.suptitle(f"{title}: {naming.parse(cell).label}", fontsize=7.5)
    labels = ("largest log-variance of the prior", METRICS[metric].label())
    for panel, (axis, label) in enumerate(zip(figure.subplots(1, 2, sharex=True), labels, strict=True)):
        shown = values[values["panel"] == panel]
        draw_curves(axis, runs, shown, "cell", palette, lw=1.1, ms=3)
        fit_scale(axis, shown["value"])
        axis.axvline(runs["game"].min(), color=FRAME, lw=0.7, ls="--", zorder=0)
        axis.set(xlabel="epoch", ylabel=label)
    ends = runs.set_index("cell")["diverged"].reindex(palette).dropna()
    handles = [
        key(word, color=palette[name], lw=1.1) for name, word in zip(palette, ("clipped", "not clipped"), strict=True)
    ]
    handles += [key("the game starts", color=FRAME, lw=0.7, ls="--")] * bool(runs["game"].notna().any())
    handles += [
        key(f"diverged at epoch {epoch:g}", color=palette[name], marker="x", mew=1.2, ms=5)
        for name, epoch in ends.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
