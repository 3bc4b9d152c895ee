"""The project's own house: its lock, environments, metadata, package and Makefile agree with one another."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import introprior

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA = yaml.safe_load((ROOT / "envs" / "introprior.yaml").read_text())
CONDA_NAMES = {"matplotlib-base": "matplotlib", "pytorch": "torch", "snakemake-minimal": "snakemake"}
"""Packages that conda calls otherwise than the lock does."""
PYTHONS = ("3.11", "3.12", "3.13")
"""The versions that the Makefile takes."""


def locked() -> list[tuple[Requirement, list[str]]]:
    """Every requirement of the lock with its hashes."""
    lines = [line for line in LOCK.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    split = [line.split("--hash=") for line in lines]
    return [(Requirement(head.strip()), [h.strip() for h in hashes]) for head, *hashes in split]


def versions(python: str) -> dict[str, Version]:
    """The version of each package that the lock installs on Linux (x86-64) with this Python."""
    platform = default_environment() | {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    platform |= {"platform_machine": "x86_64", "platform_system": "Linux", "sys_platform": "linux"}
    platform |= {"python_full_version": f"{python}.0", "python_version": python}
    chosen = [each for each, _ in locked() if each.marker is None or each.marker.evaluate(platform)]
    names = [canonicalize_name(requirement.name) for requirement in chosen]
    assert len(names) == len(set(names)), f"the lock gives a package two versions on Python {python}"
    pins = [next(iter(requirement.specifier)).version for requirement in chosen]
    return dict(zip(names, map(Version, pins), strict=True))


def declared() -> list[str]:
    """All that pyproject.toml asks for: to run, to build, and with every extra."""
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return project["dependencies"] + extras + PROJECT["build-system"]["requires"]


def test_lock_pins_and_hashes_every_package() -> None:
    entries = locked()
    assert len(entries) > 100
    for requirement, hashes in entries:
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement


def test_files_and_programs_are_read_and_written_as_utf_8() -> None:
    """Whatever the locale is; ``text=True`` and files that are opened without an encoding go by it."""
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")]:
        for call in (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            of = getattr(getattr(call.func, "value", None), "id", "")
            given = {word.arg for word in call.keywords}
            binary = any(isinstance(part, ast.Constant) and "b" in str(part.value) for part in call.args)
            ours = of == "files" or (name == "write_text" and isinstance(call.func, ast.Name))
            text = name in ("read_text", "write_text", "open") and not (
                ours or binary or of in ("os", "gzip", "Image", "archive")
            )
            assert not (text or "text" in given) or "encoding" in given, f"{path}:{call.lineno}"


def test_functions_have_at_most_70_lines() -> None:
    """From ``def``, or the first decorator, to the last line, as CONTRIBUTING.md says."""
    for path in [path for folder in ("src", "workflow", "benchmarks") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                assert node.end_lineno - first < 70, f"{path}:{first}: {node.name}"


def test_lock_names_no_registry() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", LOCK, re.M)


def test_lock_says_how_it_is_made() -> None:
    (recipe,) = re.findall(r"^lock:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    command = set(recipe.replace("\\\n", " ").split()) - {"$(BIN)/uv", "--quiet", "$(ARGS)"}
    (said,) = re.findall(r"^# +uv (pip compile .*)$", LOCK, re.M)
    assert set(said.split()) == command


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_pyproject(python: str) -> None:
    have = versions(python)
    others = [line for line in (ROOT / "requirements.in").read_text().splitlines() if not line.startswith("#")]
    for wanted in map(Requirement, declared() + others):
        version = have.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted}: not in the lock"
        assert version in wanted.specifier, f"{wanted}: the lock has {version}"


def test_makefile_takes_pythons_that_the_project_supports() -> None:
    makefile = (ROOT / "Makefile").read_text()
    ((first, after),) = re.findall(r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)", makefile)
    assert [f"3.{minor}" for minor in range(int(first), int(after))] == list(PYTHONS)
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"


def conda_pins() -> dict[str, str]:
    """Package (named as in the lock) and version of each pin in the conda environment, its pip section included."""
    *lines, pip = CONDA["dependencies"]
    pins = [line.replace("==", "=").partition("=") for line in [*lines, *pip["pip"]]]
    return {CONDA_NAMES.get(name, name): version for name, _, version in pins}


def test_conda_environment_agrees_with_the_lock() -> None:
    pins = conda_pins()
    python = pins.pop("python")
    assert python in PYTHONS
    assert pins.pop("pip") == ""  # conda's own, no part of the lock
    have = versions(python)
    assert pins == {name: str(have[name]) if name in have else "not in the lock" for name in pins}


def test_conda_environment_is_complete() -> None:
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["slurm"]]
    assert {canonicalize_name(Requirement(line).name) for line in wanted} <= set(conda_pins())


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == introprior.__version__
    paper = citation["preferred-citation"]
    assert paper["title"] == "Prior Learning in Introspective VAEs"
    assert [author["family-names"] for author in paper["authors"]] == ["Athanasiadis", "Lindsten", "Felsberg"]
    assert (paper["journal"], paper["year"]) == ("Transactions on Machine Learning Research", 2025)


def test_licence_is_the_same_everywhere() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License\n")
    assert PROJECT["project"]["license"] == "MIT"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "MIT"


def test_workflow_catalogue_entry() -> None:
    """The catalogue lists a workflow under "standardized usage" if these files are where it looks."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert all(isinstance(works, bool) for works in usage["software-stack-deployment"].values())
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert (ROOT / "config" / "README.md").is_file()


