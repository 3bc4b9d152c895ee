"""The two-dimensional distributions by name: what the configuration has to know of them, without importing torch.

To add one, write a function in :mod:`introprior.data.density` and enter it here. Points of one's own come in from a
configuration (`add`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from introprior.data import points
from introprior.errors import UserError, unknown


@dataclass(frozen=True)
class DensityDataset:
    """A distribution on the plane.

    Attributes:
        name: the paper's name, also in paths and configurations.
        limit: half-width of the square window [-limit, limit]² of histograms and grids: 2s with the grid scale s.
        sampler: the function in :mod:`introprior.data.density`, ``(n, streams) -> [S, n, 2]``, float32.
        multiple: batches are made of this many equal parts, so their size must be a multiple of it.
        file: of somebody's own points, which are drawn instead; empty where there is none.
    """

    name: str
    limit: float
    sampler: str
    multiple: int = 1
    file: str = ""


DATASETS: dict[str, DensityDataset] = {
    entry.name: entry
    for entry in (
        DensityDataset("8Gaussian", 2.0, "eight_gaussians"),
        DensityDataset("2Spirals", 4.0, "two_spirals", multiple=2),
        DensityDataset("Checkerboard", 4.0, "checkerboard"),
        DensityDataset("Rings", 4.0, "rings", multiple=4),
    )
}
"""All distributions, in the order of the paper's tables."""


def add(name: str, file: str, half_width: float | None) -> None:
    """Make somebody's own points known in this process, in place of those that had the name before.

    Raises:
        UserError: the name is one of the project's; a file or window that will not do (`introprior.data.points`).
    """
    if name in DATASETS and not DATASETS[name].file:
        raise UserError(f"there is a dataset {name} already; give yours another name")
    DATASETS[name] = DensityDataset(name, points.half_width(file, half_width), "", file=os.path.abspath(file))


def dataset(name: str, where: str = "") -> DensityDataset:
    """The distribution called ``name``; ``where`` is the place to blame in the error.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS, where)
    return DATASETS[name]


def check_size(name: str, n: int, where: str = "number of samples") -> None:
    """Refuse numbers of samples that cannot be drawn at once; ``where`` is the place to blame.

    Raises:
        UserError: unknown dataset; ``n`` below 1 or not a multiple of the dataset's.
    """
    multiple = dataset(name).multiple
    if n < 1 or n % multiple:
        needed = f"a positive multiple of {multiple}" if multiple > 1 else "positive"
        near = max(multiple, -(-n // multiple) * multiple)
        raise UserError(f"{where}: must be {needed} for {name}, is {n}; try {near}")
