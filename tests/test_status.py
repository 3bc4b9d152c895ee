"""How far a run is, told from the files of real jobs: finished, under way, interrupted, killed, failed, diverged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("snakemake")

from introprior.cli import main
from introprior.errors import UserError
from introprior.operations import dag, files, progress, provenance, status
from introprior.training.loop import Interrupted
from tests import commands, warm
from tests.commands import assert_refused
from tests.projects import Project
from tests.runs import a_record

introprior = commands.introprior

MINI = """\
experiment: mini
density:
  datasets: [8Gaussian]
  seeds: [0, 1]
  training: {iterations: 40000, warmup_iterations: 4, mixture_warmup_iterations: 2, batch_size: 16,
             monte_carlo_samples: 3, hidden_width: 8, milestones: [9]}
  search: {enabled: false}
tables: {table1: [sg, mog4-ip]}
"""


@pytest.fixture(scope="module")
def resolved(tmp_path_factory) -> Path:
    """The results of a small experiment in 2D of which nothing was made."""
    project = Project(tmp_path_factory.mktemp("project"), mini=MINI)
    project.plan("table1", "table4", "--configfile", "mini.yaml")
    results = project.folder / "results/mini"
    shutil.copy(results / dag.PLANNED, results / dag.NAME)  # as a run would have written it
    return results


@pytest.fixture
def results(tmp_path, resolved, monkeypatch) -> Path:
    """The small experiment; commands tell how they fare, as those that Snakemake starts."""
    monkeypatch.setenv(provenance.CONFIGURATION, "of this test")
    return shutil.copytree(resolved, tmp_path / "results/mini")


class Training:
    """The job that trains a cell, as the workflow starts it: in a process of its own, with a log."""

    def __init__(self, results: Path, cell: str = "sg", betas: bool = True, **more):
        jobs = dag.read(results).jobs
        (self.job,) = (job for job in jobs if (job.rule, job.wildcards.get("cell")) == ("train", cell))
        self.log, self.output = Path(self.job.log), Path(self.job.outputs[0])
        hyperparameters = Path(self.job.inputs[0])
        for folder in (self.log.parent, hyperparameters.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if betas:
            hyperparameters.write_text('{"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9}')
        options = {**self.job.options, "training": {**self.job.options["training"], **more}}
        self.arguments = ["train", "--options", json.dumps(options), "--hyperparameters", str(hyperparameters)]
        self.arguments += ["--output", str(self.output), "--history", self.job.outputs[1]]
        self.arguments += ["--state", str(results / ".state"), "--device", "cpu"]

    @contextlib.contextmanager
    def started(self):
        """While inside, the process runs; it is dead afterwards."""
        with self.log.open("w") as log:
            process = subprocess.Popen([warm.programs() / "introprior", *self.arguments], stderr=log, stdout=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self) -> int:
        """Run it to its end, in this process."""
        with self.log.open("w") as log, contextlib.redirect_stderr(log):
            return main(self.arguments)


def states(found: dict) -> dict[str, str]:
    """The states of the runs in two dimensions, by cell and seed."""
    return {f"{run['cell']} {run['seed']}": run["state"] for run in found["runs"] if run["half"] == "density"}


def job_of(found: dict, rule: str = "train", cell: str = "sg") -> dict:
    (job,) = (job for job in found["jobs"] if (job["rule"], job.get("cell")) == (rule, cell))
    return job


def text(results: Path, every: bool = False) -> str:
    return "\n".join(status.shown(status.look(results), every))


def waited(results: Path, until, seconds: float = 120) -> dict:
    """What a look finds as soon as a job is as wanted."""
    end = time.monotonic() + seconds
    while not until(job_of(found := status.look(results))):
        assert time.monotonic() < end, text(results)
        time.sleep(0.05)
    return found


# ---- Real jobs ----


def test_nothing_has_begun(results):
    found = status.look(results)
    assert set(states(found).values()) == {"waiting"}
    assert (found["progress"], found["running"], found["eta_seconds"]) == (0, 0, None)
    first, _, _, *others = text(results).splitlines()
    assert first == "density: 8 runs, none begun"
    assert others == ["", "runs: 8 waiting", "jobs: 0 of 14 done; 0 % of the work"]


def test_a_training_is_done_or_diverged_or_failed(results):
    assert Training(results, "sg", iterations=8).run() == 0
    assert Training(results, "mog4-ip", iterations=8, learning_rate=1e18).run() == 0
    failing = Training(results, "sg-dt", betas=False)
    assert failing.run() == 2
    expected = {"sg": "begun", "mog4-ip": "diverged", "sg-dt": "failed", "sg-dt-closed": "waiting"}
    found = status.look(results)
    assert states(found) == {f"{cell} {seed}": state for cell, state in expected.items() for seed in (0, 1)}
    assert "iteration" in next(run for run in found["runs"] if run["state"] == "diverged")["detail"]
    assert f"introprior train: {job_of(found, cell='sg-dt')['detail']}\n" == failing.log.read_text()
    assert found["rates"] == "built-in"  # there are no benchmark files
    printed = text(results)
    assert str(failing.log) in next(line for line in printed.splitlines() if "train 8Gaussian sg-dt" in line)
    rows = [line.split() for line in printed.splitlines()]
    for cell, state in expected.items():
        assert [row[1] for row in rows if row[:1] == [cell]] == [status.MARKS[state] * 2]
    assert sum(line.startswith(("begun", "diverged  ")) for line in text(results, every=True).splitlines()) == 4
    with progress.at_work(failing.output):  # mended and begun anew
        assert states(status.look(results))["sg-dt 0"] == "running"


def test_what_diverged_is_told_seed_by_seed(results):
    training = Training(results, "sg", iterations=8)
    assert training.run() == 0
    record = json.loads(training.job.record.read_text())
    record["records"][1] |= {"status": "diverged", "detail": "encoder_loss at iteration 5"}
    training.job.record.write_text(json.dumps(record))
    for name in ("metrics.csv", "panels.npz"):
        training.output.with_name(name).touch()
    found = status.look(results)
    assert (states(found)["sg 0"], states(found)["sg 1"]) == ("done", "diverged")
    assert "seed 1  encoder_loss at iteration 5" in text(results)
    training.job.record.unlink()  # of evaluations, as in the tables
    training.output.with_name("metrics.csv").write_text(
        "dataset,seed,metric,status,detail\n8Gaussian,0,KL,diverged,none in the window\n"
        "8Gaussian,1,entropy_pooled,inapplicable,does not apply to this prior or data\n"
    )
    found = status.look(results)
    assert (states(found)["sg 0"], states(found)["sg 1"]) == ("diverged", "done")


def test_a_copy_elsewhere_tells_the_same(results, tmp_path):
    assert Training(results, "sg", iterations=8).run() == 0
    assert Training(results, "sg-dt", betas=False).run() == 2
    before = status.look(results)
    copy = tmp_path / "elsewhere" / "renamed {copy}"
    shutil.copytree(results, copy)
    shutil.rmtree(results)
    assert states(status.look(copy)) == states(before)
    assert {"begun", "failed", "waiting"} == set(states(before).values())


# ---- Jobs that end, told by themselves or not ----


@pytest.mark.parametrize(
    ("error", "state", "detail"),
    [
        (UserError("x.json: cannot read"), "failed", "x.json: cannot read"),
        (RuntimeError("shapes\ndiffer"), "failed", "RuntimeError: shapes differ"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (Interrupted(signal.SIGTERM, "saved to x"), "stopped", "saved to x"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
    ],
)
def test_the_last_word_of_a_job(results, error, state, detail):
    output = Training(results).output
    with pytest.raises(type(error)), progress.at_work(output):
        raise error
    job = job_of(status.look(results))
    assert (job["state"], job["detail"]) == (state, detail)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["out of memory", "time limit"])
def test_a_job_that_is_killed_has_no_last_word(results, number):
    training = Training(results)
    code = "import sys, time; from introprior.operations.progress import at_work\n"
    code += "with at_work(sys.argv[1]): print('begun', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(training.output)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        assert job_of(status.look(results))["state"] == "running"
        training.log.write_text("loading\rslurmstepd: error: Detected 1 oom_kill event\n\n")
        process.send_signal(number)
    job = job_of(status.look(results))
    assert job["state"] == "stopped"
    assert job["detail"].endswith(" s; slurmstepd: error: Detected 1 oom_kill event")


COMMAND_NOT_FOUND = "bash: line 1: introprior: command not found\n"


@pytest.mark.parametrize(
    ("log", "record", "locked", "state"),
    [
        (COMMAND_NOT_FOUND, False, False, "failed"),
        (COMMAND_NOT_FOUND, False, True, "running"),
        ("", False, True, "running"),
        ("", False, False, "stopped"),
        ("8Gaussian sg: 100%|", True, False, "waiting"),  # it was done once
        (None, False, True, "waiting"),
    ],
)
def test_a_job_that_python_never_began(results, log, record, locked, state):
    training = Training(results)
    if log is not None:
        training.log.write_text(log)
    if record:
        training.job.record.write_text("{}")
    lock(results, locked)
    job = job_of(status.look(results))
    assert (job["state"], job["detail"]) == (state, COMMAND_NOT_FOUND.strip() if state == "failed" else "")


def lock(results: Path, locked: bool = True) -> None:
    """Snakemake's lock of the project."""
    locks = results.parents[1] / ".snakemake/locks"
    locks.mkdir(parents=True)
    if locked:
        (locks / "0.output.lock").touch()


