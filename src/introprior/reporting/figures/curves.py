"""Curves of image runs over training: Figure 2 (clipping of the prior's log-variances), Figure 4 (responsibilities)."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from introprior.data.images import dataset as catalogue
from introprior.errors import UserError, unknown
from introprior.experiment import cells as naming
from introprior.reporting.figures.style import CYCLE, DATA, FRAME, INK, MODEL, MUTED, RC, TEXT_WIDTH, fit_scale, say

DISTANCES = {
    "fid_authors_gen": "FID (GEN)",
    "fid_gen": "FID (GEN), standard",
    "fd_classifier_gen": "FD-classifier (GEN)",
}
"""How the distances to generated images are called."""

LINES = {False: ":", True: "-"}
"""Line style of Figure 4 by whether contributions are learnable."""

MOST_POINTS = 200
"""Points of a curve; more are averaged with their neighbours."""

_LOSSES = ("vae_loss", "encoder_loss", "decoder_loss")
_FOLDER = re.compile(r"r(?P<r>\d+(\.\d+)?(e[+-]?\d+)?)/seed(?P<seed>\d+)")
_REMEDY = "delete it and run again to make it anew"

Key = tuple[str, str, float, int]
"""A run: dataset, cell, r_entropy, seed."""


@dataclass(frozen=True)
class Course:
    """How a run went.

    Attributes:
        curve: a quantity of the history by epoch; all finite.
        distances: a distance by epoch; all finite.
        game: epoch of the first adversarial iteration noted; NaN if there's none.
        diverged: epoch at which divergence was first noted; NaN if it didn't diverge.
    """

    curve: pd.Series
    distances: pd.Series
    game: float
    diverged: float


def figure2(histories: Iterable[str | Path], distances: Iterable[str | Path], metric: str, cell: str) -> Figure:
    """Largest log-variance of the prior and distance to the data, with and without clipping.

    Args:
        histories, distances: ``history.csv`` and ``distances.csv`` of two runs of one dataset, those of ``cell`` and
            ``<cell>-unclipped``, each in the folder of its run: ``<dataset>/<cell>/r<r_entropy>/seed<seed>``.
        metric: a key of :data:`DISTANCES`.
        cell: the clipped cell.

    Returns:
        A figure of the width of the paper's text.

    Raises:
        UserError: a run is missing, there are others, or a file is absent, damaged or astray.
    """
    courses = read_courses(histories, distances, "prior_logvar_max", metric)
    names = (cell, f"{cell}-unclipped")
    runs = {key[1]: course for key, course in courses.items()}
    if len(courses) != 2 or set(runs) != set(names):
        found = ", ".join(f"{key[0]}/{key[1]}" for key in courses)
        raise UserError(f"figure 2: runs of {names[0]} and {names[1]} wanted, of one dataset; got {found}")
    title = " and ".join(dict.fromkeys(catalogue(key[0], "figure 2").title for key in courses))
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, 2.3), layout="constrained")
        figure.suptitle(f"{title}: {naming.parse(cell).label}", fontsize=7.5)
        panels = figure.subplots(1, 2, sharex=True)
        labels = ("largest log-variance of the prior", f"{DISTANCES[metric]} ↓")
        for axis, label, part in zip(panels, labels, ("curve", "distances"), strict=True):
            for name, colour, word in zip(names, (DATA, MODEL), ("clipped", "not clipped"), strict=True):
                series = getattr(runs[name], part)
                marker = {"marker": "o", "ms": 3} if part == "distances" else {}
                axis.plot(series.index, series, color=colour, lw=1.1, label=word, **marker)
                _cross(axis, series, runs[name].diverged, colour)
            shown = [getattr(run, part) for run in runs.values()]
            if not any(map(len, shown)):
                say(axis, "nothing finite was measured")
            fit_scale(axis, *shown)
            start = min((run.game for run in runs.values() if not math.isnan(run.game)), default=math.nan)
            if not math.isnan(start):
                axis.axvline(start, color=FRAME, lw=0.7, ls="--", zorder=0, label="the game starts")
            axis.set(xlabel="epoch", ylabel=label)
            axis.spines[["top", "right"]].set_visible(False)
        handles = [*panels[0].get_legend_handles_labels()[0], *_ends(runs[name] for name in names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def figure4(
    histories: Iterable[str | Path],
    distances: Iterable[str | Path],
    datasets: Sequence[str],
    cells: Sequence[str],
    r_entropy: Sequence[float],
    seeds: Sequence[int],
    metric: str,
) -> Figure:
    """Normalised entropy of the responsibilities, and below it the distance, over training.

    Rows are datasets, columns number of components and whether the prior is fixed or learns (IP). Lines are means over
    the seeds that got so far, bands their extremes, and a cross stands where a seed diverged.

    Args:
        histories, distances: ``history.csv`` and ``distances.csv`` of the runs, in any order, each in the folder of its
            run: ``<dataset>/<cell>/r<r_entropy>/seed<seed>``. Where a panel has no run it says so.
        datasets: the rows.
        cells: cells with a mixture as their prior; others are left out, having no responsibilities.
        r_entropy: the regularisations to show.
        seeds: the seeds to show.
        metric: a key of :data:`DISTANCES`.

    Returns:
        A figure of the width of the paper's text.

    Raises:
        UserError: nothing to show, or a file that is absent, damaged or astray.
    """
    courses = read_courses(histories, distances, "responsibility_entropy", metric)
    mixtures = [cell for cell in map(naming.parse, cells) if cell.family.components]
    columns = sorted({(cell.size, cell.intro_prior) for cell in mixtures})
    if not datasets or not columns or not r_entropy or not seeds:
        raise UserError("figure 4: nothing to show; name datasets, mog cells, r_entropy and seeds in the configuration")
    further = iter(CYCLE * len(r_entropy))
    colours = {float(r): DATA if r == 0 else next(further) for r in r_entropy}
    with mpl.rc_context(RC):
        figure = Figure(figsize=(TEXT_WIDTH, 2.1 * len(datasets) + 0.5), layout="constrained")
        blocks = np.ravel(figure.subfigures(len(datasets), 1, squeeze=False))
        for block, dataset in zip(blocks, datasets, strict=True):
            block.suptitle(catalogue(dataset, "figure 4").title, fontsize=7.5, x=0.01, ha="left")
            panels = block.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
            for column, (components, intro_prior) in enumerate(columns):
                group = [c for c in mixtures if (c.size, c.intro_prior) == (components, intro_prior)]
                wanted = {
                    (cell.learnable_contributions, float(r)): [
                        courses[key] for seed in seeds if (key := (dataset, cell.name, float(r), seed)) in courses
                    ]
                    for cell in group
                    for r in r_entropy
                }
                _entropy_and_distance(panels[:, column], wanted, colours)
                panels[0, column].set_title(f"MoG({components}), {'IP' if intro_prior else 'fixed'}")
                panels[1, column].set_xlabel("epoch")
            panels[0, 0].set(ylim=(-0.03, 1.03), ylabel="normalised\nentropy")
            panels[1, 0].set_ylabel(f"{DISTANCES[metric]} ↓".replace(" (", "\n("))
            fit_scale(panels[1, 0], *(line.get_ydata() for axis in panels[1] for line in axis.lines))
            panels[1, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        handles = _key_to_figure4(colours, {c.learnable_contributions for c in mixtures}, len(seeds) > 1, courses)
        across = len(handles) if len(handles) <= 7 else math.ceil(len(handles) / 2)
        figure.legend(handles=handles, loc="outside lower center", ncols=across, columnspacing=1.3, handletextpad=0.5)
    return figure


def read_courses(
    histories: Iterable[str | Path], distances: Iterable[str | Path], quantity: str, metric: str
) -> dict[Key, Course]:
    """What became of each run: a quantity of its ``history.csv``, a metric of its ``distances.csv``.

    Args:
        histories, distances: one of each per run, in the run's folder, ``<dataset>/<cell>/r<r_entropy>/seed<seed>``,
            whose name says which run it is.
        quantity: of the history; where it was never noted the curve is empty.
        metric: a key of :data:`DISTANCES`.

    Raises:
        UserError: no files, a file without its companion, one that is absent, damaged or in no run's folder.
    """
    if metric not in DISTANCES:
        raise unknown("distance", metric, DISTANCES, "figures")
    noted = {_key(path): path for path in histories}
    measured = {_key(path): path for path in distances}
    if not noted:
        raise UserError("figures: no history.csv files given; name at least one dataset and one cell to show")
    for key in noted.keys() ^ measured.keys():
        path = noted.get(key) or measured[key]
        raise UserError(f"figures: {path} comes without the run's history.csv or distances.csv; give both")
    return {key: _course(noted[key], measured[key], quantity, metric) for key in noted}


def _course(history_path: str | Path, distances_path: str | Path, quantity: str, metric: str) -> Course:
    history = _table(history_path, ("epoch", "quantity", "value"), ("epoch", "value"))
    distances = _table(distances_path, ("epoch", "metric", "value", "status"), ("epoch", "value"))
    if history.empty:
        raise UserError(f"{history_path}: a header without results; {_REMEDY}")
    odd = sorted(set(distances["status"]) - {"ok", "diverged"})
    if odd:
        raise unknown("status", odd[0], ("ok", "diverged"), str(distances_path))
    distances = distances[distances["metric"] == metric]
    losses = history[history["quantity"].isin(_LOSSES)]
    ends = [losses.loc[~np.isfinite(losses["value"]), "epoch"].min()]
    if (distances["status"] == "diverged").any():  # rows of epochs that a run did not reach name the planned epoch
        ends.append(min(distances.loc[distances["status"] == "diverged", "epoch"].min(), history["epoch"].max()))
    return Course(
        curve=_finite(history[history["quantity"] == quantity]),
        distances=_finite(distances),
        game=float(history.loc[history["quantity"] == "encoder_loss", "epoch"].min()),
        diverged=float(pd.Series(ends, dtype=float).min()),
    )


def _finite(table: pd.DataFrame) -> pd.Series:
    """The finite values by epoch, ascending; of several in one epoch their mean."""
    return table[np.isfinite(table["value"])].groupby("epoch")["value"].mean()


def _key(path: str | Path) -> Key:
    """Which run a file belongs to, by its folder."""
    folder = Path(path).parent
    match = _FOLDER.fullmatch("/".join(folder.parts[-2:]))
    if match is None or len(folder.parts) < 4:
        raise UserError(f"{path}: not in a run's folder; expected <dataset>/<cell>/r<r_entropy>/seed<seed>/")
    return folder.parts[-4], folder.parts[-3], float(match["r"]), int(match["seed"])


def _table(path: str | Path, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Some columns of a CSV file that must end in a newline; an empty number is NaN."""
    try:
        text = Path(path).read_text()
        if text and not text.endswith("\n"):
            raise UserError(f"{path}: cut short in its last line; {_REMEDY}")
        table = pd.read_csv(io.StringIO(text), usecols=list(columns))
        for name in numbers:
            table[name] = table[name].astype(float)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot read ({reason}); {_REMEDY}") from error
    return table


