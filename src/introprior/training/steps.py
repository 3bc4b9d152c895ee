"""The steps of training as losses: warm-up, encoder, and decoder with prior. The same for 2D and images.

What is attached and what is detached stands here and nowhere else; which player learns is the caller's business, who
freezes the others (:func:`learning`), so that no gradient is computed that nobody uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from introprior.experiment.protocols import Protocol
from introprior.game import objectives
from introprior.game.distributions import GaussianMixture
from introprior.game.divergences import kl_closed_form, kl_from_moments, kl_monte_carlo, responsibilities_monte_carlo
from introprior.game.model import IntroVAE, Posterior
from introprior.game.objectives import Betas, Terms, reconstruction_error
from introprior.game.priors import uniform_entropy
from introprior.game.randomness import MemberStreams


@dataclass(frozen=True)
class Rules:
    """The numbers of the game.

    Attributes:
        scale: multiplies every error and divergence of the game's losses.
        alpha, gamma, gamma_r: of Eq. 4 and 98.
        r_entropy: weight of the responsibility entropy.
        monte_carlo_samples: T of Eq. 99; 0 for the closed form (standard Gaussian only).
        protocol: the choices between paper and code.
    """

    scale: float
    alpha: float = 2.0
    gamma: float = 1.0
    gamma_r: float = 1e-8
    r_entropy: float = 0.0
    monte_carlo_samples: int = 100
    protocol: Protocol = Protocol()

    @property
    def reconstructions_are_fakes(self) -> bool:
        """Whether reconstructions are repelled and pulled like decoded prior samples."""
        return self.protocol.fake_terms == "generated-and-reconstructed"


@dataclass
class Carried:
    """What the decoder's step takes over from the encoder's, all of it constant by then."""

    posterior: Posterior
    z: Tensor
    real_kl: Tensor
    prior_noise: tuple[Tensor, Tensor]


@contextmanager
def learning(*players: nn.Module, among: nn.Module) -> Iterator[None]:
    """Let only the parameters of ``players`` take gradients, of all those of ``among``."""
    among.requires_grad_(False)
    for player in players:
        player.requires_grad_(True)
    try:
        yield
    finally:
        among.requires_grad_(True)


def divergence(posterior: Posterior, mixture: GaussianMixture, streams: MemberStreams, rules: Rules) -> Tensor:
    """KL of each posterior to the mixture, ``[..., B]``, with samples of its own (Monte Carlo for every prior)."""
    if rules.monte_carlo_samples == 0:
        return kl_closed_form(*posterior)
    size = posterior.mean.shape[-2:]
    if mixture.components == 1:  # the same estimate, and the same distribution of it, at the cost of two draws
        return kl_from_moments(*posterior, mixture, *streams.moments(rules.monte_carlo_samples, *size))
    return kl_monte_carlo(*posterior, mixture, streams.normal(rules.monte_carlo_samples, *size))


def warmup_loss(
    model: IntroVAE, x: Tensor, streams: MemberStreams, betas: Betas, rules: Rules
) -> tuple[Tensor, dict[str, Tensor]]:
    """The VAE's loss; every player learns.

    Args:
        x: data ``[E, B, *data]``.

    Returns:
        loss ``[E, B]``, and means over the batch for the history, ``[E]`` each.
    """
    posterior = model.encode(x)
    output = model.decode(posterior.sample(streams.normal(*posterior.mean.shape[-2:])))
    real = Terms(
        reconstruction_error(x, output, model.event_dims), divergence(posterior, model.mixture(), streams, rules)
    )
    loss = objectives.vae_loss(real, betas)
    return loss, _means(vae_loss=loss, real_rec=real.rec, real_kl=real.kl)


def encoder_loss(
    model: IntroVAE, x: Tensor, streams: MemberStreams, betas: Betas, rules: Rules
) -> tuple[Tensor, Carried, dict[str, Tensor]]:
    """L_E; the encoder learns, decoder and prior are to be frozen.

    The fakes are constants; a reconstruction is one as the encoder's input, but as the target of its own
    reconstruction error it stays attached to the encoder through z, as in the authors' code (and Soft-IntroVAE's).

    Returns:
        loss ``[E, B]``, what the decoder's step needs, and means for the history.
    """
    target = model.mixture().detach()
    posterior = model.encode(x)
    size = posterior.mean.shape[-2:]
    z = posterior.sample(streams.normal(*size))
    prior_noise = streams.normal(*size), streams.uniform(size[0])
    with torch.no_grad():  # before the reconstruction, as in the authors' code: BatchNorm's running statistics tell
        generated = model.decode(target.sample_with(*prior_noise))
    reconstruction = model.decode(z)
    kinds = [generated, reconstruction] if rules.reconstructions_are_fakes else [generated]
    posteriors = model.encode_each([kind.detach() for kind in kinds])
    outputs = model.decode_each([q.sample(streams.normal(*size)) for q in posteriors])
    fakes = [
        Terms(reconstruction_error(kind, output, model.event_dims), divergence(q, target, streams, rules))
        for kind, output, q in zip(kinds, outputs, posteriors, strict=True)
    ]
    noise = None
    if rules.monte_carlo_samples == 0 or target.components == 1:
        kl = divergence(posterior, target, streams, rules)
    else:  # responsibilities and KL share their samples
        noise = streams.normal(rules.monte_carlo_samples, *size)
        kl = kl_monte_carlo(*posterior, target, noise)
    real = Terms(reconstruction_error(x, reconstruction, model.event_dims), kl)
    loss = objectives.encoder_loss(real, fakes, betas, scale=rules.scale, alpha=rules.alpha)
    history = _means(encoder_loss=loss, real_rec=real.rec, real_kl=real.kl, fake_rec=fakes[0].rec, fake_kl=fakes[0].kl)
    if rules.r_entropy and noise is not None:
        normalised = rules.protocol.responsibility_weight == "normalised-scaled"
        share = responsibilities_monte_carlo(*posterior, target, noise)
        penalty = objectives.responsibility_penalty(
            share, rules.r_entropy, scale=rules.scale if normalised else 1.0, normalised=normalised
        )
        loss = loss + penalty.unsqueeze(-1)
    return loss, Carried(posterior.detach(), z.detach(), real.kl.detach(), prior_noise), history


def decoder_loss(
    model: IntroVAE, x: Tensor, carried: Carried, streams: MemberStreams, betas: Betas, rules: Rules, prior_learns: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_D and L_P in one; the decoder learns, and with IP the prior; the encoder, already updated, is to be frozen.

    As a source the prior takes gradients through its samples; as a target of the fakes it is a constant, as a target
    of the real data's posteriors (those of the encoder's step) it learns.

    Returns:
        loss ``[E, B]``, and means for the history.
    """
    mixture = model.mixture()
    if not prior_learns:
        mixture = mixture.detach()
    target = mixture.detach()
    size = carried.z.shape[-2:]
    fresh = rules.protocol.decoder_noise == "fresh"
    prior_noise = (streams.normal(*size), streams.uniform(size[0])) if fresh else carried.prior_noise
    generated, reconstruction = model.decode_each([mixture.sample_with(*prior_noise), carried.z])
    kinds = [generated, reconstruction] if rules.reconstructions_are_fakes else [generated]
    posteriors = model.encode_each(kinds)
    fakes_kl = [divergence(q, target, streams, rules) for q in posteriors]
    fakes_rec: list[Tensor] = []
    if rules.protocol.gamma_r_terms == "compute":
        latents = [q.sample(streams.normal(*size)).detach() for q in posteriors]
        outputs = model.decode_each(latents)
        fakes_rec = [
            reconstruction_error(kind.detach(), output, model.event_dims)
            for kind, output in zip(kinds, outputs, strict=True)
        ]
    real = Terms(
        reconstruction_error(x, reconstruction, model.event_dims),
        divergence(carried.posterior, mixture, streams, rules) if prior_learns else carried.real_kl,
    )
    loss = objectives.cooperation_loss(
        real, fakes_kl, betas, fakes_rec=fakes_rec, scale=rules.scale, gamma=rules.gamma, gamma_r=rules.gamma_r
    )
    return loss, _means(decoder_loss=loss, decoder_fake_kl=fakes_kl[0])


