"""The plan of the workflow: what Snakemake would do, and what a change makes it do again. Nothing is computed here."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from introprior.experiment import sources

pytest.importorskip("snakemake")

ROOT = Path(__file__).resolve().parents[1]

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


SERVER = """
import json, os, sys
import jsonschema, pandas, snakemake.cli

for line in sys.stdin:
    folder, arguments, environment, log = json.loads(line)
    child = os.fork()
    if not child:
        with open(log, "w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.chdir(folder)
        os.environ.update(environment)
        sys.path.insert(0, environment["PYTHONPATH"])
        snakemake.cli.main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs Snakemake as often as told, in a process of its own each time; imports it, the longest part, just once."""


@pytest.fixture(scope="module")
def server():
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean, text=True
    ) as process:
        yield process
        process.stdin.close()


class Project:
    """A copy of the project, to be changed and planned at will."""

    def __init__(self, folder: Path, server: subprocess.Popen[str]) -> None:
        self.folder, self.server = folder, server
        for name in ("workflow", "config", "src", "envs", "profiles", "Snakefile"):
            if (ROOT / name).is_dir() and not (ROOT / name).is_symlink():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
        (folder / "small.yaml").write_text(SMALL)

    def snakemake(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run Snakemake in the copy, with the copy's package; the exit code and what it printed."""
        paths = {"PYTHONPATH": str(self.folder / "src"), "XDG_CACHE_HOME": str(self.folder / ".cache")}
        log = self.folder / "log.txt"
        request = [str(self.folder), arguments, {"CUDA_VISIBLE_DEVICES": "", **paths, **environment}, str(log)]
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline()), log.read_text()

    def plan(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans."""
        code, printed = self.snakemake("--dry-run", *arguments)
        assert code == 0, printed
        counts = re.findall(r"^(\w+) +(\d+)$", printed.rpartition("Job stats:")[2], re.MULTILINE)
        assert bool(counts) is ("Nothing to be done" not in printed), printed
        return {rule: int(count) for rule, count in counts if rule not in ("total", "all")}

    @contextmanager
    def changed(self, name: str, old: str, new: str):
        """While inside, a file has one text replaced."""
        path = self.folder / name
        content = path.read_bytes()
        assert old.encode() in content, f"{name} has no {old!r}"
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))
        yield
        path.write_bytes(content)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, server) -> Project:
    """A project without results."""
    return Project(tmp_path_factory.mktemp("fresh"), server)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, server) -> Project:
    """A project whose small experiment is finished, as far as Snakemake can tell: empty results, true records."""
    project = Project(tmp_path_factory.mktemp("finished"), server)
    small = ("--configfile", "small.yaml", "--cores", "1")
    code, printed = project.snakemake("--summary", *small)
    assert code == 0, printed
    for name in re.findall(r"^(results/[^\t]+)\t", printed, re.MULTILINE):
        path = project.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    code, printed = project.snakemake("--touch", "--forceall", *small)
    assert code == 0, printed
    return project


def small(project: Project, changes: str = "") -> dict[str, int]:
    """The plan of the small experiment, with changes of its configuration."""
    (project.folder / "changes.yaml").write_text(changes or "{}")
    return project.plan("--configfile", "small.yaml", "changes.yaml")


# ---- What there is to do ----


def image_jobs(runs: int, warmups: int, datasets: int = 3) -> dict[str, int]:
    """The jobs behind the tables of images, with FID."""
    jobs = {"inception": 1, "prepare": datasets, "reference": 2 * datasets}
    jobs |= {"warmup": warmups, "warmup_distances": warmups}
    return jobs | dict.fromkeys(("game", "distances", "evaluate_images", "probe"), runs)


def test_everything_is_planned(fresh):
    expected = {"search": 4 * (5 * 2 + 1), "select": 4 * 6, "published": 4 * 2, "train": 4 * 8, "evaluate": 4 * 8}
    expected |= image_jobs(runs=297, warmups=45)
    expected |= {"choose_r_entropy": 3, "choose_r_entropy_table2": 3, "encoder_study": 1}
    expected |= {"clipping_study": 2, "clipping_distances": 2, "samples": 3, "search_figure": 1}
    expected |= {f"table{number}": 1 for number in (1, 2, 3, 4, 5)}
    expected |= {f"figure{number}": 1 for number in (2, 3, 4, 5, 6, "S2", "S3")}
    if shutil.which("pdflatex"):
        expected["tables_pdf"] = 1
    assert fresh.plan() == expected


def test_table2_needs_its_cells_only(fresh):
    assert fresh.plan("table2") == image_jobs(runs=153, warmups=27) | {"choose_r_entropy_table2": 3, "table2": 1}


def test_halves_and_kinds_can_be_asked_for(fresh):
    def shown(target):
        plan = fresh.plan(target, "--configfile", "small.yaml")
        assert plan.pop(target, 1) == 1
        return plan, {name for name in plan if name.startswith(("table", "figure", "sample", "search_figure"))}

    plan, results = shown("images")
    figures = {f"figure{number}" for number in (2, 4, 5, 6, "S2", "S3")} | {"samples"}
    assert results == {"table2", "table5"} | figures
    assert (plan["game"], plan["probe"]) == (10, 10)
    assert not {"train", "evaluate", "search"} & set(plan)
    plan, results = shown("density")
    assert results == {"table1", "table3", "table4", "figure3", "search_figure"}
    assert plan["evaluate"] == 8
    assert not {"game", "warmup", "prepare"} & set(plan)
    plan, results = shown("figures")
    assert results == figures | {"figure3", "search_figure"}
    assert "probe" not in plan
    plan, results = shown("tables")
    assert results - {"tables_pdf"} == {f"table{number}" for number in (1, 2, 3, 4, 5)}
    assert (plan["game"], plan["evaluate"]) == (10, 8)
    assert "clipping_study" not in plan


def test_figures_of_a_few_runs_need_these_only(fresh):
    assert fresh.plan("figureS3") == {"figureS3": 1}
    jobs = {"inception": 1, "prepare": 1, "reference": 2, "warmup": 1, "warmup_distances": 1}
    assert fresh.plan("figure2") == jobs | {"clipping_study": 2, "clipping_distances": 2, "figure2": 1}
    assert fresh.plan("figureS2") == jobs | {"game": 1, "distances": 1, "encoder_study": 1, "figureS2": 1}


def test_one_image_run_by_its_path(fresh):
    jobs = dict.fromkeys(
        ("prepare", "inception", "warmup", "warmup_distances", "game", "distances", "evaluate_images"), 1
    )
    assert fresh.plan("results/paper/images/photos/mog7-ip/r2.5/seed9/metrics.csv") == jobs | {"reference": 2}


def test_table1_needs_its_cells_only(fresh):
    assert fresh.plan("table1") == {"search": 44, "select": 24, "train": 24, "evaluate": 24, "table1": 1}


def test_table3_trains_nothing(fresh):
    assert fresh.plan("table3") == {"search": 8, "select": 4, "table3": 1}


def test_one_cell_by_its_path_without_a_search(fresh):
    path = "results/paper/density/Rings/mog10-lc/metrics.csv"
    (fresh.folder / "unsearched.yaml").write_text("density: {search: {enabled: false}}")
    assert fresh.plan(path, "--configfile", "unsearched.yaml") == {"published": 1, "train": 1, "evaluate": 1}


def test_the_demo_starts_few_processes(fresh):
    plan = fresh.plan("--configfile", "config/demo.yaml")
    assert (plan["search"], plan["train"], plan["evaluate"]) == (4, 32, 32)
    assert plan["select"] == 4
    assert plan["published"] == 28
    assert (plan["warmup"], plan["game"], plan["prepare"], plan["classifier"]) == (5, 17, 1, 1)
    assert "inception" not in plan


def test_the_small_configurations_can_be_planned(fresh):
    plan = fresh.plan("images", "--configfile", "config/fmnist-small.yaml")
    assert (plan["warmup"], plan["game"], plan["probe"], plan["table5"]) == (5, 17, 17, 1)
    assert fresh.plan("figure3", "--configfile", "config/preview.yaml").keys() == {
        "published",
        "train",
        "evaluate",
        "figure3",
    }


# ---- What a change makes it do again ----


def test_nothing_is_outdated_by_time_or_device(finished):
    for path in (finished.folder / "src").rglob("*.py"):
        path.touch()  # as a checkout of another branch and back would
    assert small(finished, "device: cpu") == {}


def test_a_list_of_seeds(finished):
    plan = small(finished, "density: {seeds: [0, 1, 2]}")
    assert plan.pop("tables_pdf", 1) == 1
    assert plan == {"train": 8, "evaluate": 8, "table1": 1, "table4": 1, "figure3": 1}


def test_one_beta_of_the_grid(finished):
    plan = small(finished, "density: {search: {beta_rec: [0.05, 0.2, 0.3, 0.4, 0.9, 1.0]}}")
    assert plan.pop("tables_pdf", 1) == 1
    # Of two slices a dataset the one that holds it; of four cells the one that is searched. Figure 3 shows another.
    sg = {"search": 2, "select": 2, "train": 2, "evaluate": 2}
    assert plan == {**sg, "table1": 1, "table3": 1, "table4": 1, "search_figure": 1}


def test_one_published_beta(finished):
    with finished.changed("src/introprior/paper/table3.csv", "Rings,beta_neg,0.6,1", "Rings,beta_neg,0.6,0.8"):
        plan = small(finished)
    assert plan.pop("tables_pdf", 1) == 1
    # The cells sg-dt and sg-dt-closed of one dataset; tables and the search figure show published values.
    shown = {"table1": 1, "table3": 1, "table4": 1, "search_figure": 1}
    assert plan == {"published": 2, "train": 2, "evaluate": 2, **shown}


def test_the_spread_of_the_tables(finished):
    plan = small(finished, "protocol_overrides: {spread: sem}")
    assert plan.pop("tables_pdf", 1) == 1
    assert plan == {"table1": 1, "table2": 1, "table4": 1, "table5": 1}


def test_the_evaluation(finished):
    plan = small(finished, "density: {evaluation: {grid: 512}}")
    assert plan.pop("tables_pdf", 1) == 1
    assert plan == {"evaluate": 8, "table1": 1, "table4": 1, "figure3": 1}


# Of images the small experiment has two datasets, three cells (sg, mog10-ip and mog10, the latter in Table 5 only), one
# seed and two values of r_entropy: ten games, four warm-ups, and two games for Figure 2.
CHOICES = {"choose_r_entropy": 2, "choose_r_entropy_table2": 2}
IMAGE_TABLES = {"table2": 1, "table5": 1}
LATENTS = {"figure5": 1, "figure6": 1, "samples": 2}


def images(project: Project, changes: str) -> dict[str, int]:
    """The plan without the PDF, which follows the tables."""
    plan = small(project, changes)
    plan.pop("tables_pdf", None)
    return plan


def test_a_change_of_images_leaves_the_other_half_alone(finished):
    again = {"warmup": 4, "warmup_distances": 4, "game": 10, "distances": 10, "evaluate_images": 10, "probe": 10}
    again |= {
        "clipping_study": 2,
        "clipping_distances": 2,
        "encoder_study": 1,
        "figure2": 1,
        "figure4": 1,
        "figureS2": 1,
    }
    plan = images(finished, "images: {training: {learning_rate: 0.001}}")
    assert plan == again | CHOICES | IMAGE_TABLES | LATENTS


def test_the_samples_of_distances(finished):
    plan = images(finished, "images: {evaluation: {samples: 900}}")
    again = {"reference": 2, "warmup_distances": 4, "distances": 10, "clipping_distances": 2, "evaluate_images": 10}
    # No training; but whatever follows from the distances: the checkpoints, too.
    again |= {"probe": 10, "encoder_study": 1, "figure2": 1, "figure4": 1, "figureS2": 1}
    assert plan == again | CHOICES | IMAGE_TABLES | LATENTS


def test_another_r_entropy(finished):
    plan = images(finished, "images: {r_entropy: [0, 10, 1]}")
    added = dict.fromkeys(("game", "distances", "evaluate_images", "probe"), 4)  # two mixtures on two datasets
    assert plan == added | CHOICES | IMAGE_TABLES | LATENTS


def test_another_image_seed(finished):
    plan = images(finished, "images: {seeds: [0, 1]}")
    added = dict.fromkeys(("game", "distances", "evaluate_images", "probe"), 10) | {"warmup": 4, "warmup_distances": 4}
    assert plan == added | CHOICES | IMAGE_TABLES | LATENTS | {"figure4": 1}


def test_another_image_dataset(finished):
    plan = images(finished, "images: {datasets: [MNIST]}\nfigure2: {dataset: MNIST}\nfigureS2: {dataset: MNIST}")
    shown = {"figure2": 1, "figure4": 1, "figure5": 1, "figure6": 1, "figureS2": 1, "encoder_study": 1}
    assert plan == shown | IMAGE_TABLES | {"clipping_study": 2, "clipping_distances": 2}


def test_the_probes(finished):
    assert images(finished, "images: {probes: {neighbours: [3, 9]}}") == {"probe": 10} | IMAGE_TABLES


def test_which_entropy_the_tables_show(finished):
    assert images(finished, "protocol_overrides: {entropy: pooled}") == IMAGE_TABLES


def test_the_place_of_verified_files_outdates_nothing(finished):
    assert images(finished, "images: {source: /elsewhere, evaluation: {weights: /w.pth}}") == {}
    plan = images(finished, "images: {source: /elsewhere, verify: false}")
    assert (plan["prepare"], plan["warmup"], plan["game"]) == (2, 4, 10)


def test_the_making_of_stand_ins(finished):
    with finished.changed("src/introprior/data/images/standins.py", '"""', '"""Changed. '):
        plan = small(finished)
    assert (plan["prepare"], plan["warmup"], plan["game"]) == (1, 2, 5)
    assert "train" not in plan


def test_an_entry_of_the_catalogue_outdates_nothing(finished):
    with finished.changed("src/introprior/data/images/catalogue.py", '"Fashion-MNIST"', '"Fashion"'):
        assert small(finished) == {}


def test_the_loop_of_one_half(finished):
    with finished.changed("src/introprior/training/images.py", '"""', '"""Changed. '):
        plan = small(finished)
    assert (plan["warmup"], plan["game"], plan["clipping_study"]) == (4, 10, 2)
    assert not {"train", "search", "prepare", "classifier"} & set(plan)


FIGURES = LATENTS | {f"figure{number}": 1 for number in (2, 3, 4, "S2", "S3")} | {"search_figure": 1}


@pytest.mark.parametrize(
    ("name", "outdated"),
    [
        ("figures/figure3.py", {"figure3": 1}),
        ("figures/figure5.py", {"figure5": 1}),
        ("figures/search.py", {"search_figure": 1}),
        ("figures/latents.py", {"figure5": 1, "figure6": 1}),
        ("figures/panels.py", LATENTS | {"figureS2": 1}),
        ("figures/curves.py", {"figure2": 1, "figure4": 1}),
        ("figures/style.py", FIGURES),
        ("read.py", FIGURES | IMAGE_TABLES | {"table1": 1, "table3": 1, "table4": 1}),
        ("tables/latex.py", IMAGE_TABLES | {"table1": 1, "table3": 1, "table4": 1}),
    ],
)
def test_a_source_of_figures_and_tables(finished, name, outdated):
    with finished.changed(f"src/introprior/reporting/{name}", '"""', '"""Changed. '):
        assert images(finished, "{}") == outdated


def test_a_script(finished):
    with finished.changed("workflow/scripts/figure.py", '"""', '"""Changed. '):
        assert small(finished) == FIGURES


def test_the_title_of_a_metric_outdates_no_measurement(finished):
    with finished.changed("src/introprior/metrics/registry.py", '"""', '"""Changed. '):
        plan = small(finished)
    assert set(plan) <= {*FIGURES, "table1", "table2", "table3", "table4", "table5", "tables_pdf"}
    assert {"table1", "table5", "figure2", "figure4"} <= set(plan)


def test_a_loss(finished):
    with finished.changed("src/introprior/game/objectives.py", '"""', '"""Changed. '):
        plan = small(finished)
    assert plan.pop("tables_pdf", 1) == 1
    jobs = {"search": 4, "select": 2, "train": 8, "evaluate": 8}
    density = {**jobs, "table1": 1, "table3": 1, "table4": 1, "figure3": 1, "search_figure": 1}
    assert density.items() <= plan.items()
    assert (plan["warmup"], plan["game"], plan["clipping_study"]) == (4, 10, 2)
    assert not {"published", "prepare", "classifier"} & set(plan)


def test_a_command_line_text_outdates_nothing(finished):
    with finished.changed("src/introprior/cli.py", '"""', '"""Changed. '):
        assert small(finished) == {}


def test_the_page_on_adding_a_dataset(fresh):
    page = (ROOT / "docs/add-an-image-dataset.md").read_text()
    entry, changes = (re.search(rf"^```{kind}\n(.*?)^```", page, re.M | re.S)[1] for kind in ("python", "yaml"))
    (fresh.folder / "kmnist.yaml").write_text(changes)
    with fresh.changed("src/introprior/data/images/catalogue.py", "_ENTRIES = (", f"_ENTRIES = (\n{entry.rstrip()},"):
        plan = fresh.plan("images", "--configfile", "kmnist.yaml")
        assert (plan["prepare"], plan["game"], plan["table2"], plan["table5"], plan["figure2"]) == (1, 99, 1, 1, 1)
        for target in ("results/data/KMNIST/manifest.json", "results/paper/images/KMNIST/classifier.pt"):
            code, printed = fresh.snakemake("--dry-run", target)
            assert code == 1
            assert "introprior: results: KMNIST has no section; give it one in images.by_dataset\n" in printed
            assert "Traceback" not in printed


# ---- Mistakes ----


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (
            ["--config", "density={sedes: [1]}"],
            {},
            "configuration: density: unknown key 'sedes'; did you mean 'seeds'?",
        ),
        (["--config", "density={datasets: [Ring]}"], {}, "density.datasets[0]: unknown dataset 'Ring'; did you mean"),
        (["--config", "tables={table1: [sg, mog-64]}"], {}, "configuration: tables.table1[1]: unknown cell 'mog-64'"),
        (["results/paper/density/Rnigs/sg/metrics.csv"], {}, "results: unknown dataset 'Rnigs'; did you mean 'Rings'?"),
        (["results/paper/density/Rings/sg-lc/metrics.csv"], {}, "contradictory cell 'sg-lc'"),
        (
            ["--config", "images={datasets: [MNITS]}"],
            {},
            "images.datasets[0]: unknown image dataset 'MNITS'; did you mean",
        ),
        (["results/paper/images/MNITS/sg/r0/seed0/metrics.csv"], {}, "results: unknown image dataset 'MNITS'"),
        (["results/paper/images/MNIST/sg/r10/seed0/metrics.csv"], {}, "results: sg has no components"),
        (["results/paper/images/MNIST/vae-sg/r0/seed0/metrics.csv"], {}, "results: vae-sg: image runs have no vae-"),
        (["results/data/MNITS/manifest.json"], {}, "results: unknown image dataset 'MNITS'; did you mean 'MNIST'?"),
        (["--resources", "gpu=3"], {"CUDA_VISIBLE_DEVICES": "0,1"}, "--resources gpu=3: 2 GPUs are visible"),
    ],
)
def test_a_mistake_ends_snakemake_with_one_line(fresh, arguments, environment, said):
    code, printed = fresh.snakemake("--dry-run", *arguments, **environment)
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


@pytest.mark.parametrize(
    "module",
    [
        *("training.density", "training.images", "evaluation.search", "evaluation.images"),
        *("reporting.tables.comparison", "reporting.figures.figure5"),
    ],
)
def test_sources_are_closed_under_imports(module):
    package = ROOT / "src/introprior"
    files = sources.closure(module)
    names = {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__") for path in files}
    needed = {module}.union(*map(imported, files))
    below = tuple(f"{name}." for name in ELSEWHERE - {"data.images"})
    kept = {name for name in needed if name not in ELSEWHERE and not name.startswith(below)}
    assert names == kept
    assert {"game.divergences", "game.networks", "training.loop"} <= names or module.startswith("reporting")


def test_every_script_is_a_source_of_its_rule():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").iterdir())
    scripts = {path.name for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert set(re.findall(r'script="(\w+\.py)"', rules)) == set(re.findall(r'"../scripts/(\w+\.py)"', rules)) == scripts


def test_results_have_one_label_in_the_report():
    """Of a second label with two values the report's page makes a switch, and goes white where a result has no twin."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").iterdir())
    assert re.findall(r"\breport\(.*", rules) == [
        'report(path, caption=f"../report/{caption}.rst", category=category, labels={"result": result})'
    ]
