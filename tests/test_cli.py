"""The commands, in process where that suffices: what they write, what they refuse, how they stop and go on."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import introprior as package
from introprior import __main__ as started
from introprior import cli
from introprior.errors import UserError
from introprior.evaluation import density, search, selection
from introprior.experiment import jobs
from introprior.experiment.config.density import Cuts
from introprior.reporting import read
from introprior.reporting.tables import comparison
from introprior.reporting.tables.sheets import Request
from introprior.training.loop import Training
from tests import commands
from tests.commands import (
    DATASET,
    GRID,
    MAKERS,
    NAMES,
    TRAINING,
    assert_refused,
    below,
    do,
    evaluating,
    model,
    rows,
    searching,
    selecting,
    settings,
    stopping,
    training,
)

introprior, trained, copied, undisturbed = commands.introprior, commands.trained, commands.copied, commands.undisturbed


# ---- What the commands write ----


@pytest.mark.parametrize("cell", ["vae-sg", "sg", "mog8-lc-ip"])
def test_training_writes_the_ensemble_its_history_and_a_record(tmp_path, introprior, cell):
    assert introprior(*training(tmp_path, "--state", tmp_path / "state", cell=cell)) == (0, [])
    assert below(tmp_path) == {tmp_path / "ensemble.pt", tmp_path / "history.csv"}
    assert not list(tmp_path.glob(".*progress*"))
    content, run = model(tmp_path), model(tmp_path)["run"]
    weights = dict(zip(NAMES, (0.2, 0.3, None if cell == "vae-sg" else 0.9), strict=True))
    assert run["members"] == [{"dataset": DATASET, "seed": seed, **weights} for seed in (0, 1)]
    assert (run["half"], run["cell"]) == ("density", cell)
    assert run["training"].items() >= TRAINING.items()
    assert [record["status"] for record in content["records"]] == ["ok", "ok"]
    assert all(tensor.isfinite().all() for tensor in content["model"]["tensors"].values())

    record = json.loads((tmp_path / "ensemble.pt.provenance.json").read_text())
    more = {"format", "command", "options", "inputs", "outputs", "seeds", "iterations", "resumed", "records"}
    assert record.keys() - content["provenance"].keys() == more
    assert all(content["provenance"][key] == record[key] for key in ("code", "commit", "libraries", "device"))
    assert (record["command"], record["device"], record["seeds"]) == ("train", "cpu", [0, 1])
    assert (record["iterations"], record["resumed"]) == (commands.END, 0)
    assert record["records"] == [{"dataset": DATASET, "seed": seed, "status": "ok", "detail": ""} for seed in (0, 1)]
    assert record["options"]["training"] == TRAINING
    assert record["outputs"].keys() == {"ensemble.pt", "history.csv"}
    for name, told in record["outputs"].items():
        written = (tmp_path / name).read_bytes()
        assert told == {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)}

    history = rows(tmp_path / "history.csv")
    assert list(history[0]) == ["dataset", "cell", "iteration", "seed", "quantity", "value"]
    assert {(row["dataset"], row["cell"]) for row in history} == {(DATASET, cell)}
    logged = {(row["iteration"], row["seed"]) for row in history}
    assert logged == {(str(i), seed) for i in range(1, commands.END + 1) for seed in "01"}
    played = {row["quantity"] for row in history if row["iteration"] == str(commands.END)}
    assert ("encoder_loss" in played) is (cell != "vae-sg")
    assert all(math.isfinite(float(row["value"])) for row in history)


def test_a_search_writes_one_row_per_setting_in_the_order_of_the_grid(trained):
    found = rows(trained / "slice.csv")
    assert list(found[0]) == ["dataset", "cell", *NAMES, "seed", "KL", "JSD", "status", "detail"]
    assert settings(found) == GRID
    assert {(row["dataset"], row["seed"], row["status"], row["detail"]) for row in found} == {(DATASET, "0", "ok", "")}
    assert all(float(row["KL"]) > 0 and float(row["JSD"]) > 0 for row in found)


def test_a_searched_setting_is_the_same_as_one_trained_alone(tmp_path, exact):
    do(*searching(tmp_path, cell="mog8-lc-ip", seed=4, samples=2000))
    found = rows(tmp_path / "slice.csv")
    assert len({row["KL"] for row in found}) == len(GRID)
    for row, betas in list(zip(found, GRID, strict=True))[1:3]:
        do(*training(tmp_path, cell="mog8-lc-ip", seeds=[4], betas=betas))
        do(*evaluating(tmp_path, samples=2000))
        alone = {measured["metric"]: measured["value"] for measured in rows(tmp_path / "metrics.csv")}
        for metric in ("KL", "JSD"):
            assert float(row[metric]) == pytest.approx(float(alone[metric]), rel=1e-9)


def test_the_lowest_kl_of_all_slices_is_selected(tmp_path, introprior):
    header = "dataset,cell,beta_rec,beta_kl,beta_neg,seed,KL,JSD,status,detail\n"
    slices = (tmp_path / "0.csv", tmp_path / "1.csv")
    tried = [["1,2,3,0,9.5,1,ok,", "4,5,6,0,,,diverged,encoder_loss not finite"]]
    tried += [["7,8,9,0,10.25,1,ok,", "0.1,0.2,0.3,0,9.25,1,ok,", "1,1,1,0,9.25,1,ok,"]]
    for path, some in zip(slices, tried, strict=True):
        path.write_text(header + "".join(f"{DATASET},sg,{setting}\n" for setting in some))
    assert introprior(*selecting(tmp_path, slices=slices)) == (0, [])
    chosen = {"dataset": DATASET, "cell": "sg", "source": "search", **dict(zip(NAMES, (0.1, 0.2, 0.3), strict=True))}
    chosen |= {"KL": 9.25, "settings": 5, "diverged": 1}
    assert json.loads((tmp_path / "hyperparameters.json").read_text()) == chosen
    refused = introprior(*selecting(tmp_path, "--cell", "mog4", slices=slices))
    assert_refused(refused, f"{DATASET}, sg, not of {DATASET}, mog4; name its slices")


@pytest.mark.parametrize(("cell", "grid"), [("sg", GRID), ("vae-mog4", [[0.2, 0.3, None], [0.8, 0.1, None]])])
def test_what_was_selected_is_what_is_trained(tmp_path, cell, grid):
    do(*searching(tmp_path, cell=cell, betas=grid))
    do(*selecting(tmp_path, "--cell", cell))
    chosen = json.loads((tmp_path / "hyperparameters.json").read_text())
    found = rows(tmp_path / "slice.csv")
    best = min(range(len(found)), key=lambda i: float(found[i]["KL"]))
    assert [chosen[name] for name in NAMES] == grid[best]
    do(*training(tmp_path, "--hyperparameters", tmp_path / "hyperparameters.json", betas=None, cell=cell))
    assert [model(tmp_path)["run"]["members"][0][name] for name in NAMES] == grid[best]


def test_published_hyperparameters_are_taken_over(tmp_path, introprior):
    published = jobs.as_json({**dict(zip(NAMES, commands.BETAS, strict=True)), "source": "table3", "KL": None})
    command = ["select", "--dataset", DATASET, "--cell", "sg", "--output", tmp_path / "h.json", "--published"]
    assert introprior(*command, published) == (0, [])
    assert json.loads((tmp_path / "h.json").read_text()) == {"dataset": DATASET, "cell": "sg", **json.loads(published)}
    assert_refused(introprior(*command, '{"beta_rec": 1'), "--published: not valid JSON")
    assert_refused(introprior(*command, '{"beta_rec": 1, "beta_kl": 0}'), "--published: beta_kl: must be above 0, is 0")


def test_flags_and_options_are_two_ways_to_say_the_same(tmp_path):
    do(*training(tmp_path, "--protocol", "text", seeds=[4], protocol={"loss_scale": "per-element"}))
    wanted = model(tmp_path)
    assert [wanted["run"]["protocol"][key] for key in ("conversion", "loss_scale")] == ["at-game", "per-element"]
    (tmp_path / "options.json").write_text(json.dumps({"training": TRAINING | {"iterations": 90}, "cell": "mog9"}))
    flags = ["--options", tmp_path / "options.json", "--dataset", DATASET, "--cell", "sg", "--seeds", "4"]
    flags += ["--protocol", "text", "--set", "training.iterations=12", "--set", "protocol.loss_scale=per-element"]
    (tmp_path / "again").mkdir()
    outputs = ["--output", tmp_path / "again/ensemble.pt", "--history", tmp_path / "again/history.csv"]
    do("train", *flags, "--betas", *commands.BETAS, *outputs)
    commands.assert_same_training(tmp_path / "again", tmp_path)


# ---- Successive halving ----

HALVING = {"keep": 0.3, "at": [0.5]}  # of four settings, two


def test_halving_drops_the_worse_settings_and_says_so(tmp_path, exact, monkeypatch):
    do(*searching(tmp_path))
    whole = rows(tmp_path / "slice.csv")
    judged = []
    finished = search.finished
    monkeypatch.setattr(search, "finished", lambda *arguments: judged.append(finished(*arguments)) or judged[-1])
    do(*searching(tmp_path, halving=HALVING))
    halved, early = rows(tmp_path / "slice.csv"), judged[0]
    assert settings(halved) == GRID
    assert {row["status"] for row in halved} == {"ok"}
    *winners, third, fourth = sorted(range(4), key=lambda i: early[i]["KL"])
    for i in (third, fourth):
        assert halved[i]["detail"] == "dropped by successive halving at iteration 6"
        assert float(halved[i]["KL"]) == early[i]["KL"]
    for i in winners:
        assert halved[i]["detail"] == ""
        assert float(halved[i]["KL"]) == pytest.approx(float(whole[i]["KL"]), rel=1e-9)


def test_what_was_dropped_is_not_selected_while_others_finished():
    row = {"dataset": DATASET, "cell": "sg", **dict.fromkeys(NAMES, 1.0), "status": "ok"}
    dropped = {**row, "KL": 2.0, "detail": "dropped by successive halving at iteration 6"}
    finished = {**row, "beta_rec": 5.0, "KL": 3.0, "detail": ""}
    diverged = {**row, "KL": math.nan, "status": "diverged", "detail": "vae_loss not finite"}
    assert selection.choose([dropped, diverged, finished], DATASET, "sg")["beta_rec"] == 5
    assert selection.choose([dropped, diverged], DATASET, "sg")["KL"] == 2.0


@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_search_that_was_interrupted_around_a_rung_ends_alike(tmp_path, introprior, monkeypatch, at):
    do(*searching(tmp_path, halving=HALVING))
    whole = (tmp_path / "slice.csv").read_text()
    (tmp_path / "slice.csv").unlink()
    command = searching(tmp_path, "--state", tmp_path / "state", halving=HALVING)
    with stopping(monkeypatch, at):
        assert introprior(*command)[0] == 143
    code, said = introprior(*command)
    assert code == 0
    assert f"going on from iteration {at}" in said[0]
    assert (tmp_path / "slice.csv").read_text() == whole
    assert below(tmp_path) == {tmp_path / "slice.csv"}


# ---- Bad input ----

MISTAKES = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text())["options"]


@pytest.mark.parametrize(
    ("command", "more", "words"), [(command, *case) for command, cases in MISTAKES.items() for case in cases]
)
def test_bad_input_is_refused_in_one_line(tmp_path, introprior, trained, monkeypatch, command, more, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained nevertheless"))
    shutil.copy(trained / "ensemble.pt", tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    before, folder = below(tmp_path), tmp_path / "results"
    if isinstance(more, dict):
        there = {"model": tmp_path / "ensemble.pt"} if command == "evaluate" else {}
        arguments = MAKERS[command](folder, **there, **more)
    else:
        given = [str(each).replace("HERE", str(tmp_path)) for each in more]
        arguments = MAKERS[command](folder, *given) if command in MAKERS else given
    assert_refused(introprior(*arguments), *words.split(" ... "))
    assert below(tmp_path) == before


def test_the_environment_chooses_the_device(tmp_path, introprior, monkeypatch):
    monkeypatch.setenv("INTROPRIOR_SIMULATED_GPUS", "2")
    command = training(tmp_path)
    assert_refused(introprior(*command, "--device", "cuda:2"), "'cuda:2'", "2 GPU(s)")
    monkeypatch.setenv("INTROPRIOR_DEVICE", "gpu")
    del command[command.index("--device") :]
    assert_refused(introprior(*command), "device: unknown 'gpu'")


def test_one_thread_computes_unless_more_are_asked_for(tmp_path, introprior, monkeypatch):
    """By hand; Snakemake sets OMP_NUM_THREADS to what a rule or profile gives."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "5")
    before, command = torch.get_num_threads(), [*training(tmp_path), "--set", "training.iterations=5"]
    try:
        for given, flags, count in (("", [], 1), ("2", [], 2), ("3,1", [], 3), ("2", ["--threads", "4"], 4)):
            monkeypatch.setenv("OMP_NUM_THREADS", given)
            assert introprior(*command, *flags) == (0, [])
            assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (count, str(count))
    finally:
        torch.set_num_threads(before)


