"""The losses of the three players: of the warm-up, L_E, and L_D with L_P (Eq. 98), each a page.

Each says its formula, what is attached and what detached; which player learns is the caller's business, who freezes the
others (:func:`learning`), so that no gradient is computed that nobody uses.

Notation: ``rec`` is the reconstruction error, the sum of squared errors over a sample's elements (without the 1/2 of a
Gaussian log-density), ``kl`` the divergence of its posterior from the prior (another than the KL where the rules say
so). Fakes are what the decoder makes: decoded prior samples and, in the authors' protocol, reconstructions too; a fake
term is the mean over these kinds. Losses are unreduced, ``[E, B]`` for E members and batches of B; betas are
``[E, 1]``. K kinds of fakes are one batch of K B, kind after kind.

By example, an iteration of the game of one run, on a batch of four points:

>>> from dataclasses import replace
>>> from introprior.game.networks import MLPDecoder, MLPEncoder
>>> from introprior.game.priors.gaussian import StandardGaussian
>>> sizes = (2, 2, 8, 1, [torch.Generator()])  # dimensions of data and latents, width, hidden layers
>>> model = IntroVAE(MLPEncoder(*sizes), MLPDecoder(*sizes), StandardGaussian(torch.zeros(1, 2)))
>>> rules = Rules(
...     scale=0.5, alpha=2.0, gamma=1.0, gamma_r=1e-8, r_entropy=0.0, monte_carlo_samples=100, cauchy_schwarz=False,
...     reconstructions_are_fakes=True, fresh_noise=True, gamma_r_terms=False, normalised_entropy=True,
... )
>>> x, game = torch.randn(1, 4, 2), (MemberStreams([0], torch.device("cpu")), Betas(0.2, 0.3, 0.9), rules)
>>> with learning(model.encoder, among=model):
...     loss, encoder_step, means = encoder_loss(model, x, *game)
...     loss.mean().backward()
>>> loss.shape, list(means)
(torch.Size([1, 4]), ['encoder_loss', 'real_rec', 'real_kl', 'fake_rec', 'fake_kl'])
>>> {parameter.grad is None for parameter in model.decoder.parameters()}  # it was frozen
{True}
>>> with learning(model.decoder, among=model):
...     loss, means = decoder_prior_loss(model, x, encoder_step, *game, prior_learns=False)
...     loss.mean().backward()
>>> loss.shape, list(means)
(torch.Size([1, 4]), ['decoder_loss', 'decoder_fake_kl'])

and before it, in the warm-up:

>>> loss, means = warmup_loss(model, x, *game)
>>> torch.equal(means["vae_loss"], loss.detach().mean(-1))
True

What the encoder pays for fakes is 1 / alpha for one that the prior explains, nothing for one that is repelled; without
Monte Carlo samples a divergence is in closed form; even responsibilities are rewarded, a single active one is not:

>>> real, fakes = Terms(torch.zeros(2), torch.zeros(2)), Terms(torch.zeros(2), torch.tensor([0.0, 1e3]))
>>> encoder_objective(real, fakes, Betas(1.0, 1.0, 1.0), rules)
tensor([0.5000, 0.0000])
>>> unit = Posterior(torch.ones(1, 4, 2), torch.zeros(1, 4, 2))
>>> divergence(unit, model.distribution(), game[0], replace(rules, monte_carlo_samples=0))
tensor([[1., 1., 1., 1.]])
>>> shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
>>> responsibility_penalty(shares, replace(rules, scale=1.0, r_entropy=10.0))
tensor([-10.,   0.])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from introprior.game.distributions import Distribution, Noise, Posterior, Samples
from introprior.game.divergences import (
    cauchy_schwarz,
    kl_monte_carlo,
    largest_entropy,
    responsibilities,
    responsibility_entropy,
)
from introprior.game.model import IntroVAE
from introprior.game.randomness import MemberStreams


@dataclass(frozen=True)
class Rules:
    """The numbers of the game, and the choices between the paper's text and the authors' code (docs/fidelity.md).

    Attributes:
        scale: multiplies every error and divergence of the game: 1 in the paper's text, 1 / (number of data elements)
            in the authors' code.
        alpha, gamma, gamma_r: of Eq. 6 and 98.
        r_entropy: weight of the responsibilities' entropy.
        monte_carlo_samples: T of Eq. 99; 0 for the closed form (of priors that have one).
        cauchy_schwarz: the divergence is that of Cauchy and Schwarz, exact, instead of the KL (mixtures only).
        reconstructions_are_fakes: reconstructions are repelled and pulled like decoded prior samples.
        fresh_noise: the decoder's step draws new prior samples instead of decoding those of the encoder's.
        gamma_r_terms: whether the terms of L_D that gamma_r = 1e-8 weighs are computed at all.
        normalised_entropy: r_entropy is divided by log M and multiplied by the scale.
    """

    scale: float
    alpha: float
    gamma: float
    gamma_r: float
    r_entropy: float
    monte_carlo_samples: int
    cauchy_schwarz: bool
    reconstructions_are_fakes: bool
    fresh_noise: bool
    gamma_r_terms: bool
    normalised_entropy: bool


class Betas(NamedTuple):
    """beta_rec, beta_kl, beta_neg: weights of reconstruction, KL of real data, KL of fakes in L_E."""

    rec: Tensor | float
    kl: Tensor | float
    neg: Tensor | float


class Terms(NamedTuple):
    """Reconstruction error and KL of a batch, the negative ELBO's two parts, ``[..., B]`` each."""

    rec: Tensor
    kl: Tensor


