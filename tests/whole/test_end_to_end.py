"""The workflow for real, once, as small as it gets: every job runs, from data to LaTeX and report."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("snakemake")

from matplotlib.image import imread

from introprior import cli
from introprior.experiment import jobs
from introprior.experiment.config import Configuration
from introprior.operations import costs
from introprior.operations.dag import sealed
from tests import pages
from tests.commands import rows
from tests.projects import ROOT, Project, finished

TINY = """\
experiment: tiny
density:
  datasets: [8Gaussian]
  seeds: [0, 1]
  training: {iterations: 12, warmup_iterations: 4, mixture_warmup_iterations: 2, batch_size: 16,
             monte_carlo_samples: 3, hidden_width: 8, milestones: [9]}
  search: {cells: [sg], samples: 200, beta_rec: [0.2], beta_kl: [0.1], beta_neg_multiples: [1, 3]}
  evaluation: {samples: 200, grid: 16, data_points: 32, monte_carlo_samples: 3}
images:
  datasets: [digits16]
  seeds: [0]
  r_entropy: [0]
  training: {epochs: 2, warmup_epochs: 1, mixture_warmup_epochs: 1, monte_carlo_samples: 2}
  by_dataset: {digits16: {batch_size: 250, latent_dim: 2, widths: [2, 2]}}
  evaluation: {epochs: [0, 2], features: classifier, classifier_epochs: 1, samples: 100, monte_carlo_samples: 2,
               grid_images: 8, latent_points: 60}
  probes: {svm_iterations: [10, 100], neighbours: [1, 5], train_images: 100}
