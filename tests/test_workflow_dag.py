"""The plan of the workflow: what Snakemake would do, and what a change makes it do again. Nothing is computed here."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from introprior.data import density
from introprior.data.images import FILES
from introprior.experiment import sources
from introprior.operations import dag, status
from tests import projects, warm
from tests.projects import ROOT, Project

pytest.importorskip("snakemake")

SMALL = """\
experiment: small
density: {datasets: [8Gaussian, Rings], search: {cells: [sg]}}
tables: {table1: [sg, mog64], table2: [sg, mog10-ip], table5: [sg, mog10-ip, mog10]}
figure3: {cells: [mog64]}
images:
  datasets: [MNIST, digits]
  seeds: [0]
  r_entropy: [0, 10]
  evaluation: {features: classifier, samples: 1000, latent_points: 100}
figure2: {dataset: digits, cell: mog10-ip}
figure4: {r_entropy: [10]}
latents: {cells: [mog10-ip]}
figureS2: {dataset: digits, cell: mog10-ip}
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Project:
    """A project without results."""
    return Project(tmp_path_factory.mktemp("fresh"), small=SMALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, fresh, told) -> Project:
    """A project whose small experiment is finished, as far as Snakemake can tell: empty results, true records."""
    project = Project(tmp_path_factory.mktemp("finished"), small=SMALL)
    for job in told.jobs:
        for path in (project.folder / Path(name).relative_to(fresh.folder) for name in job.outputs):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    code, printed = project.snakemake("--touch", "--forceall", "--configfile", "small.yaml", "--cores", "1")
    assert code == 0, printed
    for path in (project.folder / "src").rglob("*.py"):
        path.touch()  # as a checkout of another branch and back would: times outdate nothing
    return project


def small(project: Project, changes: str = "") -> dict[str, int]:
    """The plan of the small experiment with some changes, without what follows the tables: PDF, claims and page."""
    (project.folder / "changes.yaml").write_text(changes or "{}")
    return without_last(project.plan("--configfile", "small.yaml", "changes.yaml"))


def without_last(plan: dict[str, int]) -> dict[str, int]:
    return {rule: count for rule, count in plan.items() if rule not in ("tables_pdf", "claims", "page")}


@pytest.fixture(scope="module")
def told(fresh) -> dag.Dag:
    """The jobs of the small experiment, and of the halves and kinds of its results that can be asked for."""
    fresh.plan("all", "images", "density", "figures", "tables", "--configfile", "small.yaml")
    return dag.read(fresh.folder / "results/small")


def needed(jobs: dag.Dag, target: str) -> Counter[str]:
    """How many jobs of each rule a target takes."""
    return Counter(job.rule for job in jobs.of([target]))


@pytest.fixture(scope="module")
def outdated(finished, fresh, told) -> Callable[[Iterable[str]], dict[str, int]]:
    """What a change of some files makes Snakemake do again, as in `small`: what reads them, or what is made anew."""
    code, printed = finished.snakemake("--detailed-summary", "--configfile", "small.yaml")
    assert code == 0, printed
    rows = (line.split("\t") for line in printed.splitlines() if line.startswith("results/"))
    reads = {f"{fresh.folder}/{row[0]}": {*row[4].split(",")} for row in rows}

    def counted(changed: Iterable[str]) -> dict[str, int]:
        changed, again = {*map(os.path.normpath, changed)}, Counter[str]()
        for job in told.jobs:  # each after those that it depends on
            if job.outputs and not changed.isdisjoint(reads[job.outputs[0]] | {*job.inputs}):
                changed.update(job.outputs)
                again[job.rule] += 1
        return without_last(again)

    return counted


# ---- What there is to do ----


def image_jobs(runs: int, warmups: int, datasets: int = 3) -> dict[str, int]:
    """The jobs behind the tables of images, with FID."""
    jobs = {"inception": 1, "prepare": datasets, "reference": 2 * datasets}
    jobs |= {"warmup": warmups, "warmup_distances": warmups}
    return jobs | dict.fromkeys(("game", "distances", "evaluate_images", "probe"), runs)