@dataclass
class EncoderStep:
    """What the decoder's step and the history take over from the encoder's step, all of it constant by then."""

    target: Distribution
    posterior: Posterior
    z: Tensor
    real_kl: Tensor
    prior_noise: tuple[Tensor, Tensor]


Means = dict[str, Tensor]
"""Means over the batch for the history, ``[E]`` each."""


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


# ---- The warm-up ----


def warmup_loss(model: IntroVAE, x: Tensor, streams: MemberStreams, betas: Betas, rules: Rules) -> tuple[Tensor, Means]:
    """The VAE's loss, Eq. 2 with both weights; every player learns, everything is attached.

        beta_rec rec(x) + beta_kl kl(x)

    There is no ``scale``, in either protocol.

    Args:
        x: data ``[E, B, *data]``.
    """
    posterior = model.encode(x)
    output = model.decode(posterior.sample(streams.normal(*posterior.mean.shape[-2:])))
    rec = reconstruction_error(x, output, model.event_dims)
    kl = divergence(posterior, model.distribution(), streams, rules)
    loss = betas.rec * rec + betas.kl * kl
    return loss, _means(vae_loss=loss, real_rec=rec, real_kl=kl)


# ---- The encoder's step ----


def encoder_loss(
    model: IntroVAE, x: Tensor, streams: MemberStreams, betas: Betas, rules: Rules, prior_learns: bool = False
) -> tuple[Tensor, EncoderStep, Means]:
    """L_E of Eq. 98; the encoder learns, and with EP the prior; the decoder is to be frozen, the prior without EP.

        scale (beta_rec rec(x) + beta_kl kl(x))
        + mean over kinds of fakes of exp(-alpha scale (beta_rec rec(fake) + beta_neg kl(fake))) / alpha
        - scale r_entropy H(C) / log M

    The prior is a constant target. With EP that of the real data, of their KL and their responsibilities, is attached:
    there it learns, and a VampPrior's gradients go on to the encoder, which makes its components. Fakes are constants;
    a reconstruction is one as the encoder's input, but as the target of its own reconstruction error it stays attached
    to the encoder through z, as in the authors' code (and Soft-IntroVAE's). The responsibilities C are those of the
    samples that the KL of real data is taken from; with the paper's text their entropy has neither factor. Gradients
    flow through both.

    Returns:
        the loss, what the decoder's step needs, and means for the history.
    """
    prior = model.distribution()
    target = prior.detach()
    prior = prior if prior_learns else target
    posterior = model.encode(x)
    size = posterior.mean.shape[-2:]
    z = posterior.sample(streams.normal(*size))
    prior_noise = streams.normal(*size), streams.uniform(size[0])
    generated = model.decode(target.sample_with(*prior_noise))
    reconstruction = model.decode(z)  # after it, as in the authors' code: BatchNorm's running statistics tell
    kinds = 1 + rules.reconstructions_are_fakes
    made = torch.cat((generated, reconstruction)[:kinds], -1 - model.event_dims)
    q = model.encode(made.detach(), kinds)
    output = model.decode(q.sample(streams.normal(*q.mean.shape[-2:])), kinds)
    error = reconstruction_error(made, output, model.event_dims)
    fakes = Terms(error, divergence(q, target, streams, rules))
    sampled = rules.monte_carlo_samples > 0 and (not rules.cauchy_schwarz or rules.r_entropy > 0)
    noise = prior.draw(streams, rules.monte_carlo_samples, *size) if sampled else None
    kl = divergence(posterior, prior, streams, rules, noise)
    real = Terms(reconstruction_error(x, reconstruction, model.event_dims), kl)
    loss = encoder_objective(real, fakes, betas, rules)
    if rules.r_entropy and isinstance(noise, Samples) and (mixture := prior.components()):
        loss = loss + responsibility_penalty(responsibilities(posterior, mixture, noise.noise), rules).unsqueeze(-1)
    fake_rec, fake_kl = (term[..., : size[0]] for term in fakes)
    means = _means(encoder_loss=loss, real_rec=real.rec, real_kl=real.kl, fake_rec=fake_rec, fake_kl=fake_kl)
    return loss, EncoderStep(target, posterior.detach(), z.detach(), real.kl.detach(), prior_noise), means


