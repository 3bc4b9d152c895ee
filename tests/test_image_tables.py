"""Tables 2 and 5 and the choice of r_entropy: numbers against computations by hand, and what is never compared."""

from __future__ import annotations

import itertools
import math
import random
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from introprior import paper
from introprior.data.images import DATASETS
from introprior.evaluation.selection import choose_r_entropy
from introprior.metrics.registry import METRICS, Metric, known, of_kind
from introprior.operations.files import write_csv, write_json
from introprior.reporting import read
from introprior.reporting.tables import comparison, latex
from introprior.reporting.tables.images import TIDY
from introprior.reporting.tables.layout import Table, markdown
from introprior.reporting.tables.sheets import Request
from tests.commands import refused, rows
from tests.scripts import run_script
from tests.test_reporting import full_table1, made, needs_pdflatex, parse_markdown, write_choice

pytestmark = pytest.mark.usefixtures("published_metrics")

PROBES = tuple(of_kind("probe"))
COLUMNS = ("dataset", "cell", "r_entropy", "seed", "metric", "value", "status", "detail")
PAPER_DATASETS = ("MNIST", "FMNIST", "CIFAR-10")
TABLE2 = ("sg", "mog100", "mog100-ip", "mog100-lc", "mog100-lc-ip")
TABLE5 = ("sg", "mog10", "mog10-ip", "mog10-lc", "mog10-lc-ip", *TABLE2[1:])

Values = Mapping[str, float | None]


class Results:
    """The files of some runs, as evaluation writes them: per run a metrics.csv and a probes.csv."""

    def __init__(self, folder: Path, metric: str = "fid_authors_gen") -> None:
        self.folder, self.metric = folder, metric
        self.paths: list[Path] = []

    def run(
        self, dataset: str, cell: str, r_entropy: float, seed: int, values: Values, absent: Sequence[str] = ()
    ) -> None:
        """A run; a metric without a value diverged, unless it is ``absent``: there was nothing to measure."""
        place = self.folder / dataset / cell / f"r{r_entropy:g}" / f"seed{seed}"
        for name, probed in (("metrics", False), ("probes", True)):
            rows = []
            for metric, value in values.items():
                if (metric in PROBES) is probed:
                    fate = ("diverged", "encoder loss not finite") if value is None else ("ok", "")
                    fate = ("inapplicable", "no components") if value is None and metric in absent else fate
                    record = (dataset, cell, f"{r_entropy:g}", seed, metric, value, *fate)
                    rows.append(dict(zip(COLUMNS, record, strict=True)))
            if rows:
                write_csv(place / f"{name}.csv", rows, COLUMNS)
                self.paths.append(place / f"{name}.csv")

    def metrics(self, dataset: str) -> list[Path]:
        return [path for path in self.paths if path.name == "metrics.csv" and dataset in path.parts]

    def choose(self, *datasets: str) -> list[Path]:
        """The r_entropy.json of each dataset, made from the runs so far."""
        files = []
        for dataset in datasets:
            files.append(self.folder / dataset / "r_entropy.json")
            write_json(files[-1], choose_r_entropy(read.metrics(self.metrics(dataset)), dataset, self.metric))
        return files

    def shown(self, number: str, request: Request) -> SimpleNamespace:
        return made(number, self.paths, request, self.choose(*request.datasets))


def measured(
    distance: float | None, features: Sequence[str] = ("fid_authors", "fid"), **others: float | None
) -> Values:
    """All metrics of a run: GEN at ``distance``, REC 1 above it, the n-th further features 10 n above."""
    values: dict[str, float | None] = {}
    for n, name in enumerate(features):
        for kind, more in (("gen", 0), ("rec", 1)):
            values[f"{name}_{kind}"] = None if distance is None else distance + 10 * n + more
    plain = {"entropy_per_batch": 0.5, "entropy_pooled": 0.6, "checkpoint_epoch": 80} | dict.fromkeys(PROBES, 0.9)
    return values | (dict.fromkeys(plain) if distance is None else plain) | others


def request(cells: Iterable[str] = ("sg", "mog100"), seeds: int = 2, **more: Any) -> Request:
    return Request((more.pop("dataset", "MNIST"),), tuple(cells), tuple(range(seeds)), **more)


