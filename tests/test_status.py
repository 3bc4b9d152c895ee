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

from introprior.cli import main
from introprior.experiment import planning
from introprior.operations import files, forecast, progress, provenance, status

ROOT = Path(__file__).resolve().parents[1]

MINI = """\
experiment: mini
density:
  datasets: [8Gaussian]
  seeds: [0, 1]
  training: {iterations: 40000, warmup_iterations: 4, mixture_warmup_iterations: 2, batch_size: 16,
             monte_carlo_samples: 3, hidden_width: 8, milestones: [9]}
  search: {enabled: false}
  evaluation: {samples: 200, grid: 16, data_points: 32, monte_carlo_samples: 3}
images:
  datasets: [digits]
  seeds: [0]
  r_entropy: [0]
  evaluation: {features: classifier, samples: 100, latent_points: 60}
tables: {table1: [sg, mog4-ip], table2: [sg, mog4-ip], table5: [sg, mog4-ip]}
figure2: {dataset: digits, cell: mog4-ip}
figure4: {r_entropy: [0]}
latents: {cells: [sg]}
figureS2: {dataset: digits, cell: mog4-ip, r_entropy: 0}
figure3: {cells: [sg], points: 52, grid: 16}
"""


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    path = tmp_path_factory.mktemp("configuration") / "mini.yaml"
    path.write_text(MINI)
    return planning.resolve([path], ROOT)


@pytest.fixture
def results(tmp_path, configuration) -> Path:
    """The folder of a run of which nothing but its configuration is there."""
    files.write_json(tmp_path / "results/mini/configuration.json", configuration)
    return tmp_path / "results/mini"