@pytest.mark.parametrize(
    ("age", "training", "locked", "state"),
    [
        (60, True, False, "running"),  # Snakemake may be dead, its jobs on a cluster are not
        (3600, True, True, "stopped"),  # a training would have told
        (60, False, False, "running"),
        (3600, False, False, "stopped"),
        (3600, False, True, "running"),  # others cannot
    ],
)
def test_jobs_on_other_machines(results, age, training, locked, state):
    place = progress.path_of(Training(results).output)
    known = {"state": "running", "host": "elsewhere", "pid": os.getpid(), "updated": time.time() - age}
    known |= {"iteration": 10, "iterations": 100, "rate": 2.0, "alive": 1, "members": 2} if training else {}
    files.write_json(place, known)
    lock(results, locked)
    job = job_of(status.look(results))
    assert (job["state"], job["iteration"]) == (state, 10 if training else None)
    assert job["quiet_seconds"] == pytest.approx(age, abs=30)
    if state == "stopped":
        assert job["detail"].startswith("no sign of life for 60 min")
    elif training:
        assert (job["detail"], job["eta_seconds"]) == ("1 of 2 alive", 45)


def test_files_that_come_and_go(results):
    """Looks while another thread writes and removes what they look at."""
    training, going = Training(results), threading.Event()
    steps = progress.Progress(training.output, "8Gaussian sg", 9)

    def write() -> None:
        number = 0
        while not going.is_set():
            number += 1
            steps.tell(number % 9, None, 2, 2)
            for path in (*training.job.outputs, training.job.record):
                Path(path).touch()
            if number % 3 == 0:
                progress.forget(training.output)
            if number % 7 == 0:
                shutil.rmtree(training.output.parent)
                training.output.parent.mkdir()
            for path in (*training.job.outputs, training.job.record):
                Path(path).unlink(missing_ok=True)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = {job_of(status.look(results))["state"] for _ in range(100)}
    finally:
        going.set()
        thread.join()
    assert seen <= {"running", "waiting", "done"}
    assert "running" in seen


