"""Two pictures of every run: how the game went, and what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from introprior.experiment.cells import Cell
from introprior.reporting import read
from introprior.reporting.figures import figure3
from introprior.reporting.figures.curves import MOST_POINTS
from introprior.reporting.figures.figure5 import first_two
from introprior.reporting.figures.panels import strip
from introprior.reporting.figures.style import DATA, FRAME, INK, MODEL, TEXT_WIDTH, fit_scale, look, save, say, there
from introprior.reporting.page import Shown

CURVES = {
    "KL divergence": {"real_kl": ("real", DATA), "fake_kl": ("fake", MODEL)},
    "reconstruction": {"real_rec": ("real", DATA), "fake_rec": ("fake", MODEL)},
    "log-variances of the prior": {"prior_logvar_max": ("largest", INK), "prior_logvar_min": ("smallest", FRAME)},
    "entropy of responsibilities": {"responsibility_entropy": ("", INK)},
}
"""Panels, and their quantities of a history: what each is called, its colour."""

_GRID, _ROWS = 8, 4


def draw(run: Shown, folder: Path) -> None:
    """Draw a run's curves into an SVG and, where it was evaluated, samples and its latent space into a PNG."""
    with look():
        save(game(pd.DataFrame(run.read(read.history, "history.csv"))), [folder / f"{run.name}.svg"])
        if Path(run.beside("panels.npz")).exists():
            if run.r_entropy:
                picture = of_images(run)
            else:
                picture = figure3.draw([run.read(read.density_panels, "panels.npz")], [run.dataset], [run.cell])
            save(picture, [folder / f"{run.name}.png"], dpi=160)


def game(history: pd.DataFrame) -> Figure:
    """The curves in which one sees whether the game is healthy, a line for each seed; the warm-up is shaded."""
    figure = Figure(figsize=(TEXT_WIDTH * 1.35, 1.75))
    figure.subplots_adjust(left=0.045, right=0.985, bottom=0.22, top=0.88, wspace=0.24)  # a layout engine takes as long
    figure.patch.set_alpha(0)
    step = "epoch" if "epoch" in history else "iteration"
    game = history.loc[history["quantity"] == "encoder_loss", step].min()
    for axis, (title, quantities) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        axis.patch.set_alpha(0)
        axis.set_title(title, loc="left", fontsize=7.5)
        axis.set_xlabel(step)
        axis.spines[["top", "right"]].set_visible(False)
        found = history[history["quantity"].isin(quantities)]
        finite = found[found["value"].abs() < float("inf")]
        if finite.empty:
            axis.set(xticks=[], yticks=[])
            say(axis, "diverged" if len(found) else "this prior has none")
            continue
        for quantity, (label, colour) in quantities.items():
            for _, line in finite[finite["quantity"] == quantity].groupby("seed"):
                _line(axis, line[step], line["value"], colour, label)
        for _, seed in found.groupby("seed"):
            if len(lost := seed[~(seed["value"].abs() < float("inf"))]) and len(seed) > len(lost):
                axis.axvline(lost[step].min(), color=MODEL, lw=0.8, ls=":")
                axis.text(lost[step].min(), 1, "diverged ", transform=axis.get_xaxis_transform(), ha="right", va="top")
        if "responsibility_entropy" in quantities:
            axis.set_ylim(0, max(1, finite["value"].max()) * 1.03)
        elif (floor := finite["value"].quantile(0.03)) > 0:  # the first steps would take all the room
            fit_scale(axis, finite.loc[finite["value"] >= floor, "value"].to_numpy())
            axis.set_ylim(floor * 0.8 if axis.get_yscale() == "log" else 0)
        axis.set_xlim(0, history[step].max())
        axis.locator_params(axis="x", nbins=4)
        if game > 0:
            axis.axvspan(0, game, color=FRAME, alpha=0.13, lw=0)
        handles, labels = axis.get_legend_handles_labels()
        if len(shown := dict(zip(labels, handles, strict=True))) > 1:
            axis.legend(shown.values(), shown.keys(), loc="best", handlelength=1.2, borderaxespad=0.2)
    return figure


def _line(axis: Axes, steps: pd.Series, values: pd.Series, colour: str, label: str) -> None:
    """A curve of at most so many points, each the mean of neighbours."""
    style = {"lw": 0.9, "ls": (0, (2.5, 0.8)) if label == "fake" else "-"}  # often on top of the real one
    block = pd.Series(range(len(steps)), steps.index) * min(MOST_POINTS, len(steps)) // len(steps)
    axis.plot(steps.groupby(block).mean(), values.groupby(block).mean(), color=colour, label=label or None, **style)


def of_images(run: Shown) -> Figure:
    """Generated images, test images over their reconstructions, and the first two latent dimensions."""
    panels = run.read(read.image_panels, "panels.npz")
    figure = Figure(figsize=(TEXT_WIDTH, 1.75), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(2, 2, 1.35), subplot_kw={"xticks": [], "yticks": []})
    titles = ("generated", "test images over their reconstructions", "latent space")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left", pad=3)
    if found := there({("", ""): panels}, ("", ""), *axes):
        strip(axes[0], found["samples"], _GRID, rows=_ROWS)
        real, reconstructed = (found[name][: _GRID * _ROWS // 2] for name in ("real", "reconstructions"))
        pairs = [part[row * _GRID : (row + 1) * _GRID] for row in range(_ROWS // 2) for part in (real, reconstructed)]
        strip(axes[1], np.concatenate(pairs), _GRID, rows=_ROWS)
        first_two(axes[2], found)
    figure.suptitle(Cell.parse(run.cell).label, fontsize=7.5, x=0.005, ha="left")
    return figure
