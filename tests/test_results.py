"""What happens to results: where they are written, whose they are, what is known of them, how they are looked at."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from introprior import cli
from introprior.errors import UserError, plain
from introprior.operations import dag, files, locks, progress, provenance, status, verification
from introprior.training import checkpoints
from tests import commands
from tests.commands import BETAS, assert_refused, below, do, evaluating, searching, training
from tests.runs import a_record

introprior, trained = commands.introprior, commands.trained  # fixtures


# ---- Where they are written ----


def test_a_link_is_followed_and_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.csv"
    link.symlink_to("disk/b.csv")
    for text in ("once", "again"):
        files.write_text(link, text)
        assert (link.is_symlink(), (tmp_path / "disk/b.csv").read_text()) == (True, text)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["b.csv"]


def test_a_pipe_is_written_into_and_so_is_a_device(tmp_path):
    """They used to be replaced by a regular file, as root even /dev/null."""
    pipe, found = tmp_path / "pipe.csv", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    files.write_text(pipe, "content")
    reader.join(10)
    assert found == ["content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    files.check_writable("/dev/null")
    files.write_text("/dev/null", "content")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not [path for path in Path("/dev").iterdir() if ".part" in path.name or path.name.endswith(".probe")]


def test_a_training_may_write_to_nowhere(tmp_path):
    do(*training(tmp_path), "--history", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    outputs = json.loads((tmp_path / f"ensemble.pt{provenance.SUFFIX}").read_text())["outputs"]
    assert list(outputs) == ["ensemble.pt"]
    assert below(tmp_path) == {tmp_path / "ensemble.pt"}


def test_what_cannot_be_written_is_refused_before_the_training(tmp_path, introprior, monkeypatch):
    monkeypatch.setattr(commands.Training, "step", lambda self: pytest.fail("trained nevertheless"))
    (folder := tmp_path / "folder").mkdir()
    for link, target in (("loop.csv", "loop.csv"), ("link.pt", "x.pt")):
        (tmp_path / link).symlink_to(target)
    for flag in ("--output", "--history"):
        outcome = introprior(*training(tmp_path, flag, folder))
        assert_refused(outcome, folder, "is a folder; give the name of a file")
    assert_refused(introprior(*training(tmp_path, "--history", tmp_path / "loop.csv")), "loop.csv: cannot write (")
    # With one name for both the model used to be lost, and the exit code was 0.
    for other in ("x.pt", "./x.pt", "link.pt", f"x.pt{provenance.SUFFIX}"):
        outcome = introprior(*training(tmp_path, "--output", tmp_path / "x.pt", "--history", f"{tmp_path}/{other}"))
        assert_refused(outcome, "would overwrite", "give each file a name of its own")


def test_an_input_is_not_written_over(trained, introprior):
    model = trained / "ensemble.pt"
    before = model.read_bytes()
    assert_refused(introprior(*evaluating(trained), "--metrics", model), f"would overwrite the input {model}")
    assert model.read_bytes() == before


def test_files_that_differ_in_their_suffix_have_records_of_their_own(tmp_path, trained):
    shutil.copy(trained / "ensemble.pt", tmp_path / "rings.pt")
    shutil.copy(trained / f"ensemble.pt{provenance.SUFFIX}", tmp_path / f"rings.pt{provenance.SUFFIX}")
    do(*evaluating(tmp_path, model=tmp_path / "rings.pt"), "--metrics", tmp_path / "rings.csv")
    told = {path.name: json.loads(path.read_text())["command"] for path in tmp_path.glob(f"*{provenance.SUFFIX}")}
    assert told == {f"rings.pt{provenance.SUFFIX}": "train", f"rings.csv{provenance.SUFFIX}": "evaluate"}


# ---- Which code made them ----


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that is taken for the package's."""
    (package := tmp_path / "package").mkdir()
    monkeypatch.setattr(provenance, "PACKAGE", package)
    provenance.code.cache_clear()
    provenance.commit.cache_clear()
    yield package
    provenance.code.cache_clear()
    provenance.commit.cache_clear()


def test_the_code_of_a_record_is_that_of_its_beginning(tmp_path, package):
    source, output = package / "loss.py", tmp_path / "a.csv"
    source.write_text("1")
    record = provenance.Record("train", {})
    source.write_text("2")
    output.touch()
    record.write([output])
    told = provenance.read(provenance.path_of(output))["code"]
    for text in ("2", "1"):
        source.write_text(text)
        provenance.code.cache_clear()
        assert (told == provenance.code()) is (text == "1")