class Training:
    """The job that trains a cell, as the workflow starts it: in a process of its own, with a log."""

    def __init__(
        self, results: Path, cell: str = "sg", betas: str | None = '{"beta_rec": 0.2, "beta_kl": 0.3}', **more
    ):
        config = json.loads((results / "configuration.json").read_text())
        jobs = planning.jobs(config, folder=results)
        (self.job,) = (job for job in jobs if (job.rule, job.wildcards.get("cell")) == ("train", cell))
        self.log = Path(self.job.log)
        hyperparameters = Path(self.job.inputs[0])
        for folder in (self.log.parent, hyperparameters.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if betas is not None:
            hyperparameters.write_text(json.dumps({**json.loads(betas), "beta_neg": 0.9}))
        options = {**self.job.options, "training": {**self.job.options["training"], **more}}
        output, history = self.job.outputs
        self.arguments = ["train", "--options", json.dumps(options), "--hyperparameters", str(hyperparameters)]
        self.arguments += ["--output", output, "--history", history, "--state", str(results / ".state")]
        self.arguments += ["--device", "cpu"]

    @contextlib.contextmanager
    def started(self):
        """While inside, the process runs; it is dead afterwards."""
        with self.log.open("w") as log:
            process = subprocess.Popen([sys.executable, "-m", "introprior", *self.arguments], stderr=log, stdout=log)
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
    while True:
        found = status.look(results)
        if until(job_of(found)):
            return found
        assert time.monotonic() < end, text(results)
        time.sleep(0.05)


# ---- Real jobs ----


def test_nothing_has_begun(results):
    found = status.look(results)
    assert set(states(found).values()) == {"waiting"}
    assert (found["progress"], found["running"], found["eta_seconds"]) == (0, 0, None)
    printed = text(results)
    assert "density: 8 runs, none begun" in printed
    assert "\nfailed\n" not in printed
    assert len(printed.splitlines()) < 12


def test_a_training_goes_on_is_stopped_and_goes_on_again(results, monkeypatch):
    training = Training(results)
    with training.started() as process:
        found = waited(results, lambda job: job["iteration"])
        job = job_of(found)
        assert (job["state"], job["iterations"]) == ("running", 40_000)
        assert (states(found)["sg 0"], states(found)["sg 1"], states(found)["sg-dt 0"]) == (
            "running",
            "running",
            "waiting",
        )
        found = waited(results, lambda job: job["rate"] and job["eta_seconds"])
        job = job_of(found)
        assert job["eta_seconds"] == pytest.approx((40_000 - job["iteration"]) / job["rate"])
        assert found["eta_seconds"] > 0
        printed = text(results)
        assert "running\n  train 8Gaussian sg  step " in printed
        assert "to go" in printed
        assert "  sg            >>  " not in printed.splitlines()[1]
        process.send_signal(signal.SIGTERM)
        process.wait()
    found = status.look(results)
    job = job_of(found)
    assert states(found)["sg 0"] == "stopped"
    assert f"goes on at step {job['iteration']:,}" in job["detail"]
    assert f"stopped at iteration {job['iteration']};" in training.log.read_text()
    with training.started() as process:
        found = waited(results, lambda again: again["iteration"] and again["iteration"] > job["iteration"])
        assert states(found)["sg 1"] == "running"
        assert f"going on from iteration {job['iteration']}" in training.log.read_text()
        process.kill()  # no last word
        process.wait()
    assert states(status.look(results))["sg 0"] == "running"  # nobody can know yet
    later = time.time() + status.STALE + 1
    monkeypatch.setattr(status.time, "time", lambda: later)
    found = status.look(results)
    assert states(found)["sg 0"] == "stopped"
    assert "no sign of life" in job_of(found)["detail"]
    assert "goes on at its last checkpoint" in job_of(found)["detail"]
    assert "stopped\n  train 8Gaussian sg  step" in text(results)


def test_a_training_is_done_or_diverged_or_failed(results):
    assert Training(results, "sg", iterations=8).run() == 0
    assert Training(results, "mog4-ip", iterations=8, learning_rate=1e18).run() == 0
    failing = Training(results, "sg-dt", betas=None)
    assert failing.run() == 2
    found = status.look(results)
    assert {name: state for name, state in states(found).items() if state != "waiting"} == {
        "sg 0": "begun",  # its evaluation waits
        "sg 1": "begun",
        "mog4-ip 0": "diverged",
        "mog4-ip 1": "diverged",
        "sg-dt 0": "failed",
        "sg-dt 1": "failed",
    }
    diverged = next(run for run in found["runs"] if run["state"] == "diverged")
    assert "not finite" in diverged["detail"] or "iteration" in diverged["detail"]
    assert job_of(found, cell="sg-dt")["detail"] == failing.log.read_text().splitlines()[-1]
    assert job_of(found, cell="sg-dt")["detail"].startswith("introprior train: ")
    printed = text(results)
    line = next(line for line in printed.splitlines() if "train 8Gaussian sg-dt" in line)
    assert str(failing.log) in line
    rows = [line.split() for line in printed.splitlines()]
    assert [row[1] for row in rows if row[:1] == ["sg"]] == ["--"]
    assert [row[1] for row in rows if row[:1] == ["mog4-ip"]] == ["DD"]
    assert [row[1] for row in rows if row[:1] == ["sg-dt"]] == ["FF"]
    assert found["rates"] == "built-in"  # there are no benchmark files
    # Repaired and begun anew: the log is empty, and the failure forgotten.
    failing.log.write_text("")
    assert states(status.look(results))["sg-dt 0"] == "running"


def test_one_member_of_an_ensemble_diverged(results):
    training = Training(results, "sg", iterations=8)
    assert training.run() == 0
    path = provenance.path_of(training.job.outputs[0])
    record = json.loads(path.read_text())
    record["records"][1] |= {"status": "diverged", "detail": "encoder_loss at iteration 5"}
    path.write_text(json.dumps(record))
    for name in ("metrics.csv", "panels.npz"):
        Path(training.job.outputs[0]).with_name(name).touch()
    Path(training.job.inputs[0]).touch()
    found = status.look(results)
    assert (states(found)["sg 0"], states(found)["sg 1"]) == ("done", "diverged")
    assert "seed 1  encoder_loss at iteration 5" in text(results)


def test_an_evaluation_without_a_finite_value_is_told_as_in_the_tables(results):
    training = Training(results, "sg", iterations=8)
    assert training.run() == 0
    metrics = Path(training.job.outputs[0]).with_name("metrics.csv")
    metrics.write_text(
        "dataset,cell,seed,metric,value,status,detail\n8Gaussian,sg,0,KL,1.0,ok,\n"
        "8Gaussian,sg,1,KL,,diverged,no generated point lies in the window\n"
    )
    metrics.with_name("panels.npz").touch()
    found = status.look(results)
    assert (states(found)["sg 0"], states(found)["sg 1"]) == ("done", "diverged")


def test_a_copy_elsewhere_tells_the_same(results, tmp_path):
    assert Training(results, "sg", iterations=8).run() == 0
    assert Training(results, "sg-dt", betas=None).run() == 2
    copy = tmp_path / "elsewhere" / "renamed {copy}"
    shutil.copytree(results, copy)
    shutil.rmtree(results)
    assert states(status.look(copy)) == {
        f"{cell} {seed}": state
        for cell, state in {"sg": "begun", "mog4-ip": "waiting", "sg-dt-closed": "waiting", "sg-dt": "failed"}.items()
        for seed in (0, 1)
    }


# ---- What logs and progress files say ----


def told(results: Path, log: str | None, known: dict | None = None, age: float = 0) -> dict:
    """What a look makes of a training's log and progress file."""
    training = Training(results)
    if log is not None:
        training.log.write_text(log)
        then = time.time() - age
        os.utime(training.log, (then, then))
    if known is not None:
        place = progress.path_of(Path(training.job.outputs[0]))
        usual = {
            "iteration": 10,
            "iterations": 100,
            "rate": 2.0,
            "alive": 2,
            "members": 2,
            "updated": time.time() - age,
        }
        place.write_text(json.dumps(usual | known))
    return job_of(status.look(results))


BAR = "8Gaussian sg:  44%|████▍     | 17620/40000 [00:11<00:14, 1523.15it/s, alive=2/2]"


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("", "running"),
        (f"{BAR}\r", "running"),
        (f"{BAR}\r{BAR}", "running"),
        ("8Gaussian sg: going on from iteration 7 of x.pt\n", "running"),
        ("8Gaussian sg: another process is at it; waiting until that one ends\n", "running"),
        ("/x/y.py:12: UserWarning: an error may follow\n  warnings.warn(\n", "running"),
        (f"{BAR}\nintroprior train: x.json: cannot read (No such file)\n", "failed"),
        ("Traceback (most recent call last):\n  File\nRuntimeError: shapes\n", "failed"),
        ("Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried\n", "failed"),
        ("/bin/bash: line 1: introprior: command not found\n", "failed"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=3.0\n", "failed"),
        (
            f"{BAR}\nintroprior train: 8Gaussian sg: stopped at iteration 17; saved to x: run the same command\n",
            "stopped",
        ),
        ("introprior evaluate: interrupted; run the same command again\n", "stopped"),
        ("slurmstepd: error: *** JOB 7 ON node CANCELLED AT 2026-11-23T18:00:00 DUE TO TIME LIMIT ***\n", "stopped"),
        (b"\xff\xfe\x00 broken".decode("latin1"), "running"),
    ],
)
def test_the_last_word_of_a_log(results, log, state):
    job = told(results, log)
    assert job["state"] == state
    if state != "running":
        assert job["detail"] == log.strip().splitlines()[-1]