def two_columns(folder: Path, dataset: str = "MNIST", features: Sequence[str] = ("fid_authors", "fid")) -> Results:
    """SG at 2.0 and 2.2; MoG(100) better at r_entropy 10 (1.0, 1.5) than at 0 (1.4, 1.6)."""
    made = Results(folder, f"{features[0]}_gen")
    for seed, (sg, plain, spread) in enumerate(((2.0, 1.4, 1.0), (2.2, 1.6, 1.5))):
        made.run(dataset, "sg", 0, seed, measured(sg, features, entropy_per_batch=0.0, svm_few=0.8))
        made.run(dataset, "mog100", 0, seed, measured(plain, features))
        made.run(dataset, "mog100", 10, seed, measured(spread, features, entropy_per_batch=0.7 + 0.1 * seed))
    return made


def body(table: Table) -> dict[str, list[str]]:
    """The entries of a table of one dataset by the last label."""
    return {row.labels[-1]: [entry.text for entry in row.entries] for row in table.blocks[0]}


# ---- The choice of r_entropy ----


def chosen(folder: Path, tried: Mapping[float, Sequence[float | None]]) -> dict[str, Any]:
    made = Results(folder)
    for r_entropy, values in tried.items():
        for seed, value in enumerate(values):
            made.run("FMNIST", "mog10", r_entropy, seed, measured(value))
    return choose_r_entropy(read.metrics(made.metrics("FMNIST")), "FMNIST", "fid_authors_gen")


def test_the_lowest_mean_wins_and_what_speaks_for_each_is_told(tmp_path: Path) -> None:
    candidates = [{"r_entropy": r, "mean": m, "n": 2, "diverged": 0} for r, m in ((0, 2.9), (1, 3.0), (10, 2.5))]
    choice = chosen(tmp_path / "a", {10: [3.0, 2.0], 0: [2.9, 2.9], 1: [2.0, 4.0]})
    cells = {"mog10": {"r_entropy": 10, "candidates": candidates}}
    assert choice == {"dataset": "FMNIST", "metric": "fid_authors_gen", "cells": cells}
    candidates = [{"r_entropy": r, "mean": None, "n": 0, "diverged": 2} for r in (1, 10)]
    choice = chosen(tmp_path / "b", {1: [None, None], 10: [None, None]})
    assert choice["cells"]["mog10"] == {"r_entropy": 1, "candidates": candidates}


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ({0: [5.0, 5.0, 5.0], 10: [1.0, 1.0, None]}, 0),  # fewer diverged seeds come first
        ({0: [None, None, 9.0], 1: [None, 3.0, 5.0], 10: [None, 3.0, 4.0]}, 10),  # means over those that finished
        ({100: [2.0], 10: [2.0], 1: [2.5]}, 10),  # of equals the smallest
        ({100: [None, None], 10: [None, None]}, 10),
        ({0: [float("nan"), 1.0], 1: [2.0, 2.0]}, 1),  # no number is no success
        ({0.5: [1.0], 0: [2.0]}, 0.5),
    ],
)
def test_rules_of_the_choice(tmp_path: Path, tried: dict[float, list[float | None]], expected: float) -> None:
    assert chosen(tmp_path, tried)["cells"]["mog10"]["r_entropy"] == expected


GOOD = ",".join(COLUMNS) + "\nFMNIST,mog10,1,0,fid_authors_gen,2.5,ok,\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD.replace(",1,0,", ",one,0,"), ["metrics.csv, line 2: could not convert string to float: 'one'"]),
        (GOOD.replace(",1,0,", ",nan,0,"), ["metrics.csv, line 2: ", "finite number: 'nan'"]),
        (GOOD.replace(",r_entropy", ",weight"), ["results of FMNIST, mog10, not of images of FMNIST"]),
        (GOOD.replace("fid_authors_gen", "fid_gen"), ["FMNIST, mog10, r_entropy 1, seed 0 has no fid_authors_gen"]),
        (GOOD.replace("FMNIST", "MNIST"), ["results of MNIST, mog10, not of images of FMNIST"]),
        (GOOD + GOOD.splitlines()[1] + "\n", ["of FMNIST, mog10, r_entropy 1, seed 0 stands in ", "line 2 already"]),
    ],
)
def test_what_cannot_be_chosen_from_is_one_line(tmp_path: Path, content: str, said: list[str]) -> None:
    (path := tmp_path / "metrics.csv").write_text(content)
    refused(lambda: choose_r_entropy(read.metrics([path]), "FMNIST", "fid_authors_gen"), *said)


