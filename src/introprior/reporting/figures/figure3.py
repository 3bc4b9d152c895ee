"""Figure 3 of the paper, and a figure of our own that shows what the hyperparameter search saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from introprior import paper
from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.reporting import read as results
from introprior.reporting.arrays import read_arrays
from introprior.reporting.figures.style import DATA, FRAME, INK, MODEL, MUTED, RC, TEXT_WIDTH

PANELS = ("samples", "density", "latent space")

_ARRAYS = ("data", "samples", "density", "latent", "latent_density", "prior_means", "prior_weights")
_SCALARS = ("limit", "latent_limit", "dataset", "cell", "status")

# Inches.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.19, 0.02, 0.38, 0.24
_GAP, _GROUP_GAP = 0.03, 0.11


def figure3(panels: Iterable[str | Path], datasets: Sequence[str], cells: Sequence[str]) -> Figure:
    """Data, then for each cell samples, density exp(ELBO) and latent space; one row per dataset.

    Args:
        panels: ``panels.npz`` files of the datasets and cells, in any order. Where one is not given the panels stay
            empty and say so; where the run diverged they say that.
        datasets: the rows.
        cells: the groups of columns.

    Returns:
        A figure of the width of the paper's text.

    Raises:
        UserError: nothing to show, or a file that is absent, damaged or incomplete.
    """
    runs = {(run["dataset"], run["cell"]): run for run in map(read_panels, panels)}
    if not datasets or not cells or not runs:
        raise UserError("figure 3: nothing to show; name at least one dataset and one cell in the configuration")
    side = (TEXT_WIDTH - _LEFT - _RIGHT - len(cells) * (_GROUP_GAP + 2 * _GAP)) / (1 + 3 * len(cells))
    height = _TOP + len(datasets) * (side + _GAP) - _GAP + _BOTTOM
    lefts = [_LEFT]
    for gap in (_GROUP_GAP, _GAP, _GAP) * len(cells):
        lefts.append(lefts[-1] + side + gap)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, height))
        for row, dataset in enumerate(datasets):
            bottom = height - _TOP - side - row * (side + _GAP)
            axes = [
                _square(figure, left / TEXT_WIDTH, bottom / height, side / TEXT_WIDTH, side / height) for left in lefts
            ]
            axes[0].set_ylabel(dataset, fontsize=6.5, labelpad=2)
            known = [runs[dataset, cell] for cell in cells if (dataset, cell) in runs]
            if known:
                _points(axes[0], known[0]["data"], known[0]["limit"], DATA)
            for group, cell in enumerate(cells):
                _draw_cell(axes[1 + 3 * group : 4 + 3 * group], runs.get((dataset, cell)))
            if row == 0:
                _title(axes, cells, figure)
        figure.legend(
            handles=_legend(), loc="lower center", ncols=4, columnspacing=1.5, handletextpad=0.4, borderpad=0.2,
            bbox_to_anchor=(0.5, 0),
        )  # fmt: skip
    return figure


def search_figure(slices: Mapping[str, Sequence[str | Path]], choices: Iterable[str | Path], cell: str) -> Figure:
    """Histogram KL of every setting that a search tried, against beta_kl and beta_rec; one panel per dataset.

    Args:
        slices: the ``slice-<k>.csv`` files of each dataset, which are the panels.
        choices: the cell's ``hyperparameters.json`` files, whose settings are marked.
        cell: the cell searched.

    Returns:
        A figure of the width of the paper's text. Daniel and Tamar's settings are marked too where they were tried.

    Raises:
        UserError: nothing to show, or a file that is absent, damaged or incomplete.
    """
    if not slices:
        raise UserError("figure of the search: no datasets given; name at least one in the configuration")
    tried = {dataset: results.read_slices(paths) for dataset, paths in slices.items()}
    chosen = {row.dataset: row for row in results.read_hyperparameters(choices).itertuples() if row.cell == cell}
    levels = sorted(set().union(*(table["beta_rec"] for table in tried.values())))
    colours = dict(zip(levels, mpl.colormaps["cividis"](np.linspace(0, 0.95, len(levels))), strict=True))
    columns = min(len(tried), 4)
    rows = math.ceil(len(tried) / columns)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, 1.75 * rows + 0.45), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (dataset, table) in zip(axes, tried.items(), strict=False):
            _settings(axis, table, colours)
            published = naming.parse(cell).name == "sg" and dataset in set(paper.table3()["dataset"])
            if published:
                theirs = paper.hyperparameters(dataset, "daniel-tamar")
                _mark(axis, table, theirs, marker="D", size=22, edge=INK, face="none")
            if dataset in chosen:
                ours = {name: getattr(chosen[dataset], name) for name in paper.HYPERPARAMETERS}
                _mark(axis, table, ours, marker="*", size=60, edge=INK, face=MODEL)
            axis.set_title(dataset)
            axis.set_xlabel(r"β$_\mathrm{kl}$")
        for axis in axes[len(tried) :]:
            axis.set_axis_off()
        for axis in axes[::columns]:
            axis.set_ylabel("histogram KL ↓")
        beta_rec = r"β$_\mathrm{rec}$"
        handles = [_key("o", colours[level], 3, f"{beta_rec} = {level:g}") for level in levels]
        handles += [
            Line2D([], [], ls="", marker="*", ms=8, mfc=MODEL, mec=INK, mew=0.5, label="chosen"),
            Line2D([], [], ls="", marker="D", ms=4.5, mfc="none", mec=INK, mew=0.8, label="Daniel and Tamar"),
            Line2D([], [], ls="", marker="x", ms=3.5, mec=INK, mew=0.7, label="diverged"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1, handletextpad=0)
    return figure


def read_panels(path: str | Path) -> dict[str, Any]:
    """One ``panels.npz`` file: its arrays, its scalars as plain values, and ``usable``: whether there's a run to show.

    Raises:
        UserError: the file is absent, damaged or incomplete.
    """
    content = read_arrays(path, _ARRAYS, _SCALARS)
    finite = all(content[name].size and np.isfinite(content[name]).all() for name in _ARRAYS)
    content["usable"] = content["status"] == "ok" and finite
    return content


def _draw_cell(axes: Sequence[Axes], run: Mapping[str, Any] | None) -> None:
    """The three panels of one run."""
    if run is None or not run["usable"]:
        for axis in axes:
            word = "no run" if run is None else "diverged"
            axis.text(0.5, 0.5, word, transform=axis.transAxes, ha="center", va="center", fontsize=6, color=MUTED)
        return
    samples, density, latent = axes
    _points(samples, run["samples"], run["limit"], MODEL)
    _image(density, run["density"], run["limit"], "viridis")
    _image(latent, np.sqrt(run["latent_density"]), run["latent_limit"], "Greys", 0.6)  # the root shows its tails
    latent.scatter(*run["latent"].T, s=0.35, c=DATA, lw=0, alpha=0.5, rasterized=True)
    # Area and weight are proportional; one component alone would hide the panel, so the largest stop growing.
    sizes = _panel_points(latent) ** 2 * np.minimum(0.09 * run["prior_weights"], 0.025)
    latent.scatter(*run["prior_means"].T, s=sizes, facecolors=(MODEL, 0.2), edgecolors=MODEL, lw=0.5)


def _panel_points(axis: Axes) -> float:
    """Width of a panel in points."""
    return axis.get_position().width * axis.figure.get_figwidth() * 72


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


def _square(figure: Figure, *position: float) -> Axes:
    return figure.add_axes(position, xticks=[], yticks=[])


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
        label = naming.parse(cell).label.replace("+", " + ")
        figure.text((left + right) / 2, line + 0.03 / height, label, ha="center", va="bottom", fontsize=7.5)


def _legend() -> list[Line2D]:
    return [
        _key("o", DATA, 2.5, "data, their posterior means"),
        _key("o", MODEL, 2.5, "generated samples"),
        Line2D([], [], ls="", marker="o", ms=4.5, mfc=(MODEL, 0.2), mec=MODEL, mew=0.5,
               label="prior components, area by weight"),
        _key("s", "#9d9d9d", 4.5, "prior density"),
    ]  # fmt: skip


def _key(marker: str, colour: Any, size: float, label: str) -> Line2D:
    return Line2D([], [], ls="", marker=marker, ms=size, mfc=colour, mec="none", label=label)


def _settings(axis: Axes, table: Any, colours: Mapping[float, Any]) -> None:
    """All settings of one dataset: strips of beta_kl, in each strip beta_rec from left to right."""
    ticks = sorted(set(table["beta_kl"]))
    good = table[table["status"] == "ok"]
    for level, group in good.groupby("beta_rec"):
        axis.scatter(_places(group, table), group["KL"], s=5, color=colours[level], lw=0)
    bad = table[table["status"] != "ok"]
    axis.scatter(
        _places(bad, table), np.full(len(bad), 0.97), transform=axis.get_xaxis_transform(), s=10, c=INK, lw=0.7,
        marker="x", clip_on=False,
    )  # fmt: skip
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=20))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlim(-0.5, len(ticks) - 0.5)
    axis.set_xticks(range(len(ticks)), [f"{tick:g}".removeprefix("0") for tick in ticks])
    axis.spines[["top", "right"]].set_visible(False)


def _mark(axis: Axes, table: Any, setting: Mapping[str, float], marker: str, size: float, edge: str, face: str) -> None:
    """Mark one setting, if it was tried and did not diverge."""
    same = np.ones(len(table), bool)
    for name, value in setting.items():
        same &= np.isclose(table[name], value, equal_nan=True)
    row = table[same & (table["status"] == "ok")]
    axis.scatter(_places(row, table), row["KL"], s=size, marker=marker, facecolors=face, edgecolors=edge, lw=0.6)


def _places(rows: Any, table: Any) -> np.ndarray:
    """Where settings stand on the axis of beta_kl; those of smaller beta_rec a little to the left."""
    strips, levels = sorted(set(table["beta_kl"])), sorted(set(table["beta_rec"]))
    offsets = [(levels.index(level) - (len(levels) - 1) / 2) * 0.7 / len(levels) for level in rows["beta_rec"]]
    return np.array([strips.index(strip) for strip in rows["beta_kl"]], float) + np.array(offsets, float)
