"""The game of supplement 2 on finite sets: a prior, an encoder and a decoder as tables, everything exact, no sampling.

With X data and Z codes the prior is ``[..., Z]``, the encoder q(z|x) ``[..., X, Z]``, the decoder d(x|z)
``[..., Z, X]``; p_data and the generated distribution are ``[..., X]``. What leads is a batch of games. Use float64. A
table may hold zeros: what has no probability adds nothing, even where its logarithm is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Triplet(NamedTuple):
    """What the three players play."""

    prior: Tensor
    encoder: Tensor
    decoder: Tensor


class Game(NamedTuple):
    """What they play for: p_data ``[..., X]``, gamma ``[...]``, and alpha >= 1.

    >>> data = torch.tensor([0.5, 0.5])
    >>> game = Game(data, gamma=torch.tensor(1.0), alpha=2.0)
    >>> game.target(data)  # KL[p_data || p] is zero, H[p] is log 2
    tensor(0.6931)
    >>> game.encloses(data)  # 1/8 is not above 1/2
    tensor(True)
    """

    data: Tensor
    gamma: Tensor
    alpha: float

    def encoder_objective(self, played: Triplet) -> Tensor:
        """L_q of Eq. 34 (17 with a fixed prior), ``[...]``."""
        w = elbo(played)
        return mean(self.data, w) - mean(generated(played), (self.alpha * w).exp()) / self.alpha

    def decoder_objective(self, played: Triplet) -> Tensor:
        """L_d of Eq. 35 (18 with a fixed prior), ``[...]``."""
        w = elbo(played)
        return mean(self.data, w) + self.gamma * mean(generated(played), w)

    def target(self, p: Tensor) -> Tensor:
        """What Eq. 5, 7, 29, 36 and 77 minimise, KL[p_data || p] + gamma H[p], ``[...]``."""
        return divergence(self.data, p) + self.gamma * entropy(p)

    def encloses(self, p: Tensor) -> Tensor:
        """Whether p^(alpha + 1) <= p_data everywhere: Assumptions 1 to 4, bool ``[...]``."""
        return p.pow(self.alpha + 1).le(self.data).all(-1)


# ---- What tables hold ----


def mean(p: Tensor, values: Tensor) -> Tensor:
    """The expectation of ``values`` under p over the last axis; where p is zero any value will do.

    >>> mean(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 3.0, math.inf]))
    tensor(2.)
    """
    return (p * torch.where(p == 0, 0.0, values)).sum(-1)


def entropy(p: Tensor) -> Tensor:
    """H of Eq. 38, in nats.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0])).exp()
    tensor(2.)
    """
    terms: Tensor = torch.special.entr(p)
    return terms.sum(-1)


def alpha_order(p: Tensor, alpha: float) -> Tensor:
    """A of Eq. 39.

    >>> alpha_order(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), alpha=2.0)  # least where all is even, 1 where one takes all
    tensor([0.2500, 1.0000])
    """
    return (p ** (alpha + 1)).sum(-1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL[p || q] over the last axis, in nats.

    >>> divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))  # log 2
    tensor(0.6931)
    """
    return mean(p, p.log() - q.log())


def joint(prior: Tensor, decoder: Tensor) -> Tensor:
    """p(x, z), ``[..., X, Z]``.

    >>> joint(torch.tensor([0.25, 0.75]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([[0.2500, 0.0000],
            [0.0000, 0.7500]])
    """
    return (prior.unsqueeze(-1) * decoder).mT


def generated(played: Triplet) -> Tensor:
    """p_d, the distribution that prior and decoder generate, ``[..., X]``.

    >>> generated(Triplet(torch.tensor([0.25, 0.75]), torch.eye(2), torch.eye(2)))  # a code for each x: the prior
    tensor([0.2500, 0.7500])
    """
    return joint(played.prior, played.decoder).sum(-1)


def posterior(prior: Tensor, decoder: Tensor) -> Tensor:
    """p_d(z|x), ``[..., X, Z]``; NaN for what is never generated.

    >>> posterior(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))  # only code 1 makes x = 1
    tensor([[0.6667, 0.3333],
            [0.0000, 1.0000]])
    """
    both = joint(prior, decoder)
    return both / both.sum(-1, keepdim=True)


def elbo(played: Triplet) -> Tensor:
    """W(x) of Eq. 12, ``[..., X]``: minus infinity where the encoder sees a code that cannot have made x.

    >>> played = triplet(torch.tensor([0.25, 0.75]), torch.full((2, 2), 0.5))
    >>> elbo(played).exp()  # the encoder is the posterior: the bound is tight, W = log p_d
    tensor([0.2500, 0.7500])
    """
    prior, encoder, decoder = played
    return mean(encoder, decoder.log().mT + prior.log().unsqueeze(-2) - encoder.log())