def test_choices_need_all_runs(tmp_path: Path) -> None:
    refused(lambda: chosen(tmp_path, {0: [1.0, 1.0], 1: [1.0]}), "mog10 was tried with different seeds")


# ---- Numbers ----


def test_the_numbers_shown_are_those_of_the_chosen_r_entropy(tmp_path: Path) -> None:
    """Any results: what a table shows is the mean of the runs at the r_entropy whose mean GEN is lowest."""
    draw = random.Random(0)
    made, truth = Results(tmp_path), {}
    for dataset, cell in itertools.product(("MNIST", "digits"), TABLE2):
        for r_entropy in (0, 1, 10, 100) if cell != "sg" else (0,):
            runs = [measured(draw.uniform(1, 5), svm_few=draw.random()) for _ in range(3)]
            truth[dataset, cell, r_entropy] = {m: math.fsum(run[m] for run in runs) / 3 for m in runs[0]}  # type: ignore[misc]
            for seed, run in enumerate(runs):
                made.run(dataset, cell, r_entropy, seed, run)
    draw.shuffle(made.paths)
    shown = made.shown("5", Request(("MNIST", "digits"), TABLE2, (0, 1, 2)))
    for block, dataset in zip(shown.table.blocks, ("MNIST", "digits"), strict=True):
        for place, cell in enumerate(TABLE2):
            tried = {r: means for (d, c, r), means in truth.items() if (d, c) == (dataset, cell)}
            best = min(tried, key=lambda r: tried[r]["fid_authors_gen"])
            found = shown.tidy.query("dataset == @dataset and cell == @cell").set_index("metric")
            assert set(found["r_entropy"]) == {best}
            assert found["mean"].to_dict() == pytest.approx({"r_entropy": best, **tried[best]})
            entries = {row.labels[1]: row.entries[place].text for row in block}
            assert entries["r_entropy"] == f"{best}"
            assert entries["FID (GEN) ↓"].startswith(f"{tried[best]['fid_authors_gen']:.3f} ± ")
            assert entries["SVM (few) ↑"].startswith(f"{tried[best]['svm_few']:.3f} ± ")


def test_what_a_metric_is_its_entry_says_and_not_its_name(tmp_path: Path) -> None:
    """Neither is a distance or a probe with a setting; both are rows of the tables that their entries name."""
    probe = Metric("svm_mid", "↑", tables=("2",), kind="probe", function="probes:svm_accuracy")
    entries = Metric("precision_gen", "↑", tables=("2", "5")), probe
    with patch.dict(METRICS, known(entries)):
        results = Results(tmp_path)
        for cell in ("sg", "mog100"):
            results.run("MNIST", cell, 0, 0, measured(2.0, precision_gen=0.25, svm_mid=0.5))
        rows = {number: body(results.shown(number, request(seeds=1)).table) for number in ("2", "5")}
    assert [found["precision_gen ↑"] for found in rows.values()] == [["0.25", "0.25"]] * 2
    assert rows["2"]["svm_mid ↑"] == ["0.50", "0.50"]
    assert rows["2"]["10K-SVM ↑"] == rows["2"]["100-NN ↑"] == ["0.900", "0.900"]
    assert "svm_mid ↑" not in rows["5"]


@pytest.mark.parametrize("number", ["2", "5"])
def test_of_a_prior_without_components_the_entropy_is_a_dash(tmp_path: Path, number: str) -> None:
    made = Results(tmp_path)
    entropies = dict.fromkeys(("entropy_per_batch", "entropy_pooled"))
    for seed in (0, 1):
        made.run("MNIST", "sg", 0, seed, measured(2.0) | dict.fromkeys(entropies, 0.0))
        made.run("MNIST", "flow", 0, seed, measured(1.0) | entropies, absent=tuple(entropies))
    shown = made.shown(number, request(("sg", "flow")))
    assert body(shown.table)["Entr."] == ["0.000 ± 0.000", "–"]
    assert shown.tidy.query("cell == 'flow' and metric == 'entropy_per_batch'")["diverged"].tolist() == [0]
    assert "Entr. –: a prior without components." in shown.table.caption
    assert "diverged" not in shown.table.caption
    alone = made.shown(number, request(("sg",)))
    assert "without components" not in alone.table.caption


