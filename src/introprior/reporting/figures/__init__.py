"""The figures, a module each, named after it.

Its function ``draw`` takes data by name, see :data:`READERS`, and the parameters of the workflow's rule. A figure
depends on nothing else: neither on a notebook's nor on a user's settings of Matplotlib.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from introprior.reporting import read

os.environ["MPLBACKEND"] = "agg"  # seaborn imports pyplot, which would look for the backend of a notebook

READERS = {
    "histories": lambda paths: pd.DataFrame(read.histories(paths)),
    "distances": lambda paths: pd.DataFrame(read.distances(paths)),
    "slices": lambda paths: pd.DataFrame(read.slices(paths)),
    "hyperparameters": lambda paths: pd.DataFrame(read.hyperparameters(paths)),
    "chosen": read.choices,
    "density_panels": lambda paths: [read.density_panels(path) for path in paths],
    "image_panels": lambda paths: [read.image_panels(path) for path in paths],
    "games": lambda paths: pd.DataFrame(read.games(paths)),
    "play": lambda paths: pd.DataFrame(read.play(paths)),
    "study": lambda paths: read.study(*paths),
}
"""Data that figures take, and what reads it from files."""


def draw(name: str, inputs: Mapping[str, Iterable[str | Path]], **params: Any) -> Any:
    """A figure of the width of the paper's text.

    ``name`` is a module's, ``inputs`` are files by the name of their reader, ``params`` what else its ``draw`` takes.

    Raises:
        UserError: a file that is absent or damaged.
    """
    data = {kind: READERS[kind](paths) for kind, paths in inputs.items()}
    module, style = (import_module(f"{__name__}.{part}") for part in (name, "style"))
    with style.look():
        return module.draw(**data, **params)
