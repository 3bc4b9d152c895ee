"""What there will be to do: the jobs that Snakemake tells of, what they cost, and the queue played through."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import timeit
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("snakemake")

from introprior.cli import main
from introprior.errors import UserError
from introprior.experiment.config import load
from introprior.operations import costs, dag, forecast, provenance
from introprior.operations.dag import Job
from tests import warm
from tests.projects import ROOT, Project
from tests.runs import a_record

MINI = """\
experiment: mini
density: {datasets: [Rings], seeds: [0, 1], search: {enabled: false}, training: {iterations: 3000}}
tables: {table1: [sg, mog64]}
"""
QUIET = ("--quiet", "progress", "rules", "--cores", "1")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A copy of the project; GPUs are visible on it, at which nobody looks."""
    return Project(tmp_path_factory.mktemp("project"), mini=MINI)


def snakemake(project: Project, *arguments: str) -> str:
    """What Snakemake prints; it succeeds."""
    code, printed = project.snakemake(*QUIET, *arguments)
    assert code == 0, printed
    return printed


def dry_run(project: Project, experiment: str, *arguments: str) -> dag.Dag:
    """The jobs that a dry run tells of."""
    snakemake(project, "--dry-run", *arguments)
    results = project.folder / "results" / experiment
    assert not (results / dag.NAME).exists()
    return dag.read(results)


@pytest.fixture(scope="module")
def paper(project, paper_plan) -> dag.Dag:
    """As if the paper had been planned in the project."""
    (results := project.folder / "results/paper").mkdir(parents=True)
    shutil.copy(paper_plan[1], results)
    return dag.read(results)


@pytest.fixture(scope="module")
def mini(project) -> tuple[Job, ...]:
    return dry_run(project, "mini", "table1", "--configfile", "mini.yaml").jobs


def counts(known: dag.Dag, *rules: str) -> dict[str, int]:
    """How many jobs there are of some rules."""
    return {rule: sum(job.rule == rule for job in known.jobs) for rule in rules}


# ---- The jobs that Snakemake tells of ----


def test_the_jobs_are_snakemakes(paper):
    """Each once, after those that it depends on, in the order of the targets, with all that there is to know of it."""
    before: set[str] = set()
    for job in paper.jobs:
        assert before.issuperset(job.inputs), f"{job.rule} comes before what it depends on"
        assert before.isdisjoint(job.outputs)
        before.update(job.outputs)
    assert counts(paper, "search", "train", "warmup", "game") == {"search": 44, "train": 8, "warmup": 45, "game": 297}
    assert {job.rule for job in paper.jobs if not job.outputs} == {"all"}
    on_gpu = {"search", "train", "evaluate", "reference", "warmup", "game", "evaluate_images", "encoder_study"}
    on_gpu |= {"distances", "warmup_distances", "clipping_study", "clipping_distances"}
    assert {job.rule for job in paper.jobs if job.gpu} == on_gpu  # on a machine without one
    cells = list(dict.fromkeys(job.wildcards["cell"] for job in paper.jobs if job.rule == "train"))
    assert cells[:3] == ["vae-sg", "sg", "mog64"]
    game = next(job for job in paper.jobs if job.rule == "game")
    results, run = game.log.split("/logs/")[0], "images/MNIST/{cell}/r{r_entropy}/seed{seed}".format(**game.wildcards)
    assert game.outputs == (f"{results}/{run}/snapshots.pt", f"{results}/{run}/history.csv")
    assert (game.log, game.benchmark) == (f"{results}/logs/{run}/train.log", f"{results}/benchmarks/{run}/train.tsv")
    assert (game.options["cell"], game.options["seeds"]) == (game.wildcards["cell"], [int(game.wildcards["seed"])])
    assert paper.configuration["images"]["seeds"] == [0, 1, 2]


