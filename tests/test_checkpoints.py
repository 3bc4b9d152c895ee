"""Checkpoints: whole or absent, refused when damaged or foreign; training goes on from them bit by bit."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import a_member
from torch import Tensor

from introprior.errors import UserError
from introprior.training import checkpoints
from introprior.training.loop import Interrupted, Training
from tests.commands import limited, refused

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

MEMBERS = (a_member(0, 0.2, 0.3, 0.9), a_member(0, 0.2, 0.3, 1.5), a_member(1, 0.8, 0.5, 1.0))
END = 14  # the game begins at 6, the conversion is at 4


def assert_identical(ours: Any, theirs: Any, where: str = "state") -> None:
    """Nested states are equal, tensors bit by bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs) or (ours.isnan() & theirs.isnan() | (ours == theirs)).all(), where
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_identical(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_identical(*pair, f"{where}[{i}]")
    else:
        assert ours == theirs, where


def through_a_file(training: Training, path: Path) -> dict[str, Any]:
    checkpoints.save(path, training.state())
    return checkpoints.load(path)


# Resuming


@pytest.mark.parametrize("cell", ["sg", "mog5", "mog5-lc-ip"])
def test_training_goes_on_bit_by_bit(tiny, tmp_path, cell):
    """From the VampPrior's warm-up, the eve of the conversion, the mixture's warm-up, the game's eve, the game."""
    undisturbed, going_on = tiny(cell, *MEMBERS), tiny(cell, *MEMBERS)
    undisturbed.advance(END, log_every=3)
    for at in (1, 4, 5, 6, 7, 13):
        going_on.advance(at, log_every=3)
        before, going_on = going_on, tiny(cell, *MEMBERS)
        going_on.restore(through_a_file(before, tmp_path / "state.pt"), tmp_path / "state.pt")
        assert going_on.iteration == at
    going_on.advance(END, log_every=3)
    # The history has rows more where parts stopped.
    kept = [row for row in going_on.history.rows if row[0] % 3 == 0 or row[0] == END]
    assert_identical(going_on.state() | {"history": kept}, undisturbed.state())


@pytest.mark.parametrize(
    ("protocol", "cell"), [("text", "mog5-lc-ip"), ("authors", "vae-mog5"), ("authors", "mog5-ep")]
)
def test_other_priors_and_protocols_go_on_bit_by_bit(tiny, tmp_path, protocol, cell):
    members = MEMBERS if cell != "vae-mog5" else tuple({m.warmup: None for m in MEMBERS})
    undisturbed, first, second = (tiny(cell, *members, protocol=protocol) for _ in range(3))
    undisturbed.advance(END)
    first.advance(9)
    second.restore(through_a_file(first, tmp_path / "state.pt"), tmp_path / "state.pt")
    second.advance(END)
    assert_identical(second.state()["model"], undisturbed.state()["model"])


def test_a_reduced_ensemble_and_its_notes_go_on(tiny, tmp_path):
    first, second = tiny("mog5-ip", *MEMBERS), tiny("mog5-ip", *MEMBERS)
    first.advance(8)
    first.select([0, 2], [MEMBERS[0], MEMBERS[2]])
    first.notes["dropped"] = [{"beta_neg": 1.5, "KL": 3.0, "detail": None}]
    second.restore(through_a_file(first, tmp_path / "state.pt"), tmp_path / "state.pt")
    assert second.members == [MEMBERS[0], MEMBERS[2]]
    first.advance(END)
    second.advance(END)
    assert_identical(second.state(), first.state())


def test_a_divergence_is_remembered(tiny, tmp_path):
    first, second = tiny("sg", *MEMBERS), tiny("sg", *MEMBERS)
    first.advance(8)
    first.model.encoder.body[0].weight.data[1] = float("nan")
    first.advance(10)
    second.restore(through_a_file(first, tmp_path / "state.pt"), tmp_path / "state.pt")
    assert second.records() == first.records()
    assert [record["status"] for record in second.records()] == ["ok", "diverged", "ok"]


def test_the_state_of_another_run_is_refused(tiny, tmp_path):
    path = tmp_path / "state.pt"
    state = through_a_file(tiny("mog5-ip", *MEMBERS), path)
    for training in (
        tiny("mog5-ip", *MEMBERS, protocol="text"),
        tiny("mog5-ip", *MEMBERS, batch_size=32),
        tiny("mog5", *MEMBERS),
        tiny("mog5-ip", *MEMBERS[:2]),
    ):
        refused(lambda training=training: training.restore(state, path), path, "another run", "delete it")


# The file


def test_what_is_saved_is_what_is_loaded(tmp_path):
    content = {"tensor": torch.randn(3), "none": None, "nested": [{"a": (1, 2.5, "x")}], "empty": {}}
    checkpoints.save(tmp_path / "new" / "file.pt", content)
    assert_identical(checkpoints.load(tmp_path / "new" / "file.pt"), {"format": checkpoints.FORMAT, **content})
    assert os.listdir(tmp_path / "new") == ["file.pt"]


class Dangerous:
    """Would leave a trace if anything in a file were executed."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_foreign_file_is_refused(tmp_path):
    contents = [b"not a checkpoint\n", b'{"format": 1}', b"PK\x03\x04" + bytes(200), bytes(range(256)), b"\x80\x02."]
    contents.append(pickle.dumps({"format": 1, "x": 3}, protocol=4))
    # Without a zip header torch takes a file for an old pickle, whose opcodes fail in many ways.
    contents += [bytes([first]) + b"arbage that is no pickle\n\x00\xff" for first in range(256)]
    for i, content in enumerate(contents):
        path = tmp_path / f"{i}.pt"
        path.write_bytes(content)
        refused(lambda path=path: checkpoints.load(path), path, "delete it")


@pytest.mark.parametrize("content", [[1, 2], {"x": 1}, {"format": 0}, {"format": "1"}, torch.zeros(3)], ids=str)
def test_a_checkpoint_of_another_format_is_refused(tmp_path, content):
    path = tmp_path / "state.pt"
    torch.save(content, path)
    refused(lambda: checkpoints.load(path), path, f"reads {checkpoints.FORMAT}", "delete it")


def test_nothing_in_a_file_is_executed(tmp_path):
    path, trace = tmp_path / "state.pt", tmp_path / "trace"
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save({"format": 1, "x": Dangerous(trace)}, path)
        refused(lambda: checkpoints.load(path), path, "delete it")
    assert not trace.exists()


def test_missing_files_and_folders_are_named(tmp_path):
    refused(lambda: checkpoints.load(tmp_path / "none.pt"), tmp_path / "none.pt", "no such checkpoint")
    refused(lambda: checkpoints.load(tmp_path), tmp_path)
    blocked = tmp_path / "file" / "state.pt"
    (tmp_path / "file").write_text("in the way")
    refused(lambda: checkpoints.save(blocked, {}), blocked, "cannot write")


def flip(path: Path, where: int, bit: int | None = None) -> None:
    """Change one bit of a byte, in place: disks take their time with files that are written anew."""
    with path.open("r+b") as file:
        file.seek(where)
        (byte,) = file.read(1)
        file.seek(where)
        file.write(bytes([byte ^ (bit or 1 << where % 8)]))


def test_no_false_byte_goes_unnoticed(tmp_path):
    """Of every kind of place: tensors, pickled values, the archive's own records. Padding may be anything."""
    path, content = tmp_path / "state.pt", {"tensor": torch.randn(20), "values": [1.5, "text", {"a": (3, None)}]}
    checkpoints.save(path, content)
    size, harmless = path.stat().st_size, 0
    for where in range(size):
        flip(path, where)
        with contextlib.suppress(UserError):
            assert_identical(checkpoints.load(path), {"format": checkpoints.FORMAT, **content})
            harmless += 1
        flip(path, where)
    assert harmless < size / 2


def test_an_entry_that_became_a_folder_is_noticed(tmp_path):
    """One bit, at which torch leaves the tensor's memory as it was."""
    path = tmp_path / "state.pt"
    checkpoints.save(path, {"tensor": torch.randn(20)})
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist()]
        place = archive.start_dir
    whole = path.read_bytes()
    for _ in names:
        flip(path, place + 38, 0x10)  # in the entry's external attributes
        with pytest.raises(checkpoints.Damaged, match="damaged"):
            checkpoints.load(path)
        flip(path, place + 38, 0x10)
        place = whole.find(b"PK\x01\x02", place + 1)
    assert place == -1


