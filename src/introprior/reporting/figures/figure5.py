"""Figure 5: the first two latent dimensions, codes of test images coloured by class, and the prior's components."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from introprior.reporting.figures.latents import latent_spaces, scatter, two, window
from introprior.reporting.figures.style import Run, key
from introprior.reporting.read import Choices


def draw(image_panels: Iterable[Run], chosen: Choices, datasets: Sequence[str], cells: Sequence[str]) -> Figure:
    """The figure, see :func:`introprior.reporting.figures.latents.latent_spaces`.

    The area of a dot is proportional to the component's weight (capped for the largest).
    """
    components = key("components", color="black", marker="o", ms=2.5)
    return latent_spaces(image_panels, chosen, datasets, cells, first_two, [components])


def first_two(axis: Axes, run: Run) -> None:
    """Draw one run."""
    codes, means = two(run["z"]), two(run["prior_means"])
    scatter(axis, codes, run)
    low, high = np.quantile(codes, (0.003, 0.997), axis=0)
    if len(means):
        # Weights in units of the uniform one; a hundred dots are smaller than ten, but not by as much as their weights.
        sizes = 20 / np.sqrt(len(means)) * np.minimum(run["prior_weights"] * len(means), 5)
        axis.scatter(*means.T, s=sizes, c="black", edgecolors="white", lw=0.3, zorder=3)
        low, high = np.minimum(low, means.min(0)), np.maximum(high, means.max(0))
    window(axis, low, high)