def test_the_papers_jobs_are_read_at_once(project, paper):
    path = project.folder / "results/paper"
    assert (path / dag.PLANNED).stat().st_size < 3e6
    assert len(dag.read(path).jobs) == len(paper.jobs)
    assert min(timeit.repeat(lambda: dag.read(path), timer=time.process_time, number=1)) < 1  # a tenth of that


def test_jobs_are_merged_over_targets_until_something_changes(project):
    def known(*arguments: str) -> set[str]:
        return {job.rule for job in dry_run(project, "merged", *arguments, "--config", *config).jobs}

    first, second = "results/merged/density/Rings/sg-dt/hyperparameters.json", "figureS3"
    config = ["experiment=merged"]
    assert known(first) == {"published"}
    assert known(second) == {"published", "figureS3"}
    config.append("protocol=text")
    assert known(second) == {"figureS3"}


def test_what_makes_known_jobs_those_of_another_run(project, monkeypatch):
    """Another protocol, rule or source; not what no result depends on, as the device."""
    monkeypatch.chdir(project.folder)
    usual = dag.identity(load({}))
    assert dag.identity(load({"device": "cpu", "checkpoint_seconds": 17})) == usual
    assert usual != dag.identity(load({"protocol": "text"}))
    with project.changed("workflow/rules/common.smk", "# ---- Paths", "# ---- The paths"):
        assert usual != dag.identity(load({}))
    assert dag.identity(load({})) == usual
    monkeypatch.setattr(provenance, "code", lambda: "of another package")
    assert usual != dag.identity(load({}))


def test_a_run_goes_on_where_its_jobs_cannot_be_told(project):
    path = project.folder / "results/closed" / dag.PLANNED
    path.mkdir(parents=True)
    printed = snakemake(project, "--dry-run", "figureS3", "--config", "experiment=closed")
    (line,) = (line for line in printed.splitlines() if "introprior: " in line)
    assert f"status and verify will not know the jobs of this run (results/closed/{dag.PLANNED}: is a folder" in line
    assert "Traceback" not in printed


def test_a_folder_may_be_copied(tmp_path, project, paper):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / dag.NAME).write_bytes((project.folder / "results/paper" / dag.PLANNED).read_bytes())
    places = {f"{project.folder}/results/paper/": f"{tmp_path}/copy/", f"{project.folder}/results/": f"{tmp_path}/"}
    for before, after in zip(paper.jobs, dag.read(tmp_path / "copy").jobs, strict=True):
        assert after.options == before.options
        for old, new in zip((*before.outputs, before.log or ""), (*after.outputs, after.log or ""), strict=True):
            start = next((start for start in places if old.startswith(start)), "")
            assert new == places.get(start, "") + old.removeprefix(start)


def test_targets(paper):
    def rules(*targets: str) -> set[str]:
        return {job.rule for job in paper.of(targets)}

    assert rules("table3") == {"search", "select", "table3"}
    assert rules("figureS3", "inception") == {"figureS3", "inception"}
    train = next(job for job in paper.jobs if job.rule == "train" and job.wildcards["cell"] == "sg-dt")
    assert [job.rule for job in paper.of([train.outputs[1]])] == ["published"] * 4 + ["train"]
    assert paper.of(["all"]) == list(paper.jobs)
    for unknown in ("table6", "game"):  # a rule with wildcards is no target
        with pytest.raises(UserError, match=f"plan: unknown target '{unknown}'"):
            paper.of(["all", unknown])


# ---- What a job costs ----


def changed(job: Job, path: str, value: Any) -> Job:
    """A job but for one option, which it has; ``value`` may say what becomes of it."""
    options = inner = json.loads(json.dumps(job.options))
    *sections, key = [int(name) if name.isdecimal() else name for name in path.split(".")]
    for section in sections:
        inner = inner[section]
    before, inner[key] = inner[key], value(inner[key]) if callable(value) else value
    assert inner[key] != before
    return replace(job, options=options)