def test_means_spreads_and_best(tmp_path: Path) -> None:
    shown = two_columns(tmp_path).shown("2", request(scale="Tiny scale."))
    assert list(shown.tidy) == TIDY
    row = shown.tidy.query("cell == 'mog100' and metric == 'fid_authors_gen'").iloc[0]
    assert (row["r_entropy"], row["mean"], row["n"], row["diverged"]) == (10, 1.25, 2, 0)
    assert (row["std"], row["sem"]) == (pytest.approx(0.25), pytest.approx(0.25 / math.sqrt(2)))
    assert (row["paper_mean"], row["paper_spread"]) == (1.322, 0.044)
    assert {row.labels[1]: [(entry.text, entry.bold) for entry in row.entries] for row in shown.table.blocks[0]} == {
        "r_entropy": [("0", False), ("10", False)],
        "Entr.": [("0.000 ± 0.000", False), ("0.750 ± 0.050", False)],
        "FID (GEN) ↓": [("2.100 ± 0.100", False), ("1.250 ± 0.250", True)],
        "FID (REC) ↓": [("3.100 ± 0.100", False), ("2.250 ± 0.250", True)],
        "FID std (GEN) ↓": [("12.100 ± 0.100", False), ("11.250 ± 0.250", True)],
        "FID std (REC) ↓": [("13.100 ± 0.100", False), ("12.250 ± 0.250", True)],
        "2K-SVM ↑": [("0.800 ± 0.000", False), ("0.900 ± 0.000", True)],
        "10K-SVM ↑": [("0.900 ± 0.000", True), ("0.900 ± 0.000", True)],
        "5-NN ↑": [("0.900 ± 0.000", True), ("0.900 ± 0.000", True)],
        "100-NN ↑": [("0.900 ± 0.000", True), ("0.900 ± 0.000", True)],
    }
    for sentence in (
        "Mean ± standard deviation (ddof = 0) over 2 seeds. Tiny scale.",
        "r_entropy of mixtures: of 0, 10 the one with the fewest diverged seeds",
        "of these, the lowest mean FID (GEN).",
        "of each test batch, averaged",
        "Inception in training mode and batches of the training size",
        "FID std is the literature's",
        "linear SVMs of 2,000 or 10,000 iterations, 5 or 100 nearest neighbours",
    ):
        assert sentence in shown.table.caption
    sem = body(two_columns(tmp_path / "again").shown("2", request(spread="sem")).table)
    assert sem["FID (GEN) ↓"] == ["2.100 ± 0.071", "1.250 ± 0.177"]
    # MNIST, SG, FID (GEN) is 1.414 ± 0.044 in the paper, read as a standard deviation over three seeds.
    row = shown.compared.query("cell == 'sg' and metric == 'fid_authors_gen'").iloc[0]
    assert row["paper_sem"] == pytest.approx(0.044 / math.sqrt(3))
    assert (row["tolerance"], row["within"]) == (pytest.approx(2 * math.hypot(row["sem"], row["paper_sem"])), "no")
    lines = [row for row in shown.beside.blocks[0] if row.labels[1] == "FID (GEN) ↓"]
    assert [row.labels[2] for row in lines] == ["paper", "ours", "ours − paper"]
    assert [entry.text for entry in lines[2].entries] == ["+0.686 ✗", "−0.072 ✓"]
    assert "FID std" not in markdown(shown.beside)


