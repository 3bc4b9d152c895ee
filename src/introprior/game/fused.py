"""The cross-entropy of posteriors under a mixture, fused: one pass, with its gradient by hand.

The hot spot of the 2D runs. What is computed is ``-mean_t log sum_k w_k N(z_t; mu_k, sigma_k^2)`` with
``z_t = mean + sigma noise_t``; :meth:`introprior.game.distributions.GaussianMixture.cross_entropy` is its only caller.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from introprior.errors import cut, one_line

LOG_2PI = math.log(2 * math.pi)
LOG2_E = math.log2(math.e)
_BLOCK = {"cpu": 1 << 18, "cuda": 1 << 28}
"""Samples x components at once: what stays in one core's cache, and what is little beside a GPU's memory."""


def quadratic(means: Tensor, logvars: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of the components' weighted log-densities as quadratics in ``z - centre``.

    Expanding the square turns [samples x components x dimensions] into one matrix product; taking it about the
    middle of the components keeps the terms small, so that little is lost to cancellation in float32.

    Args:
        means, logvars: ``[..., M, D]``.
        log_weights: ``[..., M]``.

    Returns:
        centre ``[..., 1, D]``; coefficients ``[..., 2D, M]`` of ``[(z - centre)^2, z - centre]``; constants
        ``[..., 1, M]``, the log-weights included.

    >>> z, means = torch.tensor([[2.0]]), torch.tensor([[-1.0], [3.0]])
    >>> centre, coefficients, constants = quadratic(means, torch.zeros(2, 1), torch.zeros(2))
    >>> log_density = torch.cat(((z - centre) ** 2, z - centre), -1) @ coefficients + constants
    >>> log_density + LOG_2PI / 2  # of unit Gaussians at distances 3 and 1
    tensor([[-4.5000, -0.5000]])
    """
    centre = means.detach().mean(-2, keepdim=True)
    means, precisions = means - centre, torch.exp(-logvars)
    slopes = means * precisions
    constants = log_weights - 0.5 * (means * slopes + logvars + LOG_2PI).sum(-1)
    coefficients = torch.cat((-0.5 * precisions, slopes), -1)
    return centre, coefficients.transpose(-1, -2), constants.unsqueeze(-2)


def mixture_cross_entropy(
    mean: Tensor, logvar: Tensor, means: Tensor, logvars: Tensor, log_weights: Tensor, noise: Tensor
) -> Tensor:
    """``-mean_t log p(z_t)`` in nats for every posterior, ``[E, B]``; to be differentiated once, but not in the noise.

    There are two ways to it. On a GPU, up to four dimensions and 128 components in float32 are the Triton kernels'
    (:mod:`introprior.game.gpu.kernels`). The first call of a process compiles and checks them, which waits for the GPU
    and is not to be captured in a graph. All else is the blocks', and so is everything where the kernels cannot be had;
    one line says why. Under ``TRITON_INTERPRET=1`` the kernels run on a CPU too, interpreted, for tests.

    Args:
        mean, logvar: of the posteriors, ``[E, B, D]``.
        means, logvars: of the components, ``[E, M, D]``.
        log_weights: ``[E, M]``.
        noise: ``[E, T, B, D]``.

    >>> zero, noise = torch.zeros(1, 1, 1), torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    >>> value = mixture_cross_entropy(zero, zero, zero, zero, zero.squeeze(-1), noise)  # a mixture of one: N(0, 1)
    >>> value - LOG_2PI / 2  # the mean of z^2 / 2
    tensor([[0.5000]])
    """
    parts = (mean, logvar, means, logvars, log_weights, noise)
    fits = mean.shape[-1] <= 4 and means.shape[-2] <= 128 and noise[0].numel() < 1 << 31  # addresses of 32 bits
    fits = fits and all(part.dtype == torch.float32 for part in parts)
    wanted = fits and (mean.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")
    way = _kernels(mean.device, mean.shape[-1]) if wanted else _CrossEntropy
    value: Tensor = way.apply(*parts)
    return value


@cache
def _kernels(device: torch.device, dim: int) -> type[torch.autograd.Function]:
    """The kernels if they compile for a device and agree with the blocks in float64 there; else the blocks."""
    try:
        from introprior.game.gpu.kernels import KernelCrossEntropy  # late: imports Triton, which not all have

        shapes = ((2, 5, dim), (2, 5, dim), (2, 3, dim), (2, 3, dim), (2, 3), (2, 4, 5, dim))
        parts = [torch.linspace(-1, 2, math.prod(shape), device=device).float().view(shape) for shape in shapes]
        for ours, exact in zip(
            _tried(KernelCrossEntropy, parts),
            _tried(_CrossEntropy, [part.double() for part in parts]),
            strict=True,
        ):
            if not (ours - exact).abs().max() < 1e-4 * exact.abs().max():
                raise ArithmeticError("its numbers are wrong")
    except Exception as error:  # of Triton, its compiler, the driver
        print(f"the KL's GPU kernel is not used, a slower way is: {cut(one_line(error), 200)}", file=sys.stderr)
        return _CrossEntropy
    return KernelCrossEntropy


def _tried(way: type[torch.autograd.Function], parts: list[Tensor]) -> list[Tensor]:
    """The value and its gradients in all but the noise."""
    with torch.enable_grad():
        *learning, noise = parts
        learning = [part.clone().requires_grad_() for part in learning]
        value: Tensor = way.apply(*learning, noise)
        return [value.detach(), *torch.autograd.grad(value.sum(), learning)]


class _CrossEntropy(torch.autograd.Function):
    """In blocks that stay in cache.

    The responsibilities that the log-sum-exp yields anyway give the gradient at once (Eq. 101-106): those of the
    posterior are finished in the forward pass; those of the mixture need the weights of the samples in the loss, so
    the responsibilities are kept for them, if and only if the mixture takes a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, logvar: Tensor, means: Tensor, logvars: Tensor, log_weights: Tensor, noise: Tensor
    ) -> Tensor:
        posterior_learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        mixture_learns = any(ctx.needs_input_grad[2:5])
        members, draws, batch, dim = noise.shape
        centre, coefficients, constants = quadratic(means, logvars, log_weights)
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
        log_prob = total.log() + peaks.squeeze(-1) / LOG2_E
        mean_grad = logvar_grad = None
        if posterior_learns:
            slope = torch.addcmul(sums[:, dim:-1], sums[:, :dim], z).div_(total.unsqueeze(1)).view_as(noise)
            mean_grad = slope.mean(2).mT
            logvar_grad = 0.5 * (sigma.squeeze(2) * (slope * noise).mean(2)).mT
        kept = (features, room, total, means - centre, logvars) if mixture_learns else ()
        ctx.save_for_backward(mean_grad, logvar_grad, *kept)
        return -log_prob.view(members, draws, batch).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean_grad, logvar_grad, *mixture = ctx.saved_tensors
        grad = -grad  # what was kept are gradients of the mean log-density
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