def test_no_cut_goes_unnoticed(tmp_path):
    path = tmp_path / "state.pt"
    checkpoints.save(path, {"tensor": torch.randn(20), "values": [1.5, "text"]})
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(checkpoints.Damaged, match=r"state\.pt: damaged .*; delete it"):
            checkpoints.load(path)


# The last two states


def numbered(path: Path, *numbers: int) -> None:
    """Keep states one after the other."""
    for number in numbers:
        checkpoints.keep(path, {"number": number, "tensor": torch.randn(50)})


def numbers(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """The number of the latest state, and what was said about it."""
    capsys.readouterr()
    state = checkpoints.latest(path)
    return state and state["number"], capsys.readouterr().err


def test_the_latest_state_is_the_last_one_kept(tmp_path, capsys):
    path = tmp_path / "state.pt"
    assert numbers(path, capsys) == (None, "")
    for number in (1, 2, 3):
        numbered(path, number)
        assert numbers(path, capsys) == (number, "")
    assert sorted(os.listdir(tmp_path)) == ["state.previous", "state.pt"]
    checkpoints.forget(path)
    assert os.listdir(tmp_path) == []


def test_a_damaged_state_is_moved_aside_and_the_one_before_taken(tmp_path, capsys):
    path = tmp_path / "state.pt"
    numbered(path, 1, 2)
    flip(path, 900)
    said = f"{path}: damaged, moved to state.damaged; going on from the one before\n"
    assert numbers(path, capsys) == (1, said)
    assert numbers(path, capsys) == (1, "")
    numbered(path, 3)
    flip(path, 900)
    assert numbers(path, capsys) == (1, said)  # the damaged one has not taken its place
    checkpoints.forget(path)
    assert os.listdir(tmp_path) == []


def test_where_all_states_are_damaged_the_run_begins_anew(tmp_path, capsys):
    path = tmp_path / "state.pt"
    numbered(path, 1, 2)
    flip(path, 900)
    flip(path.with_suffix(".previous"), 900)
    state, said = numbers(path, capsys)
    assert state is None
    assert [line.partition("; ")[2] for line in said.splitlines()] == ["going on from the one before", "beginning anew"]
    assert numbers(path, capsys) == (None, "")


def test_without_links_there_is_one_state(tmp_path, monkeypatch):
    """As on some network file systems."""

    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "state.pt"
    numbered(path, 1, 2)
    assert os.listdir(tmp_path) == ["state.pt"]
    assert checkpoints.load(path)["number"] == 2


def test_a_state_of_another_version_is_the_users_to_decide_on(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    numbered(path, 1, 2)
    for version, reader in ((1, "introprior 0.1"), (9, "the version that wrote it")):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "FORMAT", version)
            numbered(path, 1, 2)
        said = f"format {version}, this version reads {checkpoints.FORMAT}"
        refused(lambda: checkpoints.latest(path), path, said, reader)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "FORMAT", version)
            assert checkpoints.load(path)["number"] == 2


