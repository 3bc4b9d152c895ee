"""KL divergences of Gaussian posteriors: to the standard Gaussian in closed form, to a mixture by Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from introprior.game.distributions import LOG_2PI, GaussianMixture

LOG2_E = math.log2(math.e)
_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Samples x components at once: what stays in one core's cache, and what is little beside a GPU's memory."""


def kl_closed_form(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL[N(mean, diag(exp(logvar))) || N(0, I)] in nats: ``[..., B, D]`` to ``[..., B]``."""
    return 0.5 * (mean * mean + logvar.exp() - 1 - logvar).sum(-1)


def kl_monte_carlo(mean: Tensor, logvar: Tensor, mixture: GaussianMixture, noise: Tensor) -> Tensor:
    """KL[N(mean, diag(exp(logvar))) || mixture] in nats, estimated from T samples of each posterior (Eq. 99).

    ``mean_t [log q(z_t) - log p(z_t)]`` with ``z_t = mean + sigma * noise_t``. Gradients flow to the posterior through
    the samples and through log q, and to the mixture. Neither samples x components x dimensions nor, unless the
    mixture takes a gradient, samples x components are ever held in memory; it can be differentiated once.

    Args:
        mean, logvar: ``[..., B, D]``.
        mixture: with means ``[..., M, D]``, the same member axes or none.
        noise: ``[..., T, B, D]`` standard normal.

    Returns:
        ``[..., B]``. Single estimates can be negative.
    """
    if mixture.components == 1:
        return kl_from_moments(mean, logvar, mixture, noise.mean(-3), (noise * noise).mean(-3))
    lead = mean.shape[:-2]
    members = lead.numel()
    flat = [t.expand(*lead, *t.shape[-n:]).reshape(members, *t.shape[-n:]) for t, n in (
        (mean, 2), (logvar, 2), (mixture.means, 2), (mixture.logvars, 2), (mixture.log_weights, 1), (noise, 3)
    )]  # fmt: skip
    entropy_term = -0.5 * ((noise * noise).mean(-3) + logvar + LOG_2PI).sum(-1)  # mean_t log q(z_t)
    return entropy_term - _MeanLogMixture.apply(*flat).reshape(*lead, -1)


def kl_from_moments(mean: Tensor, logvar: Tensor, gaussian: GaussianMixture, first: Tensor, second: Tensor) -> Tensor:
    """:func:`kl_monte_carlo` to a single Gaussian, which needs no more of the noise than its first two moments.

    Args:
        mean, logvar: ``[..., B, D]``.
        gaussian: a mixture of one component.
        first, second: ``[..., B, D]``, means of the T noise samples and of their squares.

    Returns:
        ``[..., B]``.
    """
    sigma, offset = torch.exp(0.5 * logvar), mean - gaussian.means
    square = offset * (offset + 2 * sigma * first) + sigma * sigma * second  # mean_t (z_t - mu)^2
    return 0.5 * (square * torch.exp(-gaussian.logvars) + gaussian.logvars - second - logvar).sum(-1)


def responsibilities_monte_carlo(mean: Tensor, logvar: Tensor, mixture: GaussianMixture, noise: Tensor) -> Tensor:
    """The batch's mean responsibilities c of Eq. 11: ``[..., B, D]`` and noise ``[..., T, B, D]`` to ``[..., M]``."""
    z = mean.unsqueeze(-3) + torch.exp(0.5 * logvar).unsqueeze(-3) * noise
    return mixture.responsibilities(z.flatten(-3, -2)).mean(-2)


class _MeanLogMixture(torch.autograd.Function):
    """``mean_t log p(z_t)`` for every posterior, in blocks that stay in cache, with its gradient by hand.

    The responsibilities that the log-sum-exp yields anyway give the gradient at once (Eq. 101-106): those of the
    posterior are finished in the forward pass; those of the mixture need the weights of the samples in the loss, so
    the responsibilities are kept for them, if and only if the mixture takes a gradient.

    Shapes: mean, logvar ``[E, B, D]``; means, logvars ``[E, M, D]``; log_weights ``[E, M]``; noise ``[E, T, B, D]``.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, logvar: Tensor, means: Tensor, logvars: Tensor, log_weights: Tensor, noise: Tensor
    ) -> Tensor:
        posterior_learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        mixture_learns = any(ctx.needs_input_grad[2:5])
        members, draws, batch, dim = noise.shape
        centre, coefficients, constants = GaussianMixture(means, logvars, log_weights).quadratic()
        noise = noise.movedim(-1, 1).contiguous()  # [E, D, T, B]: the long axis last, for all that follows
        sigma, offset = torch.exp(0.5 * logvar).mT.unsqueeze(2), (mean - centre).mT.unsqueeze(2)
        z = torch.addcmul(offset, sigma, noise).flatten(2)
        ones = torch.ones_like(z[:, :1])
        features = torch.cat((z * z, z, ones), 1)  # [E, 2D + 1, T B]
        # To base two: 2^x takes a third of the time of e^x on a CPU, and does not slow down where it underflows.
        log_joint = torch.cat((coefficients, constants), 1) * LOG2_E  # [E, 2D + 1, M]
        # d log p / dz = sum_k r_k (slope_k - precision_k z); the row of ones sums the unnormalised r_k on the way.
        slopes = torch.cat((2 * coefficients[:, :dim], coefficients[:, dim:], torch.ones_like(constants)), 1)
        slopes = slopes if posterior_learns else slopes[:, -1:]
        sums = z.new_empty(members, slopes.shape[1], draws * batch)
        peaks = z.new_empty(members, draws * batch, 1)
        together, samples = _block(members, draws * batch, means.shape[1], mean.device)
        # The responsibilities' memory is taken once: fresh pages for every block would cost more than the arithmetic.
        room = z.new_empty(*((members, draws * batch) if mixture_learns else (together, samples)), means.shape[1])
        for e, n in _blocks(members, draws * batch, together, samples):
            block, peak = features[e, :, n], peaks[e, n]
            weights = room[e, n] if mixture_learns else room[: len(block), : block.shape[-1]]
            torch.bmm(block.mT, log_joint[e], out=weights)
            torch.amax(weights, -1, keepdim=True, out=peak)
            weights.sub_(peak).exp2_()  # [e, n, M]
            sums[e, :, n] = slopes[e] @ weights.mT
        total = sums[:, -1]
        log_prob = (total.log() + peaks.squeeze(-1) / LOG2_E).view(members, draws, batch).mean(1)
        mean_grad = logvar_grad = None
        if posterior_learns:
            slope = torch.addcmul(sums[:, dim:-1], sums[:, :dim], z).div_(total.unsqueeze(1)).view_as(noise)
            mean_grad = slope.mean(2).mT
            logvar_grad = 0.5 * (sigma.squeeze(2) * (slope * noise).mean(2)).mT
        kept = (features, room, total, means - centre, logvars) if mixture_learns else ()
        ctx.save_for_backward(mean_grad, logvar_grad, *kept)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean_grad, logvar_grad, *mixture = ctx.saved_tensors
        results: list[Tensor | None] = [None] * 6
        if mean_grad is not None:
            results[:2] = grad.unsqueeze(-1) * mean_grad, grad.unsqueeze(-1) * logvar_grad
        if mixture:
            features, weights, total, means, logvars = mixture
            draws = total.shape[-1] // grad.shape[-1]
            features = features * (grad.repeat(1, draws) / (draws * total)).unsqueeze(1)
            sums = (features @ weights).mT  # [E, M, 2D + 1]
            dim = means.shape[-1]
            second, first, mass = sums[..., :dim], sums[..., dim:-1], sums[..., -1:]
            precisions = torch.exp(-logvars)
            results[2] = (first - means * mass) * precisions
            results[3] = 0.5 * ((second - 2 * means * first + means * means * mass) * precisions - mass)
            results[4] = mass.squeeze(-1)
        return tuple(results)


def _block(members: int, samples: int, row: int, device: torch.device) -> tuple[int, int]:
    """Numbers of members and samples that make about ``_BLOCK`` elements: several members where they are small."""
    budget = _BLOCK["cpu"] * torch.get_num_threads() if device.type == "cpu" else _BLOCK["cuda"]
    together = max(1, min(members, budget // (row * samples)))
    return together, max(1, min(samples, budget // (row * together)))


def _blocks(members: int, samples: int, together: int, at_once: int) -> Iterator[tuple[slice, slice]]:
    """Slices of ``together`` members and ``at_once`` samples."""
    for e in range(0, members, together):
        for n in range(0, samples, at_once):
            yield slice(e, e + together), slice(n, n + at_once)
