"""Writing files as a whole or not at all, also by processes that are killed while they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from introprior.operations import files

WRITER = """
import sys, time
from pathlib import Path
from introprior.operations import files
with files.written(sys.argv[1]) as temporary:
    temporary.write_text("half of it")
    print(flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> subprocess.Popen[bytes]:
    """A process that has written half of a file, and takes its time with the rest."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_what_a_killed_writer_left_goes_with_the_next_writing(tmp_path):
    with writer(tmp_path / "a.csv") as process:
        process.kill()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["half of it"]
    files.write_text(tmp_path / "b.csv", "another file")
    assert len(list(tmp_path.iterdir())) == 2
    files.write_text(tmp_path / "a.csv", "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "whole", "b.csv": "another file"}


def test_what_another_process_is_writing_stays(tmp_path):
    with writer(tmp_path / "a.csv") as process:
        files.write_text(tmp_path / "a.csv", "whole")
        assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["half of it", "whole"]
        process.kill()
    files.sweep(tmp_path / "a.csv")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