def test_what_memory_cannot_hold_is_told_in_one_line(tmp_path, introprior):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    command = training(tmp_path, training=TRAINING | {"hidden_width": 100_000})
    with commands.limited(resource.RLIMIT_AS, used + 4 * 10**9):
        assert_refused(introprior(*command), "out of memory (", "; take smaller numbers, or fewer at a time")
    assert below(tmp_path) == set()


def test_an_interruption_is_one_from_the_first_moment(introprior, monkeypatch, capsys):
    interrupted = (130, ["introprior: interrupted; run the same command again"])
    with monkeypatch.context() as patch:
        patch.setattr(cli, "_parser", lambda: signal.raise_signal(signal.SIGINT))
        assert introprior("train") == interrupted

    class Interrupting:
        """What imports modules, when the user presses Ctrl-C."""

        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "introprior.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "introprior.cli")
    assert (started.main(), commands.lines(capsys.readouterr().err)) == interrupted


def test_a_terminal_without_greek_letters_is_no_fault(monkeypatch):
    """As with LC_ALL=en_US.ISO-8859-1."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["claims"]) == 0
    terminal.seek(0)
    assert terminal.read()


# ---- Damaged files ----


def test_damaged_hyperparameters_are_refused(tmp_path, introprior, copied):
    do(*selecting(tmp_path))
    path, before = tmp_path / "hyperparameters.json", below(tmp_path)
    whole = path.read_text().rstrip()
    for text, said in (
        *((whole[:size], "not valid JSON") for size in (0, 1, 40, len(whole) - 1)),
        ('{"beta_rec": 0.1, "beta_kl": 0.2}', "beta_neg: is missing"),
        ('{"beta_rec": null, "beta_kl": 0.2, "beta_neg": 1}', "beta_rec: must be a number, is empty"),
    ):
        path.write_text(text)
        assert_refused(introprior(*training(tmp_path / "x", "--hyperparameters", path, betas=None)), f"{path}: {said}")
    assert below(tmp_path) == before


def test_a_cut_slice_is_refused_wherever_it_was_cut(tmp_path, introprior, trained):
    whole, path = (trained / "slice.csv").read_text(), tmp_path / "slice.csv"
    cuts = [cut for cut in range(len(whole)) if whole[:cut].count("\n") < 2 or not whole[:cut].endswith("\n")]
    for cut in cuts:
        path.write_text(whole[:cut])
        with pytest.raises(UserError, match="delete it and run again"):
            read.slices([path])
    assert_refused(introprior(*selecting(tmp_path)), path, "delete it and run again")
    assert below(tmp_path) == {path}


def test_a_state_is_good_for_its_own_run_alone(tmp_path, introprior, monkeypatch):
    states = []
    for seed in (0, 1):
        with stopping(monkeypatch, 6):
            introprior(*training(tmp_path, "--state", tmp_path / str(seed), seeds=[seed]))
        states += below(tmp_path / str(seed))
    assert states[0].name != states[1].name
    shutil.copy(states[1], states[0])
    command = training(tmp_path, "--state", tmp_path / "0", seeds=[0])
    assert_refused(introprior(*command), states[0], "another run", "delete it")
    refused = introprior(*evaluating(tmp_path, model=states[1]))
    assert_refused(refused, states[1], "not a trained ensemble", "introprior train")
    assert below(tmp_path) == set(states)


# ---- Places that cannot be written ----


@pytest.fixture(params=["below-a-file", "read-only"])
def unwritable(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that nothing can be written to."""
    folder = tmp_path / "place"
    if request.param == "below-a-file":
        folder.write_text("in the way")
        yield folder / "results"
    elif os.geteuid() != 0:  # whom permissions bind
        folder.mkdir(mode=0o555)
        yield folder
    else:
        with commands.mounted(folder, "ro"):
            yield folder