def test_wheel_holds_the_published_numbers_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("introprior-*.whl")
    assert wheel.name.startswith(f"introprior-{introprior.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        files = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "introprior").rglob("*.py")}
        data = {f"introprior/paper/table{n}.csv" for n in range(1, 6)} | {"introprior/py.typed"}
        data |= {"introprior/paper/claims.yaml"}
        data |= {f"introprior/reporting/page/page.{kind}" for kind in ("html", "css", "js")}
        assert files | data <= names
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "introprior = introprior.__main__:main" in archive.read(entry_points).decode()


def touch(folder: Path, *names: str) -> None:
    """Make empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make with the project's Makefile in another folder, as if not below `make test`."""
    shutil.copy(ROOT / "Makefile", folder)
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=alone, capture_output=True, text=True, check=False)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_alone_lists_every_target(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.M)
    assert {"help", "env", "demo", "test", "lint", "bench", "lock", "clean"} <= set(targets)
    assert re.findall(r"^make ([a-z-]+) +\S", make(tmp_path).stdout, re.M) == targets
    assert f".PHONY: {' '.join(targets)}\n" in makefile


@needs_make
def test_make_env_without_python_says_what_to_install(tmp_path: Path) -> None:
    touch(tmp_path, "requirements.lock", "pyproject.toml")
    done = make(tmp_path, "env", "PYTHON=no-such-python")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(said) == 1
    assert "apt-get install python3-venv" in said[0]
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_an_environment_that_was_moved_or_copied_is_made_anew(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "a new place"
    touch(old, "requirements.lock", "pyproject.toml", ".venv/bin/python", ".venv/.stamp")
    for place in ("", f"{old}/.venv\n"):  # as before 0.2, and as now
        (old / ".venv/.stamp").write_text(place)
        assert "is ready" in make(old, "env").stdout
    shutil.copytree(old, new)
    done = make(new, "env", "PYTHON=no-such-python")
    assert "found no Python" in done.stderr
    assert not (new / ".venv/bin").exists()
    assert (old / ".venv/bin/python").exists()


@needs_make
def test_make_takes_no_settings_of_other_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "requirements.lock", "pyproject.toml", ".venv/bin/python")
    for name, value in {"PIP_USER": "1", "PYTHONPATH": "/modules", "HOME": "/proc/none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\nexit 1\n")
    python.chmod(0o755)
    make(tmp_path, "env", "PYTHON=no-such-python")
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "seen").read_text().splitlines())
    assert (seen["PIP_USER"], seen["PYTHONNOUSERSITE"]) == ("0", "1")
    assert "PYTHONPATH" not in seen
    assert seen["XDG_CACHE_HOME"] == f"{tmp_path}/.snakemake/cache"


@needs_make
def test_make_clean_keeps_what_was_computed(tmp_path: Path) -> None:
    kept = ["results/paper/table.csv", "results/reference/table.csv", ".venv/lib/__pycache__/kept.pyc"]
    kept += [".snakemake/metadata/record"]
    removed = ["results/demo/table.csv", "src/introprior/__pycache__/gone.pyc", ".pytest_cache/gone"]
    touch(tmp_path, *kept, *removed)
    assert make(tmp_path, "clean").returncode == 0
    assert [name for name in kept + removed if (tmp_path / name).exists()] == kept


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_ignores_results_but_not_the_reference(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    ignored = ["results/paper/tables/table1.csv", ".venv/bin/python", "src/introprior/__pycache__/a.pyc", "report.html"]
    kept = ["results/reference/table1.csv", "src/introprior/paper/table1.csv", "workflow/Snakefile"]
    touch(tmp_path, *ignored, *kept)
    listing = ["git", "ls-files", "--others", "--exclude-standard"]
    seen = subprocess.run(listing, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sorted(seen) == sorted([*kept, ".gitignore"])
