"""Families of priors, by the name that cells have them by. Light: what implements a family is imported when it is used.

To add one, write a module with a :class:`~introprior.game.priors.Prior` and enter it here; or, outside the repository,
call :func:`register` in a file that the configuration's ``priors`` names (docs/add-a-prior.md).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introprior.errors import UserError, cut, one_line, unknown

if TYPE_CHECKING:
    from introprior.game.priors import Prior


@dataclass(frozen=True)
class Family:
    """A kind of prior.

    Attributes:
        name: in cells; letters only.
        prior: the class that a run begins with, ``module:Class``.
        label: in tables and figures; ``{size}`` stands for the number behind the name.
        sized: a number follows the name, as in ``mog64``.
        learns: it has parameters: cells may have ``-ip`` or ``-ep``.
        contributions: it has weights that may be learned, which need two components: cells may have ``-lc``.
        components: it is a mixture of Gaussians, hence has responsibilities: r_entropy may be above 0, and cells may
            have ``-cs``.
        clipped: in the game, with ``-ip``, something of it is soft-clipped: cells may have ``-unclipped``.
        closed_form: the KL to it has a closed form, which its distribution defines as ``kl``: cells may have
            ``-closed``.
    """

    name: str
    prior: str
    label: str
    sized: bool = False
    learns: bool = True
    contributions: bool = False
    components: bool = False
    clipped: bool = False
    closed_form: bool = False

    @property
    def module(self) -> str:
        """The module that implements it."""
        return self.prior.partition(":")[0]

    @property
    def file(self) -> str | None:
        """The file that added it; None for those of the project."""
        return next((path for path, module in _FILES.items() if module == self.module), None)

    def load(self) -> type[Prior]:
        """The class that a run begins with."""
        module, _, name = self.prior.partition(":")
        found: type[Prior] = getattr(importlib.import_module(module), name)
        return found


FAMILIES: dict[str, Family] = {}
"""All known families by name."""

PRIORS = "INTROPRIOR_PRIORS"
"""Environment variable: files that add families, for the processes that this one starts."""


def register(family: Family) -> None:
    """Make a family known; entering the same one again changes nothing.

    Raises:
        UserError: its name is taken by another, or is no name.
    """
    if not (family.name.isascii() and family.name.isalpha() and family.name.islower()) or family.name == "vae":
        raise UserError(f"{family.name!r} cannot be a family's name; use small letters, and not vae")
    if FAMILIES.get(family.name, family) != family:
        raise UserError(f"there is a family {family.name} already; give yours another name")
    FAMILIES[family.name] = family


def restored(saved: dict[str, Any], tensors: dict[str, Any]) -> Prior:
    """The prior that :func:`saved` told of, with these tensors.

    Raises:
        UserError: a family that is not known here.
    """
    name = saved["family"]
    if name not in FAMILIES:
        raise unknown("family of priors", name, FAMILIES, "checkpoint")
    kind: type[Prior] = getattr(importlib.import_module(FAMILIES[name].module), saved["class"])
    return kind.restore(tensors, saved["plain"])


def saved(prior: Prior) -> dict[str, Any]:
    """What a checkpoint says of a prior beside its tensors, as plain values."""
    return {"family": prior.family, "class": type(prior).__name__, "plain": prior.plain()}


register(Family("sg", "introprior.game.priors.gaussian:StandardGaussian", "SG", learns=False, closed_form=True))
register(
    Family(
        "mog", "introprior.game.priors.mixture:VampPrior", "MoG({size})",
        sized=True, contributions=True, components=True, clipped=True,
    )
)  # fmt: skip
register(Family("flow", "introprior.game.priors.flow:Flow", "Flow"))


def add(names: Iterable[str], where: str, folders: Iterable[str | Path] = (".",)) -> list[str]:
    """Run Python files that register families, each once in a process, and have the processes started here do so too.

    The files may be named without ``.py``; the first of the folders that has one counts. ``where`` is to blame.

    Returns:
        where they are, by paths that begin where this process was started.

    Raises:
        UserError: one that is not there, or fails.
    """
    paths = []
    for name in names:
        file = name if name.endswith(".py") else f"{name}.py"
        tried = list(dict.fromkeys(Path(folder) / file for folder in folders))
        found = next((path for path in tried if os.path.isfile(path)), None)
        if found is None:
            places = " or ".join(cut(ascii(str(path))) for path in tried)
            raise UserError(f"{where}: no {places}; correct the name, or put the file there")
        _run(found.resolve(), where)
        paths.append(str(found))
    known = dict.fromkeys([*filter(None, os.environ.get(PRIORS, "").split(os.pathsep)), *_FILES])
    os.environ[PRIORS] = os.pathsep.join(known)
    return paths


_FILES: dict[str, str] = {}
"""Files that were run, and the modules that they became."""


def _run(path: Path, where: str) -> None:
    if str(path) in _FILES:
        return
    before, module_name = dict(FAMILIES), f"introprior_priors_{len(_FILES)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        for family in [family for name, family in FAMILIES.items() if name not in before]:
            if getattr(family.load(), "family", None) != family.name:
                raise UserError(f"{family.prior} is of no family {family.name!r}; set its attribute family to that")
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        FAMILIES.clear()
        FAMILIES.update(before)
        problem = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(one_line(f"{where}: {path.name}: {problem}")) from error
    _FILES[str(path)] = module_name


try:
    for _path in filter(None, os.environ.get(PRIORS, "").split(os.pathsep)):
        _run(Path(_path).resolve(), PRIORS)
except UserError as _error:  # of a process that was started with them: nobody above this import tells it in one line
    sys.exit(f"introprior: {_error}")
