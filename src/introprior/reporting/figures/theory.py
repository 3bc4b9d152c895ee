"""The theory, tried out: what there is to gain at the optimum of random games, and how play goes in a small one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from introprior.reporting.figures.style import DATA, INK, MODEL, MUTED, TEXT_WIDTH, key, legend

FLOOR = 1e-17
"""Gains that are zero or below, where a search did not come quite back, are shown here."""

GROUPS = {
    ("decoder", "drawn"): ("prior with decoder,\na drawn optimal triplet", DATA),
    ("encoder", "drawn"): ("prior with encoder,\nthe same triplet", MODEL),
    ("encoder", "best"): ("prior with encoder,\nbest triplet, |X| > 2", MODEL),
}
SCHEMES = {"fixed": ("prior fixed", MUTED), "decoder": ("with decoder", DATA), "encoder": ("with encoder", MODEL)}
CURVES = {
    "kl_data": r"KL[$p_\mathrm{data}$ ‖ $p_d$]",
    "kl_posterior": "KL[q ‖ posterior]",
    "information": "information of the code",
    "prior_1": "largest mass of the prior",
}


def draw(games: pd.DataFrame, play: pd.DataFrame) -> Figure:
    """The figure; games of two data, whose best triplet has a code that says nothing, are left out of that row."""
    figure = Figure(figsize=(TEXT_WIDTH, 5.6), layout="constrained")
    solved, played = figure.subfigures(2, 1, height_ratios=(1, 1.15), hspace=0.03)
    _solved(solved, games[(games["triplet"] == "drawn") | (games["data"] > 2)])
    _played(played, play[play["order"] == "alternating"])
    handles = [key(label, color=colour, lw=1.4) for label, colour in SCHEMES.values()]
    legend(figure, [*handles, key("at the optimum", color=INK, lw=0.8, ls=":")])
    return figure


def _solved(part: SubFigure, games: pd.DataFrame) -> None:
    """Histograms of gain and information, a row for each group."""
    panels = part.subplots(len(GROUPS), 2, sharex="col", width_ratios=(1.6, 1))
    columns = {
        "gain": ("largest gain that a player finds, nats", FLOOR, 1.0),
        "information": ("information of the code, nats", 1e-6, 1.0),
    }
    for ((prior, triplet), (label, colour)), row in zip(GROUPS.items(), panels, strict=True):
        group = games[(games["prior"] == prior) & (games["triplet"] == triplet)]
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for (name, (_, low, high)), axis in zip(columns.items(), row, strict=True):
            bins = np.geomspace(low, high, 60)
            axis.set_xscale("log")
            axis.hist(group[name].clip(low, high), bins=bins, color=colour, alpha=1 if triplet == "drawn" else 0.6)
            axis.set(yticks=[], xlim=(low, high))
            sns.despine(ax=axis, left=True)
        gaining = int((group["gain"] > 1e-8).sum())
        words = f"someone gains in {gaining:,} of" if gaining else "nobody gains in"
        row[0].text(
            0.5, 0.9, f"{words} {len(group):,} games", transform=row[0].transAxes, ha="center", va="top", color=colour
        )
    for (title, *_), axis in zip(columns.values(), panels[-1], strict=True):
        axis.set_xlabel(title)


def _played(part: SubFigure, play: pd.DataFrame) -> None:
    """How each quantity goes, a row for each gamma: the median over starts, and the middle half of them."""
    gammas = sorted(play["gamma"].unique())
    panels = part.subplots(len(gammas), len(CURVES), sharex=True, squeeze=False)
    for gamma, row in zip(gammas, panels, strict=True):
        rows = play[(play["gamma"] == gamma) & (play["step"] > 0)]
        for name, axis in zip(CURVES, row, strict=True):
            _curves(axis, rows.assign(kl_posterior=rows["kl_posterior"].clip(lower=1e-12)), name)
        row[0].axhline(rows["kl_optimum"].iloc[0], color=INK, lw=0.8, ls=":")
        row[1].set_yscale("log")
        row[0].set_ylabel(f"γ = {gamma:g}")
    for title, top, bottom in zip(CURVES.values(), panels[0], panels[-1], strict=True):
        top.set_title(title)
        bottom.set_xlabel("step")


def _curves(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    palette = {scheme: colour for scheme, (_, colour) in SCHEMES.items()}
    sns.lineplot(
        rows, x="step", y=name, hue="prior", palette=palette, estimator="median", errorbar=("pi", 50),
        err_kws={"alpha": 0.15, "lw": 0}, legend=False, ax=axis,
    )  # fmt: skip
    axis.set(xlabel="", ylabel="", xscale="log")
    sns.despine(ax=axis)
