"""Divergences of Gaussian posteriors from the prior, and the responsibilities of the prior's components."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from introprior.game.distributions import Distribution, GaussianMixture, Noise, Posterior
from introprior.game.fused import LOG_2PI


def kl_monte_carlo(posterior: Posterior, prior: Distribution, noise: Noise) -> Tensor:
    """KL[q(z|x) || p(z)] in nats, estimated from T samples of each posterior (Eq. 99): ``[..., B]``.

    ``mean_t [log q(z_t|x) - log p(z_t)]`` with ``z_t = mean + sigma * noise_t``. Gradients flow to the posterior
    through the samples and through log q, and to the prior. Single estimates can be negative.

    Args:
        posterior: ``[..., B, D]``.
        prior: with the same member axes, or none.
        noise: what :meth:`Distribution.draw` of the prior gives, or samples ``[..., T, B, D]``.

    >>> from introprior.game.distributions import Gaussian, Samples
    >>> q, p = Posterior(torch.ones(1, 2), torch.zeros(1, 2)), Gaussian(torch.zeros(2), torch.zeros(2))
    >>> kl_monte_carlo(q, p, Samples(torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]]])))  # a pair of opposite samples
    tensor([1.])
    """
    return posterior.mean_log_prob(noise) + prior.cross_entropy(posterior, noise)


def cauchy_schwarz(posterior: Posterior, mixture: GaussianMixture) -> Tensor:
    """Cauchy-Schwarz divergence of each posterior q and a mixture p, in nats, zero where they are equal: ``[..., B]``.

        -log int q p + log(int q^2) / 2 + log(int p^2) / 2

    Exact, since the integral of a product of two Gaussians is a Gaussian's density (Kampa et al. 2011). Everything is
    attached. Holds posteriors x components x dimensions.

    >>> p = GaussianMixture(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1))
    >>> q = Posterior(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2))
    >>> cauchy_schwarz(q, p).abs().round(decimals=4)  # of unit Gaussians: a quarter of the squared distance
    tensor([0., 1.])
    """
    alone = -0.5 * (posterior.logvar + math.log(2) + LOG_2PI).sum(-1)
    components = Posterior(mixture.means, mixture.logvars)
    prior = torch.logsumexp(mixture.log_weights + _log_overlap(components, mixture), -1, keepdim=True)
    return 0.5 * (alone + prior) - _log_overlap(posterior, mixture)


def _log_overlap(gaussians: Posterior, mixture: GaussianMixture) -> Tensor:
    """log of the integral of each Gaussian times the mixture: ``[..., B, D]`` to ``[..., B]``."""
    offset = gaussians.mean.unsqueeze(-2) - mixture.means.unsqueeze(-3)
    logvar = torch.logaddexp(gaussians.logvar.unsqueeze(-2), mixture.logvars.unsqueeze(-3))  # of the convolution
    log_density = -0.5 * (offset * offset * torch.exp(-logvar) + logvar + LOG_2PI).sum(-1)
    return torch.logsumexp(mixture.log_weights.unsqueeze(-2) + log_density, -1)


def responsibilities(posterior: Posterior, mixture: GaussianMixture, noise: Tensor) -> Tensor:
    """The batch's mean responsibilities c of Eq. 11: ``[..., B, D]`` and noise ``[..., T, B, D]`` to ``[..., M]``.

    >>> far = GaussianMixture(torch.tensor([[-9.0], [9.0]]), torch.zeros(2, 1), torch.tensor([0.5, 0.5]).log())
    >>> q = Posterior(torch.tensor([[-9.0], [-9.0], [-9.0], [9.0]]), torch.zeros(4, 1))
    >>> responsibilities(q, far, torch.zeros(1, 4, 1))  # the first component answers for three of four codes
    tensor([0.7500, 0.2500])
    """
    return mixture.responsibilities(posterior.samples(noise).flatten(-3, -2)).mean(-2)


def responsibility_entropy(share: Tensor) -> Tensor:
    """H(C) of mean responsibilities in nats: ``[..., M]`` to ``[...]``; 1e-8 in the logarithm as in the authors' code.

    >>> responsibility_entropy(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])) / math.log(2)
    tensor([2., 1.])
    """
    return -(share * torch.log(share + 1e-8)).sum(-1)


def largest_entropy(components: int) -> float:
    """log M in nats, the largest entropy that M responsibilities can have; 1 where that is not above 1 (M < 3).

    The authors' code divides by log M only where it exceeds 1.

    >>> largest_entropy(2), round(largest_entropy(64), 3)
    (1.0, 4.159)
    """
    return max(math.log(components), 1.0)