PLACES = ["search --output", "search --state", "select --output", "train --output", "train --history", "train --state"]


@pytest.mark.parametrize("place", [*PLACES, "evaluate --metrics", "evaluate --panels"])
def test_a_place_that_cannot_be_written_is_found_out_at_once(
    tmp_path, introprior, copied, unwritable, monkeypatch, place
):
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained nevertheless"))
    monkeypatch.setattr(density, "measure", lambda *arguments: pytest.fail("evaluated nevertheless"))
    before, (kind, option) = below(tmp_path), place.split()
    where = unwritable if option == "--state" else unwritable / "file"
    refused = introprior(*MAKERS[kind](tmp_path, option, where))
    assert_refused(refused, unwritable, "cannot write (", "); point the results elsewhere")
    assert below(tmp_path) == before


@pytest.mark.parametrize("command", MAKERS)
def test_a_file_that_may_not_grow_leaves_nothing_half_written(tmp_path, introprior, copied, command):
    arguments = MAKERS[command](tmp_path)
    for name in {"search": ["slice.csv"], "train": ["ensemble.pt"]}.get(command, []):
        (tmp_path / name).unlink()
    before = below(tmp_path)
    with commands.limited(resource.RLIMIT_FSIZE, 100):
        outcome = introprior(*arguments)
    assert_refused(outcome, tmp_path, "cannot write", "free some space")
    gc.collect()
    assert below(tmp_path) == before


