"""What several figures of image runs share: the runs at the chosen r_entropy, and images side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes

from introprior.errors import UserError
from introprior.experiment import cells as naming
from introprior.reporting.figures.style import Run
from introprior.reporting.read import Choices


def chosen_runs(
    panels: Iterable[Run], chosen: Choices, datasets: Sequence[str], cells: Sequence[str]
) -> dict[tuple[str, str], Run]:
    """The run that has the chosen r_entropy, for each dataset and cell.

    Args:
        panels: of runs of one seed, see :func:`introprior.reporting.read.image_panels`.
        chosen: see :func:`introprior.reporting.read.choices`.
        datasets, cells: to be shown.

    Raises:
        UserError: nothing to show, two runs that differ in the seed, or a cell without a choice.
    """
    runs: dict[tuple[str, str], Run] = {}
    for run in panels:
        key = (run["dataset"], run["cell"])
        if key not in chosen:
            raise UserError(f"figures: no r_entropy is chosen for {key[0]}, {key[1]}; give its r_entropy.json")
        if run["r_entropy"] != chosen[key].r_entropy:
            continue
        if key in runs:
            seeds = f"{runs[key]['seed']} and {run['seed']}"
            raise UserError(f"figures: seeds {seeds} of {key[0]}, {key[1]} are given; show one of them")
        runs[key] = run
    if not runs or not datasets or not cells:
        raise UserError("figures: nothing to show; name at least one dataset and one cell in the configuration")
    return runs


def regularisation(run: Run) -> list[str]:
    """The chosen r_entropy in short, of a prior that has responsibilities."""
    return [f"r = {run['r_entropy']:g}"] * naming.parse(run["cell"]).family.components


def strip(axis: Axes, images: np.ndarray, columns: int, rows: int = 1, line: int = 1) -> None:
    """Draw images ``[N, C, H, W]`` side by side, ``line`` white pixels around each and white where there are fewer than
    rows x columns; one channel in grey, three in colour."""
    missing = max(0, rows * columns - len(images))
    frame = ((0, missing), (0, 0), (line, line), (line, line))
    tiles = np.pad(images[: rows * columns], frame, constant_values=255)
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).transpose(0, 3, 1, 4, 2)  # [rows, H, columns, W, C]
    picture = tiles.reshape(rows * tiles.shape[1], columns * tiles.shape[3], -1)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.shape[-1] == 1 else {}
    axis.imshow(picture.squeeze(-1) if grey else picture, interpolation="nearest", **grey)
    axis.set_anchor("W")
    axis.spines[:].set_visible(False)
