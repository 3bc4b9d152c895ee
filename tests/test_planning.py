"""The plan without Snakemake: equal to Snakemake's own, priced, and played through."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from introprior.experiment.planning import Job

from introprior.cli import main
from introprior.errors import UserError
from introprior.experiment import configuration, planning
from introprior.operations import costs, forecast, provenance

ROOT = Path(__file__).resolve().parents[1]
CONFIG = configuration.defaults(ROOT / "workflow/schemas/config.schema.yaml")

DUMP = """
import json, os, sys
import snakemake.cli, snakemake.dag

def summary(dag, detailed=False):
    keys = {"outputs": "output", "inputs": "input", "log": "log"}
    jobs = [
        {
            "rule": job.rule.name,
            **{key: list(map(str, getattr(job, name))) for key, name in keys.items()},
            "wildcards": dict(job.wildcards.items()),
            "benchmark": job.benchmark and str(job.benchmark),
            "gpu": bool(job.resources.get("gpu", 0)),
            "options": job.params.get("options"),
        }
        for job in dag.jobs if job.output
    ]
    with open(log, "w") as stream:
        json.dump(jobs, stream)
    os._exit(0)

snakemake.dag.DAG.summary = summary
for line in sys.stdin:
    log, *arguments = json.loads(line)
    child = os.fork()
    if not child:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        snakemake.cli.main(["--summary", *arguments])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs Snakemake as often as told, up to its plan, which it writes to a file as JSON."""


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory):
    """What Snakemake plans in a copy of the project for some arguments: its jobs."""
    pytest.importorskip("snakemake")
    folder = tmp_path_factory.mktemp("project")
    for name in ("workflow", "config", "src", "envs", "profiles"):
        if (ROOT / name).is_dir() and not (ROOT / name).is_symlink():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    # A GPU that nobody looks at, so that the rules ask for one.
    environment |= {"PYTHONPATH": str(folder / "src"), "XDG_CACHE_HOME": str(folder), "CUDA_VISIBLE_DEVICES": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", DUMP],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=folder, text=True,
    ) as process:  # fmt: skip

        def plan(*arguments: str) -> list[dict]:
            log = folder / "jobs.json"
            log.unlink(missing_ok=True)
            print(json.dumps([str(log), *arguments]), file=process.stdin, flush=True)
            assert process.stdout.readline() == "0\n", process.stderr.read()
            return json.loads(log.read_text())

        yield plan
        process.stdin.close()


def equal(theirs: list[dict], ours: list[Job]) -> None:
    """Check that two plans are the same, job by job."""
    made = {path for job in theirs for path in job["outputs"]}
    known = {tuple(job["outputs"]): job for job in theirs}
    mine = {job.outputs: job for job in ours}
    mend = "rules and src/introprior/experiment/planning.py differ: let planning._Plan add the same jobs as the rules"
    missing = sorted({known[key]["rule"] for key in known.keys() - mine.keys()})
    assert not missing, f"{mend}; it lacks jobs, or outputs, of {', '.join(missing)}"
    surplus = sorted({mine[key].rule for key in mine.keys() - known.keys()})
    assert not surplus, f"{mend}; the rules have no such jobs, or outputs, of {', '.join(surplus)}"
    for outputs, job in mine.items():
        other = known[outputs]
        told = other["options"] and json.loads(other["options"])
        expected = (other["rule"], other["wildcards"], other["log"], other["benchmark"], other["gpu"], told)
        found = (job.rule, job.wildcards, [job.log], job.benchmark, job.gpu, job.options)
        assert found == expected, f"{mend}; {job.rule} differs"
        assert set(job.inputs) == set(other["inputs"]) & made, f"{mend}; the inputs of {job.rule} differ"
    before: set[str] = set()
    for job in ours:
        assert before.issuperset(job.inputs), f"{job.rule} comes before what it depends on"
        before.update(job.outputs)


@pytest.mark.parametrize("name", ["config", "demo", "fmnist-small"])
def test_the_plan_is_snakemakes(snakemake, name):
    path = ROOT / f"config/{name}.yaml"
    layers = [] if name == "config" else [path]
    arguments = ["--configfile", *map(str, layers)] if layers else []
    equal(snakemake(*arguments), planning.jobs(planning.resolve(layers, ROOT)))


def test_targets_are_snakemakes(snakemake):
    path = ROOT / "config/demo.yaml"
    config = planning.resolve([path], ROOT)
    for target in ("images", "density", "tables", "figures", "table2", "figureS2"):
        equal(snakemake(target, "--configfile", str(path)), planning.jobs(config, [target]))


def test_layers_are_merged_as_by_snakemake(snakemake, tmp_path):
    """Several files: sections key by key, lists as a whole, the last word counts."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        "experiment: one\nimages: {datasets: [digits], seeds: [3, 4], r_entropy: [0, 7], evaluation: {samples: 1500,"
        " features: classifier, latent_points: 200}}\n"
    )
    second.write_text(
        "experiment: two\nimages: {seeds: [5]}\nfigure2: {dataset: digits}\nfigureS2: {dataset: digits, seed: 5,"
        " cell: sg, r_entropy: 0}\nfigure4: {r_entropy: [7]}\nlatents: {seed: 5}\n"
    )
    config = planning.resolve([first, second], ROOT)
    assert (config["experiment"], config["images"]["seeds"]) == ("two", [5])
    theirs = snakemake("--configfile", str(first), str(second))
    assert any("/r7/seed5/" in job["outputs"][0] for job in theirs)
    equal(theirs, planning.jobs(config))


def test_the_plan_needs_no_heavy_library_and_no_time():
    code = "import sys; from introprior.commands import planning; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "numpy", "pandas", "snakemake", "matplotlib"}.isdisjoint(loaded)


def test_a_job_is_unknown(tmp_path):
    with pytest.raises(UserError, match="unknown target 'table6'"):
        planning.jobs(CONFIG, ["table6"])


def test_jobs_in_another_folder(tmp_path):
    (tmp_path / "copy").mkdir()
    usual = planning.jobs(CONFIG)
    moved = planning.jobs(CONFIG, folder=tmp_path / "copy")
    places = {"results/paper/": f"{tmp_path}/copy/", "results/data/": f"{tmp_path}/data/"}
    for before, after in zip(usual, moved, strict=True):
        for old, new in zip((*before.outputs, before.log), (*after.outputs, after.log), strict=True):
            start = next(start for start in places if old.startswith(start))
            assert new == places[start] + old.removeprefix(start)
        assert after.options == before.options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("density: {seeds: [0, 0]}", "density.seeds: 0 is there more than once"),
        ("density: {seedz: [0]}", "unknown key 'seedz'"),
        ("max_runtime: 5", "max_runtime: must be at least 10, is 5"),
        ("- a\n- b", "must hold the keys of a configuration"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path, monkeypatch, capsys, text, expected):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert main(["plan", "--configfile", str(path)]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_a_folder_without_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan"]) == 2
    assert "run this in the folder of the project" in capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    assert main(["plan", "--configfile", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: cannot read" in capsys.readouterr().err
    for flags, expected in ((("--gpus", "-1"), "at least 0"), (("--cores", "0"), "at least 1")):
        assert main(["plan", *flags]) == 2
        assert expected in capsys.readouterr().err


# ---- The queue ----


def chain(*names: str, gpu: bool = True) -> list[Job]:
    """Jobs of which each depends on the one before."""
    return [job(name, names[i - 1 : i] if i else (), gpu) for i, name in enumerate(names)]


def job(name: str, inputs=(), gpu: bool = True) -> Job:
    return Job("game", {}, (name,), tuple(inputs), "", None, gpu, {})


def test_the_critical_path_is_the_longest_chain():
    jobs = [job("a"), job("b", "a"), job("c"), job("d", ("b", "c")), job("e")]
    total, path = forecast.critical_path(jobs, [1, 2, 10, 3, 12.5])
    assert (total, [one.outputs[0] for one in path]) == (13, ["c", "d"])
    assert forecast.critical_path([], []) == (0, [])


def test_the_queue_is_played_through():
    alone = [job(name) for name in "abcd"]
    assert forecast.makespan(alone, [1, 1, 1, 1], gpus=1, cores=8) == 4
    assert forecast.makespan(alone, [1, 1, 1, 1], gpus=2, cores=8) == 2
    assert forecast.makespan(alone, [3, 1, 1, 1], gpus=2, cores=8) == 3
    assert forecast.makespan(alone, [1, 1, 1, 1], gpus=8, cores=1) == 4  # each takes a core, too
    assert forecast.makespan(alone, [1, 1, 1, 1], gpus=0, cores=2) == 2  # on the cores
    assert forecast.makespan(chain("a", "b", "c"), [1, 2, 3], gpus=4, cores=4) == 6
    mixed = [job("a"), job("b"), job("p", gpu=False), job("q", gpu=False)]
    assert forecast.makespan(mixed, [2, 2, 3, 3], gpus=1, cores=3) == 4
    assert forecast.makespan(mixed, [2, 2, 3, 3], gpus=1, cores=2) == 6
    assert forecast.makespan([], [], gpus=1, cores=1) == 0


def test_what_is_made_already_is_not_waited_for():
    """Inputs that no job of the list makes are there."""
    assert forecast.makespan(chain("a", "b", "c")[1:], [2, 3], gpus=1, cores=1) == 5


def test_bounds_of_the_papers_time():
    jobs = planning.jobs(CONFIG)
    seconds = [costs.seconds(CONFIG, one.rule, one.wildcards) for one in jobs]
    longest, path = forecast.critical_path(jobs, seconds)
    assert all(before.outputs[0] != after.outputs[0] for before, after in itertools.pairwise(path))
    on_gpu = sum(each for each, one in zip(seconds, jobs, strict=True) if one.gpu)
    previous = float("inf")
    for gpus in (1, 2, 4, 8):
        taken = forecast.makespan(jobs, seconds, gpus, cores=64)
        assert max(longest, on_gpu / gpus) <= taken <= on_gpu / gpus + sum(seconds) - on_gpu + longest
        assert taken < previous
        previous = taken


# ---- Rates of earlier runs ----

SMALL = """\
experiment: {experiment}
density: {{datasets: [Rings], seeds: [0, 1], search: {{enabled: false}}, training: {{iterations: {iterations}}}}}
"""


def small(tmp_path: Path, experiment: str, iterations: int) -> dict:
    path = tmp_path / f"{experiment}.yaml"
    path.write_text(SMALL.format(experiment=experiment, iterations=iterations))
    return planning.resolve([path], ROOT)


def train_of(config: dict, folder: Path | None = None, cell: str = "mog64") -> Job:
    found = (one for one in planning.jobs(config, folder=folder) if one.rule == "train")
    return next(one for one in found if one.wildcards["cell"] == cell)


def ran(config: dict, results: Path, seconds: float, **facts) -> Job:
    """Files of a training that took so long."""
    folder = results / config["experiment"]
    job = train_of(config, folder)
    for path in (*job.outputs, job.benchmark):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(job.benchmark).write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t600.1\n")
    for path in job.outputs:
        Path(path).write_bytes(b"x" * 500_000)
    record = {"device": "cpu", "options": job.options, "resumed": 0, "records": [{"seed": 0, "status": "ok"}]}
    record["outputs"] = {Path(path).name: {"bytes": 500_000} for path in job.outputs}
    provenance.path_of(job.outputs[0]).write_text(json.dumps(record | facts))
    (folder / "configuration.json").write_text(json.dumps(config))
    return job


def test_a_measured_rate_is_scaled_by_what_there_is_to_do(tmp_path):
    before, after = small(tmp_path, "before", 3000), small(tmp_path, "after", 6000)
    ran(before, tmp_path / "results", seconds=1000)
    rates = forecast.Rates.of(tmp_path / "results")
    same, longer = (rates.price(config, train_of(config), gpu=False) for config in (before, after))
    assert same == forecast.Price(pytest.approx(1000), pytest.approx(1e6), "cpu", True)
    # The first 2,000 iterations are warm-up in both, the game's 1,000 become 4,000.
    ratio = costs.seconds(after, "train", train_of(after).wildcards, "cpu") / costs.seconds(
        before, "train", train_of(before).wildcards, "cpu"
    )
    assert longer.seconds == pytest.approx(1000 * ratio)
    assert longer.measured
    # Another cell is another matter, and so is a GPU.
    other, gpu = train_of(before, cell="sg"), rates.price(before, train_of(before), gpu=True)
    assert not rates.price(before, other, gpu=False).measured
    assert (gpu.measured, gpu.device) == (False, costs.GPU.name)
    assert gpu.seconds == costs.seconds(before, "train", train_of(before).wildcards, "gpu")


@pytest.mark.parametrize(
    "facts",
    [
        {"resumed": 17},
        {"options": {"dataset": "Rings", "cell": "mog64"}},
        {"records": [{"seed": 0, "status": "diverged"}]},
        {"records": "?"},
        {"outputs": None},
    ],
    ids=["resumed", "other options", "diverged", "damaged", "damaged too"],
)
def test_what_is_no_measurement(tmp_path, facts):
    config = small(tmp_path, "before", 3000)
    job = ran(config, tmp_path / "results", seconds=1000, **facts)
    if facts.get("options"):
        other = {**job.options, "training": {**job.options["training"], "hidden_width": 7}}
        provenance.path_of(job.outputs[0]).write_text(
            json.dumps({"device": "cpu", "options": other, "outputs": {"ensemble.pt": {"bytes": 1}}})
        )
    price = forecast.Rates.of(tmp_path / "results").price(config, train_of(config), gpu=False)
    assert not price.measured
    assert price.seconds == costs.seconds(config, "train", train_of(config).wildcards, "cpu")


def test_foreign_folders_are_no_hindrance(tmp_path):
    config = small(tmp_path, "before", 3000)
    job = ran(config, tmp_path / "results", seconds=1000)
    for name, text in (("empty", ""), ("old", '{"experiment": "old"}'), ("list", "[]")):
        (tmp_path / "results" / name).mkdir()
        (tmp_path / "results" / name / "configuration.json").write_text(text)
    assert forecast.Rates.of(tmp_path / "results").price(config, train_of(config), gpu=False).measured
    Path(job.benchmark).write_text("s\th:m:s\n")
    assert not forecast.Rates.of(tmp_path / "results").price(config, train_of(config), gpu=False).measured


def test_a_measurement_on_a_gpu_serves_gpus(tmp_path):
    config = small(tmp_path, "before", 3000)
    ran(config, tmp_path / "results", seconds=100, device="NVIDIA H100")
    rates = forecast.Rates.of(tmp_path / "results")
    assert rates.price(config, train_of(config), gpu=True)[2:] == ("NVIDIA H100", True)
    assert not rates.price(config, train_of(config), gpu=False).measured


# ---- The command ----


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project without results."""
    for name in ("config/config.yaml", "config/demo.yaml", "workflow/schemas/config.schema.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys, *arguments: str) -> dict:
    assert main(["plan", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_plan_in_words(project, capsys):
    assert main(["plan", "--gpus", "2", "--cores", "16"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 140
    words = " ".join(printed.split())
    for expected in ("paper (config/config.yaml)", "game 297 0 297", "all 1456 0 1456", "built-in", "GPUs 1 [2] 4 8"):
        assert expected.replace("1456", str(len(planning.jobs(CONFIG)))) in words
    assert "estimated and never checked" in words
    assert "results" not in os.listdir(project)


def test_the_papers_plan_as_json(project, capsys):
    found = planned(capsys, "--gpus", "2", "--cores", "16")
    jobs = planning.jobs(CONFIG)
    assert (found["jobs"], found["done"]) == (len(jobs), 0)
    assert {name: rule["jobs"] for name, rule in found["rules"].items()} == {
        name: sum(one.rule == name for one in jobs) for name in {one.rule for one in jobs}
    }
    on_gpu = sum(costs.seconds(CONFIG, one.rule, one.wildcards) for one in jobs if one.gpu)
    assert found["gpu_seconds"] == pytest.approx(on_gpu)
    assert found["critical_path"]["seconds"] <= found["seconds"]["2"]
    assert found["seconds"]["1"] > found["seconds"]["2"] > found["seconds"]["4"]
    assert found["bytes"] > 10e9


def test_without_gpus_all_is_done_on_the_cores(project, capsys):
    for arguments in (("--gpus", "0"), ("--configfile", "cpu.yaml")):
        (project / "cpu.yaml").write_text("device: cpu")
        found = planned(capsys, *arguments, "--cores", "4")
        assert (found["gpus"], found["gpu_seconds"]) == (0, 0)
        assert list(found["seconds"]) == ["0"]
        assert costs.GPU.name not in found["devices"]["built-in"]


def test_what_is_there_is_not_to_do(project, capsys):
    arguments = ("density", "--configfile", "config/demo.yaml")
    config = planning.resolve([Path("config/demo.yaml")])
    jobs = planning.jobs(config, ["density"])
    train = next(one for one in jobs if one.rule == "train")
    for path in train.outputs:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    found = planned(capsys, *arguments)
    assert found["done"] == 1
    assert (found["rules"]["train"]["jobs"], found["rules"]["train"]["done"]) == (32, 1)
    Path(train.outputs[1]).unlink()  # half of it is not enough
    assert planned(capsys, *arguments)["done"] == 0
    for one in jobs:
        for path in one.outputs:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
    found = planned(capsys, *arguments)
    assert (found["done"], found["seconds"]["1"], found["bytes"]) == (len(jobs), 0, 0)
    assert main(["plan", *arguments]) == 0
    assert "Every file is there" in capsys.readouterr().out


def test_measured_rates_are_named(project, capsys):
    config = small(project, "before", 3000)
    job = ran(config, project / "results", seconds=4 * 3600.0, device="NVIDIA H100")
    for path in job.outputs:
        Path(path).unlink()
    found = planned(capsys, "table1", "--configfile", "before.yaml")
    assert found["rules"]["train"]["rates"] == {"measured": 1, "built-in": 5}
    assert found["devices"]["measured"] == ["NVIDIA H100"]
    assert found["rules"]["train"]["seconds_each"][1] == pytest.approx(4 * 3600)
    assert main(["plan", "table1", "--configfile", "before.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "measured, built-in (1 of 6)" in printed
    assert "on NVIDIA H100" in printed
    assert yaml.safe_load((project / "before.yaml").read_text())["experiment"] in printed


def test_jobs_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        planning.jobs(CONFIG)[0].rule = "other"  # type: ignore[misc]