def test_everything_is_planned(paper_plan):
    expected = {"search": 4 * (5 * 2 + 1), "select": 4 * 6, "published": 4 * 2, "train": 8, "evaluate": 8}
    expected |= image_jobs(runs=297, warmups=45)
    expected |= {"choose_r_entropy": 3, "choose_r_entropy_table2": 3, "encoder_study": 1}
    expected |= {"clipping_study": 2, "clipping_distances": 2, "samples": 3, "search_figure": 1}
    expected |= {f"table{number}": 1 for number in (1, 2, 3, 4, 5)}
    expected |= {f"figure{number}": 1 for number in (2, 3, 4, 5, 6, "S2", "S3")}
    expected |= {"claims": 1, "page": 1}
    if shutil.which("pdflatex"):
        expected["tables_pdf"] = 1
    assert paper_plan[0] == expected


CELL = "results/paper/density/Rings/mog10-lc/metrics.csv"
RUN = "results/paper/images/photos/mog7-ip/r2.5/seed9/metrics.csv"
IMAGES_ALONE = {"inception": 1, "prepare": 1, "reference": 2, "warmup": 1, "warmup_distances": 1}
ONE_RUN = dict.fromkeys(("game", "distances", "evaluate_images"), 1)


def test_a_part_of_the_paper_needs_its_own_only(paper_plan):
    paper = dag.read(paper_plan[1].parent)
    for target, jobs in {
        "table1": {"search": 44, "select": 24, "train": 6, "evaluate": 6},
        "table3": {"search": 8, "select": 4},
        "figure2": IMAGES_ALONE | {"clipping_study": 2, "clipping_distances": 2},
        "figureS2": IMAGES_ALONE | {"game": 1, "distances": 1, "encoder_study": 1},
        "figureS3": {},
    }.items():
        assert needed(paper, target) == jobs | {target: 1}


def test_a_target_needs_its_own_only(fresh):
    """Of three that share no rule, and of the page of some tables and figures."""
    (fresh.folder / "unsearched.yaml").write_text("density: {search: {enabled: false}}")
    (fresh.folder / "some.yaml").write_text("page: {tables: [1, 3], figures: [figureS3]}")
    in_2d = {"published": 4, "train": 1, "evaluate": 1}
    expected = {"theory_games": 1, "theory": 1} | in_2d | IMAGES_ALONE | ONE_RUN
    assert fresh.plan("theory", CELL, RUN, "--configfile", "unsearched.yaml") == expected
    expected = {"published": 24, "train": 6, "evaluate": 6}
    expected |= dict.fromkeys(("table1", "table3", "figureS3", "claims", "page"), 1)
    assert fresh.plan("page", "--configfile", "unsearched.yaml", "some.yaml") == expected


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("demo", {"search": 0, "train": 5, "evaluate": 5, "warmup": 2, "game": 3, "classifier": 1, "inception": 0}),
        ("demo-all", {"search": 4, "train": 8, "select": 4, "published": 28, "warmup": 5, "game": 17, "probe": 17}),
        ("preview", {"search": 4, "train": 3, "published": 8, "figure3": 1}),
    ],
)
def test_the_small_configurations_can_be_planned(fresh, name, jobs):
    plan = fresh.plan(*["figure3"] * (name == "preview"), "--configfile", f"config/{name}.yaml")
    assert {rule: plan.get(rule, 0) for rule in jobs} == jobs