def information(p: Tensor, encoder: Tensor) -> Tensor:
    """Mutual information of x ~ p and its code, in nats: zero where the joint distribution is a product.

    >>> half = torch.tensor([0.5, 0.5])
    >>> information(half, torch.eye(2)), information(half, torch.full((2, 2), 0.5))  # log 2 and none
    (tensor(0.6931), tensor(0.))
    """
    codes = (p.unsqueeze(-1) * encoder).sum(-2, keepdim=True)
    return mean(p, divergence(encoder, codes))


# ---- Optima ----


def triplet(p: Tensor, encoder: Tensor) -> Triplet:
    """The one in which the generated distribution is p and the posterior is ``encoder``; every pair is possible.

    >>> p, encoder = torch.tensor([0.25, 0.75]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    >>> played = triplet(p, encoder)
    >>> torch.equal(generated(played), p), torch.equal(posterior(played.prior, played.decoder), encoder)
    (True, True)
    """
    both = p.unsqueeze(-1) * encoder
    prior = both.sum(-2)
    return Triplet(prior, encoder, (both / prior.unsqueeze(-2)).mT)


def optimum(game: Game, steps: int = 60) -> Tensor:
    """The generated distribution ``[..., X]`` of Eq. 29, 36 and 77 alike: any is within reach of any prior.

    Newton's method on the simplex, from p_data and from near every corner; the best is taken. It is stationary where
    p_data / p + gamma log p is the same for all x that p_data holds; what it lacks is not generated.

    >>> game = Game(torch.tensor([0.6, 0.4], dtype=torch.float64), gamma=torch.tensor(0.0), alpha=2.0)
    >>> optimum(game).round(decimals=3).tolist()  # p_data
    [0.6, 0.4]
    >>> optimum(game._replace(gamma=torch.tensor(0.5))).round(decimals=3).tolist()  # less even
    [0.683, 0.317]
    """
    data = game.data.unsqueeze(-2)
    gamma = game.gamma[..., None, None]
    held = data > 0
    near = 0.05 * data + 0.95 * torch.eye(data.shape[-1], dtype=data.dtype)
    p = torch.cat([data, near * held], -2)
    p = p / p.sum(-1, keepdim=True)
    for _ in range(steps):
        slope = torch.where(held, data / p + gamma * p.log(), 0.0)
        bend = torch.where(held, p**2 / (gamma * p - data), 0.0)  # the inverse of its derivative
        step = bend * ((slope * bend).sum(-1, keepdim=True) / bend.sum(-1, keepdim=True) - slope)
        p = p * torch.where(held, (step / p).clamp(-1, 1), 0.0).exp()
        p = p / p.sum(-1, keepdim=True)
    every = Game(data, game.gamma.unsqueeze(-1), game.alpha)
    best = every.target(p).nan_to_num(math.inf).argmin(-1)
    return p.gather(-2, best[..., None, None].expand(*best.shape, 1, p.shape[-1])).squeeze(-2)


def enclosing_gamma(game: Game, halvings: int = 20) -> Tensor:
    """The first of gamma, gamma / 2, gamma / 4, ... at whose optimum the assumption holds, ``[...]``; else NaN.

    >>> data = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    >>> enclosing_gamma(Game(data, torch.tensor(1.0), alpha=2.0))
    tensor(0.5000)
    """
    found, tried = torch.full_like(game.gamma, math.nan), game.gamma
    for _ in range(halvings):
        holds = game.encloses(optimum(game._replace(gamma=tried)))
        found = torch.where(found.isnan() & holds, tried, found)
        if not found.isnan().any():
            break
        tried = tried / 2
    return found


def optimal_elbo(game: Game, p: Tensor) -> Tensor:
    """W(x) of Eq. 8 and 82: what the best encoder makes of a generated distribution ``[..., X]``, if it can.

    >>> game = Game(torch.tensor([1.0, 0.0]), gamma=torch.tensor(1.0), alpha=2.0)
    >>> optimal_elbo(game, torch.tensor([0.5, 0.5]))  # log p_d, but what p_data lacks is repelled for good
    tensor([-0.6931,    -inf])
    """
    far = (game.data / p).log() / game.alpha
    return torch.where(p ** (game.alpha + 1) > game.data, far, p.log())


