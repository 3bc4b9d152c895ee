"""The cross-entropy of posteriors under a mixture as Triton kernels, for latent spaces of few dimensions on a GPU.

The same estimate and gradients as those of the blocks in :mod:`introprior.game.fused`, its only caller, which decides
between the two. Samples live in registers and components pass by: memory holds two numbers a sample, and only where the
mixture learns.

A component's energy is its negative weighted log-density to base two, ``a + sum_d t_d^2``, with
``t_d = s_d z_d - s_d mu_d`` and ``s_d = sqrt(log2(e) / 2) / sigma_d``. Unlike the expanded square it cancels nothing: t
is small where the density counts. Products and sums are fused by name, so that the second kernel finds the first one's
energies bit for bit. All sums are taken in an order that neither a member's company nor the GPU's scheduling changes.

Loop bounds are constants of a compiled kernel: another batch or mixture compiles anew, once on a machine. Nothing waits
for the GPU, and no memory outlives a call but what autograd keeps, so that a CUDA graph can capture both passes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

LN_2 = tl.constexpr(math.log(2))
LOG2_E = tl.constexpr(math.log2(math.e))
LOG_2PI = tl.constexpr(math.log(2 * math.pi))
SCALE = tl.constexpr(math.sqrt(math.log2(math.e) / 2))

POSTERIORS, DRAWS, FORWARD_WARPS = 32, 16, 2
"""A tile of the first kernel: eight samples a thread, so that a component's numbers, once read, serve eight times."""
COMPONENTS, SAMPLES, BACKWARD_WARPS = 4, 256, 4
"""A tile of the second: two samples and four components a thread, which adds up its own until the end."""


# ---- Tuples of D tensors, one a latent dimension ----


@triton.jit
def zeros(like, D: tl.constexpr):
    """D tensors of the shape of one."""
    none = ()
    for _ in tl.static_range(D):
        none += (tl.zeros_like(like),)
    return none


@triton.jit
def row(start, there, D: tl.constexpr):
    """The D numbers from an address on, for every address that is there."""
    numbers = ()
    for d in tl.static_range(D):
        numbers += (tl.load(start + d, mask=there, other=0.0),)
    return numbers


@triton.jit
def deviations(logvar, D: tl.constexpr):
    """Standard deviations."""
    sigma = ()
    for d in tl.static_range(D):
        sigma += (tl.exp2(logvar[d] * (0.5 * LOG2_E)),)
    return sigma


@triton.jit
def times(x, y, D: tl.constexpr):
    """``x_d y_d``."""
    products = ()
    for d in tl.static_range(D):
        products += (x[d] * y[d],)
    return products


@triton.jit
def affine(x, scale, shift, D: tl.constexpr):
    """``scale_d x_d + shift_d``."""
    moved = ()
    for d in tl.static_range(D):
        moved += (tl.fma(x[d], scale[d], shift[d]),)
    return moved


@triton.jit
def add(total, weight, x, D: tl.constexpr):
    """``total_d + weight x_d``, one weight for all dimensions."""
    more = ()
    for d in tl.static_range(D):
        more += (tl.fma(weight, x[d], total[d]),)
    return more


# ---- The mixture ----


@triton.jit
def table_kernel(means, logvars, log_weights, table, M: tl.constexpr, MP: tl.constexpr, D: tl.constexpr):
    """Rows s_d, -s_d mu_d (D each) and a of a mixture: table ``[E, 2D + 1, M]``. Program (member)."""
    e, k = tl.program_id(0).to(tl.int64), tl.arange(0, MP)
    real = k < M
    table += e * (2 * D + 1) * M + k
    log_density = tl.load(log_weights + e * M + k, mask=real, other=0.0)  # weighted, at the mean
    mu, logvar = row(means + (e * M + k) * D, real, D), row(logvars + (e * M + k) * D, real, D)
    for d in tl.static_range(D):
        scale = tl.exp2(logvar[d] * (-0.5 * LOG2_E)) * SCALE
        log_density -= (logvar[d] + LOG_2PI) * 0.5
        tl.store(table + d * M, scale, mask=real)
        tl.store(table + (D + d) * M, -scale * mu[d], mask=real)
    tl.store(table + 2 * D * M, -log_density * LOG2_E, mask=real)


