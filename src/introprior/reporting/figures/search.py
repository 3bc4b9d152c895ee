"""What the hyperparameter search saw: histogram KL of every setting, against beta_kl and beta_rec; not in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from introprior import paper
from introprior.errors import UserError
from introprior.reporting.figures.style import INK, MODEL, TEXT_WIDTH, key

_CHOSEN = {"marker": "*", "ms": 8, "mfc": MODEL, "mec": INK, "mew": 0.5}
_THEIRS = {"marker": "D", "ms": 4.5, "mfc": "none", "mec": INK, "mew": 0.8}


def draw(slices: pd.DataFrame, hyperparameters: pd.DataFrame, datasets: Sequence[str], cell: str) -> Figure:
    """The figure.

    Args:
        slices: the settings tried, of all datasets.
        hyperparameters: the choices, which are marked; Daniel and Tamar's settings are marked too where they were tried.
        datasets: the panels.
        cell: the cell searched.
    """
    slices, choices = (part[part["cell"] == cell] for part in (slices, hyperparameters))
    if not datasets or slices.empty:
        raise UserError("figure of the search: nothing to show; name datasets and a cell that is searched")
    levels = sorted(slices["beta_rec"].unique())
    palette = dict(zip(levels, mpl.colormaps["cividis"](np.linspace(0, 0.95, len(levels))), strict=True))
    columns = min(len(datasets), 4)
    rows = math.ceil(len(datasets) / columns)
    figure = Figure(figsize=(TEXT_WIDTH, 1.75 * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, dataset in zip(axes, datasets, strict=False):
        tried = slices[slices["dataset"] == dataset]
        _settings(axis, tried, palette)
        if cell == "sg" and dataset in set(paper.table3()["dataset"]):
            _mark(axis, tried, paper.hyperparameters(dataset, "daniel-tamar"), s=22, marker="D", fc="none")
        for choice in choices[choices["dataset"] == dataset].to_dict("records"):
            _mark(axis, tried, choice, s=60, marker="*", fc=MODEL)
        axis.set(title=dataset, xlabel=r"β$_\mathrm{kl}$", ylabel="")
    for axis in axes[len(datasets) :]:
        axis.set_axis_off()
    for axis in axes[::columns]:
        axis.set_ylabel("histogram KL ↓")
    handles = [
        *(
            key(rf"β$_\mathrm{{rec}}$ = {level:g}", marker="o", ms=3, color=palette[level], mec="none")
            for level in levels
        ),
        key("chosen", **_CHOSEN),
        key("Daniel and Tamar", **_THEIRS),
        key("diverged", marker="x", ms=3.5, mec=INK, mew=0.7),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1, handletextpad=0)
    return figure


def _settings(axis: Axes, tried: pd.DataFrame, palette: Mapping[float, object]) -> None:
    """All settings of one dataset: strips of beta_kl, in each strip beta_rec from left to right."""
    strips, levels = (sorted(tried[name].unique()) for name in ("beta_kl", "beta_rec"))
    sns.stripplot(
        tried[tried["status"] == "ok"], x="beta_kl", y="KL", order=strips, hue="beta_rec", hue_order=levels,
        palette=palette, dodge=True, jitter=False, size=2.2, linewidth=0, legend=False, ax=axis,
    )  # fmt: skip
    diverged = tried[tried["status"] != "ok"]
    top = {"transform": axis.get_xaxis_transform(), "clip_on": False}
    axis.scatter(_places(diverged, tried), np.full(len(diverged), 0.97), s=10, c=INK, lw=0.7, marker="x", **top)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=20))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlim(-0.5, len(strips) - 0.5)
    axis.set_xticks(range(len(strips)), [f"{strip:g}".removeprefix("0") for strip in strips])
    axis.spines[["top", "right"]].set_visible(False)


def _mark(axis: Axes, tried: pd.DataFrame, setting: Mapping[str, float], **look: object) -> None:
    """Mark one setting, if it was tried and did not diverge."""
    same = [np.isclose(tried[name], setting[name], equal_nan=True) for name in paper.HYPERPARAMETERS]
    found = tried[np.all(same, axis=0) & (tried["status"] == "ok")]
    axis.scatter(_places(found, tried), found["KL"], ec=INK, lw=0.6, zorder=3, **look)


def _places(settings: pd.DataFrame, tried: pd.DataFrame) -> np.ndarray:
    """Where seaborn puts settings on the axis of beta_kl."""
    strips, levels = (np.unique(tried[name]) for name in ("beta_kl", "beta_rec"))
    offset = (np.searchsorted(levels, settings["beta_rec"]) - (len(levels) - 1) / 2) * 0.8 / len(levels)
    return np.searchsorted(strips, settings["beta_kl"]) + offset
