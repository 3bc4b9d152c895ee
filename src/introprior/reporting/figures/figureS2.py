"""Figure S2 (supplement, Figure 2): the encoder of a trained model overfitted with its decoder and prior fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from introprior.data.images import title
from introprior.experiment.cells import Cell
from introprior.reporting.figures.panels import strip
from introprior.reporting.figures.style import DATA, MODEL, TEXT_WIDTH, fit_scale, key, legend, say
from introprior.reporting.read import STUDY_CURVES, STUDY_IMAGES

CONFIGURATIONS = (
    r"(i) $p_\mathrm{data} = p_d$",
    r"(ii) $p_\mathrm{data}$ is one sample of $p_d$",
    r"(iii) $p_d$ is one sample of $p_\mathrm{data}$",
)


def draw(study: Mapping[str, Any]) -> Figure:
    """The figure: configurations in rows; on the left beta_neg = 1, on the right the practical one.

    What of the ``study`` is not finite is left out; panels with nothing else say "diverged".
    """
    figure = Figure(figsize=(TEXT_WIDTH, 7.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, hspace=0)
    of = f"{title(study['dataset'])}: {Cell.parse(study['cell']).label}"
    figure.suptitle(f"{of}, trained for {study['epoch']:g} epochs", fontsize=8)
    halves = figure.subfigures(len(CONFIGURATIONS), 2, wspace=0.03, hspace=0.02)
    for row, configuration in enumerate(CONFIGURATIONS):
        for column, beta_neg in enumerate(study["beta_neg"]):
            half = halves[row, column]
            half.suptitle(rf"{configuration},  β$_\mathrm{{neg}}$ = {beta_neg:g}", fontsize=7.5)
            _half(half, study, column, row)
    kinds = {r"real images, $p_\mathrm{data}$": DATA, r"generated images, $p_d$": MODEL}
    legend(figure, [key(label, color=colour, lw=1.2) for label, colour in kinds.items()])
    return figure


def _half(half: SubFigure, study: Mapping[str, Any], b: int, c: int) -> None:
    """One configuration with one beta_neg: three panels of curves over four strips of images."""
    grid = half.add_gridspec(5, 3, height_ratios=(3.6, 1, 1, 1, 1))
    for column, (name, label) in enumerate(STUDY_CURVES.items()):
        axis = half.add_subplot(grid[0, column])
        values = study[name][b, c]
        finite = np.where(np.isfinite(values), values, np.nan)
        for series, colour in zip(finite, (DATA, MODEL), strict=True):
            axis.plot(study["iterations"], series, color=colour, lw=1)
        if np.isnan(finite).all():
            say(axis, "diverged")
        fit_scale(axis, finite)
        axis.set_title(label, pad=2, fontsize=6.5)
        axis.locator_params(axis="x", nbins=2)
        axis.spines[["top", "right"]].set_visible(False)
        if column == 1:
            axis.set_xlabel("iteration", labelpad=1)
    for row, (name, label) in enumerate(STUDY_IMAGES.items(), 1):
        axis = half.add_subplot(grid[row, :], xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6)
        strip(axis, study[f"{name}_{b}_{c}"], 10)
