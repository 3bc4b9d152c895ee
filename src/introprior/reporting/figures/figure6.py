"""Figure 6: t-SNE of all latent dimensions, codes of test images coloured by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from introprior.reporting.figures.latents import latent_spaces, scatter, two, window
from introprior.reporting.figures.style import Run
from introprior.reporting.read import Choices

MOST_POINTS = 2000
"""Points of a t-SNE, whose time grows faster than their number."""


def draw(image_panels: Iterable[Run], chosen: Choices, datasets: Sequence[str], cells: Sequence[str]) -> Figure:
    """The figure, see :func:`introprior.reporting.figures.latents.latent_spaces`."""
    return latent_spaces(image_panels, chosen, datasets, cells, _embedded)


def _embedded(axis: Axes, run: Run) -> None:
    points = embed(run["z"][:MOST_POINTS])
    scatter(axis, points, run)
    window(axis, points.min(0), points.max(0))


def embed(z: np.ndarray) -> np.ndarray:
    """t-SNE of ``z`` ``[N, D]`` in two dimensions, ``[N, 2]``; the same every time, on however many cores."""
    if len(z) < 5 or z.shape[1] < 2:
        return two(z)
    with threadpool_limits(1):  # sums over threads come out in any order
        perplexity = min(30.0, (len(z) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(z.astype(np.float32))
