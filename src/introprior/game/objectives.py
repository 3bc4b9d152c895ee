"""The losses of the game, L_E, L_D and L_P of Eq. 98, one pure function each, unreduced.

Notation: ``rec`` is the reconstruction error, the sum of squared errors over a sample's elements; ``kl`` the
divergence of its posterior from the prior. "Fakes" are what the decoder makes: decoded prior samples and, in the
authors' protocol, reconstructions too, each kind a :class:`Terms`; a fake term is the mean over the kinds given.
``scale`` multiplies every error and divergence: 1 in the paper's text, 1 / (number of data elements) in the authors'
code. Shapes: ``[..., B]`` for samples; betas broadcast against it (``[E, 1]`` for an ensemble).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from introprior.game.priors import uniform_entropy


class Terms(NamedTuple):
    """Reconstruction error and KL of a batch, the negative ELBO's two parts, ``[..., B]`` each."""

    rec: Tensor
    kl: Tensor


class Betas(NamedTuple):
    """beta_rec, beta_kl, beta_neg: weights of reconstruction, KL of real data, KL of fakes in L_E."""

    rec: Tensor | float
    kl: Tensor | float
    neg: Tensor | float


def reconstruction_error(target: Tensor, output: Tensor, event_dims: int = 1) -> Tensor:
    """Sum of squared errors over the last ``event_dims`` dimensions, without the 1/2 of a Gaussian log-density."""
    return (output - target).square().sum(tuple(range(-event_dims, 0)))


def vae_loss(real: Terms, betas: Betas) -> Tensor:
    """The warm-up's loss beta_rec rec + beta_kl kl (Eq. 2 with both weights); no ``scale``, in either protocol."""
    return betas.rec * real.rec + betas.kl * real.kl


def encoder_loss(
    real: Terms, fakes: Sequence[Terms], betas: Betas, *, scale: float = 1.0, alpha: float = 2.0
) -> Tensor:
    """L_E of Eq. 98: the real data's negative ELBO, plus exp(alpha ELBO) / alpha of the fakes.

    Each exponential is taken per sample, before any mean over the batch; kinds of fakes are averaged after it.
    """
    repelled = [torch.exp(-alpha * scale * (betas.rec * fake.rec + betas.neg * fake.kl)) for fake in fakes]
    return scale * (betas.rec * real.rec + betas.kl * real.kl) + _mean(repelled) / alpha


def decoder_loss(
    real_rec: Tensor,
    fakes_kl: Sequence[Tensor],
    betas: Betas,
    *,
    fakes_rec: Sequence[Tensor] = (),
    scale: float = 1.0,
    gamma: float = 1.0,
    gamma_r: float = 1e-8,
) -> Tensor:
    """L_D of Eq. 98, without the crossed-out term that is constant for the decoder.

    Args:
        real_rec: reconstruction error of the real data.
        fakes_kl: KL of each kind of fake, attached to the decoder through the fake.
        fakes_rec: reconstruction error of each kind of fake, the fake itself detached as target; empty leaves out the
            term, which gamma_r = 1e-8 makes negligible.
    """
    loss = betas.rec * real_rec + gamma * betas.kl * _mean(fakes_kl)
    if fakes_rec:
        loss = loss + gamma * gamma_r * betas.rec * _mean(fakes_rec)
    return scale * loss


def prior_loss(
    real_kl: Tensor, fakes_kl: Sequence[Tensor], betas: Betas, *, scale: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """L_P of Eq. 9 and 98, without the crossed-out terms that are constant for the prior.

    Args:
        real_kl: KL of the real data's posteriors, detached, to the prior as a target that learns.
        fakes_kl: KL of the fakes' posteriors to the prior as a constant target; the prior learns from them as the
            source of the fakes alone (footnote 4 of the paper).
    """
    return scale * betas.kl * (real_kl + gamma * _mean(fakes_kl))


def cooperation_loss(
    real: Terms,
    fakes_kl: Sequence[Tensor],
    betas: Betas,
    *,
    fakes_rec: Sequence[Tensor] = (),
    scale: float = 1.0,
    gamma: float = 1.0,
    gamma_r: float = 1e-8,
) -> Tensor:
    """L_D and L_P in one: its gradient in the decoder is that of L_D and in the prior that of L_P (Eq. 6)."""
    shared = {"scale": scale, "gamma": gamma}
    loss = decoder_loss(real.rec, fakes_kl, betas, fakes_rec=fakes_rec, gamma_r=gamma_r, **shared)
    return loss + scale * betas.kl * real.kl


def responsibility_entropy(responsibilities: Tensor) -> Tensor:
    """H(C) of mean responsibilities (Eq. 11) in nats: ``[..., M]`` to ``[...]``; 1e-8 in the log as in the code."""
    return -(responsibilities * torch.log(responsibilities + 1e-8)).sum(-1)


def responsibility_penalty(
    responsibilities: Tensor, r_entropy: float, *, scale: float = 1.0, normalised: bool = True
) -> Tensor:
    """What L_E adds to discourage inactive components: ``-scale r_entropy H(C)``, divided by log M if ``normalised``.

    The paper adds r_entropy H(C) to the objective L_q; the authors' code divides by log M (where that exceeds 1) and
    multiplies by the loss scale. ``[..., M]`` to ``[...]``.
    """
    unit = uniform_entropy(responsibilities.shape[-1]) if normalised else 1.0
    return -scale * r_entropy / unit * responsibility_entropy(responsibilities)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0]) / len(terms)
