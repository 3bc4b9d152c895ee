"""Figure 2: the largest log-variance of the prior and the distance to the data, with and without clipping."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from introprior.data.images import title
from introprior.experiment.cells import Cell
from introprior.metrics.registry import METRICS
from introprior.reporting.figures.curves import courses, draw_curves
from introprior.reporting.figures.style import DATA, FRAME, MODEL, TEXT_WIDTH, fit_scale, key, legend


def draw(histories: pd.DataFrame, distances: pd.DataFrame, metric: str, cell: str) -> Figure:
    """The figure, of two runs of one dataset, those of ``cell``, which is clipped, and of ``<cell>-unclipped``."""
    runs, values = courses(histories, distances, "prior_logvar_max", metric)
    palette = {cell: DATA, f"{cell}-unclipped": MODEL}
    figure = Figure(figsize=(TEXT_WIDTH, 2.3), layout="constrained")
    figure.suptitle(f"{title(runs['dataset'][0])}: {Cell.parse(cell).label}", fontsize=7.5)
    labels = ("largest log-variance of the prior", METRICS[metric].label())
    for panel, (axis, label) in enumerate(zip(figure.subplots(1, 2, sharex=True), labels, strict=True)):
        shown = values[values["panel"] == panel]
        draw_curves(axis, runs, shown, "cell", palette, lw=1.1, ms=3)
        fit_scale(axis, shown["value"])
        axis.axvline(runs["game"].min(), color=FRAME, lw=0.7, ls="--", zorder=0)
        axis.set(xlabel="epoch", ylabel=label)
    ends = runs.set_index("cell")["diverged"].reindex(palette).dropna()
    words = {cell: "clipped", f"{cell}-unclipped": "not clipped"}
    handles = [key(word, color=palette[name], lw=1.1) for name, word in words.items()]
    handles += [key("the game starts", color=FRAME, lw=0.7, ls="--")] * bool(runs["game"].notna().any())
    handles += [
        key(f"diverged at epoch {epoch:g}", color=palette[name], marker="x", mew=1.2, ms=5)
        for name, epoch in ends.items()
    ]
    legend(figure, handles)
    return figure