def test_silence(results, monkeypatch):
    assert told(results, None)["state"] == "waiting"
    assert told(results, f"{BAR}\r", age=100)["state"] == "running"
    job = told(results, f"{BAR}\r", age=3 * 3600)
    assert (job["state"], job["detail"]) == ("stopped", "no sign of life for 3.0 h")
    # As long as Snakemake holds its lock, the job may be at work, however silent.
    locks = results.parents[1] / ".snakemake/locks"
    locks.mkdir(parents=True)
    assert told(results, f"{BAR}\r", age=3 * 3600)["state"] == "stopped"
    (locks / "0.output.lock").touch()
    assert told(results, f"{BAR}\r", age=3 * 3600)["state"] == "running"


def test_a_progress_file(results):
    job = told(results, f"{BAR}\r", {})
    assert (job["state"], job["iteration"], job["eta_seconds"]) == ("running", 10, 45)
    assert told(results, None, {})["state"] == "running"
    assert told(results, f"{BAR}\r", {"alive": 1})["detail"] == "1 of 2 alive"
    assert told(results, f"{BAR}\r", {"rate": None})["eta_seconds"] is None
    assert told(results, f"{BAR}\r", {}, age=61)["state"] == "stopped"
    assert told(results, f"{BAR}\r", {}, age=40)["state"] == "running"
    assert told(results, f"{BAR}\r", {"stopped": True})["detail"] == "goes on at step 10"
    # A process that has begun anew and told nothing yet.
    anew = told(results, "", {"stopped": True, "updated": time.time() - 3600})
    assert (anew["state"], anew["iteration"]) == ("running", None)
    # A crash is told at once, not after a minute.
    assert told(results, "RuntimeError: shapes\n", {})["state"] == "failed"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"iteration": 1}', "\x00\x01"])
def test_a_progress_file_that_is_none(results, content):
    training = Training(results)
    progress.path_of(Path(training.job.outputs[0])).write_text(content)
    training.log.write_text("")
    assert job_of(status.look(results))["state"] == "running"


def test_files_that_come_and_go(results):
    """Looks while another thread writes and removes what they look at."""
    training, going = Training(results), threading.Event()
    place = progress.path_of(Path(training.job.outputs[0]))

    def write() -> None:
        number = 0
        while not going.is_set():
            number += 1
            files.write_json(place, {"iteration": number, "iterations": 9, "rate": None, "alive": 2, "members": 2,
                                     "updated": time.time()})  # fmt: skip
            training.log.write_text(f"{BAR}\r" * (number % 5))
            if number % 3 == 0:
                place.unlink()
            if number % 7 == 0:
                shutil.rmtree(training.log.parent)
                training.log.parent.mkdir()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = {job_of(status.look(results))["state"] for _ in range(100)}
    finally:
        going.set()
        thread.join()
    assert seen <= {"running", "waiting"}
    assert "running" in seen


