"""KL divergences of Gaussian posteriors: to the standard Gaussian in closed form, to a mixture by Monte Carlo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from introprior.mixtures import LOG_2PI, GaussianMixture

_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 28}
"""Samples x components handled at once: what stays in a core's cache, and what is little beside a GPU's memory."""


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
        return _kl_to_one_gaussian(mean, logvar, mixture, noise)
    lead = mean.shape[:-2]
    members = lead.numel()
    flat = [t.expand(*lead, *t.shape[-n:]).reshape(members, *t.shape[-n:]) for t, n in (
        (mean, 2), (logvar, 2), (mixture.means, 2), (mixture.logvars, 2), (mixture.log_weights, 1), (noise, 3)
    )]  # fmt: skip
    entropy_term = -0.5 * ((noise * noise).mean(-3) + logvar + LOG_2PI).sum(-1)  # mean_t log q(z_t)
    return entropy_term - _MeanLogMixture.apply(*flat).reshape(*lead, -1)


def _kl_to_one_gaussian(mean: Tensor, logvar: Tensor, mixture: GaussianMixture, noise: Tensor) -> Tensor:
    """The same estimate for a single component, whose log-density needs only the noise's first two moments."""
    first, second = noise.mean(-3), (noise * noise).mean(-3)
    sigma, offset = torch.exp(0.5 * logvar), mean - mixture.means
    square = offset * offset + 2 * offset * sigma * first + sigma * sigma * second  # mean_t (z_t - mu)^2
    return 0.5 * (square * torch.exp(-mixture.logvars) + mixture.logvars - second - logvar).sum(-1)


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
        # d log p / dz = sum_k r_k (slope_k - precision_k z); the row of ones sums the unnormalised r_k on the way.
        slopes = torch.cat((2 * coefficients[:, :dim], coefficients[:, dim:], torch.ones_like(constants)), 1)
        noise = noise.movedim(-1, 1).contiguous()  # [E, D, T, B]: the long axis last, for all that follows
        sigma, offset = torch.exp(0.5 * logvar).mT.unsqueeze(2), (mean - centre).mT.unsqueeze(2)
        log_prob = mean.new_zeros(members, batch)
        mean_grad, noise_grad = (mean.new_zeros(members, dim, batch) for _ in range(2))
        weights = noise.new_empty(members, draws, batch, means.shape[1]) if mixture_learns else None
        totals = noise.new_empty(members, draws, batch) if mixture_learns else None
        for e, t in _blocks(members, draws, batch * means.shape[1], mean.device):
            eps = noise[e, :, t]
            z = torch.addcmul(offset[e], sigma[e], eps).flatten(2)  # [e, D, n]
            joint = torch.baddbmm(constants[e], torch.cat((z * z, z), 1).mT, coefficients[e])  # [e, n, M]
            peak = joint.amax(-1, keepdim=True)
            # exp of what underflows is ten times slower than of e^-80, which beside the peak's 1 is as good as 0.
            weight = joint.sub_(peak).clamp_(min=-80).exp_()
            if posterior_learns:
                sums = slopes[e] @ weight.mT  # [e, 2D + 1, n]
                total = sums[:, -1]
                slope = torch.addcmul(sums[:, dim:-1], sums[:, :dim], z).div_(total.unsqueeze(1)).view_as(eps)
                mean_grad[e] += slope.sum(2)
                noise_grad[e] += (slope * eps).sum(2)
            else:
                total = weight.sum(-1)
            log_prob[e] += total.log().add_(peak.squeeze(-1)).view(-1, eps.shape[2], batch).sum(1)
            if weights is not None and totals is not None:
                weights[e, t] = weight.view_as(weights[e, t])
                totals[e, t] = total.view_as(totals[e, t])
        ctx.draws = draws
        ctx.save_for_backward(
            mean_grad.mT / draws if posterior_learns else None,
            (noise_grad * sigma.squeeze(2)).mT / (2 * draws) if posterior_learns else None,
            *((offset, sigma, means - centre, logvars, noise, weights, totals) if mixture_learns else ()),
        )
        return log_prob / draws

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean_grad, logvar_grad, *mixture = ctx.saved_tensors
        results: list[Tensor | None] = [None] * 6
        if mean_grad is not None:
            results[:2] = grad.unsqueeze(-1) * mean_grad, grad.unsqueeze(-1) * logvar_grad
        if mixture:
            offset, sigma, means, logvars, noise, weights, totals = mixture
            z = torch.addcmul(offset, sigma, noise)
            features = torch.cat((z * z, z, torch.ones_like(z[:, :1])), 1)  # [E, 2D + 1, T, B]
            features = features * (grad.unsqueeze(1) / (ctx.draws * totals)).unsqueeze(1)
            sums = (features.flatten(2) @ weights.flatten(1, 2)).mT  # [E, M, 2D + 1]
            dim = means.shape[-1]
            second, first, mass = sums[..., :dim], sums[..., dim:-1], sums[..., -1:]
            precisions = torch.exp(-logvars)
            results[2] = (first - means * mass) * precisions
            results[3] = 0.5 * ((second - 2 * means * first + means * means * mass) * precisions - mass)
            results[4] = mass.squeeze(-1)
        return tuple(results)


def _blocks(members: int, draws: int, row: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Slices of members and draws with about ``_BLOCK`` elements each: several members where they are small."""
    budget = _BLOCK.get(device.type, _BLOCK["cuda"])
    together = max(1, min(members, budget // (draws * row)))
    steps = max(1, budget // (row * together))
    for e in range(0, members, together):
        for t in range(0, draws, steps):
            yield slice(e, e + together), slice(t, t + steps)