# ---- Interruptions ----


def test_without_a_folder_for_the_state_a_stopped_command_says_so(tmp_path, introprior, monkeypatch):
    with stopping(monkeypatch, 3, signal.SIGINT):
        outcome = introprior(*training(tmp_path))
    assert outcome == (130, ["introprior train: Checkerboard sg: stopped at iteration 3; nothing was saved"])
    assert below(tmp_path) == set()


@pytest.mark.parametrize(
    ("what", "number", "code"),
    [
        *(("train", number, code) for number, code in ((signal.SIGINT, 130), (signal.SIGHUP, 129))),
        *((what, signal.SIGTERM, 143) for what in ("train", "search", "evaluate")),
    ],
)
def test_a_signal_while_results_are_written_leaves_nothing_half_written(
    tmp_path, introprior, trained, monkeypatch, number, code, what
):
    shutil.copy(trained / "ensemble.pt", tmp_path / "model.pt")

    def half(*arguments: Any, **_: Any) -> None:
        place = next(each for each in arguments if not isinstance(each, dict))
        path = place if isinstance(place, Path) else Path(place.name)
        path.write_bytes(b"half of it")
        if ".part" in path.name and not re.search(r"\.(probe|progress)", path.name):
            signal.raise_signal(number)

    monkeypatch.setattr(torch, "save", half)
    monkeypatch.setattr(np, "savez_compressed", half)
    write_text = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text, **k: half(path) if text else write_text(path, text, **k))
    handler = signal.getsignal(signal.SIGTERM)
    there = {"model": tmp_path / "model.pt"} if what == "evaluate" else {}
    outcome = introprior(*MAKERS[what](tmp_path, **there))
    assert outcome == (code, [f"introprior {what}: interrupted; run the same command again"])
    assert signal.getsignal(signal.SIGTERM) is handler
    assert below(tmp_path) == {tmp_path / "model.pt"}