def test_every_rule_has_its_price(paper):
    for job in paper.jobs:
        assert all(0 < costs.seconds(job, place) < 1e6 for place in ("gpu", "cpu"))
        assert costs.of(job.rule).mem_mb >= 1000
    assert costs.COSTS.keys() - {job.rule for job in paper.jobs} <= {"classifier", "tables_pdf"}
    for rule, cost in costs.COSTS.items():  # the default is the price of the paper's jobs, give or take the datasets
        for job in (job for job in paper.jobs if job.rule == rule):
            assert 0.3 < cost.times(job) <= 1.1, (rule, job.wildcards)


def test_more_work_takes_longer(paper):
    for rule, cost in costs.COSTS.items():
        job = next((job for job in paper.jobs if job.rule == rule), None)
        for path in cost.per if job else ():
            first, _, second = path.partition(" - ")
            more = changed(job, first, lambda value: 2 * value)
            assert costs.seconds(more, "cpu") > 1.9 * costs.seconds(job, "cpu"), (rule, path)
            if second:
                assert costs.seconds(changed(job, second, lambda value: 2 * value), "cpu") < costs.seconds(job, "cpu")


@pytest.mark.parametrize("most", [10, 60, 2880])
def test_nobody_asks_for_more_than_may_be_asked_for_and_each_attempt_for_more(most):
    for rule, place in itertools.product([*costs.COSTS, "table"], ("gpu", "cpu")):
        asked = costs.asked(rule, place, most, {})
        minutes, memory = ([asked[key](None, attempt) for attempt in (1, 2, 3)] for key in ("runtime", "mem_mb"))
        assert 10 <= minutes[0] <= minutes[1] <= minutes[2] <= most
        assert minutes[0] == most or minutes[0] * 60 >= 2 * getattr(costs.of(rule), place)
        assert memory == [memory[0], 2 * memory[0], 3 * memory[0]]
    on_cpu, on_gpu = (costs.asked("train", place, 2880, {})["runtime"](None, 1) for place in ("cpu", "gpu"))
    assert on_cpu > on_gpu


def test_what_comes_with_a_gpu_is_asked_for_with_one_only():
    more = {"slurm_partition": "gpu", "gpu": 0, "gres": "shard:1", "mem_mb": 1}
    asked = costs.asked("game", "gpu", 60, more)
    assert asked.pop("runtime")
    assert asked == more
    for rule, place in (("game", "cpu"), ("probe", "gpu"), ("probe", "cpu")):
        asked = costs.asked(rule, place, 60, more)
        assert not more.keys() & asked.keys() - {"gpu", "mem_mb"}
        assert not asked.get("gpu")


def test_the_measured_hours_on_a_cpu(project, paper):
    """What the committed outcomes took: one seed in 2D an hour, fmnist-small 52 minutes on two cores."""

    def taken(name: str) -> float:
        return json.loads((ROOT / f"results/reference/{name}/provenance.json").read_text())["seconds"]

    jobs = [job for job in paper.jobs if job.rule in ("train", "evaluate") and job.wildcards == {"cell": "sg-dt"}]
    jobs = [changed(job, "dataset", "8Gaussian") for job in jobs]
    told = sum(costs.seconds(changed(job, "seeds", [0]) if job.rule == "train" else job, "cpu") for job in jobs)
    assert 1 / 2 < told / taken("8Gaussian-sg-dt") < 2
    small = dry_run(project, "fmnist-small", "images", "--configfile", "config/fmnist-small.yaml")
    expected = {"warmup": 5, "game": 17, "probe": 17, "table5": 1}
    assert counts(small, *expected) == expected
    told = sum(costs.seconds(job, "cpu") for job in small.jobs if job.outputs)
    assert 1 < told / 2 / taken("fmnist-small") < 4  # probes do not know that they see a sixth of the images


# ---- What earlier runs took ----


