"""What commands are told: JSON options with single flags laid over them, read once into their model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from introprior.errors import UserError
from introprior.experiment import cells
from introprior.experiment.fields import Model
from introprior.experiment.protocol import PRESETS
from introprior.experiment.run import Member
from introprior.operations import files

Options = TypeVar("Options", bound=Model)

FLAGS = ("dataset", "cell", "seeds", "betas")
"""Flags that stand for options of the same name."""


def read(given: argparse.Namespace, model: type[Options]) -> Options:
    """The options of a command.

    Raises:
        UserError: the first thing that is wrong with them.
    """
    return checked(stated(given), model)


def checked(values: dict[str, Any], model: type[Options]) -> Options:
    """Plain values as the options of a command; null is as good as not given.

    Raises:
        UserError: the first thing that is wrong with them.
    """
    values = {key: value for key, value in values.items() if value is not None}
    for key in ("dataset", "cell"):
        if key in model.model_fields and model.model_fields[key].is_required() and key not in values:
            raise UserError(f"--{key} is missing; give it, or have it in --options")
    return model.read(values, "--options")


def stated(given: argparse.Namespace) -> dict[str, Any]:
    """The options as they are given, unchecked: those of the JSON, over them ``--set`` and single flags.

    Raises:
        UserError: JSON that is none, or a ``--set`` that sets nothing.
    """
    text = given.options
    if not text.lstrip().startswith("{"):
        options = files.read_json(text)
        if not isinstance(options, dict):
            raise UserError(f"{text}: must be a section of keys, is {options!r}")
    else:
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"--options: not valid JSON ({error})") from error
    for assignment in getattr(given, "set", []):
        _assign(options, assignment)
    if isinstance(options.get("protocol", {}), dict) and hasattr(given, "protocol"):
        options["protocol"] = PRESETS[given.protocol].training.dump() | options.get("protocol", {})
    for flag in FLAGS:
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    return options


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
    except json.JSONDecodeError:
        options[key] = value


def recorded(given: argparse.Namespace) -> dict[str, Any]:
    """What a command's record says that it was told: its options, and the flags that stand for options."""
    options = stated(given) if hasattr(given, "options") else {}
    for flag in ("dataset", "cell", "metric", "published"):
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    return options


def members(cell: str, seeds: Sequence[int], betas: Sequence[Sequence[float | None]]) -> list[Member]:
    """The members of an ensemble, every seed with every setting; a VAE has no use for beta_neg."""
    count = 3 if cells.parse(cell, "--cell").adversarial else 2
    names = ("beta_rec", "beta_kl", "beta_neg")
    return [Member(seed=seed, **dict(zip(names[:count], setting, strict=False))) for seed in seeds for setting in betas]