def test_halves_and_kinds_can_be_asked_for(told):
    def shown(target):
        plan = needed(told, target)
        assert plan.pop(target) == 1
        return plan, {name for name in plan if name.startswith(("table", "figure", "sample", "search_figure"))}

    plan, results = shown("table2")
    runs = dict.fromkeys(("game", "distances", "evaluate_images", "probe"), 6)
    runs |= {"warmup": 4, "warmup_distances": 4, "choose_r_entropy_table2": 2}
    assert plan == runs | dict.fromkeys(("classifier", "prepare", "reference"), 2)
    assert not results
    figures = {f"figure{number}" for number in (2, 4, 5, 6, "S2", "S3")} | {"samples"}
    in_2d = {"table1", "table3", "table4", "figure3", "search_figure"}
    for target, wanted, counts in (
        ("images", {"table2", "table5"} | figures, {"game": 10, "probe": 10, "train": 0, "evaluate": 0, "search": 0}),
        ("density", in_2d, {"evaluate": 4, "game": 0, "warmup": 0, "prepare": 0}),
        ("figures", figures | {"figure3", "search_figure"}, {"probe": 0}),
        ("tables", {f"table{n}" for n in (1, 2, 3, 4, 5)}, {"game": 10, "evaluate": 4, "clipping_study": 0}),
    ):
        plan, results = shown(target)
        assert results - {"tables_pdf"} == wanted
        assert {rule: plan[rule] for rule in counts} == counts, target


def test_the_readmes_targets_are_known(told):
    named = re.findall(r"^snakemake ([a-z]\w*) ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {"table1", "images", "page"} <= set(named)
    assert all(needed(told, name) for name in named)


# ---- What a change makes it do again ----

# Of images the small experiment has two datasets, three cells (sg, mog10-ip and mog10, the latter in Table 5 only), one
# seed and two values of r_entropy: ten games, four warm-ups, and two games for Figure 2. In 2D it has two datasets and
# four cells (sg, mog64, sg-dt, sg-dt-closed), of which sg is searched in two slices; Figure 3 shows mog64.
DENSITY_TABLES, IMAGE_TABLES = {"table1": 1, "table4": 1}, {"table2": 1, "table5": 1}
TABLES = DENSITY_TABLES | IMAGE_TABLES | {"table3": 1}
CHOICES = {"choose_r_entropy": 2, "choose_r_entropy_table2": 2}
LATENTS = {"figure5": 1, "figure6": 1, "samples": 2}
SHOWN = CHOICES | IMAGE_TABLES | LATENTS
FIGURES = LATENTS | {f"figure{number}": 1 for number in (2, 3, 4, "S2", "S3")} | {"search_figure": 1}
SEARCHED = {"search": 4, "select": 2, "table3": 1, "search_figure": 1}
DENSITY = SEARCHED | {"train": 4, "evaluate": 4, "figure3": 1} | DENSITY_TABLES
STUDIES = {"clipping_study": 2, "encoder_study": 1, "figure2": 1, "figureS2": 1, "clipping_distances": 2, "figure4": 1}
MEASURED = {"warmup_distances": 4, "distances": 10, "evaluate_images": 10, "probe": 10}
IMAGES = {"warmup": 4, "game": 10} | MEASURED | STUDIES | SHOWN


def more(count: int) -> dict[str, int]:
    """So many runs on images."""
    return dict.fromkeys(("game", "distances", "evaluate_images", "probe"), count)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        (  # where something is or computed outdates nothing
            "device: cpu\nimages: {source: /there, evaluation: {weights: /w}}\nprotocol_overrides: {spread: sem}",
            DENSITY_TABLES | IMAGE_TABLES,
        ),
        (
            "density: {seeds: [0, 1, 2]}\nprotocol_overrides: {entropy: pooled}",
            {"train": 4, "evaluate": 4, "figure3": 1} | DENSITY_TABLES | IMAGE_TABLES,
        ),
        (  # of two slices a dataset the one that holds it; two mixtures on two datasets
            "density: {search: {beta_rec: [0.05, 0.2, 0.3, 0.4, 0.9, 1.0]}}\nimages: {r_entropy: [0, 10, 1]}",
            SEARCHED | DENSITY_TABLES | {"search": 2, "train": 1, "evaluate": 1} | more(4) | SHOWN,
        ),
        (
            "density: {members_per_job: 1}\nimages: {seeds: [0, 1]}",
            {"train": 8, "evaluate": 8, "figure3": 1, "warmup": 4, "warmup_distances": 4, "figure4": 1}
            | {**DENSITY_TABLES, **more(10), **SHOWN},
        ),
        (  # no training; but whatever follows from the distances: the checkpoints, too
            "images: {evaluation: {samples: 900}}",
            {"reference": 2} | MEASURED | SHOWN | STUDIES | {"clipping_study": 0},
        ),
        (
            "images: {datasets: [MNIST]}\nfigure2: {dataset: MNIST}\nfigureS2: {dataset: MNIST}",
            STUDIES | IMAGE_TABLES | {"figure5": 1, "figure6": 1},
        ),
        (  # only files that are not verified depend on their place
            "images: {source: /elsewhere, verify: false}",
            {"prepare": 2, "classifier": 2, "reference": 2} | IMAGES,
        ),
    ],
)
def test_a_change_of_the_configuration(finished, changes, again):
    """Of each half one, where there are two; what a key outdates first is test_configuration.py's."""
    assert small(finished, changes) == {rule: count for rule, count in again.items() if count}


