"""The workflow on a real Slurm: its GPUs are shared out, and what is cancelled, cut short or left alone goes on."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import torch

from introprior.operations import costs
from tests.slurm.cluster import GPUS, Cluster
from tests.slurm.project import Project, Run, Watcher

# Demo and yet less: what it takes here is mostly the start of each job.
DEMO = """\
device: cuda
density:
  datasets: [8Gaussian]
  training: {iterations: 100, milestones: [80]}
images:
  r_entropy: [0]
  training: {epochs: 3, warmup_epochs: 2, mixture_warmup_epochs: 1}
  evaluation: {epochs: [0, 3]}
tables: {table1: [sg], table2: [mog10-ip], table5: [mog10-ip]}
figure2: {cell: mog10-ip, epochs: 3}
figure3: {cells: [sg]}
figure4: {r_entropy: [0]}
figureS2: {cell: mog10-ip, r_entropy: 0}
latents: {cells: [mog10-ip]}
"""
DEMO_ARGUMENTS = ("--configfile", "config/demo-all.yaml", "demo.yaml", "--", "table1", "table2", "figure3")
ON_GPU = 9
"""Jobs of the demo that use a GPU: search, train, evaluate, classifier, reference, warm-up and its distances, game, and
one of distances and evaluation."""

# Two trainings of the same size, one that the rule `search` does and one that `train` does.
LONG = """\
experiment: {experiment}
device: {device}
density:
  datasets: [8Gaussian]
  seeds: [0, 1]
  training: {{iterations: {iterations}, warmup_iterations: 60, mixture_warmup_iterations: 20, batch_size: 128,
             monte_carlo_samples: 10, hidden_width: 64, learning_rate: 0.001, milestones: [200, 250]}}
  search: {{cells: [sg], samples: 1000, beta_rec: [0.2], beta_kl: [0.1, 0.3], beta_neg_multiples: [2]}}
"""
SECONDS = 60
"""About as long as each takes on a core of its own: the signal before a time limit finds it at work."""
LIMIT = 3
"""Minutes that the searching job gets; the profile has it told two minutes before, or up to half a minute earlier."""
SLOW_DISK = """
import os, time

written = os.fsync

def slow(handle):
    path = os.readlink(f"/proc/self/fd/{handle}")
    if "/.state/" in path and path.endswith(".pt"):
        time.sleep(10)
    written(handle)

