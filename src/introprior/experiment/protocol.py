"""Protocols: every choice on which the paper's text and the authors' code differ, as a named option.

Two presets: ``authors`` (what the authors' code does; it made the published numbers) and ``text`` (the paper as
written). Any single option can be overridden. ``docs/fidelity.md`` says what each one changes and by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, create_model

from introprior.experiment.fields import Model, option


class TrainingProtocol(Model):
    """What bears on trainings. The defaults are the preset ``authors``."""

    conversion: Literal["during-warmup", "at-game"] = option(
        "during-warmup", "When the VampPrior turns into a free mixture."
    )
    conversion_logits: Literal["probabilities", "log-probabilities"] = option(
        "probabilities", "What the logits of the contributions become when the VampPrior turns into a mixture."
    )
    conversion_resets_optimizers: bool = option(True, "Whether that conversion starts all Adam states afresh.")
    encoder_cooperation: Literal["paired", "converted"] = option(
        "paired", "What the prior of a cell with -ep is in the game, the VampPrior still or the free mixture."
    )
    learning_rate_decay: bool = option(
        True, "Whether the learning rates are divided by 10 at the milestones.", half="density"
    )
    loss_scale: Literal["per-element", "none"] = option(
        "per-element", "Whether the losses of the game are divided by the number of data dimensions.", stage="game"
    )
    fake_terms: Literal["generated-and-reconstructed", "generated"] = option(
        "generated-and-reconstructed", "What enters the fake terms of the losses.", stage="game"
    )
    decoder_noise: Literal["fresh", "reused"] = option(
        "fresh",
        "Whether the decoder's step draws new prior samples or takes those of the encoder's step.",
        stage="game",
    )
    gamma_r_terms: Literal["omit", "compute"] = option(
        "omit", "Whether the terms weighted by gamma_r are computed.", stage="game"
    )
    responsibility_weight: Literal["normalised-scaled", "plain"] = option(
        "normalised-scaled", "Weight of the responsibility entropy.", stage="game"
    )
    component_variance: Literal["diagonal", "isotropic"] = option(
        "diagonal", "Whether a component has one variance per latent dimension or one in all."
    )
    image_streams: Literal["shared", "per-seed"] = option(
        "shared", "Whether all seeds share the order of the images and the noise.", half="images"
    )


class EvaluationProtocol(Model):
    """What bears on measurements of image runs."""

    checkpoint: Literal["best", "last"] = option(
        "best", "The evaluated epoch that is reported of an image run, that of the lowest distance or the last."
    )
    fid: Literal["training-mode", "evaluation-mode"] = option(
        "training-mode", "The mode of Inception behind the FID that chooses and that the tables show."
    )
    sampling_batchnorm: Literal["batch", "running"] = option(
        "batch", "What normalises generated and reconstructed images, statistics of the batch or running ones."
    )


class ReportProtocol(Model):
    """What bears on tables alone."""

    entropy: Literal["per-batch", "pooled"] = option(
        "per-batch", "Whether the tables' entropy is a mean over batches or that of all test images together."
    )
    spread: Literal["std", "sem"] = option("std", "What follows the plus-minus sign in the tables.")


class Protocol(Model):
    """One way to run the experiments, from training to tables."""

    training: TrainingProtocol = TrainingProtocol()
    evaluation: EvaluationProtocol = EvaluationProtocol()
    report: ReportProtocol = ReportProtocol()


_ROLES: dict[str, Any] = {role: field.annotation for role, field in Protocol.model_fields.items()}

Overrides = create_model(
    "Overrides",
    __base__=Model,
    **{
        name: (field.annotation | None, Field(None, description=field.description))
        for model in _ROLES.values()
        for name, field in model.model_fields.items()
    },
)  # type: ignore[call-overload]
"""Single options of any of them; None: as the preset has it."""

PRESETS: dict[str, Protocol] = {
    "authors": Protocol(),
    "text": Protocol(
        training=TrainingProtocol(
            conversion="at-game",
            conversion_logits="log-probabilities",
            conversion_resets_optimizers=False,
            learning_rate_decay=False,
            loss_scale="none",
            fake_terms="generated",
            decoder_noise="reused",
            gamma_r_terms="compute",
            responsibility_weight="plain",
            component_variance="isotropic",
            image_streams="per-seed",
        ),
        evaluation=EvaluationProtocol(checkpoint="last", fid="evaluation-mode", sampling_batchnorm="running"),
        report=ReportProtocol(entropy="pooled"),
    ),
}


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> Protocol:
    """The protocol called ``preset``, with single options replaced by ``overrides``.

    Raises:
        UserError: unknown option or value.
    """
    given = Overrides.read(dict(overrides or {}), "protocol_overrides").model_dump(exclude_none=True)
    parts = {}
    for role, model in _ROLES.items():
        changes = {name: value for name, value in given.items() if name in model.model_fields}
        parts[role] = getattr(PRESETS[preset], role).model_copy(update=changes)
    return Protocol(**parts)