def of_mixtures(jobs: dict[str, int], runs: int) -> dict[str, int]:
    """Those jobs of images that know a mixture: of the 2 warm-ups and so many runs, and what follows from them."""
    return jobs | {"warmup": 2, "warmup_distances": 2} | more(runs)


@pytest.mark.parametrize(
    ("name", "again"),
    [
        # The game, of both halves and of each; a family's module in its own cells only.
        ("game/losses.py", DENSITY | IMAGES | {"reference": 2}),
        ("training/density.py", DENSITY),
        ("game/priors/mixture.py", of_mixtures(IMAGES, 8) | {"train": 1, "evaluate": 1, "figure3": 1, "table1": 1}),
        # What is measured, chosen, studied.
        ("metrics/density.py", DENSITY | {"train": 1}),
        ("metrics/probes.py", {"probe": 10} | IMAGE_TABLES),
        ("evaluation/selection.py", DENSITY | SHOWN | {"search": 0, "train": 1, "evaluate": 1, "figure3": 0}),
        ("evaluation/encoder_study.py", {"encoder_study": 1, "figureS2": 1}),
        # What is shown.
        ("reporting/figures/figure3.py", {"figure3": 1}),
        ("reporting/figures/figure5.py", {"figure5": 1}),
        ("reporting/figures/search.py", {"search_figure": 1}),
        ("reporting/figures/latents.py", {"figure5": 1, "figure6": 1}),
        ("reporting/figures/panels.py", LATENTS | {"figureS2": 1}),
        ("reporting/figures/curves.py", {"figure2": 1, "figure4": 1}),
        ("reporting/figures/style.py", FIGURES),
        ("reporting/read.py", FIGURES | TABLES),
        ("reporting/tables/latex.py", TABLES),
        ("experiment/families.py", FIGURES | TABLES),
        ("../../workflow/scripts/figure.py", FIGURES),
        # What bears on no result, and a family that no cell has.
        ("cli.py operations/files.py data/images/catalogue.py game/priors/flow.py", {}),
    ],
)
def test_a_change_of_a_source_outdates_what_imports_it(outdated, name, again):
    assert outdated(f"src/introprior/{each}" for each in name.split()) == {
        rule: count for rule, count in again.items() if count
    }


@pytest.mark.parametrize(
    "names", ["training/density.py reporting/figures/figure5.py metrics/probes.py", "cli.py game/priors/flow.py"]
)
def test_snakemake_does_again_what_was_outdated_and_nothing_else(finished, outdated, names):
    paths = [f"src/introprior/{name}" for name in names.split()]
    with ExitStack() as changes:
        for path in paths:
            changes.enter_context(finished.changed(path, '"""', '"""Changed. '))
        assert small(finished) == outdated(paths)


