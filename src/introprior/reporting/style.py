"""How figures look: sizes of the paper, colours that the colour-blind tell apart, and reproducible files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from introprior.errors import unknown
from introprior.files import written

TEXT_WIDTH = 6.75
"""Width of the paper's text, in inches."""

# Okabe and Ito's palette, by role.
DATA = "#0072B2"
MODEL = "#D55E00"
INK = "#222222"
FRAME = "#999999"
MUTED = "#666666"

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.5,
    "axes.edgecolor": FRAME,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}

# Without dates and versions the same figure gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
}


def save(figure: Figure, paths: Iterable[str | Path], dpi: int = 300) -> None:
    """Write a figure, each file whole or not at all; what is rasterised, and PNG, has ``dpi`` dots per inch.

    Raises:
        UserError: a suffix other than .pdf and .png, or a file that cannot be written.
    """
    for path in map(Path, paths):
        if path.suffix not in _METADATA:
            raise unknown("figure format", path.suffix, _METADATA, str(path))
        with written(path) as temporary, mpl.rc_context(RC):
            figure.savefig(temporary, dpi=dpi, metadata=_METADATA[path.suffix])