def test_a_run_that_goes_on_under_another_version_names_both(tmp_path, monkeypatch, introprior):
    command = training(tmp_path, "--state", tmp_path / "state")
    versions = [{"code": code, "commit": None} for code in "ABB"]
    for number, version in enumerate(versions):
        monkeypatch.setattr(provenance, "version", lambda version=version: version)
        with commands.stopping(monkeypatch, 4 + 2 * number):
            introprior(*command)
    do(*command)
    told = provenance.read(tmp_path / f"ensemble.pt{provenance.SUFFIX}")
    assert told["versions"] == [{"iteration": 0, **versions[0]}, {"iteration": 4, **versions[1]}]
    assert told["code"] == "B"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_another_users_checkout_has_a_commit_too(package, monkeypatch):
    git = ["git", "-C", str(package), "-c", "user.name=a", "-c", "user.email=a@b"]
    (package / "__init__.py").touch()
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run([*git, "status"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert len(provenance.commit() or "") == 40


# ---- Before anything runs ----


def test_inputs_of_the_future_are_told_of_before_the_training(tmp_path):
    """Snakemake notices them after it, and deletes what was made."""
    past, future = tmp_path / "past.py", tmp_path / "future.py"
    for path in (past, future):
        path.touch()
    dag.check_dates([str(past), str(tmp_path / "to be made")])
    os.utime(future, (time.time() + 3600,) * 2)
    with pytest.raises(UserError, match=r"future\.py: dated 3,\d\d\d s in the future, .*; touch it, once"):
        dag.check_dates([str(past), str(future)])


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "a$b", "a(b", "plain"])
def test_python_may_be_in_a_folder_of_any_name(tmp_path, name):
    """As Snakemake calls it for its scripts: by a shell, without quotes."""
    (tmp_path / name).mkdir()
    python = tmp_path / name / "python"
    python.write_text("#!/bin/sh\necho here\n")
    python.chmod(0o755)
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    called = subprocess.run(dag.callable_as(str(python)), shell=True, env=environment, capture_output=True, text=True)
    assert called.stdout == "here\n"
    assert (dag.callable_as(str(python)) == str(python)) is (shlex.quote(str(python)) == str(python))
    with pytest.raises(UserError, match="colon"):
        dag.callable_as("/a:b/python")


# ---- Whose they are ----


def test_hyperparameters_of_another_cell_are_refused(tmp_path, introprior):
    chosen = {"dataset": commands.DATASET, "cell": "mog8", **dict(zip(commands.NAMES, BETAS, strict=True))}
    (tmp_path / "chosen.json").write_text(json.dumps(chosen))
    command = training(tmp_path, "--hyperparameters", tmp_path / "chosen.json", betas=None)
    assert_refused(introprior(*command), "chosen.json: of the cell mog8, not sg; give another --hyperparameters")


@pytest.mark.parametrize(("make", "name"), [(training, "ensemble.pt"), (searching, "slice.csv")])
def test_what_another_finished_meanwhile_is_not_trained_twice(tmp_path, introprior, monkeypatch, make, name):
    """The other has let go of its lock by then: nobody has to wait, and nobody is told to."""
    command = make(tmp_path, "--state", tmp_path / "state")
    do(*command)
    first = (tmp_path / name).stat().st_ino
    do(*command)  # it was there before: somebody wants it anew
    assert (tmp_path / name).stat().st_ino != first
    taken = locks.taken

    def slow(path: Path, wait: bool = False) -> int | None:
        monkeypatch.setattr(locks, "taken", taken)
        do(*command)
        return taken(path, wait)

    monkeypatch.setattr(locks, "taken", slow)
    code, said = introprior(*command)
    assert (code, said[-1].endswith("the other process has finished it")) == (0, True)
    assert not list((tmp_path / "state").glob("*.lock"))


def test_a_file_system_without_locks_does_not_stop_a_training(tmp_path, introprior, monkeypatch):
    def taken(path: Path, wait: bool = False) -> int | None:
        raise locks.Unsupported(f"{path}: its file system has no locks (Function not implemented)")

    monkeypatch.setattr(locks, "taken", taken)
    code, said = introprior(*training(tmp_path, "--state", tmp_path / "state"))
    assert code == 0
    assert "has no locks (Function not implemented); see to it that nobody else trains this run" in said[0]


# ---- What is not what it was ----


def folder(root: Path) -> Path:
    """The results of a job that reads prepared data beside the folder."""
    results, data = root / "results/x", root / "results/data/digits"
    prepared = [data / "manifest.json", data / "train-images.npy"]
    for path in (*prepared, results / "a.csv", results / "logs/data.log"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("prepared\n")
    provenance.Record("prepare", {}).write(prepared)
    provenance.Record("classifier", {}, prepared[:1]).write([results / "a.csv"])
    named = {"wildcards": {}, "benchmark": None, "gpu": False, "options": {}}
    made = "results/data/digits/manifest.json"
    prepare = named | {"rule": "prepare", "outputs": [made], "inputs": [], "log": "results/x/logs/data.log"}
    train = named | {"rule": "classifier", "outputs": ["results/x/a.csv"], "inputs": [made], "log": None}
    content = {"experiment": "x", "configuration": {"device": "cpu"}, "identity": "", "jobs": [prepare, train]}
    (results / dag.NAME).write_text(dag.sealed(content))
    return results


def test_prepared_data_that_results_were_made_of_is_verified(tmp_path):
    results = folder(tmp_path)
    assert verification.verify(results)["problems"] == []
    (tmp_path / "results/data/digits/train-images.npy").write_text("prepareD\n")
    ((path, what),) = verification.verify(results)["problems"]
    assert (path, what.split(";")[0]) == ("../data/digits/train-images.npy", "altered since it was made")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"format": 1}, "is missing; give it"),
        (a_record("a") | {"outputs": []}, "outputs: must be a section of keys"),
        (a_record("a") | {"outputs": {"a.csv": 1}}, "outputs.a.csv: must be"),
        (a_record("a") | {"seconds": "x"}, "seconds: must be a number"),
        ([], "format None, this version reads 1"),
    ],
)
def test_what_is_no_record_is_told_of(tmp_path, content, said):
    results = folder(tmp_path)
    (results / f"a.csv{provenance.SUFFIX}").write_text(json.dumps(content))
    found = dict(verification.verify(results)["problems"])
    assert said in found[f"a.csv{provenance.SUFFIX}"]
    provenance.Record("evaluate", {}, [results / "a.csv"])  # as a job that reads the folder begins


