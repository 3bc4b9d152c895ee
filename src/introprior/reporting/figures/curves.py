"""How runs on images went, for the figures of curves: a quantity of the history and a distance to the data by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from introprior.errors import UserError
from introprior.reporting.figures.style import say

RUN = ["dataset", "cell", "r_entropy", "seed"]
POINT = [*RUN, "panel", "epoch", "value"]

MOST_POINTS = 200
"""Points of a curve; more are averaged with their neighbours."""

_LOSSES = ("vae_loss", "encoder_loss", "decoder_loss")


def courses(
    histories: pd.DataFrame, distances: pd.DataFrame, quantity: str, metric: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What became of each run: a quantity of :func:`introprior.reporting.read.histories`, a metric of ``distances``.

    Returns:
        The runs: :data:`RUN`, and the epochs at which the game began and at which divergence was first noted, game and
        diverged, NaN where they didn't. Their finite values: :data:`POINT`, panel 0 the quantity, 1 the distance.

    Raises:
        UserError: distances of a run without its history.
    """
    distances = distances.reindex(columns=[*RUN, "epoch", "metric", "value", "status"]).query("metric == @metric")
    end = histories.groupby(RUN)["epoch"].max()
    for dataset, cell, *_ in set(distances.groupby(RUN).groups) - set(end.index):
        raise UserError(f"figures: distances.csv of {dataset}, {cell} comes without the run's history.csv; give both")
    fatal = histories[histories["quantity"].isin(_LOSSES) & ~np.isfinite(histories["value"])]
    missed = distances[distances["status"] == "diverged"].groupby(RUN)["epoch"].min()
    # A distance that was missed has the epoch for which it was planned, though the run may have ended before.
    noted = pd.concat([fatal.groupby(RUN)["epoch"].min(), missed.clip(upper=end)], axis=1).min(axis=1)
    game = histories[histories["quantity"] == "encoder_loss"].groupby(RUN)["epoch"].min()
    runs = pd.DataFrame({"game": game, "diverged": noted}, index=end.index).reset_index()
    parts = [histories[histories["quantity"] == quantity].assign(panel=0), distances.assign(panel=1)]
    values = pd.concat([part[POINT] for part in parts if len(part)], ignore_index=True)
    return runs, values[np.isfinite(values["value"])].groupby(POINT[:-1], as_index=False)["value"].mean()


def thinned(values: pd.DataFrame, points: int = MOST_POINTS) -> pd.DataFrame:
    """Values at no more than ``points`` epochs: of neighbours the mean, in each run."""
    epochs = np.sort(values["epoch"].unique())
    if len(epochs) <= points:
        return values
    block = np.arange(len(epochs)) * points // len(epochs)
    middle = pd.Series(epochs, epochs).groupby(block).transform("mean")
    others = [name for name in values if name not in ("epoch", "value")]
    thin = values.assign(epoch=values["epoch"].map(middle))
    return thin.groupby([*others, "epoch"], as_index=False)["value"].mean()


def draw_curves(
    axis: Axes, runs: pd.DataFrame, values: pd.DataFrame, by: str, palette: Mapping[Any, str], **style: Any
) -> None:
    """Means over seeds, bands of their range; a cross where a run diverged, on the level of its last finite value."""
    if values.empty:
        say(axis, "no run" if runs.empty else "diverged")
    else:
        points = {"marker": "o", "mew": 0} if values["panel"].any() else {}
        band = {"alpha": 0.15, "lw": 0, "zorder": 0}
        sns.lineplot(
            thinned(values), x="epoch", y="value", hue=by, palette=palette, errorbar=("pi", 100), err_kws=band,
            legend=False, ax=axis, **points, **style,
        )  # fmt: skip
    for run in runs[runs["diverged"].notna()].to_dict("records"):
        curve = values[(values[RUN] == pd.Series(run)[RUN]).all(axis=1)].sort_values("epoch")
        if len(curve):
            (last, level), end = curve[["epoch", "value"]].to_numpy()[-1], run["diverged"]
            axis.plot([last, max(end, last)], [level] * 2, color=palette[run[by]], lw=0.7, ls=(0, (1, 1.5)))
            axis.plot(end, level, marker="x", ms=5, mew=1.2, color=palette[run[by]], ls="", clip_on=False)
    axis.set(xlabel="", ylabel="")
    sns.despine(ax=axis)
