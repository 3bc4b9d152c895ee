"""What several figures of image runs share: the runs at the chosen r_entropy, and images side by side."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes

from introprior.experiment.cells import Cell
from introprior.reporting.figures.style import Run
from introprior.reporting.read import Choices


def chosen_runs(panels: Iterable[Run], chosen: Choices) -> dict[tuple[str, str], Run]:
    """By dataset and cell the run of one seed, see :func:`introprior.reporting.read.image_panels`, that has the chosen
    r_entropy; others are passed by."""
    runs = {(run["dataset"], run["cell"], run["r_entropy"]): run for run in panels}
    return {key: runs[*key, taken.r_entropy] for key, taken in chosen.items() if (*key, taken.r_entropy) in runs}


def regularisation(run: Run) -> list[str]:
    """The chosen r_entropy in short, of a prior that has responsibilities."""
    return [f"r = {run['r_entropy']:g}"] * Cell.parse(run["cell"]).family.components


def strip(axis: Axes, images: np.ndarray, columns: int, rows: int = 1) -> None:
    """Draw images ``[N, C, H, W]`` side by side, a white line around each, white where there are fewer than
    rows x columns; one channel in grey, three in colour."""
    missing = max(0, rows * columns - len(images))
    frame = ((0, missing), (0, 0), (1, 1), (1, 1))
    tiles = np.pad(images[: rows * columns], frame, constant_values=255)
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).transpose(0, 3, 1, 4, 2)  # [rows, H, columns, W, C]
    picture = tiles.reshape(rows * tiles.shape[1], columns * tiles.shape[3], -1)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.shape[-1] == 1 else {}
    axis.imshow(picture.squeeze(-1) if grey else picture, interpolation="nearest", **grey)
    axis.set_anchor("W")
    axis.spines[:].set_visible(False)