os.fsync = slow
"""
"""Run by every Python of a job: makes saving what a training goes on from last, as it does where that is large."""


class Made:
    """Where an experiment has the two trainings, relative to the project."""

    def __init__(self, experiment: str) -> None:
        results, logs = f"results/{experiment}/density/8Gaussian", f"results/{experiment}/logs/density/8Gaussian"
        self.search, self.train = f"{results}/sg/search/slice-0.csv", f"{results}/sg-dt/ensemble.pt"
        self.search_log, self.train_log = f"{logs}/sg/search-0.log", f"{logs}/sg-dt/train.log"


@pytest.fixture(scope="module")
def project(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(autouse=True)
def tidy(cluster: Cluster) -> Iterator[None]:
    """A test that failed leaves no job for the next one."""
    yield
    cluster.cancel_all()


def of_run(cluster: Cluster, run: Run) -> dict[int, dict[str, str]]:
    """What Slurm knows of the jobs that a Snakemake submitted."""
    name = re.search(r"SLURM run ID: (\S+)", run.printed)
    return {number: job for number, job in cluster.jobs().items() if name and job["JobName"] == name[1]}


def when(job: dict[str, str], key: str) -> datetime:
    return datetime.fromisoformat(job[key])


# ---- The demo ----


def test_demo_shares_the_gpus_out(cluster: Cluster, project: Project) -> None:
    project.write("demo.yaml", DEMO)
    with project.running(project.on_slurm("demo", *DEMO_ARGUMENTS)) as run, Watcher(project) as watcher:
        run.finished(600)
    made = project.folder / "results/demo-all"
    for name in ("tables/table1.md", "tables/table2.tex", "figures/figure3.pdf"):
        assert (made / name).stat().st_size > 0
    assert "8Gaussian" in (made / "tables/table1.csv").read_text()

    slurm = of_run(cluster, run)
    assert {job["JobState"] for job in slurm.values()} == {"COMPLETED"}
    gpu = {number: job for number, job in slurm.items() if job.get("TresPerJob") == "gres:gpu:1"}
    assert len(gpu) == ON_GPU
    assert {job["Comment"] for number, job in slurm.items() if number not in gpu} == {
        "rule_probe_wildcards_digits_mog10-ip_0_0"
    }
    # Each in turn begins or ends: never more at a time than there are GPUs, and once as many.
    times = [(when(job, "StartTime"), 1) for job in gpu.values()] + [(when(job, "EndTime"), -1) for job in gpu.values()]
    moments = sorted(times)
    at_once = [sum(step for _, step in moments[: i + 1]) for i in range(len(moments))]
    assert max(at_once) == GPUS

    # What was asked of Slurm is the rule's default; what one job does in turn adds up.
    most = json.loads((made / "jobs.json").read_text())["configuration"]["max_runtime"]
    for comment, rules in (
        ("rule_train_wildcards_8Gaussian_sg", ["train"]),
        ("rule_game_wildcards_digits_mog10-ip_0_0", ["game"]),
        ("rule_measure_distances_evaluate_images", ["distances", "evaluate_images"]),
    ):
        [job] = [job for job in gpu.values() if job["Comment"] == comment]
        asked = [costs.asked(rule, "gpu", most, {}) for rule in rules]
        minutes, memory = (
            each(one[key](None, 1) for one in asked) for key, each in (("runtime", sum), ("mem_mb", max))
        )
        assert (job["TimeLimit"], job["MinMemoryNode"]) == (f"{minutes // 60:02}:{minutes % 60:02}:00", f"{memory}M")

    # What the jobs themselves saw.
    seen = [job for job in watcher.jobs.values() if job.slurm in gpu]
    assert {job.slurm for job in seen} == set(gpu)
    assert all(job.visible in ("0", "1") for job in seen), {job.command: job.visible for job in seen}
    assert {job.visible for job in seen} == {"0", "1"}
    for job in seen:
        assert set().union(*job.leases.values()) <= {f"introprior-gpu-simulated-{job.visible}.0.lock"}, job
    for holders in watcher.holders().values():
        names = [name for name, _ in holders]
        assert len(names) == len(set(names)) <= GPUS


# ---- Interruptions ----


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Another copy: of two Snakemakes in one folder, the first to end lifts the lock of the other."""
    return Project(tmp_path_factory.mktemp("calm"))


@pytest.fixture(scope="module")
def iterations(elsewhere: Project) -> int:
    """So many that a training of this size takes long enough here."""
    file = elsewhere.write("pace.yaml", LONG.format(experiment="pace", device="cpu", iterations=300))
    made = Made("pace")
    with elsewhere.running(elsewhere.snakemake("pace", "--cores=1", "--configfile", file, "--", made.train)) as run:
        run.finished(300)
    rates = re.findall(r"([\d.]+)it/s", elsewhere.log(made.train_log))
    return int(SECONDS * float(rates[-1]))


@pytest.fixture(scope="module")
def calm(elsewhere: Project, iterations: int) -> Iterator[Run]:
    """Both trainings without Slurm and GPU, undisturbed; in the background, on what others leave of the machine."""
    file = elsewhere.write("calm.yaml", LONG.format(experiment="calm", device="cpu", iterations=iterations))
    made = Made("calm")
    arguments = ("--cores=2", "--configfile", file, "--", made.train, made.search)
    with elsewhere.running(elsewhere.snakemake("calm", *arguments)) as run:
        os.setpriority(os.PRIO_PROCESS, run.process.pid, 19)
        yield run


def outcome(project: Project, path: str) -> Any:
    """What a training came to: text, or all tensors of a model and all rows of its history."""
    if path.endswith(".csv"):
        return (project.folder / path).read_text()
    content = torch.load(project.folder / path, weights_only=True)
    tensors = {name: value.tolist() for name, value in content["model"]["tensors"].items()}
    return tensors, content["records"], (project.folder / path).with_name("history.csv").read_text()