# ---- The command ----


@pytest.fixture(scope="module")
def paper(tmp_path_factory, paper_plan) -> Path:
    """The paper's runs in every state, as far as empty files, true records and last words can tell."""
    (folder := tmp_path_factory.mktemp("paper") / "results/paper").mkdir(parents=True)
    shutil.copy(paper_plan[1], folder / dag.NAME)
    jobs = dag.read(folder).jobs
    games = [job for job in jobs if job.rule == "game"]
    for job in jobs[: jobs.index(games[150])]:
        for path in (*job.outputs, job.benchmark):
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text("s\th:m:s\n1800.0\t0:30:00\n" if path == job.benchmark else "")
        record = a_record("x", device="NVIDIA H100", options=job.options)
        named = {"dataset": job.wildcards.get("dataset", ""), "seed": int(job.wildcards.get("seed", 0))}
        record["records"] = [{**named, "status": "ok", "detail": ""}]
        if job in games[::10]:
            record["records"][0] |= {"status": "diverged", "detail": "encoder_loss at iteration 5"}
        job.record.write_text(json.dumps(record)) if job.outputs else None
    for job in games[150:200]:
        with contextlib.suppress(UserError), progress.at_work(job.outputs[0]):
            raise UserError("out of memory")
    return folder


def test_the_papers_297_games_fit_a_terminal(paper):
    found = status.look(paper)
    lines = list(status.shown(found))
    assert len(lines) < 100
    assert max(map(len, lines)) < 200
    assert "  and 38 more: --all" in lines
    assert sum(run["half"] == "images" for run in found["runs"]) == 297
    rows = [line for line in lines if line.startswith("  mog") and "seed" not in line]
    assert len(rows) == 3 * 8 + 4  # in 2D there are four mixtures
    assert (found["summary"]["runs"]["failed"], found["summary"]["runs"]["diverged"]) == (50, 15)
    assert found["rates"] == "measured"
    assert 0.2 < found["progress"] < 0.8
    every = [f"{line}  " for line in status.shown(found, True)]
    assert all(any(f"  {status._named(run)}  " in line for line in every) for run in found["runs"])
    assert not any("more: --all" in line for line in every)