def _entropy_and_distance(
    panels: Sequence[Axes], runs: Mapping[tuple[bool, float], list[Course]], colours: Mapping[float, str]
) -> None:
    """One column of a dataset: curves by learnable contributions and r_entropy."""
    for axis, part in zip(panels, ("curve", "distances"), strict=True):
        for (learnable, r), courses in runs.items():
            series = [values for course in courses if len(values := getattr(course, part))]
            if series:
                spread = over_seeds(series)
                style = {"marker": "o", "ms": 2} if part == "distances" else {}
                axis.plot(spread.index, spread["mean"], color=colours[r], ls=LINES[learnable], lw=1, **style)
                if len(series) > 1:
                    axis.fill_between(
                        spread.index, spread["low"], spread["high"], color=colours[r], alpha=0.15, lw=0, zorder=0
                    )
            for course in courses:
                _cross(axis, getattr(course, part), course.diverged, colours[r])
        if not axis.lines:
            say(axis, "diverged" if any(runs.values()) else "no run")
        axis.spines[["top", "right"]].set_visible(False)


def over_seeds(series: Sequence[pd.Series], points: int = MOST_POINTS) -> pd.DataFrame:
    """Mean, low and high over seeds at each epoch, over those that have it; at most ``points`` of them."""
    table = pd.concat(series, axis=1).sort_index()
    if len(table) > points:
        block = np.arange(len(table)) * points // len(table)
        epochs = table.index.to_series().groupby(block).mean()
        table = table.groupby(block).mean().set_index(pd.Index(epochs))
    return pd.DataFrame({"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)})


def _cross(axis: Axes, series: pd.Series, epoch: float, colour: str) -> None:
    """Mark where a run diverged, on the level of its last finite value; dotted is what was not measured."""
    if math.isnan(epoch) or not len(series):
        return
    last = series.iloc[-1]
    axis.plot([series.index[-1], max(epoch, series.index[-1])], [last, last], color=colour, lw=0.7, ls=(0, (1, 1.5)))
    axis.plot(epoch, last, marker="x", ms=5, mew=1.2, color=colour, ls="", clip_on=False)


def _ends(courses: Iterable[Course]) -> list[Line2D]:
    """Keys that say when the clipped and the other run diverged, of those that did."""
    return [
        Line2D([], [], color=colour, ls="", marker="x", ms=5, mew=1.2,
               label=f"diverged at epoch {course.diverged:.1f}".removesuffix(".0"))
        for course, colour in zip(courses, (DATA, MODEL), strict=True)
        if not math.isnan(course.diverged)
    ]  # fmt: skip


def _key_to_figure4(
    colours: Mapping[float, str], learnable: set[bool], several: bool, courses: Mapping[Key, Course]
) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, lw=1.2, label=rf"r$_\mathrm{{entropy}}$ = {r:g}") for r, colour in colours.items()
    ]
    words = {False: "without LC", True: "with LC"}
    handles += [Line2D([], [], color=INK, lw=1, ls=LINES[lc], label=words[lc]) for lc in sorted(learnable)]
    if several:
        handles.append(Patch(color=MUTED, alpha=0.25, lw=0, label="range over seeds"))
    if any(not math.isnan(course.diverged) for course in courses.values()):
        handles.append(Line2D([], [], color=INK, ls="", marker="x", ms=4, mew=1, label="diverged"))
    return handles
