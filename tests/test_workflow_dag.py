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

pytest.importorskip("snakemake")

ROOT = Path(__file__).resolve().parents[1]

SMALL = """\
experiment: small
density: {datasets: [8Gaussian, Rings], search: {cells: [sg]}}
tables: {table1: [sg, mog64]}
figure3: {cells: [mog64]}
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


def test_everything_is_planned(fresh):
    expected = {"search": 4 * (5 * 2 + 1), "select": 4 * 6, "published": 4 * 2, "train": 4 * 8, "evaluate": 4 * 8}
    expected |= {"table1": 1, "table3": 1, "table4": 1, "figure3": 1, "search_figure": 1}
    if shutil.which("pdflatex"):
        expected["tables_pdf"] = 1
    assert fresh.plan() == expected


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
    assert plan == {"table1": 1, "table4": 1}


def test_the_evaluation(finished):
    plan = small(finished, "density: {evaluation: {grid: 512}}")
    assert plan.pop("tables_pdf", 1) == 1
    assert plan == {"evaluate": 8, "table1": 1, "table4": 1, "figure3": 1}


def test_a_plot_script(finished):
    with finished.changed("workflow/scripts/figure3.py", '"""Figure 3', '"""The Figure 3'):
        assert small(finished) == {"figure3": 1}


def test_a_plotting_source(finished):
    with finished.changed("src/introprior/reporting/figures.py", '"""', '"""Changed. '):
        assert small(finished) == {"figure3": 1, "search_figure": 1}


def test_a_loss(finished):
    with finished.changed("src/introprior/objectives.py", '"""', '"""Changed. '):
        plan = small(finished)
    assert plan.pop("tables_pdf", 1) == 1
    jobs = {"search": 4, "select": 2, "train": 8, "evaluate": 8}  # not: published
    assert plan == {**jobs, "table1": 1, "table3": 1, "table4": 1, "figure3": 1, "search_figure": 1}


def test_a_command_line_text_outdates_nothing(finished):
    with finished.changed("src/introprior/cli.py", '"""', '"""Changed. '):
        assert small(finished) == {}


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


# ---- The lists of sources ----

ELSEWHERE = {"cells", "errors", "files", "protocols", "reporting.job"}
"""Modules whose effect on results is in the options, or that have none: names, checks, messages, logging."""


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, e.g. ``training.loop``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "introprior":
            parts = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {part.removeprefix("introprior.") for part in parts if module(part.removeprefix("introprior."))}
    return found


def module(name: str) -> str | None:
    """The file of a module, relative to the package; None for what is none, or an empty package."""
    base = ROOT / "src/introprior" / name.replace(".", "/")
    if base.with_suffix(".py").is_file():
        return str(base.with_suffix(".py").relative_to(ROOT / "src/introprior"))
    return f"{name.replace('.', '/')}/__init__.py" if name == "paper" else None


def test_jobs_depend_on_all_modules_that_theirs_import():
    text = (ROOT / "workflow/rules/common.smk").read_text()
    start, end = text.index("_TRAIN = ["), text.index("def sources(")
    names: dict[str, dict[str, list[str]]] = {}
    exec(text[start:end], names)
    kinds = names["SOURCES"]
    assert {"search", "select", "train", "evaluate", "table", "figure3"} <= set(kinds)
    scripts = re.findall(
        r'sources\("(\w+)", "(\w+\.py)"\)', "".join(p.read_text() for p in (ROOT / "workflow/rules").iterdir())
    )
    assert {script for _, script in scripts} == {path.name for path in (ROOT / "workflow/scripts").glob("*.py")}
    for kind, listed in kinds.items():
        files = [ROOT / "src/introprior" / name for name in listed]
        assert [path for path in files if not path.is_file()] == []
        files += [ROOT / "workflow/scripts" / script for of, script in scripts if of == kind]
        needed = set().union(*(imported(path) for path in files if path.suffix == ".py")) - ELSEWHERE
        missing = {module(name) for name in needed} - set(listed)
        assert not missing, f"{kind}: workflow/rules/common.smk should list {missing}"