def test_a_change_of_data(finished, outdated):
    plan = outdated(["src/introprior/data/images/standins.py"])
    assert (plan["prepare"], plan["warmup"], plan["game"]) == (1, 2, 5)
    assert "train" not in plan
    # Published weights of the cells sg-dt and sg-dt-closed of one dataset; tables and the search figure show them.
    with finished.changed("src/introprior/paper/table3.csv", "Rings,beta_neg,0.6,1", "Rings,beta_neg,0.6,0.8"):
        plan = small(finished)
    assert plan == {"published": 2, "train": 2, "evaluate": 2, "table3": 1, "search_figure": 1} | DENSITY_TABLES


def test_the_title_of_a_metric_outdates_no_measurement(outdated):
    plan = outdated(["src/introprior/metrics/registry.py"])
    assert set(plan) <= FIGURES.keys() | TABLES.keys()
    assert {"table1", "table5", "figure2", "figure4"} <= set(plan)


def test_another_function_of_a_metric_outdates_its_measurements(finished):
    with finished.changed("src/introprior/metrics/registry.py", '"density:jsd_nats"', '"density:histogram_jsd"'):
        plan = small(finished)
    assert plan.keys() - FIGURES.keys() - TABLES.keys() == {"evaluate"}


FEWER = "images: {seeds: [0], r_entropy: [0, 10]}\nfigure4: {r_entropy: [0, 10]}\n"
"""Runs enough of a dataset to see that they can be planned."""


def blocks(page: str, kind: str) -> list[str]:
    """The blocks of a kind, such as YAML, on a page of the documentation."""
    text = (ROOT / f"docs/{page}.md").read_text()
    return [textwrap.dedent(found) for _, found in re.findall(rf"^( *)```{kind}\n(.*?)^\1```", text, re.M | re.S)]


def test_the_page_on_adding_a_dataset(fresh):
    (entry, *_), (changes, *_) = (blocks("add-an-image-dataset", kind) for kind in ("python", "yaml"))
    (command,) = re.findall(r"^snakemake (.*)$", (ROOT / "docs/add-an-image-dataset.md").read_text(), re.M)
    (fresh.folder / "kmnist.yaml").write_text(changes)
    (fresh.folder / "fewer.yaml").write_text(FEWER)
    command = command.replace("kmnist.yaml", "kmnist.yaml fewer.yaml")
    with fresh.changed("src/introprior/data/images/catalogue.py", "_ENTRIES = (", f"_ENTRIES = (\n{entry.rstrip()},"):
        plan = fresh.plan(*command.split(), CUDA_VISIBLE_DEVICES="0")
    assert (plan["prepare"], plan["game"], plan["table2"], plan["table5"], plan["figure2"]) == (1, 17, 1, 1, 1)


def test_the_page_on_adding_a_distribution(fresh):
    (function, entry), (changes,), (command,) = (blocks("add-a-dataset", kind) for kind in ("python", "yaml", "bash"))
    exec(function, names := dict(vars(density)))
    generators = [density.torch.Generator().manual_seed(seed) for seed in (0, 1)]
    points = names["two_moons"](1000, density.Streams(generators))
    assert points.shape == (2, 1000, 2)
    assert 1.5 < points.abs().max() < 4
    assert (points[0] != points[1]).any()

    (fresh.folder / "moons.yaml").write_text(changes)
    known = 'DensityDataset("8Gaussian"'
    made = [fresh.folder / "config" / name for name in ("config.yaml", "config.schema.json", "README.md")]
    paper = [path.read_text() for path in made]
    with fresh.changed("src/introprior/data/catalogue.py", known, f"{entry.strip()},\n        {known}"):
        plan = fresh.plan(*command.split()[1:])
        make = [warm.programs() / "python", "-m", "introprior.experiment.config"]
        subprocess.run(make, cwd=fresh.folder, env=fresh.environment, check=True)
    assert [path.read_text() for path in made] == paper, "the paper has no such dataset"
    assert (plan["published"], plan["train"], plan["table1"], plan["figure3"]) == (2 * 8, 8, 1, 1)
    assert "search" not in plan


