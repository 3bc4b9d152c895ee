"""What image runs show at a chosen r_entropy: latent spaces (Figures 5 and 6), generated and reconstructed images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from introprior.data.images import dataset as catalogue
from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.operations.files import read_json
from introprior.reporting.arrays import REMEDY, read_arrays
from introprior.reporting.figures.style import MUTED, RC, TEXT_WIDTH, class_colours, say

MOST_POINTS = 2000
"""Points of a t-SNE, whose time grows faster than their number."""

GENERATED, PAIRS = 12, 8
"""Columns of generated images (in two rows), and pairs of an image over its reconstruction, of a cell."""

_ARRAYS = ("samples", "real", "reconstructions", "z", "labels", "prior_means", "prior_logvars", "prior_weights")
_SCALARS = ("dataset", "title", "cell", "r_entropy", "seed", "epoch", "status", "detail")

# Inches.
_MARGIN, _GAP, _HEAD, _TITLE, _PANEL, _LEGEND = 0.02, 0.07, 0.2, 0.17, 1.0, 0.15

Chosen = Mapping[tuple[str, str], Mapping[str, Any]]
"""The panels of the chosen run of each dataset and cell."""


def figure5(
    panels: Iterable[str | Path], chosen: Iterable[str | Path], datasets: Sequence[str], cells: Sequence[str]
) -> Figure:
    """The first two latent dimensions: codes of test images coloured by class, means of the prior's components.

    A dataset is a block, with a line of panels for each number of components; the standard Gaussian opens its first.
    An area of a dot is proportional to the component's weight (capped for the largest).

    Args:
        panels: ``panels.npz`` files in any order, of one seed; those of other than the chosen r_entropy are passed by.
            Where a cell's file is not given its panel says so, and where the run diverged too.
        chosen: ``r_entropy.json`` of each dataset.
        datasets: the blocks.
        cells: the panels.

    Returns:
        A figure of the width of the paper's text.

    Raises:
        UserError: nothing to show, or a file that is absent, damaged or incomplete.
    """
    return _latents("figure 5", panels, chosen, datasets, cells, _first_two)


def figure6(
    panels: Iterable[str | Path], chosen: Iterable[str | Path], datasets: Sequence[str], cells: Sequence[str]
) -> Figure:
    """The same as :func:`figure5`, but t-SNE of all latent dimensions, without the prior."""
    return _latents("figure 6", panels, chosen, datasets, cells, _embedded)


def samples_figure(
    panels: Iterable[str | Path], chosen: Iterable[str | Path], dataset: str, cells: Sequence[str]
) -> Figure:
    """Generated images, and test images over their reconstructions; a line for each cell.

    Args:
        panels, chosen, cells: as :func:`figure5`.
        dataset: what to show.

    Returns:
        A figure of the width of the paper's text.

    Raises:
        UserError: nothing to show, or a file that is absent, damaged or incomplete.
    """
    runs = read_chosen(panels, chosen, "figure of samples")
    if not cells:
        raise UserError("figure of samples: nothing to show; name at least one cell in the configuration")
    left, gap, head, between = 1.0, 0.12, 0.38, 0.08
    side = (TEXT_WIDTH - left - gap - _MARGIN) / (GENERATED + PAIRS)
    height = head + len(cells) * (2 * side + between)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, height))
        figure.text(_MARGIN / TEXT_WIDTH, 1 - 0.03 / height, catalogue(dataset).title, fontsize=7.5, va="top")
        for row, cell in enumerate(cells):
            bottom = height - head - (row + 1) * 2 * side - row * between
            places = ((left, GENERATED * side), (left + GENERATED * side + gap, PAIRS * side))
            axes = [_axes(figure, x, bottom, width, 2 * side) for x, width in places]
            run = runs.get((dataset, cell))
            label = naming.parse(cell).label
            if run is not None and run["usable"]:
                label += f"\n{_regularisation(run)}epoch {run['epoch']:g}"
                _mosaic(axes[0], run["samples"][: 2 * GENERATED], GENERATED)
                pairs = np.concatenate([_padded(run[name], PAIRS) for name in ("real", "reconstructions")])
                _mosaic(axes[1], pairs, PAIRS)
            else:
                for axis in axes:
                    say(axis, "no run" if run is None else "diverged")
            middle = (bottom + side) / height
            figure.text(_MARGIN / TEXT_WIDTH, middle, label, fontsize=6.5, va="center", linespacing=1.3)
            if row == 0:
                for axis, title in zip(axes, ("generated", "test images over their reconstructions"), strict=True):
                    axis.set_title(title, pad=3)
    return figure


def read_chosen(panels: Iterable[str | Path], chosen: Iterable[str | Path], what: str) -> Chosen:
    """The panels of the run that has the chosen r_entropy, for each dataset and cell.

    Args:
        panels: ``panels.npz`` files, of one seed.
        chosen: ``r_entropy.json`` files.
        what: is to be shown, for errors.

    Raises:
        UserError: none given, two of the same run but for the seed, a cell without a choice, or a file that is absent,
            damaged or incomplete.
    """
    choices = dict(choice for path in chosen for choice in _choices(path).items())
    runs: dict[tuple[str, str], Mapping[str, Any]] = {}
    origin: dict[tuple[str, str], str | Path] = {}
    for path in panels:
        run = _read_panels(path)
        key = (run["dataset"], run["cell"])
        if key not in choices:
            raise UserError(f"{what}: no r_entropy is chosen for {key[0]}, {key[1]} ({path}); give its r_entropy.json")
        if run["r_entropy"] != choices[key]:
            continue
        if key in runs:
            raise UserError(f"{what}: {path} and {origin[key]} show the same run but for the seed; give one of them")
        runs[key], origin[key] = run, path
    if not origin:
        raise UserError(f"{what}: nothing to show; name at least one dataset and one cell in the configuration")
    return runs


def _choices(path: str | Path) -> dict[tuple[str, str], float]:
    """The chosen r_entropy by dataset and cell."""
    record = read_json(path)
    try:
        return {(record["dataset"], cell): float(row["r_entropy"]) for cell, row in record["cells"].items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a choice of r_entropy ({error!r}); {REMEDY}") from error


def _read_panels(path: str | Path) -> dict[str, Any]:
    """One ``panels.npz``, and ``usable``: whether there's a run to show.

    Raises:
        UserError: the file is absent, damaged or incomplete, or its arrays don't go together.
    """
    run = read_arrays(path, (*_ARRAYS, "classes"), _SCALARS)
    finite = all(run[name].size and np.isfinite(run[name]).all() for name in _ARRAYS)
    run["usable"] = run["status"] == "ok" and finite
    if not run["usable"]:
        return run
    for name, dimensions in (("samples", 4), ("real", 4), ("reconstructions", 4), ("z", 2), ("prior_means", 2)):
        if run[name].ndim != dimensions:
            raise UserError(f"{path}: {name} has shape {list(run[name].shape)}, not {dimensions} axes; {REMEDY}")
    for one, other in (("z", "labels"), ("real", "reconstructions"), ("prior_means", "prior_weights")):
        if len(run[one]) != len(run[other]):
            raise UserError(f"{path}: {len(run[one])} {one}, but {len(run[other])} {other}; {REMEDY}")
    if run["labels"].min() < 0 or run["labels"].max() >= len(run["classes"]):
        raise UserError(f"{path}: labels reach {run['labels'].max()}, with {len(run['classes'])} classes; {REMEDY}")
    return run


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """A panel without ticks; its place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), xticks=[], yticks=[])


