"""Tables: numbers against computations by hand, what they say of themselves, and what they refuse."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pandas as pd
import pytest
import yaml

from introprior import paper
from introprior.experiment.cells import TABLE1_CELLS, TABLE4_SETTINGS
from introprior.experiment.config import Configuration, load
from introprior.metrics import registry
from introprior.operations.files import write_csv
from introprior.reporting import read
from introprior.reporting.job import logged
from introprior.reporting.tables import captions, comparison, latex
from introprior.reporting.tables.layout import Entry, Heading, Row, Table, markdown
from introprior.reporting.tables.sheets import Request
from tests.commands import refused
from tests.scripts import run_script

ROOT = Path(__file__).parents[1]
COLUMNS = ("dataset", "cell", "seed", "metric", "value", "status", "detail")
pytestmark = pytest.mark.usefixtures("published_metrics")

DATASETS, METRICS = ("8Gaussian", "2Spirals", "Checkerboard", "Rings"), ("gnELBO", "KL", "JSD")
TIDY = "dataset,cell,metric,mean,std,sem,n,diverged,paper_mean,paper_spread"
TABLE4_CELLS = tuple(TABLE4_SETTINGS.values())
needs_pdflatex = pytest.mark.skipif(not latex.pdflatex_available(), reason="pdflatex is not installed")

Values = Mapping[str, Sequence[float | None]]


def write_metrics(folder: Path, dataset: str, cell: str, values: Values) -> Path:
    """A metrics.csv: of each metric the values of seeds 0, 1, ...; None where the run diverged."""
    path, rows = folder / dataset / cell / "metrics.csv", []
    for metric, sequence in values.items():
        for seed, value in enumerate(sequence):
            fate = ("diverged", "encoder loss not finite, iteration 12") if value is None else ("ok", "")
            rows.append(dict(zip(COLUMNS, (dataset, cell, seed, metric, value, *fate), strict=True)))
    write_csv(path, rows, COLUMNS)
    return path


def write_choice(folder: Path, dataset: str, cell: str = "sg", **changes: Any) -> Path:
    choice = {"dataset": dataset, "cell": cell, "beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9, "source": "search"}
    choice |= {"settings": 210, "diverged": 3, "KL": 8.1}
    path = folder / dataset / cell / "hyperparameters.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(choice | changes))
    return path


def alike(gnelbo: float = 6.0, kl: float = 10.0, jsd: float = 4.0, seeds: int = 3) -> dict[str, list[float | None]]:
    """The same values for every seed, with a known spread in KL: 0 in all but the first two seeds."""
    spread = [kl - 0.3, kl + 0.3, *[kl] * (seeds - 2)][:seeds]
    return {"gnELBO": [gnelbo] * seeds, "KL": [*spread], "JSD": [jsd] * seeds}


def request(cells: Sequence[str] = ("sg",), seeds: int = 3, dataset: str = "Rings", **more: str) -> Request:
    return Request((dataset,), tuple(cells), tuple(range(seeds)), **more)


def made(number: str, paths: Sequence[Path], wanted: Request, chosen: Sequence[Path] = ()) -> SimpleNamespace:
    """A table's tidy numbers and layout, and those beside the paper's."""
    (tidy, table), (compared, beside) = comparison.tables(number, wanted, paths, chosen)
    return SimpleNamespace(tidy=tidy, table=table, compared=compared, beside=beside)


def table1(folder: Path, cells: Mapping[str, Values], seeds: int = 3, dataset: str = "Rings", **more: str) -> Any:
    """Table 1 of one dataset, `made` of the values of each cell."""
    paths = [write_metrics(folder, dataset, cell, values) for cell, values in cells.items()]
    return made("1", paths, request(list(cells), seeds, dataset, **more))


def parse_markdown(table: Table) -> list[list[str]]:
    """Rows of the pipe table, without the rule under the head."""
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert set("".join(rows[1])) <= set(":-")
    assert len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


# ---- Numbers ----


def test_mean_and_spreads_are_those_computed_by_hand_without_the_seeds_that_diverged(tmp_path: Path) -> None:
    kl = [10.0, 11.5, 9.25, 10.75, 12.0]
    some = [9.0, None, 12.0, None, float("nan")]  # a metric that is undefined counts as diverged
    values = {cell: alike(seeds=5) | {"KL": found} for cell, found in (("sg", kl), ("mog64", some))}
    shown = table1(tmp_path, values | {"mog64-lc": dict.fromkeys(METRICS, [None] * 5)}, seeds=5)
    found = shown.tidy.query("metric == 'KL'").set_index("cell")
    std = statistics.pstdev(kl)  # ddof = 0
    wanted = (statistics.fmean(kl), std, std / math.sqrt(5), 5, 0, 9.99, 0.59)
    names = ["mean", "std", "sem", "n", "diverged", "paper_mean", "paper_spread"]
    assert tuple(found.loc["sg", names]) == pytest.approx(wanted)
    assert tuple(found.loc["mog64", ["mean", "std", "n", "diverged"]]) == (10.5, 1.5, 2, 3)
    assert math.isnan(found.loc["mog64-lc", "mean"])
    assert tuple(found.loc["mog64-lc", ["n", "diverged"]]) == (0, 5)
    assert "**10.50 ± 1.50** (2/5 seeds)" in markdown(shown.table)
    assert "(2/5 seeds)" in latex.fragment(shown.table)
    assert [row[-1] for row in parse_markdown(shown.table)[-3:]] == ["diverged"] * 3
    assert "diverged are left out of the mean" in shown.table.caption
    assert shown.compared.query("cell == 'mog64-lc'")["within"].tolist() == ["NA"] * 3
    assert "diverged" in markdown(shown.beside)


@pytest.mark.parametrize(
    ("seeds", "spread", "entry", "said"),
    [
        (4, "std", "10.00 ± 1.00", "standard deviation (ddof = 0) over 4 seeds."),
        (4, "sem", "10.00 ± 0.50", "standard error of the mean (standard deviation with ddof = 0, divided by √n)"),
        (1, "std", "9.00", "One seed, hence no spread."),
    ],
)
def test_spread_is_shown_and_named(tmp_path: Path, seeds: int, spread: str, entry: str, said: str) -> None:
    values = alike(seeds=seeds) | {"KL": [9.0, 9.0, 11.0, 11.0][:seeds]}
    shown = table1(tmp_path, {"sg": values}, seeds, spread=spread)
    assert parse_markdown(shown.table)[-2][-1] == f"**{entry}**"
    assert said in shown.table.caption
    assert ("±" in shown.table.caption) == (seeds > 1)
    if seeds == 1:
        assert shown.tidy[["std", "sem"]].isna().all(axis=None)
        assert set(shown.compared["within"]) == {"NA"}
        assert "None of 3 published values can be judged." in shown.beside.caption


# ---- Metrics ----


def test_the_registry_knows_every_metric_of_the_paper_once() -> None:
    for number in ("1", "2", "4", "5"):
        here = [metric.paper for metric in registry.METRICS.values() if number in metric.tables and metric.paper]
        assert sorted(here) == sorted(set(paper.table(number)["metric"]))
    assert tuple(registry.DISTANCES) == ("fid_authors", "fid", "fd_classifier")
    assert registry.ENTROPIES == ("entropy_per_batch", "entropy_pooled")
    assert {metric.direction for metric in registry.METRICS.values()} == {"↓", "↑", ""}
    refused(lambda: registry.metric("KLD", "somewhere"), "somewhere: unknown metric 'KLD'; did you mean 'KL'?")


def test_every_entry_names_what_computes_it() -> None:
    for entry in registry.METRICS.values():
        if entry.function:
            assert callable(entry.load(Configuration().images.probes)), entry.name
        if entry.setting:
            assert entry.number(Configuration().images.probes) > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "sample"}, "its kind is one of samples, energies, "),
        ({"kind": "samples"}, "of kind 'samples' it needs a function"),
        ({"function": "density:gnelbo"}, "of kind '' it has no function"),
        ({"direction": "down"}, "its direction is ↓, ↑ or empty"),
        ({"tables": ("9",)}, 'its tables are a tuple of "1" to "5"'),
        ({"tables": "1"}, 'its tables are a tuple of "1" to "5"'),
        ({"setting": ("neighbours", 0)}, "only a probe has a setting"),
    ],
)
def test_a_wrong_entry_is_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"metric mine: {re.escape(said)}"):
        registry.Metric("mine", **wrong)


def test_a_name_is_entered_once() -> None:
    for name in ("KL", "KL_floor"):
        with pytest.raises(ValueError, match=f"metric {name}: there is one of that name"):
            registry.known([*(registry.METRICS[each] for each in ("KL", "JSD")), registry.Metric(name)])


def test_an_entry_is_all_that_a_metric_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Metric("coverage", "↑", "Cov.", tables=("1",), paper="KL", decimals=1)
    monkeypatch.setitem(registry.METRICS, "coverage", entry)
    monkeypatch.setitem(registry.METRICS, "KL", dataclasses.replace(registry.METRICS["KL"], paper="", tables=()))
    values = {cell: alike(v, v, v) | {"coverage": [v] * 3} for cell, v in (("sg", 1.0), ("mog64", 2.0))}
    shown = table1(tmp_path, values)
    assert [row.labels[1] for row in shown.table.blocks[0]] == ["gnELBO ↓", "JSD ↓", "Cov. ↑"]
    assert [entry.text for entry in shown.table.blocks[0][2].entries] == ["1.0 ± 0.0", "2.0 ± 0.0"]
    best = [[entry.bold for entry in row.entries] for row in shown.table.blocks[0]]
    assert best[1:] == [[True, False], [False, True]]  # the arrow decides
    assert shown.compared.query("metric == 'coverage'")["paper_mean"].tolist() == [9.99, 10.07]
    assert "KL" in set(shown.tidy["metric"])


# ---- Layout ----


def full_table1(folder: Path) -> tuple[list[Path], Request]:
    published = paper.table(1).set_index(["dataset", "cell", "metric"])["mean"]
    runs = itertools.product(DATASETS, TABLE1_CELLS)
    paths = [write_metrics(folder, *run, alike(*(published[*run, metric] for metric in METRICS))) for run in runs]
    return paths, Request(DATASETS, TABLE1_CELLS, (0, 1, 2), scale="Demo scale: not comparable.")


def test_table1_is_laid_out_as_in_the_paper_and_met_by_its_own_numbers(tmp_path: Path) -> None:
    shown = made("1", *full_table1(tmp_path))
    head, lc, ip, *body = parse_markdown(shown.table)
    assert head[2:] == ["VAE, SG", "S-IntroVAE, SG", *["S-IntroVAE, MoG(64)"] * 4]
    assert lc == ["", "LC", "✗", "✗", "✗", "✗", "✓", "✓"]
    assert ip == ["", "IP", "✗", "✗", "✗", "✓", "✗", "✓"]
    assert [row[0] for row in body if row[0]] == ["8Gaussian", "2Spirals", "Checkerboard", "Rings"]
    assert [row[1] for row in body] == ["gnELBO ↓", "KL ↓", "JSD ↓"] * 4
    # The paper's own best: the lowest of each row, e.g. 0.25 of 8Gaussian's gnELBO in the fifth column.
    best = [row.index(entry) for row in body for entry in row if entry.startswith("**")]
    assert best == [*(6, 3, 3), *(6, 7, 5), *(3, 7, 7), *(3, 5, 3)]
    text = latex.fragment(shown.table)
    assert r"VAE & \multicolumn{5}{c}{S-IntroVAE} \\ \cmidrule(lr){4-8}" in text
    assert r"SG & SG & \multicolumn{4}{c}{MoG(64)} \\ \cmidrule(lr){5-8}" in text
    assert r"LC & $\times$ & $\times$ & $\times$ & $\times$ & $\checkmark$ & $\checkmark$ \\" in text
    assert r"8Gaussian & gnELBO $\downarrow$ & 7.48 $\pm$ 0.00" in text
    assert text.count(r"\midrule") == 4
    assert shown.table.caption.count("Demo scale: not comparable.") == 1
    assert len(shown.compared) == 72
    assert set(shown.compared["within"]) == {"yes"}
    assert shown.compared["difference"].abs().max() < 1e-9
    assert "Of 72 published values 72 can be judged; 72 of these are met." in shown.beside.caption
    assert "−0.00" not in markdown(shown.beside)


def test_ties_are_bold_together_as_printed(tmp_path: Path) -> None:
    means = {"sg": 2.001, "mog64": 2.004, "mog64-lc": 2.006}
    paths = [write_metrics(tmp_path, "Rings", cell, alike(kl=kl)) for cell, kl in reversed(means.items())]  # any order
    paths.append(write_metrics(tmp_path, "8Gaussian", "sg", alike()))  # and more than asked
    table = made("1", paths, request(list(means))).table
    assert [row.labels[0] for block in table.blocks for row in block] == ["Rings"] * 3
    gnelbo, kl, _ = ([entry.bold for entry in row.entries] for row in table.blocks[0])
    assert gnelbo == [True, True, True]
    assert kl == [True, True, False]
    assert latex.fragment(table).count(r"\textbf{\boldmath 2.00 $\pm$") == 2


def test_cells_that_the_paper_lacks_have_no_published_value(tmp_path: Path) -> None:
    shown = table1(tmp_path, {"mog16-ip": alike()})
    assert shown.tidy["paper_mean"].isna().all()
    assert parse_markdown(shown.table)[0][-1] == "S-IntroVAE, MoG(16)"
    assert shown.compared.empty
    assert "published values" not in shown.beside.caption


def test_table4_quotes_what_it_did_not_measure(tmp_path: Path) -> None:
    paths = [write_metrics(tmp_path, "Rings", cell, alike(9.0, 19.0, 9.0)) for cell in TABLE4_CELLS]
    shown = made("4", paths, request(TABLE4_CELLS))
    head, kl_kind, *body = parse_markdown(shown.table)
    assert head[2:4] == ["quoted from the paper, reported", "quoted from the paper, official (reproduced)"]
    assert head[4:] == [f"measured here, ours ({kind})" for kind in ("reproduced", "reproduced", "replicated")]
    assert kl_kind[1:] == ["KL calculation", "c", "c", "c", "s", "s"]
    assert body[1][1:] == ["KL ↓", "9.18 ± 0.33 †", "10.67 ± 0.50 †", *["**19.00 ± 0.24**"] * 3]
    assert "marked † are quoted" in shown.table.caption
    quoted = shown.tidy[shown.tidy["cell"].isin(paper.QUOTED_SETTINGS)]
    assert len(quoted) == 6
    assert quoted[["mean", "std", "sem", "n", "diverged"]].isna().all(axis=None)
    assert quoted["paper_mean"].notna().all()
    assert set(shown.compared["cell"]) == set(TABLE4_CELLS)
    assert len(shown.compared) == 9


# ---- Table 3 ----


def test_table3_shows_choice_default_and_origin(tmp_path: Path) -> None:
    unsearched = {"source": "table3", "settings": None, "diverged": None, "KL": None}
    paths = [
        write_choice(tmp_path, "8Gaussian"),
        write_choice(tmp_path, "Rings", beta_kl=0.2, beta_neg=0.8, diverged=0),
        write_choice(tmp_path, "2Spirals", beta_kl=0.05, beta_neg=0.2, **unsearched),
    ]
    shown = made("3", paths, Request(("8Gaussian", "2Spirals", "Rings"), ("sg",)))
    assert parse_markdown(shown.table) == [
        ["2D dataset", "prior", "β_rec", "β_kl", "β_neg", "origin"],
        ["8Gaussian", "SG", "0.2 (0.2)", "0.3 (0.3)", "0.9 (0.9)", "grid search, 210 settings, 3 diverged"],
        ["2Spirals", "SG", "0.2 (0.2)", "0.05 (0.5)", "0.2 (1)", "published (Table 3)"],
        ["Rings", "SG", "0.2 (0.2)", "0.2 (0.2)", "0.8 (1)", "grid search, 210 settings"],
    ]
    assert r"$\beta_{\mathrm{rec}}$ & $\beta_{\mathrm{kl}}$ & $\beta_{\mathrm{neg}}$" in latex.fragment(shown.table)
    assert ",".join(shown.tidy.columns).startswith(TIDY)
    answers = {(row.dataset, row.metric): row.within for row in shown.compared.itertuples()}
    assert {answers["8Gaussian", name] for name in paper.HYPERPARAMETERS} == {"yes"}
    assert {answers["2Spirals", name] for name in paper.HYPERPARAMETERS} == {"NA"}  # copied, so it proves nothing
    assert [answers["Rings", name] for name in paper.HYPERPARAMETERS] == ["yes", "yes", "no"]
    difference = shown.compared.query("dataset == 'Rings' and metric == 'beta_neg'")["difference"]
    assert difference.item() == pytest.approx(0.2)


def test_table3_of_other_cells(tmp_path: Path) -> None:
    paths = [write_choice(tmp_path, "Rings", "vae-sg", beta_neg=None), write_choice(tmp_path, "Rings", "mog64-ip")]
    shown = made("3", paths, request(["vae-sg", "mog64-ip"]))
    assert [row[:5] for row in parse_markdown(shown.table)[1:]] == [
        ["Rings", "VAE SG", "0.2", "0.3", "–"],
        ["", "MoG(64)+IP", "0.2", "0.3", "0.9"],
    ]
    assert shown.compared.empty
    assert not shown.beside.blocks


# ---- Beside the paper ----


@pytest.mark.parametrize(("offset", "answer"), [(0.999, "yes"), (-0.999, "yes"), (1.001, "no"), (-1.001, "no")])
def test_within_compares_with_twice_the_combined_standard_error(tmp_path: Path, offset: float, answer: str) -> None:
    """8Gaussian, SG, KL is 1.23 ± 0.11 over five seeds in the paper."""
    half = 0.05  # our spread over four seeds, as two pairs around the mean
    tolerance = 2 * math.sqrt((half / 2) ** 2 + (0.11 / math.sqrt(5)) ** 2)
    mean = 1.23 + offset * tolerance
    values = alike(seeds=4) | {"KL": [mean - half, mean - half, mean + half, mean + half]}
    shown = table1(tmp_path, {"sg": values}, seeds=4, dataset="8Gaussian")
    row = shown.compared.query("metric == 'KL'").iloc[0]
    assert row["paper_sem"] == pytest.approx(0.11 / math.sqrt(5))
    assert row["tolerance"] == pytest.approx(tolerance)
    assert row["difference"] == pytest.approx(offset * tolerance)
    assert row["within"] == answer
    line = parse_markdown(shown.beside)[3:][5]
    assert line[2] == "ours − paper"
    assert line[-1].endswith({"yes": "✓", "no": "✗"}[answer])


def test_comparison_sets_published_ours_and_difference_below_one_another(tmp_path: Path) -> None:
    values = {"gnELBO": [6.0, 6.2, 6.1], "KL": [20.0, 21.0, 22.0], "JSD": [4.05, 4.05, 4.05]}
    table = table1(tmp_path, {"sg": values}, scale="Demo scale: tiny.").beside
    assert [row[-1] for row in parse_markdown(table)[3:]] == [
        *("6.03 ± 0.12", "6.10 ± 0.08", "+0.07 ✓"),
        *("9.99 ± 0.59", "21.00 ± 0.82", "+11.01 ✗"),
        *("4.05 ± 0.15", "4.05 ± 0.00", "+0.00 ✓"),
    ]
    assert "twice the combined standard error" in table.caption
    assert "standard deviation over five seeds" in table.caption
    assert "never the best one" in table.caption
    assert "Of 3 published values 3 can be judged; 2 of these are met." in table.caption
    assert table.caption.endswith("Demo scale: tiny.")


# ---- Captions ----

CONFIG = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
SAME, UNLIKE, NOT = captions.PAPER_SCALE, "Unlike the published runs:", ": not comparable with the paper."
WIDTHS = {"MNIST": {"batch_size": 64, "widths": [4, 8]}}


@pytest.mark.parametrize(
    ("half", "changes", "expected"),
    [
        ("density", {"training": {"iterations": 300}, "seeds": [0, 1]},
         f"Demo run scale: 300 iterations instead of 30,000 and 2 seeds instead of 5{NOT}"),
        ("density", {"seeds": (0, 1, 2, 3, 4)}, SAME),
        ("density", {"seeds": [5, 6, 7, 8, 9]}, f"{UNLIKE} seeds 5/6/7/8/9 instead of 0/1/2/3/4."),
        ("density", {"search": {"cells": ["sg"]}}, f"{UNLIKE} hyperparameters searched for sg cells instead of all."),
        ("density", {"protocol": "text", "loss_scale": "none"},
         f"{UNLIKE} protocol text instead of authors and loss_scale none."),
        ("images", {"training": {"epochs": 6, "warmup_epochs": 3}, "seeds": [0, 1]},
         f"Demo run scale: 6 epochs instead of 220, 2 seeds instead of 3 and 3 warm-up epochs instead of 20{NOT}"),
        ("images", {"stand_ins": ["digits"], "evaluation": {"features": "classifier", "samples": 1000}},
         "Demo run scale: stand-ins digits, distances by classifier features instead of inception and distances of "
         f"1,000 images instead of 50,000{NOT}"),
        ("images", {"by_dataset": WIDTHS},
         f"Demo run scale: networks 4/8 wide (MNIST) instead of 64/128 and batches of 64 (MNIST) instead of 128{NOT}"),
    ],
)  # fmt: skip
def test_scale_sentence(half: str, changes: dict[str, Any], expected: str) -> None:
    paper_ = CONFIG[half] | {"protocol": "authors"}
    ours = paper_ | {k: paper_[k] | v if isinstance(paper_.get(k), dict) else v for k, v in changes.items()}
    if "by_dataset" in changes:
        ours["by_dataset"]["MNIST"] = paper_["by_dataset"]["MNIST"] | WIDTHS["MNIST"]
    assert captions.scale_sentence("demo-run", ours, paper_) == expected


def test_a_search_that_is_off_counts_as_one_difference() -> None:
    search = {"enabled": False, "beta_rec": [0.2], "members_per_job": 7}
    ours, theirs = (captions.density_settings(c, ["search"]) for c in (load({"density": {"search": search}}), load({})))
    sentence = captions.scale_sentence("demo", ours, theirs)
    assert sentence == f"{UNLIKE} hyperparameter search off instead of on."


def test_scale_sentence_counts_what_it_cannot_list() -> None:
    training = {name: 7 for name in CONFIG["density"]["training"] if name != "iterations"}
    ours = CONFIG["density"] | {"training": CONFIG["density"]["training"] | training}
    sentence = captions.scale_sentence("demo", ours, CONFIG["density"])
    assert sentence.count(" instead of ") == captions.LISTED
    assert f"and {len(training) - captions.LISTED} more settings: not comparable" in sentence
    assert "batches of 7 instead of 512" in sentence


REPORT = sorted((ROOT / "workflow" / "report").glob("*.rst"))
CAPTIONS = {path.stem: (path.stem, {}) for path in REPORT}
CAPTIONS |= {f"table{n}": (f"table{file}", {"number": n}) for n, file in ((1, 1), (2, 2), (4, 1), (5, 2))}
CAPTIONS |= {f"figure{n}": ("figure5", {"figure": f"figure{n}"}) for n in (5, 6)}
"""By what they are of: the file, and what it is told where several share one."""


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_of_the_report_read_the_configuration(name: str) -> None:
    file, told = CAPTIONS[name]
    config = copy.deepcopy(CONFIG)
    config["experiment"], config["density"]["training"]["iterations"] = "trial", 123
    config["images"]["training"]["epochs"], config["images"]["evaluation"]["samples"] = 45, 678
    config["figure2"]["dataset"] = config["figureS2"]["dataset"] = "digits"
    params = SimpleNamespace(metric="fid_authors_gen", clip_steepness=7.5, **told)
    job = SimpleNamespace(config=config, params=params, wildcards=SimpleNamespace(dataset="digits"))
    text = (ROOT / "workflow" / "report" / f"{file}.rst").read_text()
    template = jinja2.Template(text, undefined=jinja2.StrictUndefined)
    said = " ".join(template.render(snakemake=job).split())
    if told:
        assert said.startswith(f"{name[:-1].capitalize()} {name[-1]}, ")
    assert "{" not in said
    assert ("digits" in said) == ("digits (stand-in for MNIST)" in said)
    assert ("7.5 [10]" in said) == (name == "figureS3")
    density, images = ("table1", "table3", "table4", "figure3", "search"), ("table2", "table5", "tables", "figure4")
    assert ("``trial``" in said) == (name not in ("figureS3", "theory"))
    assert ("123 iterations [30000]" in said) == (name in (*density, "tables"))
    assert ("678 images on each side of a distance [50000]" in said) == (name in (*images, "figure2"))
    assert ("45 epochs [220]" in said) or name in (*density, "figure2", "figureS3", "claims", "theory")
    assert ("Inception in training mode" in said) == (name in ("table2", "table5", "figure2", "figure4"))
    config["images"]["evaluation"]["features"] = "classifier"
    other = " ".join(template.render(snakemake=job).split())
    assert ("It is no FID" in other) == (name in ("table2", "table5", "figure2", "figure4"))
    assert "fid_authors" not in other


# ---- LaTeX ----


def test_escape_maps_signs_and_keeps_words() -> None:
    assert latex.escape("50% of a_b & {c} #1 $x$ ~^\\") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex.escape("KL ↓ 1 ± 2 ✓ ✗ −3") == r"KL $\downarrow$ 1 $\pm$ 2 $\checkmark$ $\times$ $-$3"
    assert latex.escape("β_neg, β_kl") == r"$\beta_{\mathrm{neg}}$, $\beta_{\mathrm{kl}}$"
    assert latex.escape("実験") == "U+5B9FU+9A13"


def tiny_table(text: str) -> Table:
    rows = (Row(("a", "b"), (Entry(text, bold=True), Entry("2", note=text))),)
    return Table("9", "tiny", text, ("", text), (Heading("", ("one", "one")), Heading(text, ("x", "y"))), (rows, rows))


@needs_pdflatex
def test_every_character_compiles(tmp_path: Path) -> None:
    printable = "".join(map(chr, range(0x20, 0x7F)))
    text = printable + "".join(latex._SIGNS) + "é ü ß 実 😀"
    (tmp_path / "table1.tex").write_text(latex.fragment(tiny_table(text)))
    latex.compile_tables([tmp_path / "table1.tex"], tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF-")


@needs_pdflatex
def test_latex_errors_are_one_line(tmp_path: Path) -> None:
    (broken := tmp_path / "table1.tex").write_text(r"\begin{tabular}{l} \undefinedcommand")
    said = "all.pdf: pdflatex failed (Undefined control sequence.)"
    refused(lambda: latex.compile_tables([broken], tmp_path / "all.pdf"), said)
    assert not (tmp_path / "all.pdf").exists()


def test_without_pdflatex_the_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not latex.pdflatex_available()
    refused(lambda: latex.compile_tables([], tmp_path / "all.pdf"), "texlive-latex-recommended")


# ---- Bad input ----

GOOD = "dataset,cell,seed,metric,value,status,detail\nRings,sg,0,KL,1.5,ok,\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no column 'dataset'"),
        (GOOD.splitlines()[0] + "\n", "cut short"),
        (GOOD.replace(",status", ",state"), "no column 'status'"),
        (GOOD[:-7], "line 2: cut short or malformed"),
        (GOOD[:-1], "cut short"),
        (GOOD + "Rings,sg,1,KL\n", "line 3: cut short or malformed"),
        (GOOD + "Rings,sg,1,KL,1,ok,a,b\n", "line 3: cut short or malformed"),
        (GOOD.replace("KL", "KLD"), "line 2: unknown metric 'KLD'; did you mean 'KL'?"),
        (GOOD.replace("ok", "o"), "line 2: unknown status 'o'"),
        (GOOD.replace("1.5", "one"), "line 2: could not convert string to float: 'one'"),
        (GOOD.replace(",0,", ",zero,"), "line 2: invalid literal for int() with base 10: 'zero'"),
        (GOOD + GOOD.splitlines()[1] + "\n", "line 3: KL of Rings, sg, seed 0 stands in {path}, line 2 already"),
        (None, "cannot read (No such file"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_damaged_metrics_are_one_line_that_names_the_file(tmp_path, content: str | bytes | None, said: str) -> None:
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    where = f"{path}, " if said.startswith("line") else f"{path}: "
    refused(lambda: read.metrics([path]), where + said.format(path=path), "; ")  # what is wrong; what to do


def test_no_files_are_an_error() -> None:
    for reader in (read.metrics, read.hyperparameters, read.slices, read.distances, read.histories, read.choices):
        refused(partial(reader, []), "given; name at least one dataset and one cell")


def test_missing_seeds_cells_and_metrics_are_refused(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, "Rings", "sg", alike())
    uneven = write_metrics(tmp_path, "8Gaussian", "sg", alike() | {"KL": [1.0, 2.0]})
    others = write_metrics(tmp_path, "2Spirals", "sg", {"KL": [1.0, 2.0, 3.0]})
    for paths, wanted, said in (
        ([path], request(seeds=4), "Rings, sg: gnELBO of seeds 0, 1, 2 found, 0, 1, 2, 3 wanted"),
        ([path], request(seeds=2), "Rings, sg: gnELBO of seeds 0, 1, 2 found, 0, 1 wanted"),
        ([path], request(["mog64"]), "Rings, mog64: gnELBO of seeds none found"),
        ([uneven], request(dataset="8Gaussian"), "8Gaussian, sg: KL of seeds 0, 1 found, 0, 1, 2 wanted"),
        ([others], request(dataset="2Spirals"), "no gnELBO in the results"),
    ):
        refused(partial(made, "1", paths, wanted), said)


def test_damaged_and_missing_hyperparameters(tmp_path: Path) -> None:
    path = write_choice(tmp_path, "Rings")
    good = path.read_text()
    refused(lambda: made("3", [path], request(dataset="8Gaussian")), "no hyperparameters of 8Gaussian, sg")
    for content, *said in (
        (good.replace("search", "guess"), "not hyperparameters ", "'source': 'guess'", "; delete it"),
        (good.replace("0.3", '"much"'), "not hyperparameters ", "'much'"),
        ("[]", "not hyperparameters"),
        (good[:20], "not valid JSON"),
    ):
        path.write_text(content)
        refused(lambda: read.hyperparameters([path]), f"hyperparameters.json: {said[0]}", *said)


def test_interrupted_writing_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = partial(comparison.write, "1", request(), tmp_path / "tables")
    results = [write_metrics(tmp_path, "Rings", "sg", alike())]
    write(results)
    before = {path: path.read_bytes() for path in (tmp_path / "tables").iterdir()}

    def full_disk(self: pd.DataFrame, path: Path, **options: Any) -> None:
        Path(path).write_text("dataset,ce")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    refused(lambda: write(results), "table1.csv: cannot write (No space left on device)")
    assert {path: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == before
    assert len(before) == 6


# ---- Scripts of the workflow ----


def test_table_script_writes_six_files_or_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"number": 1, "datasets": ["Rings"], "cells": ["sg"], "seeds": [0, 1, 2], "spread": "std", "scale": ""}
    output, log = tmp_path / "table1.csv", tmp_path / "logs" / "table1.log"
    with pytest.raises(SystemExit) as caught:
        run_script("table.py", {"results": [tmp_path / "gone.csv"]}, [output], params, [log])
    assert caught.value.code == 2
    assert re.fullmatch(r"introprior: .*gone\.csv: cannot read .*\n", log.read_text())
    assert capsys.readouterr().err == log.read_text()
    assert not list(tmp_path.glob("table1*"))
    values = alike() | {"JSD_nats": [0.2, 0.3, 0.4], "KL_floor": [7.8] * 3, "JSD_floor": [3.62] * 3}
    run_script("table.py", {"results": [write_metrics(tmp_path, "Rings", "sg", values)]}, [output], params, [log])
    assert log.read_text() == ""
    files = {f"table1{kind}.{suffix}" for kind in ("", "_vs_paper") for suffix in ("csv", "md", "tex")}
    assert {path.name for path in tmp_path.glob("table1*")} == files | {"table1.csv.provenance.json"}
    record = json.loads((tmp_path / "table1.csv.provenance.json").read_text())
    assert (record["command"], record["options"]["seeds"], len(record["inputs"])) == ("table", [0, 1, 2], 1)
    lines = output.read_text().splitlines()
    assert lines[0] == TIDY
    records = {row["metric"]: row for row in csv.DictReader(lines)}
    assert list(records) == ["gnELBO", "KL", "JSD", "JSD_nats", "KL_floor", "JSD_floor"]
    assert float(records["JSD_nats"]["mean"]) == pytest.approx(0.3)
    assert (records["JSD_nats"]["paper_mean"], records["JSD_nats"]["n"]) == ("", "3")
    caption = (tmp_path / "table1.md").read_text().splitlines()[0]
    assert "Two samples of the data itself score on average: Rings KL 7.80, JSD 3.62." in caption


def test_unexpected_errors_leave_their_traceback_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), logged(str(tmp_path / "a.log")):
        print(1 / 0)
    assert "ZeroDivisionError" in (tmp_path / "a.log").read_text()
