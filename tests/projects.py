"""Copies of the project, in which tests run Snakemake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import warm

ROOT = Path(__file__).resolve().parents[1]


def copy_project(folder: Path) -> None:
    """All that the workflow needs."""
    for name in ("workflow", "config", "src", "envs", "profiles", "Snakefile"):
        if (ROOT / name).is_dir() and not (ROOT / name).is_symlink():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)


def finished(printed: str) -> Counter[str]:
    """How many jobs of each rule Snakemake finished."""
    return Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", printed, re.MULTILINE))


class Project:
    """A copy of the project, to be changed, planned and run at will."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        copy_project(folder)
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
        paths = {"PYTHONPATH": str(folder / "src"), "XDG_CACHE_HOME": str(folder / ".cache")}
        apart = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
        self.environment = clean | paths | apart

    def snakemake(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run Snakemake in the copy, with the copy's package; the exit code and what it printed."""
        done = subprocess.run(
            [warm.programs() / "python", "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def plan(self, *arguments: str, **environment: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans."""
        code, printed = self.snakemake(*arguments, "--dry-run", "--quiet", "rules", **environment)
        assert code == 0, printed
        counts = re.findall(r"^(\w+) +(\d+)$", printed.rpartition("Job stats:")[2], re.MULTILINE)
        assert bool(counts) is ("Nothing to be done" not in printed), printed
        return {rule: int(count) for rule, count in counts if rule not in ("total", "all")}

    @contextmanager
    def changed(self, name: str, old: str, new: str) -> Iterator[None]:
        """While inside, a file has one text replaced."""
        path = self.folder / name
        content = path.read_bytes()
        assert old.encode() in content, f"{name} has no {old!r}"
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))
        try:
            yield
        finally:
            path.write_bytes(content)