def test_the_script_writes_six_files_and_the_tidy_one_holds_all_that_was_measured(tmp_path: Path) -> None:
    made = two_columns(tmp_path / "results")
    params = {"number": 2, "datasets": ["MNIST"], "cells": ["sg", "mog100"], "seeds": [0, 1]}
    inputs = {"results": made.paths, "chosen": made.choose("MNIST")}
    run_script("table.py", inputs, [tmp_path / "table2.csv"], params, [tmp_path / "log"])
    assert len(list(tmp_path.glob("table2*.*"))) == 7  # with the record
    assert "1.250 ± 0.250" in (tmp_path / "table2.md").read_text()
    by_metric = {row["metric"]: row for row in rows(tmp_path / "table2.csv") if row["cell"] == "mog100"}
    assert set(by_metric) == {
        *("r_entropy", "entropy_per_batch", "entropy_pooled", "checkpoint_epoch", *PROBES),
        *("fid_authors_gen", "fid_authors_rec", "fid_gen", "fid_rec"),
    }
    assert by_metric["checkpoint_epoch"]["mean"] == "80.0"
    assert by_metric["entropy_pooled"]["paper_mean"] == ""  # the paper's entropy is another
    assert by_metric["fid_gen"]["paper_mean"] == ""  # and so is its FID
    assert (by_metric["r_entropy"]["mean"], by_metric["r_entropy"]["paper_mean"]) == ("10.0", "10.0")


def test_diverged_seeds_are_counted_and_left_out(tmp_path: Path) -> None:
    made = Results(tmp_path)
    for seed, mog in enumerate((1.0, None, 3.0)):
        for cell, r_entropy, value in (("sg", 0, 2.0), ("mog100", 10, mog), ("mog100-ip", 1, None)):
            made.run("MNIST", cell, r_entropy, seed, measured(value))
    shown = made.shown("2", request(("sg", "mog100", "mog100-ip"), seeds=3))
    row = shown.tidy.query("cell == 'mog100' and metric == 'fid_authors_gen'").iloc[0]
    assert (row["mean"], row["std"], row["n"], row["diverged"]) == (2.0, 1.0, 2, 1)
    assert "**2.000 ± 1.000** (2/3 seeds)" in markdown(shown.table)
    assert "are left out of the mean" in shown.table.caption
    assert [line[2] for line in body(shown.table).values()] == ["1", *["diverged"] * 9]
    assert "One r_entropy was trained per column, hence none chosen." in shown.table.caption
    column = [row.entries[2].text for row in shown.beside.blocks[0]]
    assert column[:6] == ["10", "1", "−9", "0.882 ± 0.003", "diverged", "–"]