# ---- Latent spaces ----


def _latents(
    what: str,
    panels: Iterable[str | Path],
    chosen: Iterable[str | Path],
    datasets: Sequence[str],
    cells: Sequence[str],
    draw: Callable[[Axes, Mapping[str, Any], Sequence[Any]], None],
) -> Figure:
    runs = read_chosen(panels, chosen, what)
    if not datasets or not cells:
        raise UserError(f"{what}: nothing to show; name at least one dataset and one cell in the configuration")
    lines = arrange(cells)
    columns = max(map(len, lines))
    width = (TEXT_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / max(columns, 3)
    classes = {dataset: np.array([]) for dataset in datasets} | {key[0]: run["classes"] for key, run in runs.items()}
    keys = {dataset: _legend_lines(names) for dataset, names in classes.items()}
    blocks = [_HEAD + len(lines) * (_TITLE + _PANEL + _GAP) + _LEGEND * keys[dataset] for dataset in datasets]
    height = sum(blocks)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, height))
        top = height
        for dataset, block in zip(datasets, blocks, strict=True):
            title = catalogue(dataset, what).title
            figure.text(_MARGIN / TEXT_WIDTH, (top - 0.03) / height, title, fontsize=8, va="top")
            names = classes[dataset]
            colours = class_colours(len(names))
            for line, row in enumerate(lines):
                bottom = top - _HEAD - (line + 1) * (_TITLE + _PANEL) - line * _GAP
                for column, cell in enumerate(row):
                    if cell is None:
                        continue
                    left = _MARGIN + column * (width + _GAP)
                    axis = _axes(figure, left, bottom, width, _PANEL)
                    axis.set_title(naming.parse(cell).label, loc="left", pad=2.5)
                    run = runs.get((dataset, cell))
                    if run is None or not run["usable"]:
                        say(axis, "no run" if run is None else "diverged")
                        continue
                    draw(axis, run, colours)
                    note = _regularisation(run).removesuffix(", ")
                    axis.set_title(note, loc="right", fontsize=6, color=MUTED, pad=2.5)
            top -= block
            if len(names):
                handles = [
                    Line2D([], [], ls="", marker="o", ms=3.5, mfc=colour, mec="none", label=str(name))
                    for colour, name in zip(colours, names, strict=True)
                ]
                figure.legend(
                    handles=handles, loc="lower center", bbox_to_anchor=(0.5, top / height), borderpad=0.3,
                    ncols=-(-len(names) // keys[dataset]), columnspacing=1.1, handletextpad=0.1, fontsize=6.5,
                )  # fmt: skip
    return figure


def arrange(cells: Sequence[str]) -> list[list[str | None]]:
    """Cells in lines by number of components, with None where a line leaves the standard Gaussian's column empty."""
    alone = [cell for cell in cells if not naming.parse(cell).family.components]
    groups: dict[int, list[str]] = {}
    for cell in cells:
        if cell not in alone:
            groups.setdefault(naming.parse(cell).size, []).append(cell)
    lines: list[list[str | None]] = [[*([None] * len(alone)), *group] for group in groups.values()] or [[*alone]]
    lines[0][: len(alone)] = alone
    return lines


def _first_two(axis: Axes, run: Mapping[str, Any], colours: Sequence[Any]) -> None:
    codes, means = _two(run["z"]), _two(run["prior_means"])
    _codes(axis, codes, run["labels"], colours)
    # Weights in units of the uniform one; a hundred dots are smaller than ten, but not by as much as their weights.
    sizes = 20 / np.sqrt(len(means)) * np.minimum(run["prior_weights"] * len(means), 5)
    axis.scatter(*means.T, s=sizes, c="black", edgecolors="white", lw=0.3, zorder=3)
    low, high = np.quantile(codes, (0.003, 0.997), axis=0)
    _window(axis, np.minimum(low, means.min(0)), np.maximum(high, means.max(0)))


def _embedded(axis: Axes, run: Mapping[str, Any], colours: Sequence[Any]) -> None:
    points = embed(run["z"][:MOST_POINTS])
    _codes(axis, points, run["labels"][:MOST_POINTS], colours)
    _window(axis, points.min(0), points.max(0))


def embed(z: np.ndarray) -> np.ndarray:
    """t-SNE of ``z`` ``[N, D]`` in two dimensions, ``[N, 2]``; the same every time, on however many cores."""
    if len(z) < 5 or z.shape[1] < 2:
        return _two(z)
    with threadpool_limits(1):  # sums over threads come out in any order
        perplexity = min(30.0, (len(z) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(z.astype(np.float32))


def _two(points: np.ndarray) -> np.ndarray:
    """The first two coordinates; a single one gets a zero beside it."""
    return np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))[:, :2]


def _codes(axis: Axes, points: np.ndarray, labels: np.ndarray, colours: Sequence[Any]) -> None:
    axis.scatter(*points.T, s=1.3, c=[colours[label] for label in labels], lw=0, alpha=0.8, rasterized=True)


def _window(axis: Axes, low: np.ndarray, high: np.ndarray) -> None:
    """Show [low, high] with a margin, and as much more of one dimension as the panel has room for on equal scales."""
    box = axis.get_position()
    size = np.array([box.width * axis.figure.get_figwidth(), box.height * axis.figure.get_figheight()])
    unit = max(float(((high - low) / size).max()), 1e-6) * 1.08
    middle = (low + high) / 2
    (left, bottom), (right, top) = middle - unit * size / 2, middle + unit * size / 2
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _legend_lines(names: np.ndarray) -> int:
    """Lines that a legend of these classes takes: at about 0.05 inches a letter and 0.25 an entry."""
    return int(np.ceil(sum(0.25 + 0.05 * len(str(name)) for name in names) / TEXT_WIDTH))


def _regularisation(run: Mapping[str, Any]) -> str:
    """The chosen r_entropy in short; none for the standard Gaussian, which has no responsibilities."""
    return "" if not naming.parse(run["cell"]).family.components else f"r = {run['r_entropy']:g}, "


# ---- Images ----


def montage(images: np.ndarray, columns: int, line: int = 1) -> np.ndarray:
    """Images ``[N, C, H, W]`` side by side in rows of ``columns``, ``line`` white pixels around each: ``[h, w, C]``."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows, columns, height + 2 * line, width + 2 * line, channels), 255, np.uint8)
    for index, image in enumerate(images):
        canvas[index // columns, index % columns, line : line + height, line : line + width] = np.moveaxis(image, 0, -1)
    return canvas.swapaxes(1, 2).reshape(rows * (height + 2 * line), columns * (width + 2 * line), channels)


def show(axis: Axes, images: np.ndarray, columns: int) -> None:
    """Draw ``montage(images, columns)``; one channel in grey, three in colour. The frame goes."""
    picture = montage(images, columns)
    grey = picture.shape[-1] == 1
    options = {"cmap": "gray", "vmin": 0, "vmax": 255} if grey else {}
    axis.imshow(picture[..., 0] if grey else picture, interpolation="nearest", aspect="auto", **options)
    axis.spines[:].set_visible(False)


def _mosaic(axis: Axes, images: np.ndarray, columns: int) -> None:
    """Two rows of images; where there are fewer the panel stays white."""
    show(axis, _padded(images, 2 * columns), columns)


def _padded(images: np.ndarray, count: int) -> np.ndarray:
    """Exactly ``count`` images: the first ones, and white ones where there are fewer."""
    missing = max(0, count - len(images))
    return np.pad(images[:count], ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