tables: {table1: [vae-sg, sg, mog64-lc-ip, flow-ip], table2: [sg, mog4-ip, flow-ip], table5: [sg, mog4-ip, flow-ip]}
figure2: {dataset: digits16, cell: mog4-ip, epochs: 2, every: 1}
figure3: {cells: [sg, mog64-lc-ip, flow-ip], points: 50, grid: 16}
figure4: {r_entropy: [0]}
latents: {cells: [sg, mog4-ip, flow-ip]}
figureS2: {dataset: digits16, cell: mog4-ip, r_entropy: 0, iterations: 4}
"""
TINY_ARGUMENTS = ("--configfile", "tiny.yaml", "--cores", "1")
PDF = {"tables_pdf": 1} if shutil.which("pdflatex") else {}
CELLS = ("vae-sg", "sg", "mog64-lc-ip", "flow-ip", "sg-dt", "sg-dt-closed")
MEASURED = {"1": ("vae-sg", "sg", "mog64-lc-ip", "flow-ip"), "4": ("sg-dt-closed", "sg-dt", "sg")}
METRICS = ("gnELBO", "KL", "JSD")
IMAGE_CELLS = ("sg", "mog4-ip", "flow-ip")
SHARED = ("classifier.pt", "reference/fd_classifier.npz")
WARMUP = ("warmup.pt", "distances.csv")
IMAGE_RUN = ("snapshots.pt", "history.csv", "distances.csv", "metrics.csv", "codes.npz", "panels.npz", "probes.csv")
FIGURES = ("figure3", "search-sg", *(f"figure{n}" for n in ("2", "4", "5", "6", "S2", "S3")), "samples-digits16")

LONG = """\
experiment: long
density:
  seeds: [0]
  training: {iterations: 300, warmup_iterations: 4, mixture_warmup_iterations: 2, batch_size: 16,
             monte_carlo_samples: 3, hidden_width: 8, milestones: [9]}
  search: {enabled: false}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project and the two configurations."""
    return Project(tmp_path_factory.mktemp("project"), tiny=TINY, long=LONG)


@pytest.fixture(scope="module")
def made(project: Project) -> Path:
    """The results of a whole run."""
    code, printed = project.snakemake(*TINY_ARGUMENTS)
    assert code == 0, printed[-5000:]
    counts = {"search": 1, "select": 1, "published": 5, "train": 6, "evaluate": 6, "all": 1}
    counts |= dict.fromkeys(("table1", "table3", "table4", "figure3", "search_figure"), 1)
    counts |= dict.fromkeys(("warmup", "warmup_distances", "game", "distances", "evaluate_images", "probe"), 3)
    counts |= dict.fromkeys(("clipping_study", "clipping_distances"), 2)
    counts |= dict.fromkeys(("prepare", "classifier", "reference", "choose_r_entropy", "choose_r_entropy_table2"), 1)
    counts |= dict.fromkeys(("encoder_study", "table2", "table5", "samples"), 1)
    counts |= dict.fromkeys(("figure2", "figure4", "figure5", "figure6", "figureS2", "figureS3", "claims", "page"), 1)
    assert finished(printed) == counts | PDF
    return project.folder / "results" / "tiny"


def body(markdown: Path) -> list[list[str]]:
    """The rows of a Markdown table below its headings: the cells right of the labels."""
    lines = [line.strip("|").split("|") for line in markdown.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    first = next(i for i, line in enumerate(cells) if line[0] == "8Gaussian")
    return cells[first:]


def test_a_whole_run_leaves_all_results_and_nothing_else(made):
    cell_files = ["ensemble.pt", "history.csv", "hyperparameters.json", "metrics.csv", "panels.npz"]
    wanted = {f"density/8Gaussian/{cell}/{name}" for cell in CELLS for name in cell_files}
    wanted |= {"density/8Gaussian/sg/search/slice-0.csv"}
    wanted |= {f"images/digits16/{name}" for name in (*SHARED, "r_entropy.json", "r_entropy-table2.json")}
    wanted |= {f"images/digits16/warmups/{prior}/seed0/{name}" for prior in ("sg", "mog4", "flow") for name in WARMUP}
    wanted |= {f"images/digits16/{cell}/r0/seed0/{name}" for cell in IMAGE_CELLS for name in IMAGE_RUN}
    clipped = itertools.product(("mog4-ip", "mog4-ip-unclipped"), IMAGE_RUN[:3])
    wanted |= {f"clipping/digits16/{cell}/r0/seed0/{name}" for cell, name in clipped}
    kinds = itertools.product("12345", ("", "_vs_paper"), ("csv", "md", "tex"))
    wanted |= {f"tables/table{n}{kind}.{suffix}" for n, kind, suffix in kinds}
    wanted |= {f"figures/{name}.{suffix}" for name in FIGURES for suffix in ("pdf", "png")}
    wanted |= {"tables/tables.pdf"} if PDF else set()
    wanted |= {"jobs.json", "encoder/digits16.npz", "index.html"}
    wanted |= {f"claims/{name}" for name in ("claims.csv", "tests.csv", "claims.md")}
    wanted |= {f"page/{name}.csv" for name in ("facts", "options", "runs", "verdicts")}
    shown = [f"density-8Gaussian-{cell}" for cell in CELLS]
    shown += [f"images-digits16-{cell}-r0-seed0" for cell in IMAGE_CELLS]
    wanted |= {f"page/runs/{run}.{suffix}" for run in shown for suffix in ("svg", "png")}
    wanted |= {f"page/runs/clipping-digits16-{cell}-r0-seed0.svg" for cell in ("mog4-ip", "mog4-ip-unclipped")}
    found = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    found = {name for name in found if not name.startswith(("logs/", "benchmarks/"))}
    assert {name for name in found if not name.endswith(".provenance.json")} == wanted
    recorded = {
        os.path.relpath(path.parent / name, made)
        for path in made.rglob("*.provenance.json")
        for name in json.loads(path.read_text())["outputs"]
    }
    assert recorded == wanted - {"jobs.json"}
    assert "introprior" not in "".join(path.read_text() for path in made.glob("logs/density/*/*/evaluate.log"))
    data = {f"{split}-{kind}.npy" for split in ("train", "test") for kind in ("images", "labels")}
    data |= {"manifest.json", "manifest.json.provenance.json"}
    assert {path.name for path in (made.parent / "data/digits16").iterdir()} == data


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """What ``introprior verify`` says, line by line, the paths relative to the results."""

    def verified(results: Path, *more: str) -> tuple[int, list[str]]:
        code, printed = cli.main(["verify", str(results), *more]), capsys.readouterr()
        assert len(printed.err.splitlines()) == (code != 0), printed.err
        return code, printed.out.replace(f"{results}/", "").splitlines()

    return verified


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The results to be tampered with, without the image data beside them."""
    return shutil.copytree(made, tmp_path / "tiny")


