"""What a table must say of itself: its scale, its plus-minus sign, how far it met the paper. Cheap to import."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from introprior.data.images.catalogue import DATASETS
from introprior.experiment.config import Configuration
from introprior.reporting.tables.layout import CROSS, TICK

DIVERGED = "Seeds that diverged are left out of the mean and counted beside it; “diverged” stands where all did."

SPREADS = {"std": "standard deviation (ddof = 0)", "sem": "standard error of the mean"}

PAPER_SCALE = "Settings as in the paper."

LISTED = 6
"""Differences that a caption names; further ones are counted."""

# What matters most comes first.
_PHRASES = {
    "protocol": "protocol {}",
    "training.iterations": "{} iterations",
    "search.own": "{} hyperparameters",
    "seeds": "{} seeds",
    "training.batch_size": "batches of {}",
    "training.hidden_width": "networks {} wide",
    "training.monte_carlo_samples": "{} Monte Carlo samples",
    "evaluation.samples": "histograms of {} points",
    "training.warmup_iterations": "{} warm-up iterations",
    "search.enabled": "hyperparameter search {}",
    "search.cells": "hyperparameters searched for {} cells",
}
# The same of images; ``by_dataset`` has a section for each dataset.
_IMAGE_PHRASES = {
    "stand_ins": "stand-ins {}",
    "own": "own images {}",
    "protocol": "protocol {}",
    "evaluation.features": "distances by {} features",
    "training.epochs": "{} epochs",
    "by_dataset.widths": "networks {} wide",
    "seeds": "{} seeds",
    "evaluation.samples": "distances of {} images",
    "by_dataset.batch_size": "batches of {}",
    "by_dataset.latent_dim": "{} latent dimensions",
    "r_entropy": "r_entropy of {}",
    "training.monte_carlo_samples": "{} Monte Carlo samples",
    "training.warmup_epochs": "{} warm-up epochs",
    "evaluation.epochs": "evaluation after {} epochs",
    "probes.svm_iterations": "SVMs of {} iterations",
    "probes.neighbours": "{} neighbours",
    "probes.train_images": "probes of {} training images",
    "evaluation.classifier_epochs": "a classifier of {} epochs",
}
# The scale: with other values the numbers are of another kind. What else differs is worth comparing.
_SCALE = ("training.", "evaluation.", "by_dataset.", "probes.", "stand_ins", "own")


def density_settings(config: Configuration, keys: Iterable[str]) -> dict[str, Any]:
    """What bears on the numbers of a table in 2D: ``keys`` of the density section, and the protocol."""
    section = config.density.model_dump(mode="json", include=set(keys))
    if search := section.get("search"):
        del search["members_per_job"]  # no number changes with it
        own = search.pop("own")
        if not search["halving"]["enabled"]:
            del search["halving"]
        if not search["enabled"]:
            section["search"] = {key: search[key] for key in ("enabled", "published")}
        if own:
            section["search"]["own"] = "the configuration's"
    return {**_protocol(config, set(config.resolved_protocol.training.dump(half="density"))), **section}


def image_settings(config: Configuration, datasets: Sequence[str]) -> dict[str, Any]:
    """What bears on the numbers of Tables 2 and 5, of the datasets that are shown."""
    images = config.images.model_dump(mode="json", include={"seeds", "r_entropy", "training", "evaluation", "probes"})
    shown = {"weights", "allow_few", "grid_images", "latent_points"}
    if config.images.evaluation.features == "inception":
        shown.add("classifier_epochs")
    images["evaluation"] = {key: value for key, value in images["evaluation"].items() if key not in shown}
    sections = config.images.by_dataset
    own = {name for name, section in sections.items() if section.folder}
    return {
        **_protocol(config, set(type(config.protocol_overrides).model_fields) - {"spread", "learning_rate_decay"}),
        **images,
        "by_dataset": {
            name: sections[name].model_dump(mode="json") for name in datasets if name in sections and name not in own
        },
        "stand_ins": [name for name in datasets if DATASETS[name].stand_in_for and name in config.images.datasets],
        "own": [name for name in datasets if name in own],
    }


def _protocol(config: Configuration, of: set[str]) -> dict[str, Any]:
    """The preset, and those of the overrides that bear on what is shown."""
    overrides = config.protocol_overrides.model_dump(mode="json", include=of, exclude_none=True)
    return {"protocol": config.protocol, **overrides}


def scale_sentence(experiment: str, section: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    """How a configuration differs from the paper's, in one sentence.

    Args:
        experiment: name of the experiment, which opens the sentence.
        section: what bears on numbers, see :func:`density_settings` and :func:`image_settings`.
        paper: the same for the paper.

    Returns:
        :data:`PAPER_SCALE` where nothing differs, else for example ``Demo scale: 300 iterations instead of 30,000 and
        2 seeds instead of 5: not comparable with the paper.`` Where neither training nor evaluation differ, the numbers
        remain comparable, and the sentence says just what differs.
    """
    ours, theirs = leaves(section), leaves(paper)
    phrases = _IMAGE_PHRASES if "r_entropy" in theirs else _PHRASES
    order = {key: place for place, key in enumerate(phrases)}
    keys = sorted(
        (key for key in dict.fromkeys([*theirs, *ours]) if key in ours and ours[key] != theirs.get(key)),
        key=lambda key: order.get(_of_any_dataset(key)[0], len(order)),
    )
    if not keys:
        return PAPER_SCALE
    parts = [_difference(phrases, key, ours[key], theirs.get(key)) for key in keys[:LISTED]]
    if len(keys) > LISTED:
        parts.append(f"{len(keys) - LISTED} more settings")
    what = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    if not any(key.startswith(_SCALE) for key in keys):
        return f"Unlike the published runs: {what}."
    opening = experiment.replace("-", " ").replace("_", " ")
    return f"{opening[:1].upper()}{opening[1:]} scale: {what}: not comparable with the paper."


def caption(*sentences: str) -> str:
    """The sentences that there are."""
    return " ".join(filter(None, sentences))


def spread_sentence(spread: str, seeds: int) -> str:
    """What follows the sign ± in a table of ``seeds`` seeds; ``spread`` is ``std`` or ``sem``."""
    if seeds < 2:
        return "One seed, hence no spread."
    root = " (standard deviation with ddof = 0, divided by √n)" * (spread == "sem")
    return f"Mean ± {SPREADS[spread]}{root} over {seeds} seeds."


def verdict(answers: Sequence[str], images: bool) -> str:
    """How to read differences from the paper, of images or in 2D, and how many are small, see :func:`tally`."""
    no_spread = ", or the paper prints no spread" * images
    three = "three seeds; it may be the standard error, which would widen the tolerance"
    return (
        f"{TICK}: the difference is at most twice the combined standard error √(sem² of ours + sem² of the paper), "
        f"{CROSS}: it is larger; unmarked: fewer than two seeds gave a number{no_spread}. The paper's ± is read as the "
        f"standard deviation over {three if images else 'five seeds'}. {tally(answers)}"
    )


def tally(answers: Sequence[str]) -> str:
    """``Of 72 published values 60 can be judged; 41 of these are met.``; an answer is ``yes``, ``no`` or ``NA``."""
    judged = [answer for answer in answers if answer != "NA"]
    if not judged:
        return f"None of {len(answers)} published values can be judged."
    return f"Of {len(answers)} published values {len(judged)} can be judged; {judged.count('yes')} of these are met."


def _of_any_dataset(key: str) -> tuple[str, str]:
    """``by_dataset.MNIST.widths`` as ``by_dataset.widths`` and ``MNIST``; other keys as they are."""
    match = re.fullmatch(r"(by_dataset)\.(.+)(\.\w+)", key)
    return (match[1] + match[3], match[2]) if match else (key, "")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists and tuples are leaves, and alike."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, list | tuple) else value
    return found


def _difference(phrases: Mapping[str, str], key: str, ours: Any, theirs: Any) -> str:
    """``300 iterations instead of 30,000``; of seeds only the numbers are told where they differ."""
    if key == "seeds":
        if len(ours) == len(theirs):
            return f"seeds {setting(ours)} instead of {setting(theirs)}"
        ours, theirs = len(ours), len(theirs)
        return f"{ours} seed{'s' * (ours != 1)} instead of {theirs}"
    plain, dataset = _of_any_dataset(key)
    phrase = phrases.get(plain, f"{plain} {{}}").format(setting(ours)) + (f" ({dataset})" if dataset else "")
    return phrase if theirs in (None, []) else f"{phrase} instead of {setting(theirs)}"


def setting(value: Any) -> str:
    """A value of the configuration in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "/".join(map(setting, value)) or "none"
    return "none" if value is None else str(value)
