"""Checkpoints: tensors and plain values only, whole or absent, read without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from introprior.errors import UserError
from introprior.files import written
from introprior.model import IntroVAE
from introprior.priors import LearnedMixture, StandardGaussian, VampPrior

FORMAT = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, lists, dicts) to ``path``, as a whole or not at all."""
    with written(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise OSError(str(error).splitlines()[0]) from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        UserError: missing, truncated, foreign, or written by another version of the format.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except PermissionError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    except Exception as error:  # torch's unpickler raises whatever a foreign byte leads it to
        raise UserError(f"{path}: damaged or not a checkpoint; delete it and run again to make it anew") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format {found}, this version reads {FORMAT}; delete it and run again to make it anew")
    return content


def model_state(model: IntroVAE) -> dict[str, Any]:
    """A model's tensors, and what kind of prior it has by now."""
    prior = model.prior
    kind = {StandardGaussian: "sg", VampPrior: "vamp", LearnedMixture: "mog"}[type(prior)]
    extra: dict[str, Any] = {}
    if isinstance(prior, VampPrior):
        extra = {"bounds": prior.bounds}
    elif isinstance(prior, LearnedMixture):
        extra = {"steepness": prior.steepness}
    if not isinstance(prior, StandardGaussian):
        extra["learnable_contributions"] = prior.learnable_contributions
    return {"tensors": model.state_dict(), "prior": kind, "extra": extra}


def restore_model(model: IntroVAE, state: dict[str, Any], device: torch.device | str) -> None:
    """Give ``model`` the prior and the tensors of ``state``; its members become as many as the state's."""
    tensors, extra = state["tensors"], state["extra"]
    prior = {name.removeprefix("prior."): value for name, value in tensors.items() if name.startswith("prior.")}
    if state["prior"] == "vamp":
        inputs, logits = prior["pseudo_inputs"], prior["logits"]
        model.prior = VampPrior(inputs, extra["learnable_contributions"], extra["bounds"], members=logits.dim() - 1)
    elif state["prior"] == "mog":
        mixture = LearnedMixture(prior["means"], prior["logvars"], prior["logits"], **extra)
        mixture.low, mixture.high = prior.get("low"), prior.get("high")
        model.prior = mixture
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if name in tensors:
            parameter.data = tensors[name].clone()
    model.to(device)