def test_a_results_tree_and_a_copy_of_it_are_verified(made, copied, verify):
    code, said = verify(made)
    assert code == 0
    assert re.fullmatch(rf"{made}: \d+ files of \d+ jobs are as they were made", said[-1])
    assert verify(copied)[0] == 0
    records = [json.loads(path.read_text()) for path in made.rglob("*.provenance.json")]
    assert len({(record["configuration"], record["code"]) for record in records}) == 1
    assert all(record["started"] and record["seconds"] >= 0 and record["libraries"] for record in records)


TABLE1, RECORD = "tables/table1.csv", "tables/table1.csv.provenance.json"
RUN_CSV, SLICE = "images/digits16/sg/r0/seed0/metrics.csv", "density/8Gaussian/sg/search/slice-0.csv"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remake(path: Path) -> None:
    """As if its job had run again, with another outcome."""
    path.write_text(path.read_text() + "\n")
    record = Path(f"{path}.provenance.json")
    content = json.loads(record.read_text())
    new = path.read_bytes()
    content["outputs"][path.name] = {"sha256": hashlib.sha256(new).hexdigest(), "bytes": len(new)}
    record.write_text(json.dumps(content))


def without_record(path: Path) -> None:
    Path(f"{path}.provenance.json").unlink()


def reconfigure(path: Path) -> None:
    """As if Snakemake had been started again with more iterations, and not finished yet."""
    known = json.loads(path.read_text())
    del known["format"], known["sha256"]
    for job in known["jobs"]:
        if job["rule"] in ("search", "train"):
            job["options"]["training"]["iterations"] = 13
    path.write_text(sealed(known))