def ran(job: Job, seconds: float, **facts) -> Job:
    """A job with the files that it would have left, had it taken so long."""
    for path in (*job.outputs, job.benchmark):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"x" * 500_000)
    Path(job.benchmark).write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t600.1\n")
    records = [{"seed": 0, "status": "ok", "detail": ""}]
    facts = {"options": job.options, "records": records} | facts
    job.record.write_text(json.dumps(a_record([Path(path).name for path in job.outputs], **facts)))
    return job


@pytest.fixture
def train(tmp_path, mini) -> Job:
    """A training whose files are apart from other tests'."""
    job = next(job for job in mini if (job.rule, job.wildcards["cell"]) == ("train", "mog64"))
    return replace(job, outputs=(f"{tmp_path}/a.pt", f"{tmp_path}/a.csv"), benchmark=f"{tmp_path}/a.tsv")


def test_a_measured_rate_is_scaled_by_what_there_is_to_do(train):
    rates = forecast.Rates([ran(train, seconds=1000)])
    assert rates.price(train, gpu=False) == forecast.Price(pytest.approx(1000), pytest.approx(1e6), "cpu", True)
    longer = changed(train, "training.iterations", 6000)
    ratio = costs.seconds(longer, "cpu") / costs.seconds(train, "cpu")
    assert 1.9 < ratio < 2
    more = changed(changed(longer, "seeds", [0, 1, 2, 3]), "training.learning_rate", 7.0)
    assert rates.price(more, gpu=False)[::3] == (pytest.approx(2 * 1000 * ratio, rel=0.01), True)
    # Other sizes, another protocol or another cell are another matter, and so is a GPU.
    for path, value in (("training.hidden_width", 7), ("protocol.conversion_logits", "?"), ("cell", "sg")):
        assert not rates.price(changed(train, path, value), gpu=False).measured
    gpu = rates.price(train, gpu=True)
    assert gpu[::2] + gpu[3:] == (costs.seconds(train, "gpu"), "gpu", False)
    rates = forecast.Rates([ran(train, seconds=100, device="NVIDIA H100")])
    assert rates.price(train, gpu=True)[2:] == ("NVIDIA H100", True)
    assert not rates.price(train, gpu=False).measured


def test_what_is_no_measurement(train):
    """What was resumed, made with other options, or diverged; and what is damaged."""
    assert forecast.Rates([ran(train, seconds=1000)]).known
    diverged = {"records": [{"seed": 0, "status": "diverged", "detail": ""}]}
    for facts in ({"resumed": 17}, {"options": {"cell": "sg"}}, diverged, {"records": "?"}, {"outputs": 0}):
        assert not forecast.Rates([ran(train, seconds=1000, **facts)]).known
    Path(ran(train, seconds=1000).benchmark).write_text("s\th:m:s\n")
    assert not forecast.Rates([train]).known


# ---- The queue ----


def job(name: str, inputs=(), gpu: bool = True) -> Job:
    return Job("game", {}, (name,), tuple(inputs), None, None, gpu, {})


def test_the_critical_path_is_the_longest_chain():
    jobs = [job("a"), job("b", "a"), job("c"), job("d", ("b", "c")), job("e")]
    total, path = forecast.critical_path(jobs, [1, 2, 10, 3, 12.5])
    assert (total, [one.outputs[0] for one in path]) == (13, ["c", "d"])
    assert forecast.critical_path([], []) == (0, [])


ALONE, CHAIN = [job(name) for name in "abcd"], [job("a"), job("b", "a"), job("c", "b")]
MIXED = [job("a"), job("b"), job("p", gpu=False), job("q", gpu=False)]