# ---- Divergence ----


def table(folder: Path, number: str, name: str) -> str:
    """A table of one dataset and cell, in Markdown."""
    comparison.write(number, Request((DATASET,), ("sg",), (0, 1)), folder, [folder / name])
    return (folder / f"table{number}.md").read_text().replace("*", "")


def test_a_seed_that_diverges_is_told_of_down_to_the_table(tmp_path, introprior, monkeypatch):
    do(*training(tmp_path / "whole"))
    step = Training.step

    def poisoned(self: Training) -> dict[str, Tensor]:
        if self.iteration == 7:
            self.model.encoder.body[0].weight.data[1] = math.inf
        return step(self)

    monkeypatch.setattr(Training, "step", poisoned)
    code, (line,) = introprior(*training(tmp_path))
    assert code == 0
    assert "Checkerboard sg, seed 1: diverged, encoder_loss not finite at iteration 7 (last finite: vae_loss" in line
    ok, diverged = model(tmp_path)["records"]
    assert (ok["status"], diverged["status"], diverged["iteration"]) == ("ok", "diverged", 7)
    for folder in (tmp_path, tmp_path / "whole"):
        do(*evaluating(folder))
    measured, whole = rows(tmp_path / "metrics.csv"), rows(tmp_path / "whole/metrics.csv")
    assert [row for row in measured if row["seed"] == "0"] == [row for row in whole if row["seed"] == "0"]
    for row in measured:
        if row["seed"] == "1" and not row["metric"].endswith("_floor"):
            assert (row["value"], row["status"]) == ("", "diverged")
            assert "not finite at iteration 7" in row["detail"]
    assert "(1/2 seeds)" in table(tmp_path, "4", "metrics.csv")


