"""What a prior returns: a distribution over the latent space, the only thing that the losses know of a prior.

Any distribution takes part that has a log-density and differentiable samples; those that know a better way to a
cross-entropy than Monte Carlo over the log-density bring it: the mixture a fused one, the Gaussian its moments.

Every tensor may have leading member axes, written ``...``: an ensemble of E runs holds ``[E, M, D]`` where a single
run holds ``[M, D]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from introprior.errors import UserError
from introprior.game.fused import LOG_2PI, mixture_cross_entropy, quadratic
from introprior.game.randomness import Streams

# ---- Posteriors, and the noise that samples of them are made of ----


class Samples(NamedTuple):
    """T standard normal numbers for each latent dimension of each posterior: ``[..., T, B, D]``.

    >>> Samples(torch.tensor([[[1.0]], [[-3.0]]])).second  # of T = 2 numbers
    tensor([[5.]])
    """

    noise: Tensor

    @property
    def first(self) -> Tensor:
        """Their mean over T, ``[..., B, D]``."""
        return self.noise.mean(-3)

    @property
    def second(self) -> Tensor:
        """The mean of their squares, ``[..., B, D]``."""
        return (self.noise * self.noise).mean(-3)


class Moments(NamedTuple):
    """The same numbers where nobody needs more of them than their means and mean squares, ``[..., B, D]`` each.

    >>> noise = Samples(torch.randn(100, 1, 2))
    >>> q, p = Posterior(torch.ones(1, 2), torch.zeros(1, 2)), Gaussian(torch.zeros(2), torch.zeros(2))
    >>> moments = Moments(noise.first, noise.second)  # a Gaussian prior needs no more
    >>> torch.allclose(p.cross_entropy(q, moments), p.cross_entropy(q, noise))
    True
    """

    first: Tensor
    second: Tensor


Noise = Samples | Moments


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(logvar))) of each x in a batch, ``[..., B, D]`` each.

    >>> q = Posterior(torch.tensor([[3.0]]), torch.tensor([[4.0]]).log())  # N(3, 4)
    >>> q.sample(torch.tensor([[-1.0]]))  # a standard deviation below its mean
    tensor([[1.]])
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + sigma * noise``: noise ``[..., B, D]`` to z ``[..., B, D]``."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def samples(self, noise: Tensor) -> Tensor:
        """T samples of each: noise ``[..., T, B, D]`` to z ``[..., T, B, D]``."""
        return self.mean.unsqueeze(-3) + torch.exp(0.5 * self.logvar).unsqueeze(-3) * noise

    def mean_log_prob(self, noise: Noise) -> Tensor:
        """``mean_t log q(z_t|x)`` in nats, ``[..., B]``, of the samples that this noise makes."""
        return -0.5 * (noise.second + self.logvar + LOG_2PI).sum(-1)

    def detach(self) -> Posterior:
        """The same posteriors as constants."""
        return Posterior(self.mean.detach(), self.logvar.detach())


# ---- The contract ----


class Distribution(ABC):
    """p_lambda(z) of Eq. 6: the target of posteriors, and the source of fakes.

    As a target it is asked for cross-entropies, as a source for samples; :meth:`detach` makes it a constant, so that
    one role can learn while the other does not (footnote 4 of the paper).

    Attributes:
        single: it is one component, which answers for every z, so that the entropy of its responsibilities is 0. What
            is not, and has no :meth:`components`, has no responsibilities.
    """

    single: ClassVar[bool] = False

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: z ``[..., N, D]`` to ``[..., N]``."""

    @abstractmethod
    def sample_with(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        """Samples made of given randomness, with gradients to the prior wherever samples can have them.

        Args:
            noise: ``[..., N, D]`` standard normal.
            uniforms: ``[..., N]`` uniform on [0, 1); what does not choose ignores them.

        Returns:
            ``[..., N, D]``.
        """

    @abstractmethod
    def detach(self) -> Distribution:
        """The same distribution as a constant."""

    @abstractmethod
    def member(self, index: int) -> Distribution:
        """That of one member of an ensemble, without the member axis."""

    def draw(self, streams: Streams, samples: int, batch: int, dim: int) -> Noise:
        """The noise that :meth:`cross_entropy` needs for ``samples`` samples of each posterior of a batch."""
        return Samples(streams.normal(samples, batch, dim))

    def cross_entropy(self, posterior: Posterior, noise: Noise) -> Tensor:
        """``-mean_t log p(z_t)`` over T samples of each posterior, in nats: ``[..., B]``.

        Gradients flow to the posterior through the samples, and to the prior.
        """
        if not isinstance(noise, Samples):
            raise TypeError("cross-entropy by Monte Carlo: needs the samples, not their moments alone")
        z = posterior.samples(noise.noise)
        log_prob: Tensor = self.log_prob(z.flatten(-3, -2)).unflatten(-1, z.shape[-3:-1])
        return -log_prob.mean(-2)

    def kl(self, posterior: Posterior) -> Tensor:
        """KL[q(z|x) || p(z)] of each posterior in closed form, in nats: ``[..., B, D]`` to ``[..., B]``.

        Gradients flow to the posterior and to the prior.

        Raises:
            UserError: there is none here, but a cell with ``-closed`` asks for it.
        """
        raise UserError(f"{type(self).__name__}: its KL has no closed form; define its method kl, or drop -closed")

    def sample(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        """``count`` samples of a distribution without member axis, ``[count, dim]``, on the generator's device."""
        noise = torch.empty(count, dim, device=generator.device).normal_(generator=generator)
        return self.sample_with(noise, torch.empty(count, device=generator.device).uniform_(generator=generator))

    def components(self) -> GaussianMixture | None:
        """The distribution as a mixture of Gaussians, if it is one whose components mean something; else None."""
        return None


# ---- The standard Gaussian ----


@dataclass(frozen=True)
class Gaussian(Distribution):
    """N(mean, diag(exp(logvar))), ``[..., D]`` each: the prior SG, with both zero.

    >>> standard = Gaussian(torch.zeros(2), torch.zeros(2))
    >>> standard.log_prob(torch.zeros(1, 2))  # -log 2 pi
    tensor([-1.8379])
    >>> standard.kl(Posterior(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)))  # half the squared distance of the means
    tensor([12.5000])
    """

    mean: Tensor
    logvar: Tensor
    single: ClassVar[bool] = True

    def log_prob(self, z: Tensor) -> Tensor:
        offset, logvar = z - self.mean.unsqueeze(-2), self.logvar.unsqueeze(-2)
        return -0.5 * (offset * offset * torch.exp(-logvar) + logvar + LOG_2PI).sum(-1)

    def sample_with(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        return self.mean.unsqueeze(-2) + torch.exp(0.5 * self.logvar).unsqueeze(-2) * noise

    def detach(self) -> Gaussian:
        return Gaussian(self.mean.detach(), self.logvar.detach())

    def member(self, index: int) -> Gaussian:
        return Gaussian(self.mean[index], self.logvar[index])

    def draw(self, streams: Streams, samples: int, batch: int, dim: int) -> Noise:
        """Two moments, from their exact distribution, instead of the samples: the same estimate."""
        return Moments(*streams.moments(samples, batch, dim))

    def cross_entropy(self, posterior: Posterior, noise: Noise) -> Tensor:
        logvar, offset = self.logvar.unsqueeze(-2), posterior.mean - self.mean.unsqueeze(-2)
        sigma = torch.exp(0.5 * posterior.logvar)
        square = offset * (offset + 2 * sigma * noise.first) + sigma * sigma * noise.second  # mean_t (z_t - mean)^2
        return 0.5 * (square * torch.exp(-logvar) + logvar + LOG_2PI).sum(-1)

    def kl(self, posterior: Posterior) -> Tensor:
        logvar, offset = self.logvar.unsqueeze(-2), posterior.mean - self.mean.unsqueeze(-2)
        square = offset * offset + posterior.logvar.exp()  # the expectation of (z - mean)^2
        return 0.5 * (square * torch.exp(-logvar) - 1 - (posterior.logvar - logvar)).sum(-1)


# ---- The mixture ----


@dataclass(frozen=True)
class GaussianMixture(Distribution):
    """``sum_k w_k N(z; mu_k, diag(sigma_k^2))``, p_lambda of "Learning the optimal prior".

    Attributes:
        means: ``[..., M, D]``.
        logvars: ``[..., M, D]``, log sigma^2.
        log_weights: ``[..., M]``, normalised: their exponentials sum to one.

    >>> two = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1), torch.full((2,), 0.5).log())
    >>> two.responsibilities(torch.zeros(1, 1))  # in the middle between them
    tensor([[0.5000, 0.5000]])
    """

    means: Tensor
    logvars: Tensor
    log_weights: Tensor

    def log_joint(self, z: Tensor) -> Tensor:
        """``log w_k + log N(z; mu_k, sigma_k^2)``: z ``[..., N, D]`` to ``[..., N, M]``."""
        centre, coefficients, constants = quadratic(self.means, self.logvars, self.log_weights)
        z = z - centre
        return torch.cat((z * z, z), -1) @ coefficients + constants

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.log_joint(z), -1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Posterior probability of each component, within the mean of Eq. 11: ``[..., N, D]`` to ``[..., N, M]``."""
        return torch.softmax(self.log_joint(z), -1)

    def sample_with(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        """Samples, with gradients to means and log-variances through ``mu_k + sigma_k * noise``.

        None reach the weights, since the choice of the component is discrete.
        """
        count = self.means.shape[-2]
        thresholds = torch.cumsum(self.log_weights.detach()[..., :-1].exp(), -1)
        lead = noise.shape[:-2]
        chosen = torch.searchsorted(
            thresholds.expand(*lead, -1).contiguous(), uniforms.expand(*lead, -1).contiguous(), right=True
        )
        # A product with one-hot rows instead of an indexed gather: its backward is a matrix product too, which gives
        # the same bits every time on a GPU, where scattered additions do not.
        # Not torch's one_hot, which waits for the device to look at its input.
        choice = (chosen.unsqueeze(-1) == torch.arange(count, device=chosen.device)).to(self.means.dtype)
        return choice @ self.means + (choice @ torch.exp(0.5 * self.logvars)) * noise

    def detach(self) -> GaussianMixture:
        return GaussianMixture(self.means.detach(), self.logvars.detach(), self.log_weights.detach())

    def member(self, index: int) -> GaussianMixture:
        return GaussianMixture(self.means[index], self.logvars[index], self.log_weights[index])

    def cross_entropy(self, posterior: Posterior, noise: Noise) -> Tensor:
        """By the fused way: neither samples x components x dimensions nor, unless the mixture takes a gradient,
        samples x components are ever held in memory; it can be differentiated once."""
        if not isinstance(noise, Samples):
            raise TypeError("cross-entropy under a mixture: needs the samples, not their moments alone")
        parts = (*posterior, self.means, self.logvars, self.log_weights, noise.noise)
        lead = posterior.mean.shape[:-2]
        flat = [
            part.expand(*lead, *part.shape[-axes:]).reshape(lead.numel(), *part.shape[-axes:])
            for part, axes in zip(parts, (2, 2, 2, 2, 1, 3), strict=True)
        ]
        return mixture_cross_entropy(*flat).reshape(*lead, -1)

    def components(self) -> GaussianMixture:
        return self