def resting(game: Game, p: Tensor, encoder: Tensor) -> Tensor:
    """The posterior nearest to ``encoder`` of which a prior that sides with the encoder is at rest, ``[..., X, Z]``.

    At an optimum p of Eq. 36 the derivative of L_q in the prior's z-th mass is, but for what is the same for all z, the
    mean under d(x|z) of ``-force(x)``, where force = gamma log p + (1 + 1 / alpha) p^alpha. The prior stays if these
    means agree: if under p no q(z|x) correlates with the force. That is projected out; what that makes negative is
    mended by mixing in a code that says nothing.

    >>> game = Game(torch.tensor([0.5, 0.5]), gamma=torch.tensor(1.0), alpha=2.0)
    >>> encoder = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> torch.allclose(resting(game, game.data, encoder), encoder)  # nothing pushes where all x are alike
    True
    """
    force = game.gamma.unsqueeze(-1) * p.log() + (1 + 1 / game.alpha) * p**game.alpha
    force = (force - mean(p, force).unsqueeze(-1)).unsqueeze(-1)
    weight = p.unsqueeze(-1)
    power = (weight * force**2).sum((-2, -1), keepdim=True)
    slope = (weight * force * encoder).sum(-2, keepdim=True) / power.clamp(min=1e-30)
    codes = (weight * encoder).sum(-2, keepdim=True)
    away = encoder - slope * force - codes
    room = torch.where(away < 0, codes / -away, math.inf).amin((-2, -1), keepdim=True)
    mended = codes + away * (0.99 * room).clamp(max=1)
    return mended / mended.sum(-1, keepdim=True)


# ---- Deviations ----


def respond(
    objective: Callable[[Triplet], Tensor], played: Triplet, players: Sequence[str],
    starts: int = 6, steps: int = 100, seed: int = 0,
) -> Triplet:  # fmt: skip
    """The best that players, of the names of a Triplet, find to play together while the others stay.

    Gradient ascent on the logits of their tables, each start with a step of its own that grows while it helps and
    shrinks when it doesn't. Half of the starts are near what is played, the others anywhere, corners among them. What
    is found is a gain for sure; that there is none is as sure as the search.

    >>> p, encoder = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> game, played = Game(p, gamma=torch.tensor(1.0), alpha=2.0), triplet(p, encoder)
    >>> blind = played._replace(encoder=torch.full((2, 2), 0.5))
    >>> found = respond(game.encoder_objective, blind, ["encoder"])
    >>> torch.allclose(found.encoder, encoder, atol=1e-3)  # the best encoder is the posterior, Lemma 1
    True
    """
    random = torch.Generator().manual_seed(seed)
    at = []
    for table in (getattr(played, name) for name in players):
        noise = torch.randn(starts, *table.shape, generator=random, dtype=table.dtype)
        scale, near = torch.logspace(-3, 1, starts, dtype=table.dtype), torch.arange(starts) < starts // 2
        at.append(noise * _wide(scale, noise) + torch.where(_wide(near, noise), (table + 1e-12).log(), 0.0))

    def named(logits: Sequence[Tensor]) -> Triplet:
        return played._replace(**{name: part.softmax(-1) for name, part in zip(players, logits, strict=True)})

    def climb(logits: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        attached = [part.detach().requires_grad_() for part in logits]
        value = objective(named(attached))
        return value.detach(), torch.autograd.grad(value.sum(), attached)

    best, slopes = climb(at)
    step = torch.ones_like(best)
    for _ in range(steps):
        tried = [part + _wide(step, part) * slope for part, slope in zip(at, slopes, strict=True)]
        value, slopes_there = climb(tried)
        better = value > best
        best = torch.where(better, value, best)
        at = [torch.where(_wide(better, new), new, old) for new, old in zip(tried, at, strict=True)]
        slopes = [torch.where(_wide(better, new), new, old) for new, old in zip(slopes_there, slopes, strict=True)]
        step = (step * torch.where(better, 1.5, 0.4)).clamp(max=1e6)
    winner = best.argmax(0, keepdim=True)
    return named([part.gather(0, _wide(winner, part).expand(1, *part.shape[1:])).squeeze(0) for part in at])


def gain(objective: Callable[[Triplet], Tensor], played: Triplet, players: Sequence[str], **search: int) -> Tensor:
    """What players gain at most by leaving ``played`` together, as far as :func:`respond` finds, ``[...]``.

    >>> p = torch.tensor([0.5, 0.5])
    >>> game, played = Game(p, gamma=torch.tensor(0.0), alpha=2.0), triplet(p, torch.eye(2))
    >>> gain(game.encoder_objective, played, ["encoder"]) < 1e-6  # Theorem 1: p_data is generated, nobody gains
    tensor(True)
    """
    return objective(respond(objective, played, players, **search)) - objective(played)


def _wide(each: Tensor, like: Tensor) -> Tensor:
    """A number per start or game, for all of its table."""
    return each.view(*each.shape, *[1] * (like.dim() - each.dim()))
