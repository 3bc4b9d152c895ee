"""How figures look: sizes of the paper, colours that the colour-blind tell apart, and reproducible files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from introprior.data.images import title
from introprior.operations.files import written

TEXT_WIDTH = 6.75
"""Width of the paper's text, in inches."""

# Okabe and Ito's palette, by role.
DATA = "#0072B2"
MODEL = "#D55E00"
INK = "#222222"
FRAME = "#999999"
MUTED = "#666666"

CYCLE = (MODEL, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Further lines beside one in :data:`DATA`."""

# Tol's muted palette; its palest grey is darker here, to stand out from paper.
_CLASSES = (
    "#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#AA4499", "#999933", "#777777",
)  # fmt: skip

Run = Mapping[str, Any]
"""What is shown of a run, see :func:`introprior.reporting.read.density_panels` and ``image_panels``."""

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6.5,
    "xtick.labelsize": 6, "ytick.labelsize": 6, "legend.frameon": False, "axes.linewidth": 0.5, "axes.edgecolor": FRAME,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.width": 0.5, "ytick.major.width": 0.5, "xtick.major.size": 2, "ytick.major.size": 2,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "introprior",
}  # fmt: skip

# Without dates and versions the same figure gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}


def look() -> AbstractContextManager[None]:
    """Within it the figures' settings hold, and Matplotlib's own; those of a user's matplotlibrc do not."""
    return mpl.style.context(["default", RC])


def class_colours(count: int) -> list[Any]:
    """A colour for each of ``count`` classes; up to ten of them are for the colour-blind too."""
    return list(_CLASSES[:count]) if count <= len(_CLASSES) else list(mpl.colormaps["turbo"](np.linspace(0, 1, count)))


def say(axis: Axes, word: str) -> None:
    """Write ``word`` into an empty panel, for example ``diverged``."""
    axis.text(0.5, 0.5, word, transform=axis.transAxes, ha="center", va="center", fontsize=6.5, color=MUTED)


def there(runs: Mapping[tuple[str, str], Run], key: tuple[str, str], *axes: Axes) -> Run | None:
    """The run to show, if there is one; if not the panels say why."""
    run = runs.get(key)
    if run and run["usable"]:
        return run
    for axis in axes:
        say(axis, "diverged" if run else "no run")
    return None


def key(label: str, **style: Any) -> Line2D:
    """An entry of a legend; with a marker it is a point."""
    return Line2D([], [], label=label, **({"ls": ""} if "marker" in style else {}), **style)


def legend(figure: Figure | SubFigure, handles: Sequence[Artist], **style: Any) -> None:
    """A legend below the panels, in one line unless ``ncols`` says otherwise."""
    figure.legend(handles=handles, loc="outside lower center", **{"ncols": len(handles), **style})


def blocks(figure: Figure, datasets: Sequence[str], **style: Any) -> Iterator[tuple[str, SubFigure]]:
    """A part of the figure for each dataset of images, below one another, with its title."""
    for dataset, part in zip(datasets, figure.subfigures(len(datasets), 1, squeeze=False).flat, strict=True):
        part.suptitle(title(dataset), ha="left", **style)
        yield dataset, part


def fit_scale(axis: Axes, *values: Sequence[float] | np.ndarray, ratio: float = 20) -> None:
    """Make the y axis logarithmic where the values, all positive, span more than ``ratio``; symlog where some are not.

    Values that are not finite do not count. On a symlog axis what is below a thousandth of the largest is linear.
    """
    together = np.concatenate([np.empty(0), *(np.asarray(part, float).ravel() for part in values)])
    together = together[np.isfinite(together)]
    if not together.size:
        return
    low, high, largest = together.min(), together.max(), float(np.abs(together).max())
    if low > 0 and high / low > ratio:
        axis.set_yscale("log")
        # Where few powers of ten are in sight, their multiples by 2 and 5 need labels too.
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=7))
        axis.yaxis.set_minor_locator(NullLocator())
        if high < 1e5:
            axis.yaxis.set_major_formatter("{x:g}")
    elif low <= 0 and largest > 10 * ratio * max(float(np.median(np.abs(together))), 1):
        axis.set_yscale("symlog", linthresh=max(largest / 1000, 1))


def save(figure: Figure, paths: Iterable[str | Path], dpi: int = 300) -> None:
    """Write a figure as PDF, PNG or SVG, each file whole or not at all; what is rasterised, and PNG, has ``dpi`` dots
    per inch."""
    for path in map(Path, paths):
        with written(path) as temporary, look():
            figure.savefig(temporary, dpi=dpi, metadata=_METADATA[path.suffix])