@torch.no_grad()
def diagnostics(mixture: GaussianMixture, posterior: Posterior | None, rules: Rules, seed: int) -> dict[str, Tensor]:
    """What the history tells of a free mixture, from no stream of the training's: looking changes nothing.

    Args:
        mixture: of each member, as the losses see it (clipped).
        posterior: of a real batch; None in the warm-up.
        seed: of the samples of z.

    Returns:
        ``prior_logvar_max`` and ``prior_logvar_min`` over components and latent dimensions, and of the posterior, if
        given, ``responsibility_entropy`` over log M (Eq. 11); ``[E]`` each.
    """
    values = {"prior_logvar_max": mixture.logvars.amax((-2, -1)), "prior_logvar_min": mixture.logvars.amin((-2, -1))}
    if posterior is not None:
        device, size = posterior.mean.device, (rules.monte_carlo_samples, *posterior.mean.shape[-2:])
        noise = torch.randn(size, generator=torch.Generator(device).manual_seed(seed), device=device)
        share = responsibilities_monte_carlo(*posterior, mixture, noise)
        entropy = objectives.responsibility_entropy(share)
        values["responsibility_entropy"] = entropy / uniform_entropy(mixture.components)
    return values


def _means(**values: Tensor) -> dict[str, Tensor]:
    return {name: value.detach().mean(-1) for name, value in values.items()}
