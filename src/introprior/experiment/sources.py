"""Which files of the package a job depends on: those that its module imports, and what these import in turn."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import introprior

PACKAGE = Path(introprior.__file__).parent

_IMPORT = re.compile(r"^ *(?:from introprior([.\w]*) import (\([^)]*\)|.*)|import introprior\.([.\w]+))$", re.MULTILINE)
_ELSEWHERE = re.compile(
    r"(cli|commands|errors|experiment|operations|reporting\.job)(\..+)?"
    r"|data\.images(\.(catalogue|folders|standins|store))?"
)
"""What bears on no result, or by what a job is told or given alone: names, options, messages, locks, prepared data."""


def closure(*modules: str) -> list[Path]:
    """The files of some modules, such as ``training.density``, and of all that they import, directly or not.

    What bears on no number is not followed, unless it is named itself.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and (path := _file(name)):
            found[name] = path
            waiting += [other for other in _imported(path) if not _ELSEWHERE.fullmatch(other)]
    return sorted(found.values())


@cache
def _file(name: str) -> Path | None:
    """Of a module; None for what is none, or a package that holds nothing of its own."""
    base = PACKAGE / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path if path.name != "__init__.py" or "import" in path.read_text(encoding="utf-8") else None
    return None


@cache
def _imported(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports, wherever in it."""
    names = set()
    for package, imported, module in _IMPORT.findall(path.read_text(encoding="utf-8")):
        package = (module or package).lstrip(".")
        names.add(package)
        for name in re.findall(r"(\w+)(?: as \w+)?", re.sub(r"#.*", "", imported)):
            names.add(f"{package}.{name}".lstrip("."))
    return frozenset(name for name in names if name)
