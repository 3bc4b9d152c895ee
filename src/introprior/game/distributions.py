"""Mixtures of diagonal Gaussians as values, and the soft clipping of their log-variances.

Every tensor may have leading member axes, written ``...``: an ensemble of E runs holds ``[E, M, D]`` where a single
run holds ``[M, D]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianMixture:
    """The density ``sum_k w_k N(z; mu_k, diag(sigma_k^2))``, the paper's p_lambda ("Learning the optimal prior").

    Attributes:
        means: ``[..., M, D]``.
        logvars: ``[..., M, D]``, log sigma^2.
        log_weights: ``[..., M]``, normalised: their exponentials sum to one.
    """

    means: Tensor
    logvars: Tensor
    log_weights: Tensor

    @property
    def components(self) -> int:
        """M, the number of components."""
        return self.means.shape[-2]

    def detach(self) -> GaussianMixture:
        """The same mixture as a constant: the prior as a target that takes no gradient."""
        return GaussianMixture(self.means.detach(), self.logvars.detach(), self.log_weights.detach())

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of the components' log-densities as quadratics in ``z - centre``.

        Expanding the square turns [samples x components x dimensions] into one matrix product; taking it about the
        middle of the components keeps the terms small, so that little is lost to cancellation in float32.

        Returns:
            centre ``[..., 1, D]``; coefficients ``[..., 2D, M]`` of ``[(z - centre)^2, z - centre]``; constants
            ``[..., 1, M]``, the log-weights included.
        """
        centre = self.means.detach().mean(-2, keepdim=True)
        means, precisions = self.means - centre, torch.exp(-self.logvars)
        slopes = means * precisions
        constants = self.log_weights - 0.5 * (means * slopes + self.logvars + LOG_2PI).sum(-1)
        coefficients = torch.cat((-0.5 * precisions, slopes), -1)
        return centre, coefficients.transpose(-1, -2), constants.unsqueeze(-2)

    def log_joint(self, z: Tensor) -> Tensor:
        """``log w_k + log N(z; mu_k, sigma_k^2)``: ``z`` ``[..., N, D]`` to ``[..., N, M]``."""
        centre, coefficients, constants = self.quadratic()
        z = z - centre
        return torch.cat((z * z, z), -1) @ coefficients + constants

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density: ``z`` ``[..., N, D]`` to ``[..., N]``."""
        return torch.logsumexp(self.log_joint(z), -1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Posterior probability of each component, within the mean of Eq. 11: ``[..., N, D]`` to ``[..., N, M]``."""
        return torch.softmax(self.log_joint(z), -1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` samples, ``[..., count, D]``, differentiable as those of :meth:`sample_with`."""
        lead, dim = self.means.shape[:-2], self.means.shape[-1]
        noise = self.means.new_empty(*lead, count, dim).normal_(generator=generator)
        return self.sample_with(noise, self.means.new_empty(*lead, count).uniform_(generator=generator))

    def sample_with(self, noise: Tensor, uniforms: Tensor) -> Tensor:
        """Samples made of given randomness: the prior as a source.

        Gradients reach means and log-variances through ``mu_k + sigma_k * noise``; none reach the weights, since the
        choice of the component is discrete.

        Args:
            noise: ``[..., N, D]`` standard normal.
            uniforms: ``[..., N]`` uniform on [0, 1), one for the choice of each component.

        Returns:
            ``[..., N, D]``.
        """
        if self.components == 1:
            return self.means + torch.exp(0.5 * self.logvars) * noise
        thresholds = torch.cumsum(self.log_weights.detach().exp(), -1)[..., :-1]
        lead = noise.shape[:-2]
        chosen = torch.searchsorted(
            thresholds.expand(*lead, -1).contiguous(), uniforms.expand(*lead, -1).contiguous(), right=True
        )
        # A product with one-hot rows instead of an indexed gather: its backward is a matrix product too, which gives
        # the same bits every time on a GPU, where scattered additions do not.
        choice = F.one_hot(chosen, self.components).to(self.means.dtype)
        return choice @ self.means + (choice @ torch.exp(0.5 * self.logvars)) * noise


def standard_gaussian(latent_dim: int, like: Tensor | None = None) -> GaussianMixture:
    """N(0, I) in ``latent_dim`` dimensions, as a mixture of one component, on the device of ``like``."""
    like = torch.empty(0) if like is None else like
    zeros = like.new_zeros(1, latent_dim)
    return GaussianMixture(zeros, zeros, like.new_zeros(1))


def soft_clip(x: Tensor, low: Tensor | float, high: Tensor | float, steepness: float = 10.0) -> Tensor:
    """Adaptive soft clipping of log-variances, f_c of Eq. 10 and 97, with beta = steepness / (high - low), Eq. 93.

    Inside (low, high) it is nearly the identity, far outside it is nearly constant; ``steepness`` is the paper's K.
    The softplus is taken as linear where its argument exceeds 20, as the authors' code does; unlike theirs, the
    gradient is finite everywhere, also where ``low == high`` (where the result is that value).

    Args:
        x: any shape.
        low, high: broadcastable to ``x``, ``low <= high``.
        steepness: K > 0.

    Returns:
        the shape of ``x``, within [low, high] up to rounding.
    """
    low, high = (
        torch.as_tensor(low, dtype=x.dtype, device=x.device),
        torch.as_tensor(high, dtype=x.dtype, device=x.device),
    )
    beta = steepness / ((high - low).abs() + 1e-8)
    return x - F.softplus(beta * (x - high)) / beta + F.softplus(beta * (low - x)) / beta