def told(capsys, *arguments: str) -> dict:
    """The status as JSON."""
    assert main(["status", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_as_json(paper, capsys):
    found = told(capsys, str(paper))
    assert found["experiment"] == "paper"
    run = next(run for run in found["runs"] if run["state"] == "failed")
    assert (run["stage"], run["detail"], run["stages"]["distances"]) == ("game", "out of memory", "waiting")
    assert sum(found["summary"]["jobs"].values()) == len(found["jobs"])


def test_the_last_run_is_the_default(paper, results, monkeypatch, capsys):
    shutil.copytree(results, paper.parent / "mini")
    monkeypatch.chdir(paper.parents[1])
    then = time.time()
    for name, later in (("mini", 10), ("paper", 20)):
        os.utime(f"results/{name}/{dag.NAME}", (then + later, then + later))
        assert told(capsys)["results"] == f"results/{name}"
    monkeypatch.chdir("results/mini")
    assert told(capsys, ".")["runs"] == status.look(results)["runs"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "not found; give a folder that a run of snakemake has made"),
        ("", "not valid JSON"),
        ("[]", "format None, this version reads 1"),
        ('{"format": 0}', "format 0, this version reads 1"),
        ('{"format": 1, "experiment": "x", "jobs": [{}]}', "damaged, or changed by hand; start snakemake"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, introprior, content, expected):
    if content is not None:
        (tmp_path / dag.NAME).write_text(content)
    for command in ("status", "verify"):
        assert_refused(introprior(command, tmp_path), expected)


def test_no_run_at_all(tmp_path, monkeypatch, introprior):
    monkeypatch.chdir(tmp_path)
    assert_refused(introprior("status"), "start one with snakemake")
    assert_refused(introprior("status", "--watch", "0"), "--watch: must be above 0")


def test_watching_goes_on_until_it_is_interrupted(results):
    command = [sys.executable, "-m", "introprior", "status", str(results), "--watch", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        seen = ""
        while seen.count("none begun") < 3:
            seen += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59, "59 s"), (90, "1.5 min"), (3000, "50 min"), (7200, "2.0 h"), (86400, "24 h"), (1e6, "12 days")],
)
def test_durations_are_said_in_one_unit(seconds, expected):
    assert status.duration(seconds) == expected