@triton.jit
def component(column, M: tl.constexpr, D: tl.constexpr):
    """Scales s_d, shifts -s_d mu_d, and a."""
    scales, shifts = (), ()
    for d in tl.static_range(D):
        scales += (tl.load(column + d * M),)
        shifts += (tl.load(column + (D + d) * M),)
    return scales, shifts, tl.load(column + 2 * D * M)


@triton.jit
def energy(t, a, D: tl.constexpr):
    """``a + sum_d t_d^2``."""
    for d in tl.static_range(D):
        a = tl.fma(t[d], t[d], a)
    return a


# ---- The kernels ----


@triton.jit
def value_kernel(
    mean, logvar, table, noise, value, grads, kept,
    B, stride_e, stride_b, noise_e,
    T: tl.constexpr, M: tl.constexpr, D: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    LEARNS: tl.constexpr, KEEPS: tl.constexpr,
):  # fmt: skip
    """Values ``[E, B]``; where the posterior learns, their gradients in mean and log-variance ``[2, E, B, D]``; where
    the mixture does, each sample's lowest energy and the sum of powers about it, kept ``[2, E, T, B]``.

    Program (P posteriors, member), N draws at a time. Two passes over the components spare all but one power a pair.
    """
    e, E = tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    b = tl.program_id(0) * P + tl.arange(0, P)[None, :]
    inside = b < B
    at = e * stride_e + b * stride_b
    mu, sigma = row(mean + at, inside, D), deviations(row(logvar + at, inside, D), D)
    table += e * (2 * D + 1) * M
    log_p = tl.zeros((N, P), tl.float32)
    slope, spread = zeros(log_p, D), zeros(log_p, D)
    for start in range(0, T, N):
        t = start + tl.arange(0, N)[:, None]
        there = inside & (t < T)
        eps = row(noise + e * noise_e + (t * B + b) * D, there, D)
        z = affine(eps, sigma, mu, D)
        lowest = tl.full((N, P), float("inf"), tl.float32)
        for k in tl.range(M, loop_unroll_factor=4):
            s, shift, a = component(table + k, M, D)
            lowest = tl.minimum(lowest, energy(affine(z, s, shift, D), a, D))
        total = tl.zeros((N, P), tl.float32)
        u = zeros(total, D)
        for k in tl.range(M, loop_unroll_factor=4):
            s, shift, a = component(table + k, M, D)
            r = affine(z, s, shift, D)
            w = tl.exp2(lowest - energy(r, a, D))
            total += w
            if LEARNS:
                u = add(u, w, times(s, r, D), D)
        log_p += tl.where(there, tl.log2(total) - lowest, 0.0)
        if LEARNS:
            share = tl.where(there, 1.0 / total, 0.0)
            slope, spread = add(slope, share, u, D), add(spread, share, times(u, eps, D), D)
        if KEEPS:
            place = kept + (e * T + t) * B + b
            tl.store(place, lowest, mask=there)
            tl.store(place + E * T * B, total, mask=there)
    tl.store(value + e * B + b, tl.sum(log_p, 0, keep_dims=True) * (-LN_2 / T), mask=inside)
    if LEARNS:
        at = grads + (e * B + b) * D
        for d in tl.static_range(D):
            tl.store(at + d, tl.sum(slope[d], 0, keep_dims=True) * (2 * LN_2 / T), mask=inside)
            by_logvar = sigma[d] * tl.sum(spread[d], 0, keep_dims=True) * (LN_2 / T)
            tl.store(at + E * B * D + d, by_logvar, mask=inside)


