"""The theory, tried out: random games at their optimum, of which Conjecture 1 speaks, and how play goes in a small one.

See docs/theory.md for what comes out, :mod:`introprior.evaluation.tabular` for the games.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from introprior.evaluation import tabular
from introprior.evaluation.tabular import Game, Triplet
from introprior.experiment.run import DensityTraining

ALPHA = DensityTraining().alpha
"""Of all games here: the paper's."""

SIZES = [(data, codes) for data in (2, 3, 4, 6, 8) for codes in (2, 3, 6)]
"""Data and codes of the random games."""

SEARCH = {"starts": 6, "steps": 150}
"""How hard a player looks for a gain; tests look harder."""

DATA, CODES, GAMMAS = (0.5, 0.3, 0.15, 0.05), 3, (0.25, 1.0)
"""The game that is played: with the first gamma the assumption holds, with the second, the paper's, it does not."""

SCHEMES = {"fixed": (0.0, 0.0), "decoder": (0.0, 1.0), "encoder": (1.0, 0.0)}
"""With whom the prior learns, as weights of L_q and L_d in its step."""


def distributions(count: int, *shape: int, seed: int) -> Tensor:
    """Distributions over the last axis, drawn uniformly from all there are, ``[count, *shape]`` in float64."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.empty(count, *shape, dtype=torch.float64).exponential_(generator=random)
    return drawn / drawn.sum(-1, keepdim=True)


def conjecture(games: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows on random games, about ``games`` in all: what can be gained by leaving an optimal triplet.

    Three rows a game. ``prior`` sides with decoder or encoder; the ``triplet`` is drawn from all that Eq. 36 allows, or
    is the best there is for a prior that sides with the encoder. ``gain`` is the largest that a player finds alone (of
    prior and decoder who cooperate: together), ``information`` that of data and code, in nats; gamma is the first of 1,
    1/2, 1/4, ... at which the assumption holds, as in the column ``gamma``.
    """
    each = -(-games // len(SIZES))
    for k, (size, codes) in enumerate(SIZES):
        data = distributions(each, size, seed=seed + 2 * k)
        game = Game(data, data.new_ones(each), ALPHA)
        game = game._replace(gamma=tabular.enclosing_gamma(game))
        p = tabular.optimum(game)
        drawn = distributions(each, size, codes, seed=seed + 2 * k + 1)
        best = tabular.resting(game, p, drawn)
        for prior, name, encoder in (
            ("decoder", "drawn", drawn),
            ("encoder", "drawn", drawn),
            ("encoder", "best", best),
        ):
            found = gains(game, tabular.triplet(p, encoder), prior)
            largest, who = torch.stack(list(found.values())).max(0)
            values = zip(game.gamma, largest, who, tabular.information(p, encoder), strict=True)
            for g, (gamma, gained, player, information) in enumerate(values):
                yield {
                    "data": size, "codes": codes, "game": g, "gamma": gamma.item(), "prior": prior, "triplet": name,
                    "gain": gained.item(), "player": list(found)[player], "information": information.item(),
                }  # fmt: skip


def gains(game: Game, played: Triplet, prior: str) -> dict[str, Tensor]:
    """What the players gain by deviating, ``[...]``, by player, where the prior sides with decoder or encoder."""
    q, d = game.encoder_objective, game.decoder_objective
    players = {"encoder": q} | ({"prior": q, "decoder": d} if prior == "encoder" else {"prior decoder": d})
    return {name: tabular.gain(objective, played, name.split(), **SEARCH) for name, objective in players.items()}


def play(game: Game, start: Triplet, sides: Tensor, alternating: bool, rate: float = 0.3) -> Iterator[Triplet]:
    """Gradient play without end, the start first: all step on the logits of their tables along their own objective.

    Args:
        start: tables without zeros.
        sides: weights of L_q and L_d in the prior's step, ``[2, ...]``: of :data:`SCHEMES`.
        alternating: decoder and prior step after the encoder; else all at once.
    """
    at = Triplet(*(table.log() for table in start))
    toward_q, toward_d = (side.unsqueeze(-1) for side in sides)
    while True:
        yield Triplet(*(part.softmax(-1) for part in at))
        prior, encoder, _ = _slopes(game.encoder_objective, at)
        after = at._replace(encoder=at.encoder + rate * encoder, prior=at.prior + rate * toward_q * prior)
        prior, _, decoder = _slopes(game.decoder_objective, after if alternating else at)
        at = after._replace(decoder=at.decoder + rate * decoder, prior=after.prior + rate * toward_d * prior)


def _slopes(objective: Any, at: Triplet) -> Triplet:
    """The derivatives of an objective in all logits."""
    attached = [part.detach().requires_grad_() for part in at]
    return Triplet(*torch.autograd.grad(objective(Triplet(*(part.softmax(-1) for part in attached))).sum(), attached))


def course(starts: int, steps: int, seed: int = 0, points: int = 60) -> Iterator[dict[str, Any]]:
    """Rows on the game of :data:`DATA`: under each scheme and gamma from the same random starts, to ``steps`` steps.

    ``kl_data`` is KL[p_data || p_d] (``kl_optimum`` that of the optimum, which p_d should reach), ``kl_posterior`` the
    mean of KL[q || posterior] over the data, ``information`` that of what is generated and its code, ``prior_<z>`` the
    prior, its largest mass first.
    """
    shape = (len(SCHEMES), len(GAMMAS), starts)
    gamma = torch.tensor(GAMMAS, dtype=torch.float64)[:, None].expand(shape)
    game = Game(torch.tensor(DATA, dtype=torch.float64), gamma, ALPHA)
    optimal = tabular.divergence(game.data, tabular.optimum(game._replace(data=game.data.expand(*shape, -1))))
    sides = torch.tensor(list(SCHEMES.values()), dtype=torch.float64).mT[..., None, None].expand(2, *shape)
    tables = [(CODES,), (len(DATA), CODES), (CODES, len(DATA))]
    start = Triplet(*(distributions(starts, *t, seed=seed + k).expand(*shape, *t) for k, t in enumerate(tables)))
    shown = {round(steps ** (k / points)) for k in range(points + 1)} | {0}
    for order in ("alternating", "simultaneous"):
        for step, played in zip(range(steps + 1), play(game, start, sides, order == "alternating"), strict=False):
            if step in shown:
                p, exact = tabular.generated(played), tabular.posterior(played.prior, played.decoder)
                values = {
                    "kl_data": tabular.divergence(game.data, p),
                    "kl_optimum": optimal,
                    "kl_posterior": tabular.mean(game.data, tabular.divergence(played.encoder, exact)),
                    "information": tabular.information(p, exact),
                }
                masses = played.prior.sort(descending=True).values.unbind(-1)
                values |= {f"prior_{z}": mass for z, mass in enumerate(masses, 1)}
                for s, scheme in enumerate(SCHEMES):
                    for g, value in enumerate(GAMMAS):
                        for k in range(starts):
                            at = {"order": order, "gamma": value, "prior": scheme, "start": k, "step": step}
                            yield at | {name: number[s, g, k].item() for name, number in values.items()}