@pytest.mark.parametrize(
    ("jobs", "seconds", "gpus", "cores", "taken"),
    [
        (ALONE, [1, 1, 1, 1], 1, 8, 4),
        (ALONE, [1, 1, 1, 1], 2, 8, 2),
        (ALONE, [3, 1, 1, 1], 2, 8, 3),
        (ALONE, [1, 1, 1, 1], 8, 1, 4),  # each takes a core, too
        (ALONE, [1, 1, 1, 1], 0, 2, 2),  # on the cores
        (CHAIN, [1, 2, 3], 4, 4, 6),
        (CHAIN[1:], [2, 3], 1, 1, 5),  # inputs that no job of the list makes are there
        (MIXED, [2, 2, 3, 3], 1, 3, 4),
        (MIXED, [2, 2, 3, 3], 1, 2, 6),
        ([], [], 1, 1, 0),
    ],
)
def test_the_queue_is_played_through(jobs, seconds, gpus, cores, taken):
    assert forecast.makespan(jobs, seconds, gpus, cores) == taken


def test_bounds_of_the_papers_time(paper):
    jobs = [job for job in paper.jobs if job.outputs]
    seconds = [costs.seconds(one, "gpu" if one.gpu else "cpu") for one in jobs]
    longest, path = forecast.critical_path(jobs, seconds)
    assert all(set(after.inputs) & set(before.outputs) for before, after in itertools.pairwise(path))
    on_gpu = sum(each for each, one in zip(seconds, jobs, strict=True) if one.gpu)
    previous = float("inf")
    for gpus in (1, 2, 4, 8):
        taken = forecast.makespan(jobs, seconds, gpus, cores=64)
        assert max(longest, on_gpu / gpus) <= taken <= on_gpu / gpus + sum(seconds) - on_gpu + longest
        assert taken < previous
        previous = taken


# ---- The command ----


@pytest.fixture
def here(project, paper, mini, monkeypatch) -> Path:
    """The project, in which the paper and the small experiment were resolved."""
    monkeypatch.chdir(project.folder)
    return project.folder


