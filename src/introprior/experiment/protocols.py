"""Protocols: every choice on which the paper's text and the authors' code differ, as a named option.

Two presets: ``authors`` (what the authors' code does; it made the published numbers) and ``text`` (the paper as
written). Any single option can be overridden. ``docs/fidelity.md`` says what each one changes and by how much.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from introprior.errors import UserError, unknown


@dataclass(frozen=True)
class Protocol:
    """One way to run the experiments. The defaults are the preset ``authors``.

    Attributes:
        conversion: when the VampPrior turns into a free mixture; ``during-warmup``: some iterations before the game
            (they train the mixture together with the ELBO), ``at-game``: when the game starts (the paper).
        conversion_logits: logits of the converted contributions; ``probabilities``: the old probabilities, so that
            the new contributions are softmax(softmax(w)), nearly uniform; ``log-probabilities``: contributions kept.
        conversion_resets_optimizers: conversion starts all three Adam states afresh.
        learning_rate_decay: divide the learning rate by 10 at the configured milestones (2D; the paper is silent).
        loss_scale: ``per-element``: the game's losses are divided by the number of data dimensions (1/2 in 2D,
            1/(CHW) for images); ``none``: Eq. 98 as written.
        fake_terms: ``generated-and-reconstructed``: decoded prior samples and reconstructions enter every fake term
            with weight 1/2 each; ``generated``: decoded prior samples alone, Eq. 98 as written.
        decoder_noise: ``fresh``: the decoder's step draws new prior samples; ``reused``: those of the encoder's step.
        gamma_r_terms: ``compute`` or ``omit`` the terms of L_D that are weighted by gamma_r = 1e-8, below the
            resolution of float32 beside the others, at the cost of another pass through decoder and loss.
        responsibility_weight: weight of the responsibility entropy; ``normalised-scaled``: r_entropy / log M times the
            loss scale, ``plain``: r_entropy, the paper as written.
        component_variance: ``diagonal``: one log-variance per component and latent dimension; ``isotropic``: one per
            component, the paper's sigma_i^2 I.
        image_streams: ``shared``: on images all seeds share the order of the data and the noise, and differ in initial
            weights and pseudo-inputs alone; ``per-seed``: each has its own.
        checkpoint: on images, the evaluated epoch whose model is reported; ``best``: that of the lowest distance of
            generated images to the training set, ``last``: the one after the last epoch.
        fid: Inception as the tables' FID has it, in ``training-mode`` or ``evaluation-mode``.
        sampling_batchnorm: what the model's BatchNorms normalise by when it generates and reconstructs for a distance;
            ``batch``: the statistics of the batch at hand, ``running``: running statistics, estimated anew before.
        entropy: the row "Entr."; ``per-batch``: mean over test batches of the entropy of their mean responsibilities,
            ``pooled``: entropy of the mean over the whole split.
        spread: what follows the plus-minus sign, ``std`` (population) or ``sem`` (std / sqrt(n)).
    """

    conversion: str = "during-warmup"
    conversion_logits: str = "probabilities"
    conversion_resets_optimizers: bool = True
    learning_rate_decay: bool = True
    loss_scale: str = "per-element"
    fake_terms: str = "generated-and-reconstructed"
    decoder_noise: str = "fresh"
    gamma_r_terms: str = "omit"
    responsibility_weight: str = "normalised-scaled"
    component_variance: str = "diagonal"
    image_streams: str = "shared"
    checkpoint: str = "best"
    fid: str = "training-mode"
    sampling_batchnorm: str = "batch"
    entropy: str = "per-batch"
    spread: str = "std"

    def as_dict(self) -> dict[str, str | bool]:
        """The options as plain values."""
        return dataclasses.asdict(self)


CHOICES: dict[str, tuple[str | bool, ...]] = {
    "conversion": ("during-warmup", "at-game"),
    "conversion_logits": ("probabilities", "log-probabilities"),
    "conversion_resets_optimizers": (True, False),
    "learning_rate_decay": (True, False),
    "loss_scale": ("per-element", "none"),
    "fake_terms": ("generated-and-reconstructed", "generated"),
    "decoder_noise": ("fresh", "reused"),
    "gamma_r_terms": ("omit", "compute"),
    "responsibility_weight": ("normalised-scaled", "plain"),
    "component_variance": ("diagonal", "isotropic"),
    "image_streams": ("shared", "per-seed"),
    "checkpoint": ("best", "last"),
    "fid": ("training-mode", "evaluation-mode"),
    "sampling_batchnorm": ("batch", "running"),
    "entropy": ("per-batch", "pooled"),
    "spread": ("std", "sem"),
}
"""What each option may be; the first is the default."""

PRESETS: dict[str, Protocol] = {
    "authors": Protocol(),
    "text": Protocol(
        conversion="at-game",
        conversion_logits="log-probabilities",
        conversion_resets_optimizers=False,
        learning_rate_decay=False,
        loss_scale="none",
        fake_terms="generated",
        gamma_r_terms="compute",
        decoder_noise="reused",
        responsibility_weight="plain",
        component_variance="isotropic",
        image_streams="per-seed",
        checkpoint="last",
        fid="evaluation-mode",
        sampling_batchnorm="running",
        entropy="pooled",
    ),
}


def resolve(preset: str, overrides: Mapping[str, Any] | None = None, where: str = "protocol") -> Protocol:
    """The protocol called ``preset``, with single options replaced by ``overrides``.

    Raises:
        UserError: unknown preset, option or value.
    """
    if preset not in PRESETS:
        raise unknown("protocol", preset, PRESETS, where)
    for option, value in (overrides or {}).items():
        if option not in CHOICES:
            raise unknown("option", option, CHOICES, f"{where}_overrides")
        if value not in CHOICES[option] or isinstance(value, bool) is not isinstance(CHOICES[option][0], bool):
            allowed = ", ".join(str(choice).lower() for choice in CHOICES[option])
            raise UserError(f"{where}_overrides.{option}: {value!r} is not an option; choose one of: {allowed}")
    return dataclasses.replace(PRESETS[preset], **(overrides or {}))
