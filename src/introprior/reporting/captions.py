"""What a table must say of itself: its scale, its plus-minus sign, its gaps. Plain Python, cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER_SCALE = "Settings as in the paper."

# Which rows and columns are shown changes no number in them.
_SELECTION = frozenset({"datasets", "cells", "tables", "figures", "figure3"})


def scale_sentence(
    experiment: str, density: Mapping[str, Any], paper: Mapping[str, Any], ignore: frozenset[str] = _SELECTION
) -> str:
    """How a configuration differs from the paper's, in one sentence.

    Args:
        experiment: name of the experiment, which opens the sentence.
        density: the resolved density configuration: nested mappings of numbers, strings, booleans, lists.
        paper: the same for the paper.
        ignore: top-level keys that change no number, by default those that select what is shown.

    Returns:
        :data:`PAPER_SCALE` where nothing differs, else for example ``Demo scale: iterations 300 instead of 30,000,
        2 seeds instead of 5: not comparable with the paper.``
    """
    ours, theirs = _leaves(density), _leaves(paper)
    differences = [
        _difference(key, ours.get(key), theirs.get(key))
        for key in dict.fromkeys([*theirs, *ours])
        if ours.get(key) != theirs.get(key) and key.split(".")[0] not in ignore
    ]
    if not differences:
        return PAPER_SCALE
    opening = experiment.replace("-", " ").replace("_", " ")
    opening = f"{opening[:1].upper()}{opening[1:]} scale"
    return f"{opening}: {', '.join(differences)}: not comparable with the paper."


def spread_sentence(spread: str, seeds: int) -> str:
    """What follows the sign ± in a table of ``seeds`` seeds."""
    if seeds < 2:
        return "One seed, hence no spread."
    kinds = {
        "std": "standard deviation (ddof = 0)",
        "sem": "standard error of the mean (standard deviation with ddof = 0, over √n)",
    }
    return f"Mean ± {kinds[spread]} over {seeds} seeds."


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists and tuples are leaves and alike."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, list | tuple) else value
    return leaves


def _difference(key: str, ours: Any, theirs: Any) -> str:
    """``iterations 300 instead of 30,000``; of lists of another length only the lengths are told."""
    name = key.replace("_", " ").replace(".", " ")
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) != len(theirs):
        noun = name.split(" ")[-1]
        context = name.removesuffix(noun)
        return f"{context}{len(ours)} {noun} instead of {len(theirs)}"
    return f"{name} {_shown(ours)} instead of {_shown(theirs)}"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list):
        return "/".join(map(_shown, value))
    return str(value)