def test_the_page_on_few_pictures(fresh):
    _, few, _ = blocks("your-own-data", "yaml")
    for name, content in (("few", few), ("fewer", FEWER)):
        (fresh.folder / f"{name}.yaml").write_text(content)
    (folder := fresh.folder / "path/to/few").mkdir(parents=True)
    for i in range(120):
        (folder / f"{i}.png").touch()
    plan = fresh.plan("images", "--configfile", "few.yaml", "fewer.yaml")
    assert (plan["prepare"], plan["classifier"], plan["table5"]) == (1, 1, 1)


def test_ones_own_data_outdate_what_is_made_of_them(fresh):
    pictures, _, points = blocks("your-own-data", "yaml")
    few = "{samples: 100, allow_few: true, latent_points: 20, grid_images: 16}, probes: {neighbours: [1, 5]}"
    few = f"experiment: own\ndensity: {{members_per_job: 1}}\nimages: {{evaluation: {few}}}\n"
    for name, content in (("mine", pictures), ("moons", points), ("few", few)):
        (fresh.folder / f"{name}.yaml").write_text(content)
    (folder := fresh.folder / "path/to/pictures").mkdir(parents=True)
    for i in range(200):
        (folder / f"{i}.png").write_text("looked into when they are prepared")
    (fresh.folder / "moons.csv").write_text("x,y\n1,2\n2,1\n")
    cell, warmup, data = "results/own/density/moons/sg", "results/own/images/mine/warmups/sg/seed0", "results/data/mine"
    arguments = (f"{cell}/metrics.csv", f"{warmup}/warmup.pt", "--configfile", "mine.yaml", "moons.yaml", "few.yaml")
    made = [f"{cell}/{name}" for name in ("metrics.csv", "panels.npz", "ensemble.pt", "history.csv")]
    made += [f"{cell}/hyperparameters.json", f"{warmup}/warmup.pt", *(f"{data}/{name}" for name in FILES)]
    for path in (fresh.folder / name for name in made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    code, printed = fresh.snakemake("--touch", "--forceall", "--cores", "1", *arguments)
    assert code == 0, printed
    assert projects.finished(printed) == dict.fromkeys(("published", "train", "evaluate", "prepare", "warmup"), 1)
    assert fresh.plan(*arguments) == {}
    with fresh.changed("moons.csv", "2,1", "3,1"), fresh.changed("path/to/pictures/7.png", "looked", "LOOKED"):
        assert fresh.plan(*arguments) == {"train": 1, "evaluate": 1, "prepare": 1, "warmup": 1}


def test_the_page_on_modules(fresh, tmp_path):
    """Its Snakefile, with a rule of its own, in a folder that holds nothing else; what is known there afterwards."""
    configuration, snakefile = (blocks("as-a-module", kind)[0] for kind in ("yaml", "python"))
    snakefile = snakefile.replace("/home/me/introprior", str(fresh.folder))
    (tmp_path / "config.yaml").write_text(configuration)
    (tmp_path / "Snakefile").write_text(snakefile)
    where = ("header", "--directory", str(tmp_path), "--snakefile", str(tmp_path / "Snakefile"))
    profile = ("--workflow-profile", str(fresh.folder / "workflow/profiles/default"))
    named = {f"introprior_{rule}": 2 for rule in ("published", "train", "evaluate")}
    assert fresh.plan(*where, *profile) == named | {"introprior_table1": 1, "header": 1}
    known = dag.read(tmp_path / "results/rings")
    assert sorted(job.rule for job in known.jobs) == sorted([*["published", "train", "evaluate"] * 2, "table1"])
    assert len(status.look(tmp_path / "results/rings")["runs"]) == 2 * 5

    (tmp_path / "Snakefile").write_text(snakefile.replace("    config:", '    prefix: "there"\n    config:'))
    code, printed = fresh.snakemake("-n", *where)
    assert code == 1
    assert "introprior: module: prefix would move the sources, too" in printed


def test_another_folder_needs_no_configuration(fresh, tmp_path):
    where = ("--directory", str(tmp_path), "--snakefile", str(fresh.folder / "Snakefile"))
    code, printed = fresh.snakemake("-n", "table3", *where, "--config", "experiment=elsewhere")
    assert code == 0, printed
    assert re.search(r"^search +8$", printed, re.M)
    assert len(dag.read(tmp_path / "results/elsewhere").jobs) == 8 + 4 + 1


def test_rules_and_package_of_two_checkouts_do_not_mix(fresh):
    code, printed = fresh.snakemake("-n", "table3", PYTHONPATH=str(ROOT / "src"))
    assert code == 1
    assert f"introprior: the rules are those of {fresh.folder}, the package that of {ROOT}" in printed


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--config density={sedes:[1]}", "configuration: density: unknown key 'sedes'; did you mean 'seeds'?"),
        ("results/paper/density/Rnigs/sg/search/slice-0.csv", "unknown dataset 'Rnigs'; did you mean 'Rings'?"),
        ("results/paper/density/Rings/sg-lc/metrics.csv", "contradictory cell 'sg-lc'"),
        ("results/data/MNITS/manifest.json", "results: unknown image dataset 'MNITS'; did you mean 'MNIST'?"),
        ("--resources gpu=3", "--resources gpu=3: 2 GPUs are visible"),
    ],
)
def test_a_mistake_ends_snakemake_with_one_line(fresh, arguments, said):
    code, printed = fresh.snakemake("--dry-run", *arguments.split(" "), CUDA_VISIBLE_DEVICES="0,1")
    assert code == 1
    (line,) = (line for line in printed.splitlines() if "introprior: " in line)
    assert said in line
    assert "Traceback" not in printed
    assert "Job stats" not in printed


