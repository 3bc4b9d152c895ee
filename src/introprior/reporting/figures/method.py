"""The supplement's two figures: the encoder overfitted (Figure S2), soft clipping (Figure S3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from introprior.data.images import dataset as catalogue
from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.reporting.arrays import REMEDY, read_arrays
from introprior.reporting.figures.images import show
from introprior.reporting.figures.style import DATA, FRAME, INK, MODEL, MUTED, RC, TEXT_WIDTH, fit_scale, say

CONFIGURATIONS = (
    r"(i) $p_\mathrm{data} = p_d$",
    r"(ii) $p_\mathrm{data}$ is one sample of $p_d$",
    r"(iii) $p_d$ is one sample of $p_\mathrm{data}$",
)
CURVES = {"rec": "REC", "kl": "KL", "nelbo": "NELBO"}
STRIPS = {"real": "real", "real_rec": "reconstructed", "fake": "generated", "fake_rec": "reconstructed"}

RANGES = ((-1.0, 1.0), (-4.0, 4.0), (-10.0, 2.0))
STEEPNESSES = (1.0, 5.0, 10.0, 20.0)

_SCALARS = ("dataset", "title", "cell", "seed", "epoch")


def figure_s2(study: str | Path) -> Figure:
    """The encoder of a trained model overfitted with its decoder and prior fixed; real and generated ELBOs.

    Rows are the three configurations; on the left beta_neg = 1, on the right the practical one.

    Args:
        study: the encoder study's archive. What is not finite is left out; panels with nothing else say "diverged".

    Returns:
        A figure of the width of the paper's text.

    Raises:
        UserError: the file is absent, damaged or incomplete, or its arrays don't go together.
    """
    images = [f"{name}_{b}_{c}" for name in STRIPS for b in range(2) for c in range(len(CONFIGURATIONS))]
    content = read_arrays(study, (*CURVES, "iterations", "beta_neg", *images), _SCALARS)
    shape = (2, len(CONFIGURATIONS), 2, len(content["iterations"]))
    for name, wanted in (*((name, shape) for name in CURVES), ("beta_neg", (2,))):
        if content[name].shape != wanted:
            raise UserError(f"{study}: {name} has shape {list(content[name].shape)}, not {list(wanted)}; {REMEDY}")
    for name in images:
        if content[name].ndim != 4:
            raise UserError(f"{study}: {name} has shape {list(content[name].shape)}, not 4 axes; {REMEDY}")
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, 7.9), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, hspace=0)
        title, cell = catalogue(content["dataset"], str(study)).title, naming.parse(content["cell"], str(study)).label
        figure.suptitle(f"{title}: {cell}, trained for {content['epoch']:g} epochs", fontsize=8)
        halves = figure.subfigures(len(CONFIGURATIONS), 2, wspace=0.03, hspace=0.02)
        for row, configuration in enumerate(CONFIGURATIONS):
            for column, beta_neg in enumerate(content["beta_neg"]):
                half = halves[row, column]
                half.suptitle(rf"{configuration},  β$_\mathrm{{neg}}$ = {beta_neg:g}", fontsize=7.5)
                _half(half, content, column, row)
        handles = [
            Line2D([], [], color=colour, lw=1.2, label=label)
            for colour, label in ((DATA, r"real images, $p_\mathrm{data}$"), (MODEL, r"generated images, $p_d$"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def figure_s3(clip_steepness: float) -> Figure:
    """Soft clipping of log-variances with a fixed beta = 1, and with beta = K / (b - a) for several K.

    Args:
        clip_steepness: the K in use, > 0, whose column is marked; it gets one where the usual K lack it.

    Returns:
        A figure of the width of the paper's text; each panel says which share of its range is retained.

    Raises:
        UserError: a K that is not positive.
    """
    if not clip_steepness > 0:
        raise UserError(f"figure S3: clip_steepness is {clip_steepness}; the steepness K must be positive")
    columns: list[float | None] = [None, *sorted({*STEEPNESSES, float(clip_steepness)})]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, 4.2), layout="constrained")
        panels = figure.subplots(len(RANGES), len(columns), sharex="row", sharey="row")
        for (low, high), row in zip(RANGES, panels, strict=True):
            reach = 0.75 * (high - low)
            x = np.linspace(low - reach, high + reach, 301)
            for k, axis in zip(columns, row, strict=True):
                beta = 1.0 if k is None else k / (high - low)
                axis.axhspan(low, high, color=FRAME, alpha=0.15, lw=0)
                axis.plot(x, x, color=FRAME, lw=0.7, ls=":")
                axis.plot(x, np.clip(x, low, high), color=INK, lw=0.8, ls="--")
                axis.plot(x, soft_clip(x, low, high, beta), color=MODEL, lw=1.4)
                axis.text(
                    0.96, 0.05, f"{retained(low, high, beta):.0%} kept", transform=axis.transAxes, ha="right",
                    va="bottom", fontsize=6.5,
                )  # fmt: skip
                axis.set(ylim=(low - 0.45 * reach, high + 0.45 * reach), xticks=(low, high), yticks=(low, high))
                axis.spines[["top", "right"]].set_visible(False)
            row[0].set_ylabel(f"[a, b] = [{low:g}, {high:g}]".replace("-", "−"))
        for k, axis in zip(columns, panels[0], strict=True):
            used = " (used)" if k == clip_steepness else ""
            axis.set_title("β = 1" if k is None else f"β = K / (b − a)\nK = {k:g}{used}")
        for axis in panels[-1]:
            axis.set_xlabel("log-variance")
        handles = [
            Line2D([], [], color=MODEL, lw=1.4, label="soft clip"),
            Line2D([], [], color=INK, lw=0.8, ls="--", label="hard clip"),
            Line2D([], [], color=MUTED, lw=0.7, ls=":", label="identity"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def soft_clip(x: np.ndarray, low: float, high: float, beta: float) -> np.ndarray:
    """f_c of Eq. 92, ``x - softplus(x - high) + softplus(low - x)``, where softplus(u) = log(1 + e^(beta u)) / beta."""
    return x - np.logaddexp(0, beta * (x - high)) / beta + np.logaddexp(0, beta * (low - x)) / beta


def retained(low: float, high: float, beta: float) -> float:
    """Share of the range that soft clipping leaves, (f_c(b) - f_c(a)) / (b - a): Eq. 94."""
    bottom, top = soft_clip(np.array([low, high]), low, high, beta)
    return float((top - bottom) / (high - low))


def _half(half: SubFigure, content: Mapping[str, Any], b: int, c: int) -> None:
    """One configuration with one beta_neg: three panels of curves over four strips of images."""
    grid = half.add_gridspec(5, 3, height_ratios=(3.6, 1, 1, 1, 1))
    for column, (name, label) in enumerate(CURVES.items()):
        axis = half.add_subplot(grid[0, column])
        values = content[name][b, c]
        finite = np.where(np.isfinite(values), values, np.nan)
        for series, colour in zip(finite, (DATA, MODEL), strict=True):
            axis.plot(content["iterations"], series, color=colour, lw=1)
        if np.isnan(finite).all():
            say(axis, "diverged")
        fit_scale(axis, finite)
        axis.set_title(label, pad=2, fontsize=6.5)
        axis.locator_params(axis="x", nbins=2)
        axis.spines[["top", "right"]].set_visible(False)
        if column == 1:
            axis.set_xlabel("iteration", labelpad=1)
    for row, (name, label) in enumerate(STRIPS.items(), 1):
        _strip(half.add_subplot(grid[row, :]), content[f"{name}_{b}_{c}"], label)


def _strip(axis: Axes, images: np.ndarray, label: str, columns: int = 10) -> None:
    """Up to ten images in a row."""
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6)
    if not len(images):
        say(axis, "none")
        return
    show(axis, images[:columns], columns)
    axis.set_aspect("equal", anchor="W")