def test_where_all_diverges_results_and_tables_say_so(tmp_path, introprior):
    code, said = introprior(*training(tmp_path, betas=(0.2, 0.3, 1e30)))
    told = [line.partition(", encoder_loss")[0] for line in said]
    assert (code, told) == (0, [f"Checkerboard sg, seed {s}: diverged" for s in "01"])
    assert introprior(*evaluating(tmp_path)) == (0, [])
    measured = [row for row in rows(tmp_path / "metrics.csv") if not row["metric"].endswith("_floor")]
    assert {(row["value"], row["status"]) for row in measured} == {("", "diverged")}
    with np.load(tmp_path / "panels.npz") as panels:
        assert str(panels["status"]) == "diverged"
        assert "not finite" in str(panels["detail"])
    assert table(tmp_path, "4", "metrics.csv").count("diverged") >= 3  # one for each metric, and the caption

    do(*searching(tmp_path, betas=[[0.2, 0.3, 1e30], [0.2, 0.3, 1e31]]))
    assert {row["status"] for row in rows(tmp_path / "slice.csv")} == {"diverged"}
    do(*selecting(tmp_path))
    chosen = json.loads((tmp_path / "hyperparameters.json").read_text())
    assert (chosen["beta_neg"], chosen["KL"], chosen["settings"], chosen["diverged"]) == (1e30, None, 2, 2)
    assert "grid search, 2 settings, 2 diverged" in table(tmp_path, "3", "hyperparameters.json")


def test_a_setting_that_diverges_leaves_the_others_as_they_were(tmp_path, exact):
    do(*searching(tmp_path, betas=GRID[:2]))
    whole = rows(tmp_path / "slice.csv")
    do(*searching(tmp_path, betas=[GRID[0], [0.2, 0.3, 1e300], GRID[1]]))
    first, diverged, second = rows(tmp_path / "slice.csv")
    assert (diverged["KL"], diverged["JSD"], diverged["status"]) == ("", "", "diverged")
    assert "encoder_loss not finite at iteration" in diverged["detail"]
    for row, alone in zip((first, second), whole, strict=True):
        assert float(row["KL"]) == pytest.approx(float(alone["KL"]), rel=1e-9)
    do(*selecting(tmp_path))
    chosen = json.loads((tmp_path / "hyperparameters.json").read_text())
    assert (chosen["settings"], chosen["diverged"]) == (3, 1)


# ---- Help ----

OPTIONS = {"search": (jobs.Search,), "train": (jobs.Train, jobs.TrainImages), "evaluate": (jobs.Evaluate,)}
COMMANDS = next(action.choices for action in cli._parser()._actions if action.dest == "name")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_explains_every_option(command):
    printed = COMMANDS[command].format_help()
    assert all(action.help for action in COMMANDS[command]._actions)
    for key in [key for options in OPTIONS.get(command, ()) for key in options.model_fields]:
        assert re.search(rf"\b{key}\b", printed), key


def test_help_and_choosing_are_quick_since_they_do_without_torch(tmp_path, trained):
    """Also: the exit codes and the single line of a real process."""
    chosen = [str(argument) for argument in selecting(tmp_path, slices=(trained / "slice.csv",))]
    environment = {**os.environ, "PYTHONPATH": str(commands.SOURCES)}

    def python(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert python("-m", "introprior", "--version") == (0, f"introprior {package.__version__}\n", "")
    code, printed, _ = python("-m", "introprior", "--help")
    assert code == 0
    assert all(re.search(rf"^    {command}\s", printed, re.MULTILINE) for command in COMMANDS)
    code, printed, said = python("-m", "introprior", *chosen, "--cell", "nope")
    assert printed == ""
    assert_refused((code, commands.lines(said)), "--cell", "unknown cell 'nope'")
    assert not (tmp_path / "hyperparameters.json").exists()
    look = f"import sys; from introprior import cli; cli.main({chosen!r}); print(*sys.modules)"
    code, printed, _ = python("-c", look)
    assert (tmp_path / "hyperparameters.json").exists()
    assert not {"torch", "numpy", "pandas"} & set(printed.split())


def test_settings_are_dropped_within_the_game_alone():
    at = (0.1, 0.25, 0.5, 0.51, 0.99)
    assert search.rungs(Cuts(at=at), 40, 10) == [20, 39]
    assert search.rungs(Cuts(at=at), 4, 0) == [1, 2, 3]
    assert search.rungs(None, 40, 10) == []