# ---- Layout ----


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three seeds around the paper's own means, at the paper's r_entropy; 0.5 worse at another one."""
    table = paper.table(5).set_index(["dataset", "cell", "metric"])["mean"].sort_index()
    made = Results(tmp_path_factory.mktemp("published"))
    for dataset, cell, seed in itertools.product(PAPER_DATASETS, TABLE5, range(3)):
        there = table[dataset, cell]
        values = {"fid_authors_gen": there["fid_gen"], "fid_authors_rec": there["fid_rec"]}
        values |= {"entropy_per_batch": there["responsibility_entropy"], "checkpoint_epoch": 120.0}
        values |= dict(zip(PROBES, there[["svm_2k", "svm_10k", "knn_5", "knn_100"]], strict=True))
        spread = {metric: value + (seed - 1) * 0.001 for metric, value in values.items()}
        made.run(dataset, cell, there["r_entropy"], seed, spread)
        if cell != "sg":
            worse = spread | {"fid_authors_gen": spread["fid_authors_gen"] + 0.5}
            made.run(dataset, cell, there["r_entropy"] + 7, seed, worse)
    return made


def test_table5_of_the_published_numbers_is_the_papers(published: Results) -> None:
    shown = published.shown("5", Request(PAPER_DATASETS, TABLE5, (0, 1, 2)))
    head, lc, ip, *rows = parse_markdown(shown.table)
    assert head[2:] == ["S-IntroVAE, SG", *["S-IntroVAE, MoG(10)"] * 4, *["S-IntroVAE, MoG(100)"] * 4]
    assert "".join(lc[2:]) == "✗✗✗✓✓✗✗✓✓"
    assert "".join(ip[2:]) == "✗✗✓✗✓✗✓✗✓"
    names = ["r_entropy", "Entr.", "FID (GEN) ↓", "FID (REC) ↓"]
    names += ["SVM (few) ↑", "SVM (many) ↑", "KNN (few) ↑", "KNN (many) ↑"]
    assert [row[1] for row in rows] == names * 3
    assert [row[0] for row in rows if row[0]] == list(PAPER_DATASETS)
    assert rows[16][2:] == ["0", "10", "10", "10", "0", "10", "100", "100", "10"]  # CIFAR-10, as printed
    # Bold in the paper's Table 5: columns of the best GEN, and of the best REC.
    lines = [row.entries for block in shown.table.blocks for row in block]
    best = [[place for place, entry in enumerate(entries) if entry.bold] for entries in lines]
    assert [best[row] for row in (2, 10, 18)] == [[8], [7], [6]]
    assert [best[row] for row in (3, 11, 19)] == [[5], [5], [6]]
    assert not any(best[row] for row in (0, 1, 8, 9, 16, 17))
    text = latex.fragment(shown.table)
    assert r"SG & \multicolumn{4}{c}{MoG(10)} & \multicolumn{4}{c}{MoG(100)} \\" in text
    assert r"$r_{\mathrm{entropy}}$ & 0 & 10 & 0 & 1 & 100 & 10 & 10 & 1 & 10 \\" in text
    assert len(shown.compared) == 3 * 9 * 8
    assert shown.compared["difference"].abs().max() < 1e-9
    # Neither r_entropy nor four entropies of 0, which the paper prints without a spread, can be judged.
    unjudged = shown.compared.query("within == 'NA'")["metric"].value_counts().to_dict()
    assert unjudged == {"r_entropy": 27, "entropy_per_batch": 4}
    assert "Of 189 published values 185 can be judged; 185 of these are met." in shown.beside.caption
    assert "standard deviation over three seeds; it may be the standard error" in shown.beside.caption


def test_table2_names_its_probes_by_their_settings(tmp_path: Path) -> None:
    table = two_columns(tmp_path).shown("2", request(svm_iterations=(200, 1000), neighbours=(3, 50))).table
    assert [row.labels[1] for row in table.blocks[0]][-4:] == ["200-SVM ↑", "1K-SVM ↑", "3-NN ↑", "50-NN ↑"]
    assert "SVMs of 200 or 1,000 iterations" in table.caption


# ---- Beside the paper ----


def test_stand_ins_are_never_set_beside_a_published_number(tmp_path: Path) -> None:
    wanted = request(dataset="digits", primary="fd_classifier")
    shown = two_columns(tmp_path, "digits", ("fd_classifier",)).shown("2", wanted)
    assert shown.tidy[["paper_mean", "paper_spread"]].isna().all(axis=None)
    assert {row.labels[0] for row in shown.table.blocks[0]} == {"Digits (stand-in for MNIST)"}
    assert body(shown.table)["FD-classifier (GEN) ↓"] == ["2.100 ± 0.100", "1.250 ± 0.250"]
    assert not re.search(r"\bFID \(", markdown(shown.table))
    assert "no FID, and not to be compared with one" in shown.table.caption
    assert "the lowest mean FD-classifier (GEN)" in shown.table.caption
    assert shown.compared.empty
    assert shown.beside.caption == (
        "Ours is the mean over all seeds that finished, never the best one, ± standard deviation (ddof = 0). The paper "
        "has nothing to set beside Digits (stand-in for MNIST)."
    )
    for paper_line, ours, difference in zip(*[iter(shown.beside.blocks[0])] * 3, strict=True):
        assert {entry.text for entry in (*paper_line.entries, *difference.entries)} == {"–"}
        assert "–" not in {entry.text for entry in ours.entries}


def test_a_classifiers_distance_is_never_compared_on_the_papers_data_either(tmp_path: Path) -> None:
    wanted = request(primary="fd_classifier", svm_iterations=(2000, 500))
    shown = two_columns(tmp_path, features=("fd_classifier",)).shown("5", wanted)
    told = shown.tidy[shown.tidy["paper_mean"].notna()]
    assert set(told["metric"]) == {"entropy_per_batch", "svm_few", "knn_few", "knn_many"}
    lines = {row.labels[1:]: row.entries[1].text for row in shown.beside.blocks[0]}
    for name in ("FD-classifier (GEN) ↓", "r_entropy", "SVM (many) ↑"):
        assert lines[name, "paper"] == "–"
    assert lines["SVM (few) ↑", "paper"] == "0.961 ± 0.002"
    assert "have no counterpart here. FD-classifier is" in shown.beside.caption
    assert "other ones are not compared" in shown.beside.caption


def test_the_texts_protocol_shows_the_literatures_fid(tmp_path: Path) -> None:
    wanted = request(primary="fid", entropy="entropy_pooled")
    shown = two_columns(tmp_path, features=("fid", "fid_authors")).shown("2", wanted)
    assert body(shown.table)["FID (GEN) ↓"] == ["2.100 ± 0.100", "1.250 ± 0.250"]
    assert body(shown.table)["Entr."] == ["0.600 ± 0.000"] * 2
    assert "FID std" not in markdown(shown.table)
    assert "in evaluation mode, as in the literature" in shown.table.caption
    assert "of the whole test split" in shown.table.caption
    lines = {row.labels[1:]: row.entries[1].text for row in shown.beside.blocks[0]}
    assert {lines[name, "paper"] for name in ("FID (GEN) ↓", "FID (REC) ↓", "Entr.", "r_entropy")} == {"–"}
    assert lines["5-NN ↑", "paper"] == "0.916 ± 0.007"
    assert "Entr. is taken per batch" in shown.beside.caption


def test_every_stand_in_says_so() -> None:
    for name, entry in DATASETS.items():
        assert ("stand-in for" in entry.title) is (entry.stand_in_for is not None), name


# ---- Bad input ----


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    made = two_columns(tmp_path)
    paths, chosen = made.paths, made.choose("MNIST")
    metrics = [path for path in paths if path.name == "metrics.csv"]
    without = [path for path in paths if "r10" not in path.parts]
    for paths_, chosen_, wanted, *said in (
        (metrics, chosen, request(), "no svm_few in the results"),
        (paths, chosen, request(("mog100",), seeds=3), "MNIST, mog100: ", " of seeds 0, 1 found, 0, 1, 2 wanted"),
        (paths, chosen, request(("sg", "mog10")), "no r_entropy chosen for MNIST, mog10;"),
        (without, chosen, request(), "MNIST, mog100: none at r_entropy 10, which r_entropy"),
        ([*paths, paths[0]], chosen, request(), "seed 0 stands in ", " already"),
        (paths, [], request(), "no r_entropy.json given"),
    ):
        refused(partial(comparison.tables, "2", wanted, paths_, chosen_), *said)


@pytest.mark.parametrize("content", ["[]", "{}", '{"dataset": "MNIST", "metric": "fid_gen", "cells": {"sg": {}}}'])
def test_damaged_choices(tmp_path: Path, content: str) -> None:
    (path := tmp_path / "r_entropy.json").write_text(content)
    refused(lambda: read.choices([path]), "r_entropy.json: not a choice of r_entropy")


# ---- LaTeX ----


@needs_pdflatex
def test_all_tables_fit_on_a_page_each_of_one_pdf_with_the_same_bytes(tmp_path: Path, published: Results) -> None:
    scale = "Test scale: the paper's own numbers."
    chosen = published.choose(*PAPER_DATASETS)
    paths, wanted = full_table1(tmp_path / "results")
    choices = [write_choice(tmp_path / "results", dataset) for dataset in wanted.datasets]
    comparison.write("1", wanted, tmp_path, paths)
    comparison.write("3", Request(wanted.datasets, ("sg",), scale=scale), tmp_path, choices)
    for number, cells in (("2", TABLE2), ("5", TABLE5)):
        wanted = Request(PAPER_DATASETS, cells, (0, 1, 2), scale=scale)
        comparison.write(number, wanted, tmp_path, published.paths, chosen)
    files = [tmp_path / f"table{number}{kind}.tex" for number in "1235" for kind in ("", "_vs_paper")]
    run_script("tables_pdf.py", {"tables": files}, [tmp_path / "a.pdf"], log=[tmp_path / "log"])
    latex.compile_tables(files, tmp_path / "b.pdf")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    if shutil.which("pdftotext"):
        layout = ["pdftotext", "-layout", str(tmp_path / "a.pdf"), "-"]
        pages = subprocess.run(layout, capture_output=True, text=True, check=True).stdout.split("\f")[:-1]
        found = [re.findall(r"^\s*(Table [^:]*):", page, re.MULTILINE) for page in pages]
        assert found == [[f"Table {number}{kind}"] for number in "1235" for kind in ("", ", beside the paper")]
        for page, last in zip(pages, (["Rings"] * 2 + ["CIFAR-10"] * 2) * 2, strict=True):
            assert last in page  # the last block
            assert page.rstrip().endswith(("numbers.", "comparable.")) or "bold." in page  # the whole caption
