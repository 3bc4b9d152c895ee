"""The image tables, each cell at the r_entropy chosen for it: 2, priors of 100 components; 5, of 10 components too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from introprior.data import images
from introprior.errors import UserError
from introprior.metrics.registry import ENTROPIES, METRICS, of_kind
from introprior.reporting.read import Choices
from introprior.reporting.tables import captions, sheets
from introprior.reporting.tables.sheets import KEY, SUMMARY, Request, Sheet

OPENINGS = {"2": "Quantitative performance on images.", "5": "Full ablation on images."}
TIDY = [*SUMMARY[:2], "r_entropy", *SUMMARY[2:], *sheets.PUBLISHED]

_BY_SETTING = {"svm_iterations": "{}-SVM", "neighbours": "{}-NN"}
"""What Table 2 calls probes."""


def image_sheet(number: str, runs: pd.DataFrame, choices: Choices, request: Request) -> Sheet:
    """What Table ``2`` or ``5`` shows; runs and choices that the request does not name do no harm.

    Raises:
        UserError: something is missing.
    """
    names = {dataset: _title(dataset) for dataset in request.datasets}
    keys = [(dataset, cell) for dataset in request.datasets for cell in request.cells]
    for key in keys:
        if key not in choices:
            raise UserError(f"table {number}: no r_entropy chosen for {', '.join(key)}; choose it anew")
    choices = {key: choices[key] for key in keys}
    rows = _rows(number, request, set(runs["metric"]))
    tidy = _summary(runs, choices, request, rows)
    tidy = tidy.merge(sheets.published(number, _incomparable(request)), how="left", on=KEY)[TIDY]
    caption = _caption(number, tidy, rows, choices, request)
    columns, titles = sheets.cell_columns(request.cells), ("", "", "LC", "IP")
    return Sheet(number, request, tidy, columns, titles, rows, names, caption, _notes(request))


def _rows(number: str, request: Request, present: set[str]) -> dict[str, str]:
    """The rows of a table: metrics, and what it calls them.

    Of the distances it has the primary one and, beside the authors' FID, the literature's where it was measured.
    """
    skipped = {entropy for entropy in ENTROPIES if entropy != request.entropy} | request.others
    if request.primary == "fid_authors":
        skipped -= {"fid_gen", "fid_rec"} & present
    rows = {name: "" for name, metric in METRICS.items() if number in metric.tables and name not in skipped}
    if request.primary == "fid":
        rows |= {"fid_gen": "FID (GEN)", "fid_rec": "FID (REC)"}
    if number == "2":  # which names the probes by their settings
        for name, probe in of_kind("probe").items():
            if probe.setting and name in rows:
                n = probe.number(request)
                thousands = probe.setting[0] == "svm_iterations" and n and n % 1000 == 0
                rows[name] = _BY_SETTING[probe.setting[0]].format(f"{n // 1000}K" if thousands else n)
    return rows


def _title(dataset: str) -> str:
    """What tables call a dataset: a stand-in by its title, which says what it stands in for."""
    return dataset if images.published(dataset) else images.title(dataset)


def _summary(runs: pd.DataFrame, choices: Choices, request: Request, rows: Mapping[str, str]) -> pd.DataFrame:
    """Means and spreads at the chosen r_entropy, which is a column and, before the others of a cell, a metric."""
    chosen = pd.DataFrame([(*key, choice.r_entropy) for key, choice in choices.items()], columns=TIDY[:3])
    taken = runs.merge(chosen)
    for key in choices.keys() - set(zip(taken["dataset"], taken["cell"], strict=True)):
        raise UserError(
            f"results of {', '.join(key)}: none at r_entropy {choices[key].r_entropy:g}, which r_entropy.json says was "
            "chosen; delete that file and run again"
        )
    measured = sheets.summarise(taken, request, [name for name in rows if name != "r_entropy"]).merge(chosen)
    settings = chosen.assign(metric="r_entropy", mean=chosen["r_entropy"], n=1, diverged=0)
    place = chosen.reset_index().set_index(["dataset", "cell"])["index"]
    both = pd.concat([settings, measured], ignore_index=True).astype(sheets.COUNTS)
    order = pd.MultiIndex.from_frame(both[["dataset", "cell"]]).map(place)
    return both.iloc[order.argsort(kind="stable")]


def _incomparable(request: Request) -> list[str]:
    """Metrics that mean something else here than in the paper."""
    probes = {name: probe for name, probe in of_kind("probe").items() if probe.setting}
    others = [name for name, probe in probes.items() if probe.number(request) != probe.number(Request)]
    return others + ["r_entropy"] * (request.primary != "fid_authors")


def _caption(number: str, tidy: pd.DataFrame, rows: Mapping[str, str], choices: Choices, request: Request) -> str:
    primary = METRICS[f"{request.primary}_gen"]
    distance = primary.title.split(" ")[0]
    tried = sorted({r for choice in choices.values() if len(choice.candidates) > 1 for r in choice.candidates})
    origin = (
        f"r_entropy of mixtures: of {', '.join(f'{r:g}' for r in tried)} the one with the fewest diverged seeds and, "
        f"of these, the lowest mean {distance} (GEN)."
    )
    dashes = tidy[tidy["n"] + tidy["diverged"] == 0]["metric"]
    return captions.caption(
        OPENINGS[number],
        captions.spread_sentence(request.spread, len(request.seeds)),
        request.scale,
        origin if tried else "One r_entropy was trained per column, hence none chosen.",
        f"Entr.: normalised entropy of the responsibilities {METRICS[request.entropy].definition}; the closer to one, "
        "the more evenly the components support the aggregated posterior.",
        f"GEN and REC: {distance} of generated and of reconstructed images to training images. {primary.definition}",
        "FID std is the literature's, with Inception in evaluation mode." * bool(request.others & set(rows)),
        f"Accuracies on codes of test images: linear SVMs of {_pair(request.svm_iterations)} iterations, "
        f"{_pair(request.neighbours)} nearest neighbours.",
        "–: no labels to read off." * bool(dashes.isin(of_kind("probe")).any()),
        "Entr. –: a prior without components." * bool((dashes == request.entropy).any()),
        "Best mean of a row in bold.",
        captions.DIVERGED * bool((tidy.loc[tidy["metric"].isin(rows), "diverged"] > 0).any()),
    )


def _notes(request: Request) -> list[str]:
    """What has no counterpart in the paper; one sentence where nothing has."""
    strangers = [_title(name) for name in request.datasets if not images.published(name)]
    sentences = [f"The paper has nothing to set beside {', '.join(strangers)}."] if strangers else []
    if len(strangers) == len(request.datasets):
        return sentences
    if request.primary != "fid_authors":
        definition = METRICS[f"{request.primary}_gen"].definition
        sentences.append(f"The paper's FID, and the r_entropy that it chose, have no counterpart here. {definition}")
    if not METRICS[request.entropy].paper:
        sentences.append("The paper's Entr. is taken per batch, hence not compared.")
    if set(_incomparable(request)) & of_kind("probe").keys():
        sentences.append(
            f"The paper's probes have {_pair(Request.svm_iterations)} iterations and {_pair(Request.neighbours)} "
            "neighbours: other ones are not compared."
        )
    return sentences


def _pair(numbers: Sequence[int]) -> str:
    """``2,000 or 10,000``."""
    return " or ".join(f"{number:,}" for number in numbers)
