"""How runs on images went, for the figures of curves: a quantity of the history and a distance to the data by epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from introprior.errors import UserError
from introprior.metrics.registry import metric as registered

RUN = ["dataset", "cell", "r_entropy", "seed"]

MOST_POINTS = 200
"""Points of a curve; more are averaged with their neighbours."""

_COLUMNS = ("epoch", "metric", "value", "status")
_LOSSES = ("vae_loss", "encoder_loss", "decoder_loss")


def courses(
    histories: pd.DataFrame, distances: pd.DataFrame, quantity: str, metric: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What became of each run.

    Args:
        histories, distances: see :func:`introprior.reporting.read.histories` and ``distances``.
        quantity: of the histories.
        metric: of the distances.

    Returns:
        The runs: :data:`RUN`, game (epoch of the first adversarial iteration) and diverged (epoch at which that was first
        noted), NaN where neither came. The finite values: :data:`RUN`, panel (0: the quantity, 1: the distance), epoch,
        value.

    Raises:
        UserError: an unknown metric, or distances of a run without its history.
    """
    registered(metric, "figures")
    distances = distances[distances["metric"] == metric] if len(distances) else pd.DataFrame(columns=[*RUN, *_COLUMNS])
    end = histories.groupby(RUN)["epoch"].max()
    for run in set(map(tuple, distances[RUN].to_numpy())) - set(end.index):
        raise UserError(f"figures: distances.csv of {run[0]}/{run[1]} comes without the run's history.csv; give both")
    fatal = histories[histories["quantity"].isin(_LOSSES) & ~np.isfinite(histories["value"])]
    missed = distances[distances["status"] == "diverged"].groupby(RUN)["epoch"].min()
    noted = [fatal.groupby(RUN)["epoch"].min(), missed.clip(upper=end)]  # an epoch that was not reached has a row too
    game = histories[histories["quantity"] == "encoder_loss"].groupby(RUN)["epoch"].min()
    runs = pd.DataFrame({"game": game, "diverged": pd.concat(noted, axis=1).min(axis=1)}, index=end.index)
    parts = [histories[histories["quantity"] == quantity].assign(panel=0), distances.assign(panel=1)]
    values = pd.concat([part[[*RUN, "panel", "epoch", "value"]] for part in parts if len(part)], ignore_index=True)
    values = values[np.isfinite(values["value"])].groupby([*RUN, "panel", "epoch"], as_index=False)["value"].mean()
    return runs.reset_index(), values


def thinned(values: pd.DataFrame, points: int = MOST_POINTS) -> pd.DataFrame:
    """Values at no more than ``points`` epochs: of neighbours the mean, in each run."""
    epochs = np.sort(values["epoch"].unique())
    if len(epochs) <= points:
        return values
    block = np.arange(len(epochs)) * points // len(epochs)
    middle = pd.Series(epochs).groupby(block).transform("mean").to_numpy()
    epoch = values["epoch"].map(dict(zip(epochs, middle, strict=True)))
    others = [name for name in values if name not in ("epoch", "value")]
    return values.assign(epoch=epoch).groupby([*others, "epoch"], as_index=False)["value"].mean()


def cross(axis: Axes, runs: pd.DataFrame, values: pd.DataFrame, by: str, palette: Mapping[object, str]) -> None:
    """Mark where runs diverged, on the level of their last finite value; dotted is what was not measured."""
    for run in runs[runs["diverged"].notna()].to_dict("records"):
        curve = values[(values[RUN] == pd.Series(run)[RUN]).all(axis=1)]
        if curve.empty:
            continue
        last, colour = curve.loc[curve["epoch"].idxmax()], palette[run[by]]
        span, level = [last["epoch"], max(run["diverged"], last["epoch"])], last["value"]
        axis.plot(span, [level, level], color=colour, lw=0.7, ls=(0, (1, 1.5)))
        axis.plot(run["diverged"], level, marker="x", ms=5, mew=1.2, color=colour, ls="", clip_on=False)