def encoder_objective(real: Terms, fakes: Terms, betas: Betas, rules: Rules) -> Tensor:
    """L_E without responsibilities, of given terms, real ``[..., B]`` and fake ``[..., K B]``: ``[..., B]``.

    Each exponential is taken per sample, before any mean over the batch; kinds of fakes are averaged after it.
    """
    scale, alpha = rules.scale, rules.alpha
    repelled = torch.exp(-alpha * scale * (betas.rec * fakes.rec + betas.neg * fakes.kl))
    return scale * (betas.rec * real.rec + betas.kl * real.kl) + _over_kinds(repelled, real.rec) / alpha


def responsibility_penalty(share: Tensor, rules: Rules) -> Tensor:
    """What L_E adds to discourage inactive components, of mean responsibilities ``[..., M]``: ``[...]``."""
    scale, unit = (rules.scale, largest_entropy(share.shape[-1])) if rules.normalised_entropy else (1.0, 1.0)
    return -scale * rules.r_entropy / unit * responsibility_entropy(share)


# ---- The step of decoder and prior ----


def decoder_prior_loss(
    model: IntroVAE,
    x: Tensor,
    encoder_step: EncoderStep,
    streams: MemberStreams,
    betas: Betas,
    rules: Rules,
    prior_learns: bool,
) -> tuple[Tensor, Means]:
    """L_D + L_P of Eq. 98 in one: its gradient in the decoder is that of L_D, in the prior that of L_P (Eq. 6 and 9).

        scale (beta_rec (rec(x) + gamma gamma_r rec(sg(fake))) + beta_kl (kl(x) + gamma kl(fake)))

    The decoder learns, and with IP the prior; the encoder, already updated, is to be frozen. ``kl(fake)`` is attached
    to the decoder through the fake, and to the prior through the sample that the fake is decoded from: the prior as a
    source. As a target of the fakes the prior is a constant (footnote 4), as a target of the real data's posteriors,
    those of the encoder's step, it learns. The fakes' own reconstruction has constant fakes and constant latents, and
    is computed only where ``gamma_r_terms`` says so.

    Returns:
        the loss, and means for the history.
    """
    source = model.distribution()
    if not prior_learns:
        source = source.detach()
    target = source.detach()
    size = encoder_step.z.shape[-2:]
    prior_noise = (streams.normal(*size), streams.uniform(size[0])) if rules.fresh_noise else encoder_step.prior_noise
    decoded = model.decode(torch.cat((source.sample_with(*prior_noise), encoder_step.z), -2), 2)
    generated, reconstruction = decoded.chunk(2, -1 - model.event_dims)
    kinds = 1 + rules.reconstructions_are_fakes
    made = decoded if rules.reconstructions_are_fakes else generated
    q = model.encode(made, kinds)
    fake_kl = divergence(q, target, streams, rules)
    rec = reconstruction_error(x, reconstruction, model.event_dims)
    if rules.gamma_r_terms:
        z = q.sample(streams.normal(*q.mean.shape[-2:])).detach()
        fake_rec = reconstruction_error(made.detach(), model.decode(z, kinds), model.event_dims)
        rec = torch.add(rec, _over_kinds(fake_rec, rec), alpha=rules.gamma * rules.gamma_r)
    real_kl = divergence(encoder_step.posterior, source, streams, rules) if prior_learns else encoder_step.real_kl
    kl = torch.add(real_kl, _over_kinds(fake_kl, real_kl), alpha=rules.gamma)
    loss = rules.scale * (betas.rec * rec + betas.kl * kl)
    return loss, _means(decoder_loss=loss, decoder_fake_kl=fake_kl[..., : size[0]])


# ---- Their parts ----


def reconstruction_error(target: Tensor, output: Tensor, event_dims: int = 1) -> Tensor:
    """Sum of squared errors over the last ``event_dims`` dimensions, ``[..., B]``.

    >>> reconstruction_error(torch.zeros(3, 2), torch.ones(3, 2))
    tensor([2., 2., 2.])
    """
    return F.mse_loss(output, target, reduction="none").sum(tuple(range(-event_dims, 0)))


def divergence(
    posterior: Posterior, prior: Distribution, streams: MemberStreams, rules: Rules, noise: Noise | None = None
) -> Tensor:
    """KL of each posterior from the prior, ``[..., B]``, or what the rules have in its place.

    Monte Carlo, for every prior, is with noise of its own unless some is given.
    """
    if rules.cauchy_schwarz and (mixture := prior.components()):
        return cauchy_schwarz(posterior, mixture)
    if rules.monte_carlo_samples == 0:
        return prior.kl(posterior)
    if noise is None:
        noise = prior.draw(streams, rules.monte_carlo_samples, *posterior.mean.shape[-2:])
    return kl_monte_carlo(posterior, prior, noise)


def _over_kinds(fake: Tensor, real: Tensor) -> Tensor:
    """A fake term's mean over kinds: ``[..., K B]``, beside a real one ``[..., B]``, to ``[..., B]``."""
    each: Tensor = fake.unflatten(-1, (-1, real.shape[-1]))
    return each.mean(-2)


def _means(**values: Tensor) -> Means:
    means = torch.stack([value.detach() for value in values.values()]).mean(-1)
    return dict(zip(values, means.unbind(), strict=True))