FROM_RUN = [f"images/digits16/{name}.json" for name in ("r_entropy", "r_entropy-table2")]
FROM_RUN += ["tables/table2.csv", "tables/table5.csv", "claims/claims.csv", "index.html"]
TRAINED = [f"density/8Gaussian/{cell}/ensemble.pt" for cell in CELLS]
OTHER = "outdated: made with another training.iterations (12, now 13)"
TAMPERED = {
    "altered": (TABLE1, flip, {TABLE1: "altered"}),
    "altered input": (RUN_CSV, flip, {RUN_CSV: "altered"}),
    "half-copied": (TRAINED[1], lambda path: os.truncate(path, path.stat().st_size // 2), {TRAINED[1]: "half-copied"}),
    "missing": (TABLE1, Path.unlink, {TABLE1: "missing, though its record is there"}),
    "no record": (TABLE1, without_record, {TABLE1: "no record"}),
    "damaged record": (RECORD, lambda path: path.write_text("{"), {RECORD: "not valid JSON", TABLE1: "no record"}),
    "outdated input": (RUN_CSV, remake, dict.fromkeys(FROM_RUN, f"outdated: made from another {RUN_CSV}")),
    "other options": ("jobs.json", reconfigure, dict.fromkeys([*TRAINED, SLICE], OTHER)),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_wrong_with_a_results_tree_is_named(copied, verify, what):
    name, tamper, expected = TAMPERED[what]
    tamper(copied / name)
    code, said = verify(copied)
    assert code == 2
    named = sorted((line for line in said if not line.startswith("note: ")), key=lambda line: line.partition(":")[0])
    assert len(named) == len(expected), named
    for line, (path, problem) in zip(named, sorted(expected.items()), strict=True):
        assert line.startswith(f"{path}: {problem}"), line
    assert verify(copied, "--partial")[0] == 2


def test_results_that_were_not_made_yet_are_missing_unless_that_is_said_to_be_right(copied, verify):
    for name in ("tables", "figures"):
        shutil.rmtree(copied / name)
    code, said = verify(copied)
    assert code == 2
    assert [line for line in said if "other jobs" in line]
    assert verify(copied, "--partial")[0] == 0


def test_the_page_shows_numbers_of_its_csv_files_alone(made):
    assert list(pages.foreign_numbers(made / "index.html")) == []
    assert pages.broken_links(made / "index.html") == []
    if shutil.which("chromium"):
        found = pages.in_a_browser(made / "index.html", 1400, 1)
        assert (found["wrong"], found["pictures"]) == ([], len(FIGURES) + 2 * 9 + 2)


def test_the_summary_has_means_and_says_where_to_look(made, capsys):
    assert cli.main(["summary", str(made)]) == 0
    said = capsys.readouterr().out
    table = {(row["cell"], row["metric"]): float(row["mean"]) for row in rows(made / "tables/table1.csv")}
    (line,) = [line for line in said.splitlines() if line.startswith("8Gaussian")]
    assert {f"{table[cell, 'KL']:.2f}" for cell in MEASURED["1"]} <= set(line.split())
    assert "MoG(64)+LC+IP" in said
    for path in re.findall(r"^  (\S+png)$", said, re.MULTILINE):
        assert Path(path).exists()
    assert cli.main(["summary", str(made.parent / "other")]) == 2
    assert "no results yet" in capsys.readouterr().err


@pytest.mark.parametrize("number", MEASURED)
def test_every_number_of_the_metric_tables_is_there_and_right(made, number):
    table = {(row["cell"], row["metric"]): row for row in rows(made / f"tables/table{number}.csv")}
    for cell in MEASURED[number]:
        for metric in METRICS:
            found = rows(made / f"density/8Gaussian/{cell}/metrics.csv")
            values = [float(row["value"]) for row in found if row["metric"] == metric]
            row = table[cell, metric]
            assert len(values) == 2
            assert float(row["mean"]) == pytest.approx(sum(values) / 2, rel=1e-9)
            assert float(row["std"]) == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-6)
            assert float(row["sem"]) == pytest.approx(float(row["std"]) / math.sqrt(2), rel=1e-9)
            assert (row["n"], row["diverged"]) == ("2", "0")
            assert (row["paper_mean"] == "") == (cell == "flow-ip")  # which the paper does not have
    for _, _, *shown in body(made / f"tables/table{number}.md"):
        assert len(shown) == len(MEASURED[number]) + (2 if number == "4" else 0)
        assert all(re.fullmatch(r"(\*\*)?\d+\.\d\d ± \d+\.\d\d(\*\*)?( †)?", cell) for cell in shown), shown
    compared = {(row["cell"], row["metric"]): row for row in rows(made / f"tables/table{number}_vs_paper.csv")}
    published = [cell for cell in MEASURED[number] if cell != "flow-ip"]
    assert compared.keys() == {(cell, metric) for cell in published for metric in METRICS}
    for key, row in compared.items():
        assert row["mean"] == table[key]["mean"]
        assert float(row["difference"]) == pytest.approx(float(row["mean"]) - float(row["paper_mean"]))
        assert row["within"] in ("yes", "no")
    for line in body(made / f"tables/table{number}_vs_paper.md"):
        assert all(re.search(r"\d", cell) for cell in line[3 : -1 if number == "1" else None]), line  # the last is Flow


@pytest.mark.parametrize("number", ["2", "5"])
def test_every_number_of_the_image_tables_is_there_and_right(made, number):
    table = {(row["cell"], row["metric"]): row for row in rows(made / f"tables/table{number}.csv")}
    found = {
        (cell, row["metric"]): row["value"]
        for cell in IMAGE_CELLS
        for name in ("metrics.csv", "probes.csv")
        for row in rows(made / "images/digits16" / cell / "r0/seed0" / name)
    }
    names = {"fd_classifier_gen", "fd_classifier_rec", "entropy_per_batch", "entropy_pooled", "checkpoint_epoch"}
    names |= {"svm_few", "svm_many", "knn_few", "knn_many"}
    assert {name for _, name in found} == names
    none = {key for key, value in found.items() if not value}
    assert none == {(cell, name) for cell, name in found if cell.startswith("flow") and name.startswith("entropy")}
    for key, value in found.items():
        assert table[key]["mean"] == "" if key in none else float(table[key]["mean"]) == pytest.approx(float(value))
        assert table[key]["paper_mean"] == ""  # a stand-in is never set beside a published number
    text = (made / f"tables/table{number}.md").read_text()
    assert "Digits, 16x16 (stand-in for MNIST)" in text
    assert "FID (" not in text
    for (cell, name), value in found.items():
        if name.startswith(("fd_classifier", "svm", "knn")):
            assert f"{float(value):.3f}" in text, (cell, name)
    assert ("10-SVM" if number == "2" else "SVM (few)") in text


def test_every_number_of_the_hyperparameter_table_is_there_and_right(made):
    tried = rows(made / "density/8Gaussian/sg/search/slice-0.csv")
    assert [float(row["beta_neg"]) for row in tried] == [0.1, 0.3]
    best = min(tried, key=lambda row: float(row["KL"]))
    chosen = json.loads((made / "density/8Gaussian/sg/hyperparameters.json").read_text())
    table = {row["metric"]: row for row in rows(made / "tables/table3.csv")}
    for name in ("beta_rec", "beta_kl", "beta_neg"):
        assert float(best[name]) == chosen[name] == float(table[name]["mean"])
        assert math.isfinite(float(table[name]["paper_mean"]))
    (line,) = body(made / "tables/table3.md")
    shown = [f"{chosen[name]:g} ({default})" for name, default in (("beta_rec", 0.2), ("beta_kl", 0.3))]
    assert line[2:4] == shown
    assert line[-1] == "grid search, 2 settings"
    published = json.loads((made / "density/8Gaussian/sg-dt/hyperparameters.json").read_text())
    assert [published[name] for name in ("beta_rec", "beta_kl", "beta_neg")] == [0.2, 0.3, 0.9]
    assert published["source"] == "daniel-tamar"


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "5"])
def test_every_caption_says_the_scale(made, number):
    extent = "2 epochs instead of 220" if number in "25" else "12 iterations instead of 30,000"
    for kind in ("", "_vs_paper"):
        for suffix in ("md", "tex"):
            text = (made / f"tables/table{number}{kind}.{suffix}").read_text()
            assert re.search(rf"Tiny scale: [^.]*{extent}", text)
            assert "not comparable with the paper" in text
    if number in "14":
        assert "2 seeds instead of 5" in (made / f"tables/table{number}.md").read_text()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_show_something(made, name):
    picture = imread(made / f"figures/{name}.png")[..., :3]
    assert min(picture.shape[:2]) > 200
    assert len(np.unique(picture[::5, ::5].reshape(-1, 3), axis=0)) > 20
    assert (made / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF-")


@pytest.fixture(scope="module")
def report(project, made):
    code, printed = project.snakemake("--configfile", "tiny.yaml", "--report", "report.html")
    assert code == 0, printed
    return project.folder / "report.html"


def test_the_report_has_every_caption(report):
    text = report.read_text().replace("\\n", " ")
    captions = [
        "Table 1, performance on the 2D datasets",
        "Table 2, performance on images",
        "Table 3, hyperparameters of S-IntroVAE",
        "Table 4, the baseline",
        "Table 5, the full ablation on images",
        *(f"Figure {number}" for number in (2, 4, 5, 6, "S2", "S3")),
        "Figure 3, seed 0: the data, and for sg, mog64-lc-ip, flow-ip generated samples",
        "What the hyperparameter search saw (not in the paper)",
        "The grid has 2 settings",
        "What the paper says in words",
        "12 iterations [30000], 4 of them warm-up [2000], batches of 16 [512], seeds 0, 1 [0, 1, 2, 3, 4]",
    ]
    captions += ["Tables 1 to 5, each followed by its companion"] if PDF else []
    assert [caption for caption in captions if caption not in text] == []
    assert "{{" not in "".join(re.findall(r'"caption": "(.*?)", "', text))


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_every_category_of_the_report_opens(report):
    told = pages.report_in_a_browser(report)
    assert [said for said in told["wrong"] if "tailwind" not in said] == []  # Snakemake's own warning
    assert set(told["shown"]) == {"Density estimation in 2D", "Image generation", "Method", "Claims of the paper"}
    assert min(told["shown"].values()) >= 2


def test_a_truncated_result_is_told_of_and_made_again_with_what_depends_on_it(project, made, verify):
    path = made / "density/8Gaussian/vae-sg/metrics.csv"
    content = path.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    path.write_bytes(content[: len(content) // 2])
    code, printed = project.snakemake(*TINY_ARGUMENTS)
    assert (code, finished(printed)) == (1, Counter())
    (line,) = {line for line in printed.splitlines() if line.startswith("introprior: ")}
    assert path.relative_to(project.folder).as_posix() in line
    assert "cut short" in line
    assert "delete it and run again" in line
    assert not (made / "tables/table1.csv").exists()
    path.unlink()
    code, printed = project.snakemake(*TINY_ARGUMENTS)
    assert code == 0, printed[-5000:]
    assert finished(printed) == dict.fromkeys(("evaluate", "table1", "claims", "page", "all"), 1) | PDF
    assert path.read_bytes() == content  # the same numbers
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    expected = {path, *map(path.with_name, ("metrics.csv.provenance.json", "panels.npz")), made / "jobs.json"}
    expected |= {*made.glob("tables/table1*"), *made.glob("tables/tables.*"), *made.glob("index.*")}
    expected |= {path for folder in ("claims", "page") for path in (made / folder).rglob("*") if path.is_file()}
    assert {path for path in changed if path.relative_to(made).parts[0] not in ("logs", "benchmarks")} == expected
    assert verify(made)[0] == 0


def test_a_workflow_that_is_interrupted_goes_on_in_the_middle_of_a_training(project):
    """Control-C in a terminal: Snakemake and its job get the signal alike."""
    target = "results/long/density/8Gaussian/sg/ensemble.pt"
    arguments = [target, "--configfile", "long.yaml", "--cores", "1"]
    results, log = (project.folder / "results/long" / part for part in ("", "logs/density/8Gaussian/sg/train.log"))
    command = [sys.executable, "-m", "snakemake", *arguments]  # and no warm one
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            while process.poll() is None and not (log.exists() and "it/s" in log.read_text()):
                time.sleep(0.01)
        finally:
            os.killpg(process.pid, signal.SIGINT)
        printed = process.communicate(timeout=60)[0].decode()
    assert process.returncode != 0, printed[-3000:]
    (state,) = (results / ".state").iterdir()
    stopped = re.search(r"\d datasets sg: stopped at iteration (\d+); saved to (\S+): run the same", printed)
    assert stopped
    assert project.folder / stopped[2] == state
    assert not list(results.rglob("ensemble.pt"))
    code, printed = project.snakemake(*arguments)
    assert code == 0, printed[-3000:]
    assert finished(printed) == {"train": 1}
    assert f" datasets sg: going on from iteration {stopped[1]} of {stopped[2]}" in log.read_text()
    assert (project.folder / target).exists()
    assert not state.exists()


def test_no_value_of_the_configuration_reaches_a_shell_as_a_command(project):
    """A folder called like a command is looked for, not run; a dataset called so is unknown."""
    (project.folder / "shell.yaml").write_text(
        'experiment: shell\nimages: {source: "$(touch ran) {0} \'`touch ran`", datasets: [FMNIST]}\n'
        "figure2: {dataset: FMNIST}\nfigureS2: {dataset: FMNIST}\n"
    )
    data = "results/data/FMNIST/manifest.json"
    arguments = [data, "--configfile", "shell.yaml", "--cores", "1", "--retries", "0"]
    code, printed = project.snakemake(*arguments)
    assert code == 1
    log = (project.folder / "results/shell/logs/data/FMNIST.log").read_text()
    assert "introprior prepare: images.source: $(touch ran) {0} '`touch ran` is not a folder" in log, printed[-3000:]
    code, printed = project.snakemake("results/tiny/density/$(touch ran)/sg/metrics.csv", *TINY_ARGUMENTS)
    assert code == 1
    assert "results: unknown dataset '$(touch ran)'" in printed
    assert not list(project.folder.rglob("ran"))


def test_memory_suffices_and_is_not_boundless(tmp_path):
    """Maximal resident memory of a real training at the paper's sizes, but for its length; and what it leaves."""
    options = jobs.train(Configuration(), "mog64-lc-ip")
    datasets = options["dataset"]
    short = {**options["training"], "iterations": 3, "warmup_iterations": 2, "mixture_warmup_iterations": 1}
    (tmp_path / "measured.py").write_text(
        "import resource, sys; from introprior.cli import main; main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
    )
    command = [sys.executable, "measured.py", "train", "--device", "cpu", "--betas", "0.2", "0.3", "0.9"]
    command += ["--options", json.dumps({**options, "training": short})]
    command += ["--output", *(f"{name}.pt" for name in datasets), "--history", *(f"{name}.csv" for name in datasets)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    for name in datasets:
        seeds = {(row["dataset"], row["seed"]) for row in rows(tmp_path / f"{name}.csv")}
        assert seeds == {(name, str(seed)) for seed in range(5)}
    assert float(done.stdout) < costs.of("train").mem_mb < 5 * float(done.stdout)
    models = sum((tmp_path / f"{name}.pt").stat().st_size for name in datasets)
    assert models == pytest.approx(costs.of("train").megabytes * 1e6, rel=0.2)