def test_a_tree_is_judged_by_the_jobs_of_the_machine_that_made_it(tmp_path, monkeypatch):
    """Not by whether LaTeX is installed where it is looked at."""
    results = folder(tmp_path)
    (tmp_path / "pdflatex").write_text("#!/bin/sh\n")
    (tmp_path / "pdflatex").chmod(0o755)
    for path in (f"{tmp_path}:{os.environ['PATH']}", "/nowhere"):
        monkeypatch.setenv("PATH", path)
        assert verification.verify(results)["problems"] == []


def test_a_checkpoint_with_other_parts_is_one_line(tmp_path, introprior, trained):
    content = checkpoints.load(trained / "ensemble.pt")
    for number, part in enumerate(({"run": []}, {"model": {}}, {"records": [1]}, {"records": []})):
        path = tmp_path / f"{number}.pt"
        checkpoints.save(path, {**content, **part})
        assert_refused(introprior(*evaluating(tmp_path, model=path)), f"{number}.pt: ")


# ---- Looking ----


def test_a_linked_folder_is_looked_at_where_the_link_is(tmp_path):
    """Snakemake's lock is in the project, the results are on another disk."""
    project = tmp_path / "project"
    (project / ".snakemake/locks").mkdir(parents=True)
    (project / ".snakemake/locks/0.input.lock").touch()
    shutil.move(folder(tmp_path / "disk").parent, tmp_path / "elsewhere")
    (project / "results").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/x/a.csv").unlink()
    shutil.rmtree(tmp_path / "elsewhere/data")
    states = [job["state"] for job in status.look(project / "results/x")["jobs"]]
    assert states == ["running", "waiting"]
    assert [job["state"] for job in status.look(tmp_path / "elsewhere/x")["jobs"]] == ["failed", "waiting"]


def test_a_complete_folder_that_was_moved_is_complete(tmp_path):
    """Without the data beside it, whose log is in it."""
    results = folder(tmp_path)
    shutil.move(results, tmp_path / "moved")
    assert [job["state"] for job in status.look(tmp_path / "moved")["jobs"]] == ["done", "done"]
    (tmp_path / "moved/a.csv").unlink()
    assert [job["state"] for job in status.look(tmp_path / "moved")["jobs"]] == ["failed", "waiting"]


def test_nothing_that_a_log_holds_steers_the_terminal(tmp_path, capsys):
    results = folder(tmp_path)
    (results / "a.csv").unlink()
    shutil.rmtree(tmp_path / "results/data")
    (results / "logs/data.log").write_text("\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J\x08plain\n")
    do("status", results)
    said = capsys.readouterr().out
    assert r"\x1b[31mred\x1b[0m" in said
    assert plain(said.replace("\n", "")) == said.replace("\n", "")


@pytest.mark.parametrize(
    "damage",
    [{"pid": "1"}, {"pid": 2**70}, {"updated": None}, {"state": "lost"}, {"iterations": 0}, {"iterations": "9"}],
)
def test_progress_that_makes_no_sense_is_as_none(tmp_path, damage: dict[str, Any]):
    output = tmp_path / "a.pt"
    progress.Progress(output, "a", 10).tell(1, 1.0, 1, 1)
    path = progress.path_of(output)
    told = json.loads(path.read_text())
    assert progress.read(output) is not None
    path.write_text(json.dumps(told | damage))
    assert progress.read(output) is None
    for text in ("", "{", "[]", "{}", '{"iteration": 1}', "\x00\x01", "[" * 100_000):
        path.write_text(text)
        assert progress.read(output) is None


def test_who_has_read_enough_is_not_complained_to(tmp_path):
    """As `head` is."""
    results = folder(tmp_path)
    command = [sys.executable, "-m", "introprior", "status", str(results), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


def test_exit_codes_are_the_documented_ones(tmp_path, introprior):
    assert introprior("status", folder(tmp_path))[0] == 0
    code, said = introprior("status", tmp_path)
    assert (code, "jobs.json: not found" in said[0], len(said)) == (2, True, 1)
    assert cli.main(["verify", str(tmp_path)]) == 2
    (tmp_path / "configuration.json").touch()  # what 0.1 wrote
    assert "made by introprior 0.1, which alone reads it" in introprior("status", tmp_path)[1][0]