def test_killed_snakemake(cluster: Cluster, project: Project, elsewhere: Project, iterations: int, calm: Run) -> None:
    """Its job goes on; the job that the next Snakemake submits waits for it, and nothing is trained twice."""
    made = Made("killed")
    file = project.write("killed.yaml", LONG.format(experiment="killed", device="cuda", iterations=iterations))
    arguments = ("--configfile", file, "--", made.train)
    with Watcher(project) as watcher:
        with project.running(project.on_slurm("killed", *arguments)) as first:
            first.until(lambda: "it/s, alive" in project.log(made.train_log), 300, "the training began")
            os.kill(first.process.pid, signal.SIGKILL)
        with project.running(project.on_slurm("locked", *arguments)) as refused:
            assert refused.process.wait(120) != 0
            assert "--unlock" in refused.printed
        with project.running(project.on_slurm("unlock", "--unlock", *arguments)) as unlocked:
            unlocked.finished(120)
        with project.running(project.on_slurm("again", *arguments)) as second:
            printed = second.finished(400)
    assert "8Gaussian sg-dt: training" in printed

    # Slurm ran both jobs, at the same time.
    (old,), (new,) = of_run(cluster, first).values(), of_run(cluster, second).values()
    assert (old["JobState"], new["JobState"]) == ("COMPLETED", "COMPLETED")
    assert when(new, "StartTime") <= when(old, "EndTime")  # the old one's Snakemake may be the last to end
    # Only the old one ever had a GPU; the new one waited beside it, then saw that there was nothing left to do.
    trained, waited = watcher.of(made.train)
    assert (trained.slurm, waited.slurm) == (int(old["JobId"]), int(new["JobId"]))
    assert trained.seen & waited.seen
    assert trained.leases
    assert not waited.leases
    log = project.log(made.train_log)
    assert "another process is at it; waiting" in log
    assert "the other process has finished it" in log
    assert "going on from" not in log

    calm.finished(400)
    assert outcome(project, made.train) == outcome(elsewhere, Made("calm").train)


def test_cancelled_and_cut_short(
    cluster: Cluster, project: Project, elsewhere: Project, iterations: int, calm: Run
) -> None:
    """One training is cancelled, one runs into its time limit: both go on, as new jobs, from where they were."""
    made = Made("interrupted")
    file = project.write(
        "interrupted.yaml", LONG.format(experiment="interrupted", device="cuda", iterations=iterations)
    )
    (project.folder / "slow").mkdir()
    project.write("slow/sitecustomize.py", SLOW_DISK)
    project.environment["PYTHONPATH"] += f":{project.folder}/slow"
    limit = ("--set-resources", f"search:runtime={LIMIT}", "--retries=8")
    with (
        project.running(
            project.on_slurm("interrupted", *limit, "--configfile", file, "--", made.train, made.search)
        ) as run,
        Watcher(project) as watcher,
    ):
        run.until(lambda: "it/s, alive" in project.log(made.train_log), 300, "the training began")
        [running] = [number for number, job in of_run(cluster, run).items() if "rule_train" in job["Comment"]]
        cluster.ask("scancel", str(running))
        resumed: list[str] = []
        pattern = r"going on from iteration (\d+)"
        run.until(
            lambda: resumed.extend(re.findall(pattern, project.log(made.train_log))) or resumed, 200, "it went on"
        )
        printed = run.finished(500)
    calm.finished(400)

    slurm = of_run(cluster, run)
    trained = [job for job in slurm.values() if "rule_train" in job["Comment"]]
    assert [job["JobState"] for job in trained] == ["CANCELLED", "COMPLETED"]
    assert 0 < int(resumed[0]) < iterations
    assert f"stopped at iteration {resumed[0]}; saved to" in printed
    assert outcome(project, made.train) == outcome(elsewhere, Made("calm").train)

    # The signal came before the limit: Slurm had no job to end.
    searched = [job for job in slurm.values() if "rule_search" in job["Comment"]]
    assert len(searched) > 1
    assert {job["TimeLimit"] for job in searched} == {f"00:{LIMIT:02}:00"}
    assert [job["JobState"] for job in searched] == ["FAILED"] * (len(searched) - 1) + ["COMPLETED"]
    stops = [int(at) for at in re.findall(r"8Gaussian sg: stopped at iteration (\d+); saved to", printed)]
    assert 0 < len(stops) < len(searched)  # fewer than jobs that failed where one was stopped before it had begun
    assert 0 < stops[0] <= stops[-1] < iterations
    assert stops == sorted(stops)
    assert f"going on from iteration {stops[-1]} " in project.log(made.search_log)
    assert outcome(project, made.search) == outcome(elsewhere, Made("calm").search)

    # Both GPUs were in use at once, and a training by one job at a time.
    assert max(map(len, watcher.holders().values())) == GPUS
    for output in (made.train, made.search):
        for earlier, later in itertools.pairwise(watcher.of(output)):
            assert max(earlier.seen) < min(later.seen)
