"""Figure S3 (supplement, Figure 3): soft clipping of log-variances with beta = 1, and with beta = K / (b - a)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from introprior.reporting.figures.style import FRAME, INK, MODEL, MUTED, TEXT_WIDTH, key, legend

RANGES = ((-1.0, 1.0), (-4.0, 4.0), (-10.0, 2.0))
STEEPNESSES = (1.0, 5.0, 10.0, 20.0)


def draw(clip_steepness: float) -> Figure:
    """The figure; each panel says which share of its range is retained.

    The column of ``clip_steepness``, the K in use, is marked; it gets one where the usual K lack it.
    """
    columns: list[float | None] = [None, *sorted({*STEEPNESSES, float(clip_steepness)})]
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
        key("soft clip", color=MODEL, lw=1.4),
        key("hard clip", color=INK, lw=0.8, ls="--"),
        key("identity", color=MUTED, lw=0.7, ls=":"),
    ]
    legend(figure, handles)
    return figure


def soft_clip(x: np.ndarray, low: float, high: float, beta: float) -> np.ndarray:
    """f_c of Eq. 92, ``x - softplus(x - high) + softplus(low - x)``, where softplus(u) = log(1 + e^(beta u)) / beta."""
    return x - np.logaddexp(0, beta * (x - high)) / beta + np.logaddexp(0, beta * (low - x)) / beta


def retained(low: float, high: float, beta: float) -> float:
    """Share of the range that soft clipping leaves, (f_c(b) - f_c(a)) / (b - a): Eq. 94."""
    bottom, top = soft_clip(np.array([low, high]), low, high, beta)
    return float((top - bottom) / (high - low))