def said(capsys, *arguments: str) -> str:
    """A plan that needs no Snakemake: the very configuration was resolved before."""
    assert main(["plan", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def planned(capsys, *arguments: str) -> dict:
    return json.loads(said(capsys, "--json", *arguments))


def test_the_papers_plan(here, paper, capsys):
    lines = said(capsys, "--gpus", "2", "--cores", "16").splitlines()
    assert len(lines) < 35
    assert max(map(len, lines)) <= 150
    words = " ".join(" ".join(lines).split())
    for expected in ("paper (config/config.yaml)", "game 297 0 297", "built-in", "GPUs 1 [2] 4 8", "may be far off"):
        assert expected in words
    found, jobs = planned(capsys, "--gpus", "2", "--cores", "16"), [job for job in paper.jobs if job.outputs]
    assert (found["jobs"], found["done"]) == (len(jobs), 0)
    assert sum(rule["jobs"] for rule in found["rules"].values()) == len(jobs)
    assert found["gpu_seconds"] == pytest.approx(sum(costs.seconds(one, "gpu") for one in jobs if one.gpu))
    assert found["critical_path"]["seconds"] <= found["seconds"]["2"]
    assert found["seconds"]["1"] > found["seconds"]["2"] > found["seconds"]["4"]
    assert found["bytes"] > 10e9
    told = re.search(r"some ([\d,]+) jobs, (\d+) GPU-hours .* and (\d+) GB", (ROOT / "README.md").read_text())
    assert told
    in_words = [float(number.replace(",", "")) for number in told.groups()]
    assert in_words == pytest.approx([found["jobs"], found["gpu_seconds"] / 3600, found["bytes"] / 1e9], rel=0.05)
    found = planned(capsys, "--gpus", "0", "--cores", "4")
    assert (found["gpus"], found["gpu_seconds"], list(found["seconds"])) == (0, 0, ["0"])
    (here / "cpu.yaml").write_text("device: cpu")  # is no other configuration
    assert planned(capsys, "--configfile", "cpu.yaml", "--cores", "4") == found


def test_a_plan_says_from_where_on_the_cores_bound_it(here, paper, capsys):
    assert "More than 8 of these GPUs bring nothing on 8 cores" in said(capsys, "--gpus", "4", "--cores", "8")
    assert "More than" not in said(capsys, "--gpus", "4", "--cores", "64")


def test_measured_rates_are_named(here, mini, capsys):
    job = ran(next(job for job in mini if job.rule == "train"), seconds=4 * 3600.0, device="NVIDIA H100")
    for path in job.outputs:
        Path(path).unlink()
    results = here / "results"
    told = (results / "mini" / dag.PLANNED).read_text()
    for name, text in (("foreign", "[]"), ("old", '{"format": 0}'), ("mini", told)):
        (results / name).mkdir(exist_ok=True)
        (results / name / dag.NAME).write_text(text)
    found = planned(capsys, "table1", "--configfile", "mini.yaml")
    assert found["rules"]["train"]["rates"] == {"measured": 1, "built-in": 1}
    assert found["devices"] == ["NVIDIA H100"]
    assert found["rules"]["train"]["seconds_each"][1] == pytest.approx(4 * 3600)
    printed = said(capsys, "table1", "--configfile", "mini.yaml")
    assert "measured, built-in (1 of 2)" in printed
    assert "on NVIDIA H100" in printed
    assert "mini (mini.yaml), table1" in printed


def test_what_nobody_resolved_is_resolved_by_a_dry_run(here, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(here / "src"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "executable", str(warm.programs() / "python"))
    (here / "layers.yaml").write_text("experiment: layers\ndevice: cuda\n")  # which is where it will run
    arguments = ["table1", "--configfile", "mini.yaml", "layers.yaml"]
    assert main(["plan", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == "resolving the jobs by a dry run of snakemake\n"
    assert "layers (mini.yaml, layers.yaml), table1" in printed.out
    assert said(capsys, *arguments) == printed.out
    jobs = [job for job in dag.read(here / "results/layers").jobs if job.outputs]
    for path in map(Path, itertools.chain(*(job.outputs for job in jobs))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = planned(capsys, *arguments)
    assert (found["done"], found["seconds"]["1"], found["bytes"]) == (len(jobs), 0, 0)
    assert "Every file is there" in said(capsys, *arguments)
    Path(next(job for job in jobs if job.rule == "train").outputs[1]).unlink()  # half of it is not enough
    found = planned(capsys, *arguments)
    assert (found["done"], found["rules"]["train"]["done"]) == (len(jobs) - 1, 1)
    assert main(["plan", "table6", *arguments[1:]]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("introprior plan: snakemake --dry-run: MissingRuleException: No rule to produce table6")


@pytest.mark.parametrize("arguments", [["plan"], ["status", "results/paper"], ["verify", "results/paper", "--partial"]])
def test_a_look_is_quick_and_light(here, arguments):
    code = "import sys, time; from introprior.cli import main; t = time.process_time(); main(sys.argv[1:]);"
    code += "print(time.process_time() - t); print(*sorted(sys.modules))"
    command, environment = [sys.executable, "-c", code, *arguments], os.environ | {"PYTHONPATH": str(here / "src")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    *_, taken, modules = done.stdout.splitlines()
    assert float(taken) < 5
    assert {"torch", "numpy", "pandas", "snakemake", "matplotlib"}.isdisjoint(modules.split())


def test_a_mistake_is_one_line(here, capsys, tmp_path, monkeypatch):
    """Of numbers that are none, test_cli.py."""
    (here / "wrong.yaml").write_text("density: {seeds: [0, 0]}")
    for arguments, expected in (
        (["--configfile", "wrong.yaml"], "density.seeds: 0 is there more than once"),
        (["--configfile", "absent.yaml"], "absent.yaml: cannot read"),
        (["--cores", "0"], "--cores: must be at least 1, is 0"),
        ([], "run this in the folder of the project"),
    ):
        if not arguments:
            monkeypatch.chdir(tmp_path)
        assert main(["plan", *arguments]) == 2
        printed = capsys.readouterr()
        assert expected in printed.err
        assert (printed.err.count("\n"), printed.out) == (1, "")
