"""What the hyperparameter search saw: histogram KL of every setting, against beta_kl and beta_rec; not in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from introprior import paper
from introprior.metrics.registry import METRICS
from introprior.reporting.figures.style import INK, MODEL, TEXT_WIDTH, key, legend

_MARKS = {
    "chosen": ("*", 8, MODEL, 0.5),
    "Daniel and Tamar": ("D", 4.5, "none", 0.8),
    "diverged": ("x", 3.5, INK, 0.7),
}
"""Marker, size, colour and width of its line."""


def draw(slices: pd.DataFrame, hyperparameters: pd.DataFrame, datasets: Sequence[str], cell: str) -> Figure:
    """The figure, a panel for each dataset: the settings tried for a cell.

    The chosen ones are marked, as are Daniel and Tamar's where they were tried.
    """
    slices, choices = (part[part["cell"] == cell] for part in (slices, hyperparameters))
    levels = sorted(slices["beta_rec"].unique())
    palette = dict(zip(levels, mpl.colormaps["cividis"](np.linspace(0, 0.95, len(levels))), strict=True))
    columns = min(len(datasets), 4)
    rows = math.ceil(len(datasets) / columns)
    figure = Figure(figsize=(TEXT_WIDTH, 1.75 * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, dataset in zip(axes, datasets, strict=False):
        tried = slices[slices["dataset"] == dataset]
        theirs = paper.hyperparameters(dataset, "daniel-tamar", cell)
        chosen = choices[choices["dataset"] == dataset].to_dict("records")
        _panel(axis, tried, palette, {"Daniel and Tamar": [theirs] * bool(theirs), "chosen": chosen})
        axis.set(title=dataset, xlabel=r"β$_\mathrm{kl}$", ylabel="")
    for axis in axes[len(datasets) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel(f"histogram {METRICS['KL'].label()}")
    handles = [
        key(rf"β$_\mathrm{{rec}}$ = {b:g}", marker="o", ms=3, mfc=colour, mec="none") for b, colour in palette.items()
    ]
    handles += [key(name, marker=m, ms=size, mfc=face, mec=INK, mew=w) for name, (m, size, face, w) in _MARKS.items()]
    legend(figure, handles, columnspacing=1, handletextpad=0)
    return figure


def _panel(
    axis: Axes, tried: pd.DataFrame, palette: Mapping[float, Any], marked: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
    """All settings of one dataset: strips of beta_kl, in each strip beta_rec from left to right."""
    strips, levels = (sorted(tried[name].unique()) for name in ("beta_kl", "beta_rec"))

    def points(rows: pd.DataFrame, colours: Mapping[float, Any], **look: Any) -> None:
        sns.stripplot(
            rows, x="beta_kl", y="KL", order=strips, hue="beta_rec", hue_order=levels, palette=colours, dodge=True,
            jitter=False, legend=False, ax=axis, **look,
        )  # fmt: skip

    def mark(rows: pd.DataFrame, name: str, **look: Any) -> None:
        marker, size, face, width = _MARKS[name]
        if len(rows):
            points(rows, dict.fromkeys(levels, face), marker=marker, size=size, edgecolor=INK, linewidth=width, **look)

    good = tried["status"] == "ok"
    points(tried[good], palette, size=2.2, linewidth=0)
    mark(tried[~good].assign(KL=0.97), "diverged", transform=axis.get_xaxis_transform(), clip_on=False)
    for name, settings in marked.items():
        for setting in settings:
            same = [np.isclose(tried[beta], setting[beta], equal_nan=True) for beta in paper.HYPERPARAMETERS]
            mark(tried[good & np.all(same, axis=0)], name, zorder=3)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=20))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xticks(range(len(strips)), [f"{strip:g}".removeprefix("0") for strip in strips])
    sns.despine(ax=axis)