def test_a_state_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path):
    """As when a network file system is away: what is there today may be whole tomorrow."""
    path = tmp_path / "state.pt"
    numbered(path, 1)
    path.with_suffix(".away").mkdir()
    path.rename(path.with_suffix(".away") / "state.pt")
    path.mkdir()
    refused(lambda: checkpoints.latest(path), path, "cannot read", "Is a directory")
    assert path.is_dir()


# No room


def test_the_previous_checkpoint_survives_a_file_that_may_not_grow(tiny, tmp_path):
    """Saving fails for want of room: one line, no half-written file, and the previous checkpoint as it was."""
    path, training = tmp_path / "state.pt", tiny("sg")
    checkpoints.save(path, training.state())
    whole = path.read_bytes()
    training.advance(3)
    with limited(resource.RLIMIT_FSIZE, len(whole) // 2):
        refused(lambda: checkpoints.keep(path, training.state()), path, "cannot write", "free some space")
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_stops_and_training_goes_on_bit_by_bit(tiny, tmp_path, number):
    path = tmp_path / "run" / "state.pt"
    options = {"iterations": 100_000}
    undisturbed, first, second = (tiny("mog5-lc-ip", *MEMBERS, **options) for _ in range(3))
    handler = signal.getsignal(number)

    def send() -> None:
        while first.iteration < 3:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interrupted, match=f"my run: stopped at iteration .* saved to {path}") as caught:
        first.advance(100_000, state=path, label="my run")
    sender.join()
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is handler
    second.restore(checkpoints.load(path), path)
    assert second.iteration == first.iteration
    until = first.iteration + 5
    undisturbed.advance(until)
    second.advance(until)
    assert_identical(second.state(), undisturbed.state())


def test_states_are_written_now_and_then(tiny, tmp_path):
    path, training = tmp_path / "state.pt", tiny("sg")
    training.advance(END, state=path, checkpoint_seconds=1e9)
    assert not path.exists()
    training = tiny("sg")
    training.advance(END, state=path, checkpoint_seconds=0.0)
    assert checkpoints.load(path)["iteration"] == END - 1  # the end itself is the caller's to keep