@triton.jit
def mixture_kernel(
    mean, logvar, table, noise, kept, grad, by_means, by_logvars, by_log_weights,
    stride_e, stride_b, noise_e,
    B: tl.constexpr, T: tl.constexpr, M: tl.constexpr, D: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The gradients in the mixture, ``[E, M, D]`` twice and ``[E, M]``, of ``sum grad value``; grad ``[E, B]``.

    Program (K components, member): all samples, N posteriors at a time.
    """
    e, E = tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    k = tl.program_id(0) * K + tl.arange(0, K)[:, None]
    s, shift, a = component(table + e * (2 * D + 1) * M + tl.minimum(k, M - 1), M, D)
    mass = tl.zeros((K, N), tl.float32)
    first, second = zeros(mass, D), zeros(mass, D)
    for start in range(0, B, N):
        b = start + tl.arange(0, N)[None, :]
        inside = b < B
        at = e * stride_e + b * stride_b
        mu, sigma = row(mean + at, inside, D), deviations(row(logvar + at, inside, D), D)
        weight = tl.load(grad + e * B + b, mask=inside, other=0.0) / -T
        for t in range(T):
            place = (e * T + t) * B + b
            z = affine(row(noise + e * noise_e + (t * B + b) * D, inside, D), sigma, mu, D)
            lowest = tl.load(kept + place, mask=inside, other=-float("inf"))  # no weight where no sample is
            total = tl.load(kept + E * T * B + place, mask=inside, other=1.0)
            r = affine(z, s, shift, D)
            w = tl.exp2(lowest - energy(r, a, D)) * (weight / total)
            mass += w
            first, second = add(first, w, r, D), add(second, w, times(r, r, D), D)
    real = k < M
    all_mass = tl.sum(mass, 1, keep_dims=True)
    tl.store(by_log_weights + e * M + k, all_mass, mask=real)
    for d in tl.static_range(D):
        at = (e * M + k) * D + d
        tl.store(by_means + at, s[d] * tl.sum(first[d], 1, keep_dims=True) * (2 * LN_2), mask=real)
        tl.store(by_logvars + at, tl.sum(second[d], 1, keep_dims=True) * LN_2 - all_mass * 0.5, mask=real)


# ---- Their place in autograd ----


class KernelCrossEntropy(torch.autograd.Function):
    """By these kernels; arguments and results as those of :func:`introprior.game.fused.mixture_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, logvar: Tensor, means: Tensor, logvars: Tensor, log_weights: Tensor, noise: Tensor
    ) -> Tensor:
        learns, keeps = any(ctx.needs_input_grad[:2]), any(ctx.needs_input_grad[2:5])
        (members, draws, batch, dim), components = noise.shape, means.shape[1]
        if mean.stride(-1) != 1 or mean.stride() != logvar.stride():  # halves of one tensor stay where they are
            mean, logvar = mean.contiguous(), logvar.contiguous()
        noise = noise if noise[0].is_contiguous() else noise.contiguous()  # members may share it
        table = mean.new_empty(members, 2 * dim + 1, components)
        table_kernel[(members,)](
            means.contiguous(), logvars.contiguous(), log_weights.contiguous(), table,
            M=components, MP=triton.next_power_of_2(components), D=dim,
        )  # fmt: skip
        value = mean.new_empty(members, batch)
        grads = mean.new_empty(2, members, batch, dim) if learns else None
        kept = mean.new_empty(2, members, draws, batch) if keeps else None
        value_kernel[(triton.cdiv(batch, POSTERIORS), members)](
            mean, logvar, table, noise, value, grads, kept,
            batch, mean.stride(0), mean.stride(1), noise.stride(0),
            T=draws, M=components, D=dim, P=POSTERIORS, N=DRAWS, LEARNS=learns, KEEPS=keeps, num_warps=FORWARD_WARPS,
        )  # fmt: skip
        ctx.save_for_backward(grads, *((kept, table, mean, logvar, noise) if keeps else ()))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads, *mixture = ctx.saved_tensors
        results: list[Tensor | None] = [None] * 6
        if grads is not None:
            results[:2] = (grads * grad.unsqueeze(-1)).unbind()
        if mixture:
            kept, table, mean, logvar, noise = mixture
            (_, members, draws, batch), components, dim = kept.shape, table.shape[-1], mean.shape[-1]
            results[2:5] = (
                mean.new_empty(members, components, dim),
                mean.new_empty(members, components, dim),
                mean.new_empty(members, components),
            )
            mixture_kernel[(triton.cdiv(components, COMPONENTS), members)](
                mean, logvar, table, noise, kept, grad.contiguous(), *results[2:5],
                mean.stride(0), mean.stride(1), noise.stride(0),
                B=batch, T=draws, M=components, D=dim, K=COMPONENTS, N=SAMPLES, num_warps=BACKWARD_WARPS,
            )  # fmt: skip
        return tuple(results)
