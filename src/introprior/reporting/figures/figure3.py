"""Figure 3: the data, then for each cell samples, density exp(ELBO) and latent space; one row per dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from introprior.experiment.cells import Cell
from introprior.reporting.figures.style import DATA, FRAME, MODEL, TEXT_WIDTH, Run, key, there

PANELS = ("samples", "density", "latent space")

# Inches.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.19, 0.02, 0.38, 0.24
_GAP, _GROUP_GAP = 0.03, 0.11


def draw(density_panels: Iterable[Run], datasets: Sequence[str], cells: Sequence[str]) -> Figure:
    """The figure, datasets in rows and cells in groups of columns.

    Panels of a run that is not given stay empty and say so; where the run diverged they say that.
    """
    runs = {(run["dataset"], run["cell"]): run for run in density_panels}
    side = (TEXT_WIDTH - _LEFT - _RIGHT - len(cells) * (_GROUP_GAP + 2 * _GAP)) / (1 + 3 * len(cells))
    height = _TOP + len(datasets) * (side + _GAP) - _GAP + _BOTTOM
    lefts = [_LEFT]
    for gap in (_GROUP_GAP, _GAP, _GAP) * len(cells):
        lefts.append(lefts[-1] + side + gap)
    figure = Figure(figsize=(TEXT_WIDTH, height))
    for row, dataset in enumerate(datasets):
        bottom = height - _TOP - side - row * (side + _GAP)
        places = [(left / TEXT_WIDTH, bottom / height, side / TEXT_WIDTH, side / height) for left in lefts]
        axes = [figure.add_axes(place, xticks=[], yticks=[]) for place in places]
        axes[0].set_ylabel(dataset, fontsize=6.5, labelpad=2)
        known = [runs[dataset, cell] for cell in cells if (dataset, cell) in runs]
        if known:
            _points(axes[0], known[0]["data"], known[0]["limit"], DATA)
        for group, cell in enumerate(cells):
            panels = axes[1 + 3 * group : 4 + 3 * group]
            if run := there(runs, (dataset, cell), *panels):
                _draw_run(run, *panels)
        if row == 0:
            _title(axes, cells, figure)
    handles = [
        key("data, their posterior means", marker="o", ms=2.5, mfc=DATA, mec="none"),
        key("generated samples", marker="o", ms=2.5, mfc=MODEL, mec="none"),
        key("prior components, area by weight", marker="o", ms=4.5, mfc=(MODEL, 0.2), mec=MODEL, mew=0.5),
        key("prior density", marker="s", ms=4.5, mfc="#9d9d9d", mec="none"),
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=4, columnspacing=1.5, handletextpad=0.4, borderpad=0.2,
        bbox_to_anchor=(0.5, 0),
    )  # fmt: skip
    return figure


def _draw_run(run: Run, samples: Axes, density: Axes, latent: Axes) -> None:
    _points(samples, run["samples"], run["limit"], MODEL)
    _image(density, run["density"], run["limit"], "viridis")
    _image(latent, np.sqrt(run["latent_density"]), run["latent_limit"], "Greys", 0.6)  # the root shows its tails
    latent.scatter(*run["latent"].T, s=0.35, c=DATA, lw=0, alpha=0.5, rasterized=True)
    if len(run["prior_means"]):
        # Area and weight are proportional; one component alone would hide the panel, so the largest stop growing.
        width = latent.get_position().width * TEXT_WIDTH * 72  # of a panel, in points
        sizes = width**2 * np.minimum(0.09 * run["prior_weights"], 0.025)
        latent.scatter(*run["prior_means"].T, s=sizes, facecolors=(MODEL, 0.2), edgecolors=MODEL, lw=0.5)


def _points(axis: Axes, points: np.ndarray, limit: float, colour: str) -> None:
    axis.scatter(*points.T, s=0.35, c=colour, lw=0, alpha=0.6, rasterized=True)
    _window(axis, limit)


def _image(axis: Axes, density: np.ndarray, limit: float, colours: str, strongest: float = 1.0) -> None:
    """A density on a grid whose outer points lie on the window's edge; a thousandth of the pixels may saturate."""
    half_pixel = limit / max(density.shape[0] - 1, 1)
    edge = limit + half_pixel
    top = float(np.quantile(density, 0.999)) or float(density.max()) or 1.0
    axis.imshow(
        density, origin="lower", extent=(-edge, edge, -edge, edge), cmap=colours, vmin=0, vmax=top / strongest,
        interpolation="bilinear", aspect="auto",
    )  # fmt: skip
    axis.set_facecolor(mpl.colormaps[colours](0.0))
    _window(axis, limit)


def _window(axis: Axes, limit: float) -> None:
    axis.set(xlim=(-1.04 * limit, 1.04 * limit), ylim=(-1.04 * limit, 1.04 * limit))


def _title(axes: Sequence[Axes], cells: Sequence[str], figure: Figure) -> None:
    """What stands over the first row: the cell over a thin rule, then the panel's name."""
    height = figure.get_figheight()
    axes[0].set_title("data", fontsize=6.5, pad=3)
    for group, cell in enumerate(cells):
        trio = axes[1 + 3 * group : 4 + 3 * group]
        for axis, name in zip(trio, PANELS, strict=True):
            axis.set_title(name, fontsize=6.5, pad=3)
        left, right = trio[0].get_position().x0, trio[-1].get_position().x1
        line = 1 - (_TOP - 0.16) / height
        figure.add_artist(Line2D([left, right], [line, line], lw=0.5, color=FRAME))
        label = Cell.parse(cell).label.replace("+", " + ")
        figure.text((left + right) / 2, line + 0.03 / height, label, ha="center", va="bottom", fontsize=7.5)