# ---- The command ----


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """The paper's runs in every state, as far as empty files and true logs can tell."""
    config = planning.resolve([], ROOT)
    folder = tmp_path_factory.mktemp("paper") / "results/paper"
    files.write_json(folder / "configuration.json", config)
    jobs = planning.jobs(config, folder=folder)
    games = 0
    for job in jobs:
        games += job.rule == "game"
        if games > 150:
            break
        for path in job.outputs:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        record = {"device": "NVIDIA H100", "options": job.options, "resumed": 0, "outputs": {"x": {"bytes": 1e6}}}
        record["records"] = [{"seed": int(job.wildcards.get("seed", 0)), "status": "ok", "detail": ""}]
        if job.rule == "game" and games % 10 == 0:
            record["records"][0] |= {"status": "diverged", "detail": "encoder_loss at iteration 5"}
        forecast.record_of(job).write_text(json.dumps(record))
        if job.benchmark:
            Path(job.benchmark).parent.mkdir(parents=True, exist_ok=True)
            Path(job.benchmark).write_text("s\th:m:s\n1800.0\t0:30:00\n")
    (folder / "tables").mkdir(exist_ok=True)
    for job in [job for job in jobs if job.rule == "game"][150:200]:
        for path in (job.log, job.outputs[0]):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(job.log).write_text("introprior train: out of memory\n")
    return folder


def test_the_papers_297_games_fit_a_terminal(paper, capsys):
    assert main(["status", str(paper)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) < 200
    assert "and 38 more: --all" in printed
    found = status.look(paper)
    images = [run for run in found["runs"] if run["half"] == "images"]
    assert len(images) == 297
    rows = [line for line in lines if line.startswith("  mog") and "seed" not in line]
    assert len(rows) == 3 * 8 + 4  # in 2D there are four mixtures
    counts = found["summary"]["runs"]
    assert (counts["failed"], counts["diverged"]) == (50, 15)
    assert found["rates"] == "measured"
    assert 0.2 < found["progress"] < 0.8


def test_all_runs_in_lines_of_their_own(paper, capsys):
    assert main(["status", str(paper), "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for run in status.look(paper)["runs"]:
        assert sum(line.startswith(status._named(run)) for line in lines) >= 1
    assert not any("more: --all" in line for line in lines)


def test_a_look_is_quick_and_light(paper):
    code = "import sys, time; from introprior.cli import main; t = time.process_time(); main(sys.argv[1:]);"
    code += "print(time.process_time() - t); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(paper)], capture_output=True, text=True, check=True
    )
    *_, taken, modules = done.stdout.splitlines()
    assert float(taken) < 5
    assert {"torch", "numpy", "pandas", "snakemake"}.isdisjoint(modules.split())


def test_status_as_json(paper, capsys):
    assert main(["status", str(paper), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experiment"] == "paper"
    run = next(run for run in found["runs"] if run["state"] == "failed")
    assert run["stage"] == "game"
    assert run["stages"]["warm-up"] == "waiting" or run["stages"]["warm-up"] == "done"
    assert run["detail"] == "introprior train: out of memory"
    assert sum(found["summary"]["jobs"].values()) == len(found["jobs"])


def test_the_last_run_is_the_default(paper, results, monkeypatch, capsys):
    shutil.copytree(results, paper.parent / "mini")
    monkeypatch.chdir(paper.parents[1])
    later = time.time() + 10
    for name, then in (("mini", later), ("paper", later - 5)):
        os.utime(f"results/{name}/configuration.json", (then, then))
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == "results/mini"
    os.utime("results/paper/configuration.json", (later + 5, later + 5))
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == "results/paper"
    monkeypatch.chdir("results/mini")
    assert main(["status", ".", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == status.look(results)["runs"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "not found"),
        ("", "not valid JSON"),
        ("[]", "not a configuration of this version"),
        ('{"experiment": "x"}', "not a configuration of this version"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, capsys, content, expected):
    if content is not None:
        (tmp_path / "configuration.json").write_text(content)
    assert main(["status", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count("\n") == 1


def test_no_run_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 2
    assert "start one with snakemake" in capsys.readouterr().err
    assert main(["status", "--watch", "0"]) == 2
    assert "--watch: must be above 0" in capsys.readouterr().err


def test_watching_goes_on_until_it_is_interrupted(results):
    command = [sys.executable, "-m", "introprior", "status", str(results), "--watch", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        seen = ""
        while seen.count("none begun") < 6:  # two halves each
            seen += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59, "59 s"), (90, "1.5 min"), (3000, "50 min"), (7200, "2.0 h"), (86400, "24 h"), (1e6, "12 days")],
)
def test_durations_are_said_in_one_unit(seconds, expected):
    assert status.duration(seconds) == expected
