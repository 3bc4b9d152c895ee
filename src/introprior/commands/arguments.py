"""What commands are given: JSON options with single flags laid over them, read once into their model."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from introprior.errors import UserError, one_line
from introprior.experiment.cells import Cell
from introprior.experiment.fields import Count, Model, Side, Weight, expanded, shown
from introprior.experiment.protocol import PRESETS
from introprior.experiment.run import Member
from introprior.operations import files

Options = TypeVar("Options", bound=Model)

Seconds = Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)]


class Flags(Model):
    """The numbers among the flags that stand for no option."""

    checkpoint_seconds: Weight = 0
    watch: Seconds = 1
    size: Side = 32
    threads: Annotated[Count, Field(le=4096)] = 1
    gpus: Annotated[int, Field(ge=0, le=10_000)] = 0
    cores: Annotated[Count, Field(le=100_000)] = 1
    games: Annotated[Count, Field(le=10**7)] = 1


def check_flags(given: argparse.Namespace) -> None:
    """Refuse numbers that no command can do with."""
    said = {name: value for name in Flags.model_fields if (value := getattr(given, name, None)) is not None}
    try:
        Flags.read(said, "")
    except UserError as error:
        name, _, problem = str(error).partition(":")
        raise UserError(f"--{name.replace('_', '-')}:{problem}") from None


FLAGS = ("dataset", "cell", "seeds", "betas")
"""Flags that stand for options of the same name."""


def stated(given: argparse.Namespace) -> dict[str, Any]:
    """The options as they are given, unchecked: those of the JSON, over them ``--set`` and single flags."""
    text = given.options
    if not text.strip():
        raise UserError("--options: is empty; give JSON, or the name of a file")
    if not text.lstrip().startswith("{"):
        options = files.read_json(text)
        if not isinstance(options, dict):
            raise UserError(f"{text}: must be a section of keys, is {shown(options)}")
    else:
        options = parsed(text, "--options")
    for assignment in getattr(given, "set", []):
        _assign(options, assignment)
    changes = options.get("protocol") or {}
    if getattr(given, "protocol", None) and isinstance(changes, dict):
        options["protocol"] = PRESETS[given.protocol].training.dump() | changes
    for flag in FLAGS:
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    if isinstance(names := options.get("dataset"), list) and len(names) == 1:  # told of as one
        options["dataset"] = names[0]
    return options


def parsed(text: str, where: str) -> Any:
    """JSON; a `UserError` if it is none, with the place to blame."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers with too many digits
        raise UserError(f"{where}: not valid JSON ({one_line(error)})") from error


def read(given: argparse.Namespace, model: type[Options], stated: dict[str, Any] | None = None) -> Options:
    """The options of a command, or what is stated in their place, checked; null is as good as not given."""
    values = given.stated if stated is None else stated
    return model.read({key: value for key, value in values.items() if value is not None}, "--options")


def blamed(given: argparse.Namespace, problem: str) -> str:
    """What is wrong, said of the flag that set it where it says ``--options``."""
    flags = {assignment.partition("=")[0]: "--set " for assignment in getattr(given, "set", None) or []}
    for key, flag in (flags | {flag: "--" for flag in FLAGS if hasattr(given, flag)}).items():
        if re.match(rf"--options: {re.escape(key)}[:.[]", problem):
            return problem.replace("--options: ", flag, 1)
    return problem


def _assign(options: dict[str, Any], assignment: str) -> None:
    path, equals, value = assignment.partition("=")
    *sections, key = path.split(".")
    if not equals:
        raise UserError(f"--set {assignment}: expected KEY=VALUE, for example training.iterations=3000")
    for section in sections:
        options = options.setdefault(section, {})
        if not isinstance(options, dict):
            raise UserError(f"--set {assignment}: {section} has no keys of its own")
    try:
        options[key] = json.loads(value)
    except (ValueError, RecursionError):  # text
        options[key] = value


def points(given: argparse.Namespace) -> list[Path]:
    """The files of points of one's own that the options name, unchecked."""
    own = getattr(given, "stated", {}).get("points")
    named = [one.get("file") for one in own.values() if isinstance(one, dict)] if isinstance(own, dict) else []
    paths = [expanded(file) for file in named if isinstance(file, str)]
    return [Path(path) for path in paths if path.isprintable()]  # the others are refused when they are checked


def recorded(given: argparse.Namespace) -> dict[str, Any]:
    """What a command's record says that it was told: its options, and the flags that stand for options."""
    options = dict(getattr(given, "stated", {}))
    for flag in ("dataset", "cell", "metric", "published"):
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    return options


def members(dataset: str, cell: str, seeds: Sequence[int], betas: Sequence[Sequence[float | None]]) -> list[Member]:
    """The members of an ensemble, every seed with every setting; a VAE has no use for beta_neg."""
    names = ("beta_rec", "beta_kl", "beta_neg")[: 3 if Cell.parse(cell, "--cell").adversarial else 2]
    settings = [{"dataset": dataset} | dict(zip(names, setting, strict=False)) for setting in betas]
    return [Member.read({"seed": seed, **setting}, "--betas") for seed in seeds for setting in settings]
