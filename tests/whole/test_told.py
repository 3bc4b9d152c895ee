"""What is known of a run while it is at work: of its jobs over dry runs, of a training that is stopped and killed."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("snakemake")

from introprior.operations import dag, status
from tests import test_planning as planning
from tests import test_status as following

# Fixtures.
project = planning.project
introprior, resolved, results = following.introprior, following.resolved, following.results


def test_a_dry_run_changes_nothing_of_what_is_known_of_a_run(project):
    results, config = project.folder / "results/run", ("--config", "experiment=run")
    one = "results/run/density/Rings/{}/hyperparameters.json".format
    planning.snakemake(project, one("sg-dt"), *config)
    text = (results / dag.NAME).read_text()
    assert not (results / dag.PLANNED).exists()
    for flag in ("--dry-run", "--summary", "--touch"):
        planning.snakemake(project, flag, one("sg-dt"), *config)
        assert (results / dag.NAME).read_text() == text
    assert [job.rule for job in dag.read(results).jobs] == ["published"]
    planning.snakemake(project, "figureS3", *config)  # whose script is a Snakemake of its own
    assert [job.rule for job in dag.read(results).jobs] == ["published", "figureS3"]
    (results / dag.NAME).unlink()
    before = (results / dag.PLANNED).read_text()
    planning.snakemake(project, one("sg-dt"), *config)  # nothing to be done, but to tell
    assert (results / dag.NAME).read_text() == text
    assert (results / dag.PLANNED).read_text() == before


def test_a_training_goes_on_is_stopped_goes_on_again_and_is_killed(results):
    training = following.Training(results)
    with training.started() as process:
        found = following.waited(results, lambda job: job["iteration"] and job["rate"])
        job = following.job_of(found)
        assert (job["state"], job["iterations"]) == ("running", 40_000)
        assert job["eta_seconds"] == pytest.approx((40_000 - job["iteration"]) / job["rate"])
        assert found["eta_seconds"] > 0
        assert (following.states(found)["sg 0"], following.states(found)["sg-dt 1"]) == ("running", "waiting")
        printed = following.text(results)
        assert "running\n  train 8Gaussian sg  step " in printed
        assert "to go" in printed
        process.send_signal(signal.SIGTERM)
        process.wait()
    found = status.look(results)
    job = following.job_of(found)
    assert following.states(found)["sg 0"] == "stopped"
    assert f"stopped at iteration {job['iteration']}; saved to" in job["detail"]
    assert job["detail"] in training.log.read_text()
    with training.started() as process:
        found = following.waited(results, lambda again: again["iteration"] and again["iteration"] > job["iteration"])
        assert following.states(found)["sg 1"] == "running"
        process.kill()  # no last word
    found = following.waited(results, lambda job: job["state"] == "stopped")
    assert following.states(found)["sg 0"] == "stopped"
    assert following.job_of(found)["detail"].startswith("no sign of life for ")
    assert "goes on at its last checkpoint" in following.job_of(found)["detail"]
    assert "stopped\n  train 8Gaussian sg  step" in following.text(results)
