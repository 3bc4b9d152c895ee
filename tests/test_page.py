"""The results page of a small experiment that was run for real: finished, diverged and missing runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from introprior.experiment.config import load
from introprior.experiment.paths import Paths
from introprior.operations import dag
from introprior.reporting.figures import draw
from introprior.reporting.figures.style import save
from introprior.reporting.page import claimed, shown
from introprior.reporting.tables.comparison import write
from introprior.reporting.tables.sheets import Request
from tests import commands, pages
from tests.commands import assert_refused, do, evaluating, training

introprior = commands.introprior  # a fixture

CONFIGURATION = {
    "experiment": "pages",
    "density": {"datasets": ["8Gaussian"], "seeds": [0, 1]},
    "tables": {"table1": ["sg", "mog4-lc-ip"]},
    "figure3": {"cells": ["sg", "mog4-lc-ip"]},
    "page": {"tables": [1, 4], "figures": ["figure3", "figureS3"]},
}
TRAINING = {"iterations": 30, "warmup_iterations": 10, "mixture_warmup_iterations": 5, "batch_size": 16}
TRAINING |= {"monte_carlo_samples": 2, "hidden_width": 8}
BETAS = {"sg": [0.2, 0.3, 0.9], "mog4-lc-ip": [0.2, 0.3, 1e30]}
"""The second lets the encoder's loss overflow, so that it diverges."""

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="Debian's chromium is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells are trained and measured; of Table 4, which the page is to show, nothing is."""
    results = tmp_path_factory.mktemp("results") / "pages"
    config, paths = load(CONFIGURATION), Paths("pages", str(results.parent))
    told = {"experiment": "pages", "identity": "", "jobs": []}
    results.mkdir()
    (results / dag.NAME).write_text(dag.sealed(told | {"configuration": config.model_dump(mode="json")}))
    for cell, betas in BETAS.items():
        folder = Path(paths.cell.format(dataset="8Gaussian", cell=cell))
        log = Path(paths.log_2d.format(dataset="8Gaussian", cell=cell))
        log.parent.mkdir(parents=True)
        log.write_text("a line\n 10%|#\r100%|##########\n")
        do(*training(folder, cell=cell, dataset="8Gaussian", training=TRAINING, betas=betas))
        do(*evaluating(folder))
    metrics = [path for path in claimed(config, paths)[0] if Path(path).exists()]
    write("1", Request(["8Gaussian"], list(BETAS), [0, 1]), paths.tables, metrics)
    panels = [paths.cell_panels.format(dataset="8Gaussian", cell=cell) for cell in BETAS]
    figure = draw("figure3", {"density_panels": panels}, datasets=["8Gaussian"], cells=list(BETAS))
    save(figure, [f"{paths.figures}/figure3.png"], dpi=80)
    do("page", results)
    return results


def test_every_number_is_in_a_csv_file_beside_it(results):
    index = results / "index.html"
    assert list(pages.foreign_numbers(index)) == []
    page = pages.Page(index.read_text())
    assert {source for source, *_ in page.texts} >= {
        *("page/facts.csv", "page/runs.csv", "page/verdicts.csv", "page/options.csv"),
        *("claims/claims.csv", "claims/tests.csv", "tables/table1.csv"),
    }


def test_links_stay_in_the_folder_and_lead_somewhere(results):
    assert pages.broken_links(results / "index.html") == []


def test_a_number_that_is_in_no_csv_file_is_found_and_so_is_a_broken_link(results, tmp_path):
    copy = shutil.copytree(results, tmp_path / "pages")
    lines = (copy / "tables/table1.csv").read_text().splitlines(keepends=True)
    (row,) = (line for line in lines if line.startswith("8Gaussian,sg,KL,"))
    shown = f"{float(row.split(',')[3]):.2f}"
    (copy / "tables/table1.csv").write_text("".join(line for line in lines if line != row))
    assert any(shown in said and "tables/table1.csv" in said for said in pages.foreign_numbers(copy / "index.html"))
    (copy / "figures/figure3.png").unlink()
    assert pages.broken_links(copy / "index.html") == ["figures/figure3.png"] * 2


def test_the_page_of_the_reference_results_is_whole():
    index = Path(__file__).parents[1] / "results/reference/preview/index.html"
    assert (pages.broken_links(index), list(pages.foreign_numbers(index))) == ([], [])


def test_diverged_and_missing_runs_are_shown_as_such(results):
    page = pages.Page((results / "index.html").read_text())
    texts = [(source, text) for source, _, text in page.texts]
    assert texts.count(("tables/table1.csv", "diverged")) == 3  # its metrics
    assert ("page/runs.csv", "diverged (2 of 2 seeds)") in texts
    assert any("not finite" in text for source, text in texts if source == "page/runs.csv")
    facts = [text for source, text in texts if source == "page/facts.csv"]
    for status, count in (("ok", "1"), ("diverged (2 of 2 seeds)", "1"), ("missing", "2")):
        assert facts[facts.index(f"runs: {status}") + 1] == count
    assert texts.count((None, "Not made yet.")) == 2  # Table 4, Figure S3
    missing = [run for run in shown(load(CONFIGURATION), Paths("pages")) if run.cell.startswith("sg-dt")]
    assert len(missing) == 2
    assert all(run.name in page.ids and f"page/runs/{run.name}.svg" not in page.links for run in missing)
    assert (None, "a line\n100%|##########") in texts


@pytest.mark.parametrize(("width", "scheme"), [(1400, 1), (400, 0)])
@needs_chromium
def test_a_browser_has_nothing_to_complain_of(results, width, scheme):
    pictures = 1 + 2 * 2  # Figure 3, and two of each run that was trained
    wanted = {"wrong": [], "pictures": pictures, "width": width}
    assert pages.in_a_browser(results / "index.html", width, scheme) == wanted


def test_damaged_and_missing_results_get_one_line(results, tmp_path, introprior):
    assert_refused(introprior("page", tmp_path / "nothing"), "jobs.json: not found")
    copy = shutil.copytree(results, tmp_path / "pages")
    history = copy / "density/8Gaussian/sg/history.csv"
    history.write_text(history.read_text()[:-5])
    assert_refused(introprior("page", copy), history)
