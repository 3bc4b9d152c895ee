"""The image tables of the paper, 2 and 5, from result files: tidy numbers, and the table as the paper lays it out.

Both show each cell at the r_entropy chosen for it. Table 2 has the priors of 100 components, Table 5 those of 10 too;
they name some rows differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from introprior import paper
from introprior.data.images import dataset as image_dataset
from introprior.errors import UserError, unknown
from introprior.reporting import read as results
from introprior.reporting.tables.captions import spread_sentence
from introprior.reporting.tables.common import (
    DIVERGED,
    Column,
    Request,
    Rows,
    by_place,
    cell_columns,
    entries,
    headings,
    labelled,
    plain,
)
from introprior.reporting.tables.layout import Entry, Row, Table

NUMBERS = ("2", "5")

DECIMALS = 3
"""As the paper prints its image tables."""

TIDY_COLUMNS = (*results.SUMMARY_COLUMNS[:2], "r_entropy", *results.SUMMARY_COLUMNS[2:], "paper_mean", "paper_spread")

DISTANCES = {"fid_authors": "FID", "fid": "FID", "fd_classifier": "FD-classifier"}
"""Every Fréchet distance, and what the tables call it where it is the one that they are about."""

ENTROPIES = {
    "entropy_per_batch": "of each test batch, averaged",
    "entropy_pooled": "of the whole test split",
}
"""Every entropy of the responsibilities, and what it is taken of."""

_DEFINITIONS = {
    "fid_authors": "This FID, as the authors' code takes it, has Inception in training mode and batches of the "
    "training size: compare it with the paper's and within the table, with no other.",
    "fid": "FID is taken with Inception in evaluation mode, as in the literature; the paper's is another measure.",
    "fd_classifier": "FD-classifier is the Fréchet distance between features of a small classifier trained on the same "
    "data: no FID, and not to be compared with one.",
}

_PROBES = ("svm_few", "svm_many", "knn_few", "knn_many")

_STANDARD = {"fid_gen": "FID std (GEN)", "fid_rec": "FID std (REC)"}
"""The literature's FID, shown beside the authors'."""

_PAPER_ITERATIONS = (2000, 10000)
_PAPER_NEIGHBOURS = (5, 100)


@dataclass(frozen=True)
class ImageRequest(Request):
    """What a table of images shows.

    Attributes:
        primary: the Fréchet distance that chose epochs and r_entropy and fills the rows GEN and REC, of
            :data:`DISTANCES`.
        entropy: the row "Entr.", of :data:`ENTROPIES`.
        svm_iterations, neighbours: of the probes "few" and "many".
    """

    primary: str = "fid_authors"
    entropy: str = "entropy_per_batch"
    svm_iterations: tuple[int, int] = _PAPER_ITERATIONS
    neighbours: tuple[int, int] = _PAPER_NEIGHBOURS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.primary not in DISTANCES:
            raise unknown("distance", self.primary, DISTANCES)
        if self.entropy not in ENTROPIES:
            raise unknown("entropy", self.entropy, ENTROPIES)
        for dataset in self.datasets:
            image_dataset(dataset)


def image_table(
    number: str, paths: Iterable[str | Path], chosen: Iterable[str | Path], request: ImageRequest
) -> tuple[pd.DataFrame, Table]:
    """Table ``2`` or ``5``.

    Args:
        number: which one.
        paths: ``metrics.csv`` and ``probes.csv`` files that hold every dataset, cell and seed of the request at the
            chosen r_entropy; more does no harm.
        chosen: the ``r_entropy.json`` file of each dataset.
        request: what to show.

    Returns:
        The tidy table, columns :data:`TIDY_COLUMNS`, all metrics at the chosen r_entropy, which is a metric too; and
        the table laid out as in the paper.

    Raises:
        UserError: something is missing, malformed or contradictory.
    """
    if number not in NUMBERS:
        raise unknown("table", number, NUMBERS)
    choices = _choices(chosen, request)
    runs = results.read_metrics(paths)
    rows = row_names(number, request, set(runs["metric"]))
    summary = results.summarise(_at(runs, choices), request.datasets, request.cells, request.seeds)
    absent = [metric for metric in rows if metric != "r_entropy" and metric not in set(summary["metric"])]
    if absent:
        raise UserError(
            f"table {number}: no {absent[0]} in the results; delete the metrics.csv and probes.csv files and run again"
        )
    tidy = _with_choices(summary, choices).merge(
        _published(number, request), how="left", on=["dataset", "cell", "metric"]
    )[list(TIDY_COLUMNS)]
    columns, places = cell_columns(request.cells), by_place(tidy)
    blocks = tuple(
        tuple(
            Row((title(dataset), labelled(metric, name)), line(places, dataset, metric, columns, request.spread))
            for metric, name in rows.items()
        )
        for dataset in request.datasets
    )
    caption = _caption(number, tidy, rows, choices, request)
    return tidy, Table(number, f"table{number}", caption, ("", ""), headings(columns), blocks)


def row_names(number: str, request: ImageRequest, measured: Iterable[str]) -> dict[str, str]:
    """The rows of Table 2 or 5: metrics, and what the table calls them.

    Args:
        number: which one.
        request: what to show.
        measured: the metrics that there are; the standard FID is shown where it's among them.
    """
    distance = DISTANCES[request.primary]
    names = {
        "r_entropy": "r_entropy",
        request.entropy: "Entr.",
        f"{request.primary}_gen": f"{distance} (GEN)",
        f"{request.primary}_rec": f"{distance} (REC)",
    }
    if request.primary == "fid_authors":
        names |= {metric: name for metric, name in _STANDARD.items() if metric in measured}
    if number == "5":
        return names | dict(zip(_PROBES, ("SVM (few)", "SVM (many)", "KNN (few)", "KNN (many)"), strict=True))
    probes = [f"{_thousands(n)}-SVM" for n in request.svm_iterations] + [f"{k}-NN" for k in request.neighbours]
    return names | dict(zip(_PROBES, probes, strict=True))


def title(dataset: str) -> str:
    """What tables call a dataset: a stand-in by its title, which says what it stands in for."""
    entry = image_dataset(dataset)
    return entry.title if entry.stand_in_for else entry.name


def line(rows: Rows, dataset: str, metric: str, columns: Sequence[Column], spread: str) -> tuple[Entry, ...]:
    """One row of Table 2 or 5; r_entropy is a choice, hence a bare number."""
    if metric == "r_entropy":
        return tuple(Entry(plain(rows[dataset, metric, column.cell].mean)) for column in columns)
    return entries(rows, dataset, metric, columns, spread, DECIMALS)


def incomparable(request: ImageRequest) -> list[str]:
    """Sentences on what has no counterpart in the paper; just one where nothing has."""
    strangers = [title(name) for name in request.datasets if image_dataset(name).stand_in_for]
    sentences = [f"The paper has nothing to set beside {', '.join(strangers)}."] if strangers else []
    if len(strangers) == len(request.datasets):
        return sentences
    if request.primary != "fid_authors":
        definition = _DEFINITIONS[request.primary]
        sentences.append(f"The paper's FID, and the r_entropy that it chose, have no counterpart here. {definition}")
    if request.entropy != "entropy_per_batch":
        sentences.append("The paper's Entr. is taken per batch, hence not compared.")
    if (tuple(request.svm_iterations), tuple(request.neighbours)) != (_PAPER_ITERATIONS, _PAPER_NEIGHBOURS):
        sentences.append(
            f"The paper's probes have {_pair(_PAPER_ITERATIONS)} iterations and {_pair(_PAPER_NEIGHBOURS)} neighbours: "
            "other ones are not compared."
        )
    return sentences


def _choices(paths: Iterable[str | Path], request: ImageRequest) -> dict[tuple[str, str], results.Choice]:
    """The choice for every dataset and cell of the request, in its order."""
    found = results.read_choices(paths, f"{request.primary}_gen")
    wanted = [(dataset, cell) for dataset in request.datasets for cell in request.cells]
    absent = [", ".join(key) for key in wanted if key not in found]
    if absent:
        raise UserError(f"tables of images: no r_entropy chosen for {absent[0]}; delete r_entropy.json and run again")
    return {key: found[key] for key in wanted}


def _at(runs: pd.DataFrame, choices: Mapping[tuple[str, str], results.Choice]) -> pd.DataFrame:
    """The runs at the chosen r_entropy.

    Raises:
        UserError: a cell has none.
    """
    there = runs.reindex(columns=[*runs.columns.union(["r_entropy"], sort=False)])
    at = [choices.get(key) for key in zip(there["dataset"], there["cell"], strict=True)]
    wanted = [choice is not None and choice.r_entropy == r for choice, r in zip(at, there["r_entropy"], strict=True)]
    taken = there[wanted]
    for (dataset, cell), choice in choices.items():
        if not ((taken["dataset"] == dataset) & (taken["cell"] == cell)).any():
            raise UserError(
                f"results of {dataset}, {cell}: none at r_entropy {choice.r_entropy:g}, which r_entropy.json says was "
                "chosen; delete that file and run again"
            )
    return taken


def _with_choices(summary: pd.DataFrame, choices: Mapping[tuple[str, str], results.Choice]) -> pd.DataFrame:
    """The summary with a column r_entropy, and before the rows of each cell one for r_entropy as a metric."""
    parts = []
    for (dataset, cell), choice in choices.items():
        row = (dataset, cell, "r_entropy", choice.r_entropy, math.nan, math.nan, 1, 0)
        parts.append(pd.DataFrame([row], columns=list(results.SUMMARY_COLUMNS)).assign(r_entropy=choice.r_entropy))
        part = summary[(summary["dataset"] == dataset) & (summary["cell"] == cell)]
        parts.append(part.assign(r_entropy=choice.r_entropy))
    return pd.concat(parts, ignore_index=True).astype({"n": "Int64", "diverged": "Int64"})


def _published(number: str, request: ImageRequest) -> pd.DataFrame:
    """The paper's values under our metrics' names, of those alone that are the same thing."""
    few, many = (ours == paper for ours, paper in zip(request.svm_iterations, _PAPER_ITERATIONS, strict=True))
    near, far = (ours == paper for ours, paper in zip(request.neighbours, _PAPER_NEIGHBOURS, strict=True))
    same = {
        "r_entropy": ("r_entropy", request.primary == "fid_authors"),
        "responsibility_entropy": ("entropy_per_batch", True),
        "fid_gen": ("fid_authors_gen", True),
        "fid_rec": ("fid_authors_rec", True),
        "svm_2k": ("svm_few", few),
        "svm_10k": ("svm_many", many),
        "knn_5": ("knn_few", near),
        "knn_100": ("knn_many", far),
    }
    names = {theirs: ours for theirs, (ours, comparable) in same.items() if comparable}
    table = paper.table2() if number == "2" else paper.table5()
    table = table[table["metric"].isin(names)].replace({"metric": names})
    return table.rename(columns={"mean": "paper_mean", "spread": "paper_spread"})


def _caption(
    number: str,
    tidy: pd.DataFrame,
    rows: Mapping[str, str],
    choices: Mapping[tuple[str, str], results.Choice],
    request: ImageRequest,
) -> str:
    distance = DISTANCES[request.primary]
    sentences = [
        "Quantitative performance on images." if number == "2" else "Full ablation on images.",
        spread_sentence(request.spread, len(request.seeds)),
        request.scale,
        _origin_of_r_entropy(choices, distance),
        f"Entr.: normalised entropy of the responsibilities {ENTROPIES[request.entropy]}; the closer to one, the more "
        "evenly the components support the aggregated posterior.",
        f"GEN and REC: {distance} of generated and of reconstructed images to training images. "
        f"{_DEFINITIONS[request.primary]}",
    ]
    if any(metric in rows for metric in _STANDARD) and request.primary == "fid_authors":
        sentences.append("FID std is the literature's, with Inception in evaluation mode.")
    probes = (
        f"linear SVMs of {_pair(request.svm_iterations)} iterations, {_pair(request.neighbours)} nearest neighbours"
    )
    sentences.append(f"Accuracies on codes of test images: {probes}.")
    sentences.append("Best mean of a row in bold.")
    if (tidy.loc[tidy["metric"].isin(rows), "diverged"] > 0).any():
        sentences.append(DIVERGED)
    return " ".join(filter(None, sentences))


def _origin_of_r_entropy(choices: Mapping[tuple[str, str], results.Choice], distance: str) -> str:
    tried = sorted({r for choice in choices.values() if len(choice.candidates) > 1 for r in choice.candidates})
    if not tried:
        return "One r_entropy was trained per column, hence none chosen."
    return (
        f"r_entropy of mixtures: of {', '.join(map(plain, tried))} the one with the fewest diverged seeds and, of "
        f"these, the lowest mean {distance} (GEN)."
    )


def _pair(numbers: Sequence[int]) -> str:
    """``2,000 or 10,000``."""
    return " or ".join(f"{number:,}" for number in numbers)


def _thousands(number: int) -> str:
    """``2K`` for 2000, ``200`` for 200."""
    return f"{number // 1000}K" if number and number % 1000 == 0 else str(number)