# ---- Sources ----

ELSEWHERE = {"cli", "commands", "errors", "experiment", "operations", "reporting.job", "data.images"}
ELSEWHERE |= {f"data.images.{name}" for name in ("catalogue", "standins", "store")}
"""What bears on results by options or prepared data alone, or not at all: names, checks, messages, addresses."""


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, e.g. ``training.loop``, as Python's parser sees them."""
    package, found = ROOT / "src/introprior", set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "introprior":
            parts = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {part.removeprefix("introprior.") for part in parts}
    return {name for name in found if name and _tells(package / name.replace(".", "/"))}


def _tells(path: Path) -> bool:
    """Whether this is a module, or a package that holds more than its modules."""
    inside = path / "__init__.py"
    return path.with_suffix(".py").is_file() or (inside.is_file() and "import" in inside.read_text())


MODULES = ["training.density", "training.images", "evaluation.search", "evaluation.images"]


@pytest.mark.parametrize("module", [*MODULES, "reporting.tables.comparison", "reporting.figures.figure5"])
def test_sources_are_closed_under_imports(module):
    package = ROOT / "src/introprior"
    files = sources.closure(module)
    names = {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__") for path in files}
    below = tuple(f"{name}." for name in ELSEWHERE - {"data.images"})
    needed = {module}.union(*map(imported, files)) - ELSEWHERE
    assert names == {name for name in needed if not name.startswith(below)}
    assert {"game.divergences", "game.networks", "training.loop"} <= names or module.startswith("reporting")


def test_what_rules_name_as_sources_is_there():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").iterdir())
    scripts = {path.name for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert set(re.findall(r'script="(\w+\.py)"', rules)) == set(re.findall(r'"../scripts/(\w+\.py)"', rules)) == scripts
    modules = set(re.findall(r'"((?:data|evaluation|experiment|metrics|reporting|training)\.[\w.]+)"', rules))
    assert len(modules) > 10
    assert [name for name in modules if not sources.closure(name)] == []


def test_results_have_one_label_in_the_report():
    """Of a second label with two values the report's page makes a switch, and goes white where a result has no twin."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").iterdir())
    assert re.findall(r"\breport\(.*", rules) == [
        'report(path, caption=f"../report/{caption}.rst", category=category, labels={"result": result})'
    ]
