"""The statements of supplement 2, each by its number, on random games of tables; what does not hold as it is written is
told in docs/theory.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from runs import ALPHA
from torch import Tensor

from introprior import cli
from introprior.evaluation import tabular, theory
from introprior.evaluation.tabular import (
    Game,
    Triplet,
    alpha_order,
    divergence,
    elbo,
    entropy,
    gain,
    generated,
    information,
    mean,
    optimum,
    posterior,
    respond,
    resting,
    triplet,
)
from introprior.evaluation.theory import distributions
from introprior.reporting.figures import draw

pytestmark = pytest.mark.usefixtures("float64")

GAMES = 40
NOTHING = 1e-8
SIZES = [(2, 2), (3, 2), (8, 6)]
sizes = pytest.mark.parametrize(("size", "codes"), SIZES)


def close(ours: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=atol)


def a_game(data: Tensor, gamma: Tensor) -> Game:
    return Game(data, gamma, ALPHA)


def games(size: int, gamma: float = 1.0, seed: int = 0) -> Game:
    data = distributions(GAMES, size, seed=seed)
    return a_game(data, torch.full((GAMES,), gamma))


def anything(size: int, codes: int, seed: int = 10) -> Triplet:
    """Players that play at random."""
    shapes = [(codes,), (size, codes), (codes, size)]
    return Triplet(*(distributions(GAMES, *shape, seed=seed + k) for k, shape in enumerate(shapes)))


def solved(size: int, codes: int, seed: int = 20) -> tuple[Game, Triplet]:
    """Games with a gamma at whose optimum the assumption holds, and one of the triplets at that optimum."""
    game = games(size)
    game = game._replace(gamma=tabular.enclosing_gamma(game))
    return game, triplet(optimum(game), distributions(GAMES, size, codes, seed=seed))


def exact(played: Triplet) -> Triplet:
    """The same with the true posterior for an encoder."""
    return played._replace(encoder=posterior(played.prior, played.decoder))


# ---- The objectives ----


@sizes
def test_equations_12_to_16_and_24_and_30(size: int, codes: int) -> None:
    game, played = games(size, 0.7), anything(size, codes)
    p, away = generated(played), divergence(played.encoder, posterior(played.prior, played.decoder))
    close(elbo(played), p.log() - away)
    alpha = game.alpha
    close(
        game.encoder_objective(played),
        mean(game.data, p.log() - away) - (p ** (alpha + 1) * (-alpha * away).exp()).sum(-1) / alpha,
    )
    close(
        game.decoder_objective(played),
        -entropy(game.data) - game.target(p) - mean(game.data, away) - game.gamma * mean(p, away),
    )


def test_what_has_no_probability_adds_nothing() -> None:
    game = a_game(torch.tensor([1.0, 0.0]), torch.tensor(1.0))
    same = torch.eye(2)
    played = Triplet(torch.tensor([1.0, 0.0]), same, same)
    assert elbo(played).tolist() == [0, -torch.inf]
    assert game.encoder_objective(played) == -1 / game.alpha
    assert game.decoder_objective(played) == 0


# ---- Lemmas ----


@sizes
def test_lemmas_1_and_6(size: int, codes: int) -> None:
    """If p_d^(alpha + 1) <= p_data the best encoder is the posterior."""
    game = games(size)
    p = (game.data + 0.2 * distributions(GAMES, size, seed=5)) / 1.2
    held = game.encloses(p)
    assert held.sum() > GAMES / 2
    half = a_game(torch.tensor([0.5, 0.5]), torch.tensor(1.0))
    assert half.encloses(torch.tensor([0.75, 0.25]))  # 0.75^3 < 0.5 < 0.75^2
    played = triplet(p, distributions(GAMES, size, codes, seed=6))
    assert gain(game.encoder_objective, played, ["encoder"])[held].max() < NOTHING
    for other in (distributions(GAMES, size, codes, seed=seed) for seed in range(7, 17)):
        assert (game.encoder_objective(played._replace(encoder=other)) < game.encoder_objective(played))[held].all()


def test_lemma_1_needs_what_the_paper_adds_to_it() -> None:
    """Daniel and Tamar ask for it only where p_data(x) > 0; then what else is generated spoils it."""
    game = a_game(torch.tensor([1.0, 0.0]), torch.tensor(0.0))
    p = torch.tensor([0.8, 0.2])
    assert (p**3 <= game.data).tolist() == [True, False]
    assert gain(game.encoder_objective, triplet(p, torch.tensor([[0.5, 0.5], [0.9, 0.1]])), ["encoder"]) > 1e-3


@pytest.fixture
def masses() -> Tensor:
    """The unnormalised masses e of Eq. 37."""
    return (3 * torch.rand(200, 6)).requires_grad_()


def slope(values: Tensor, masses: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), masses)[0]


def test_lemma_2(masses: Tensor) -> None:
    """Minimising H moves a mass up if its logarithm is above the mean, down if it is below: Eq. 41 to 47."""
    total = masses.sum(-1, keepdim=True)
    p = masses / total
    update = -slope(entropy(p), masses)
    above = masses.log() - (p * masses.log()).sum(-1, keepdim=True)
    assert (update.sign() == above.sign()).all()
    close(update, above / total)


def test_equations_43_and_44_have_a_wrong_sign(masses: Tensor) -> None:
    """Of the sum over i != k the logarithm's part should be added; Eq. 45 goes on as if it were."""
    total = masses.sum(-1, keepdim=True)
    p = masses / total
    others = (p * p.log()).sum(-1, keepdim=True) - p * p.log()
    printed, mended = (
        -(1 - p) / total * p.log() - (1 - p) / total + sign * others / total + (1 - p) / total for sign in (-1, 1)
    )
    right = slope(entropy(p), masses)
    close(mended, right)
    assert (printed - right).abs().min() > 1e-3


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_lemma_3(masses: Tensor, alpha: float) -> None:
    """Minimising A moves a mass down if its alpha-th power is above the mean, up if it is below: Eq. 50 to 52."""
    total = masses.sum(-1, keepdim=True)
    p = masses / total
    update = -slope(alpha_order(p, alpha), masses)
    above = masses**alpha - (p * masses**alpha).sum(-1, keepdim=True)
    assert (update.sign() == -above.sign()).all()
    close(update, -(alpha + 1) / total ** (alpha + 1) * above)


@sizes
def test_lemma_4(size: int, codes: int) -> None:
    """With the posterior for an encoder, the decoder that maximises L_d is the one of Eq. 36."""
    game, played = games(size, 0.4), exact(anything(size, codes))
    close(game.decoder_objective(played), -entropy(game.data) - game.target(generated(played)))
    at_best = triplet(optimum(game), posterior(played.prior, played.decoder))
    assert gain(game.decoder_objective, at_best, ["decoder"]).max() < NOTHING


def test_lemma_4_is_not_about_the_posterior_of_another_decoder() -> None:
    """The smallest example: with gamma = 0 Eq. 36 asks for p_d = p_data, and the encoder keeps the decoder from it."""
    half = torch.tensor([0.5, 0.5])
    game = a_game(half, torch.tensor(0.0))
    played = exact(Triplet(half, half.expand(2, 2), torch.tensor([[0.9, 0.1], [0.5, 0.5]])))
    best = respond(game.decoder_objective, played, ["decoder"])
    codes = half @ played.encoder  # by Bayes, what is best is to decode as the encoder encodes data
    close(best.decoder, (half.unsqueeze(-1) * played.encoder / codes).mT, atol=1e-6)
    assert generated(best)[0] > 0.54


@sizes
def test_lemma_5(size: int, codes: int) -> None:
    """With the posterior for an encoder, the prior that maximises L_q is the one of Eq. 55."""
    game, played = games(size), exact(anything(size, codes))

    def equation_55(at: Triplet) -> Tensor:
        p = generated(at)
        return -divergence(game.data, p) - alpha_order(p, game.alpha) / game.alpha

    close(game.encoder_objective(played), equation_55(played) - entropy(game.data))
    game, at_best = solved(size, codes)
    at_best = triplet(generated(at_best), resting(game, generated(at_best), at_best.encoder))
    assert gain(equation_55, at_best, ["prior"]).max() < NOTHING  # so this prior is one of Eq. 55
    assert gain(game.encoder_objective, at_best, ["prior"]).max() < NOTHING


# ---- Propositions 1 and 2 ----


def with_rare_codes(p: Tensor, rare: float) -> Triplet:
    """The generated distribution p, with a code that is rare in every posterior: an encoder can get far from it."""
    return triplet(p, torch.tensor([1 - rare, rare]).expand(*p.shape, 2))


def test_propositions_1_and_2() -> None:
    """Where there is p_data, the best encoder makes of W what Eq. 8 and 82 say, in either case."""
    game = games(2)
    p = distributions(GAMES, 2, seed=3) ** 2
    p = p / p.sum(-1, keepdim=True)
    expected = tabular.optimal_elbo(game, p)
    far = p ** (game.alpha + 1) > game.data
    assert 10 < far.sum() < far.numel() - 10
    close(expected[far], ((game.data / p).log() / game.alpha)[far])
    close(expected[~far], p.log()[~far])
    best = respond(game.encoder_objective, with_rare_codes(p, 1e-9), ["encoder"], steps=300)
    close(elbo(best), expected, atol=5e-3)


def test_propositions_1_and_2_without_p_data_are_a_limit() -> None:
    """What p_data lacks gets an ELBO as low as the rarest code allows; minus infinity if the code can't make it."""
    game, p = a_game(torch.tensor([1.0, 0.0]), torch.tensor(1.0)), torch.tensor([0.6, 0.4])
    assert tabular.optimal_elbo(game, p)[1] == -torch.inf
    for rare in (1e-2, 1e-4, 1e-8, 1e-16):
        played = with_rare_codes(p, rare)
        farthest = played._replace(encoder=torch.stack([played.encoder[0], torch.tensor([0.0, 1.0])]))
        close(elbo(farthest)[1], torch.tensor(0.4 * rare).log())
        best = respond(game.encoder_objective, played, ["encoder"])
        assert game.encoder_objective(best) <= game.encoder_objective(farthest) + NOTHING
    apart = Triplet(torch.tensor([0.5, 0.5]), torch.eye(2).flip(0), torch.tensor([[1.0, 0.0], [0.2, 0.8]]))
    assert elbo(apart)[1] == -torch.inf


def test_propositions_1_and_2_need_codes_to_get_away() -> None:
    """The smallest example: with one code every encoder is the posterior, and W = log p_d whatever Eq. 82 says."""
    game, p = a_game(torch.tensor([0.1, 0.9]), torch.tensor(1.0)), torch.tensor([0.9, 0.1])
    best = respond(game.encoder_objective, triplet(p, torch.ones(2, 1)), ["encoder"])
    close(elbo(best), p.log())
    assert tabular.optimal_elbo(game, p)[0] < p.log()[0] - 0.9


def test_the_optimal_elbo_is_continuous_in_p_data() -> None:
    p = torch.tensor([0.5, 0.5])
    near = [tabular.optimal_elbo(a_game(0.125 + torch.tensor([e, -e]), torch.tensor(1.0)), p) for e in (1e-9, -1e-9)]
    close(near[0], near[1], atol=1e-7)


# ---- Theorems ----


@sizes
def test_theorems_1_and_3(size: int, codes: int) -> None:
    """Under Assumption 3 the posterior and the decoder of Eq. 29 are an equilibrium."""
    game, played = solved(size, codes)
    assert game.encloses(generated(played)).all()
    assert gain(game.encoder_objective, played, ["encoder"]).max() < NOTHING
    assert gain(game.decoder_objective, played, ["decoder"]).max() < NOTHING


@sizes
def test_theorems_2_and_4(size: int, codes: int) -> None:
    """Under Assumption 4 so are they with the prior of Eq. 77, which sides with the decoder: also if both leave."""
    game, played = solved(size, codes)
    assert gain(game.encoder_objective, played, ["encoder"]).max() < NOTHING
    assert gain(game.decoder_objective, played, ["prior", "decoder"]).max() < NOTHING


def test_theorems_2_and_4_with_data_that_do_not_occur() -> None:
    data = distributions(GAMES, 4, seed=1) * torch.tensor([1.0, 1, 1, 0])
    game = a_game(data / data.sum(-1, keepdim=True), torch.ones(GAMES))
    game = game._replace(gamma=tabular.enclosing_gamma(game))
    p = optimum(game)
    assert (p[:, 3] == 0).all()
    assert game.encloses(p).all()
    played = triplet(p, distributions(GAMES, 4, 3, seed=2))
    assert gain(game.encoder_objective, played, ["encoder"]).max() < NOTHING
    assert gain(game.decoder_objective, played, ["prior", "decoder"]).max() < NOTHING


@sizes
def test_where_the_assumption_is_broken_the_encoder_gains_and_nobody_else(size: int, codes: int) -> None:
    game = games(size, 2.0)
    p = optimum(game)
    assert not game.encloses(p).any()
    played = triplet(p, distributions(GAMES, size, codes, seed=9))
    assert gain(game.encoder_objective, played, ["encoder"]).min() > NOTHING
    assert gain(game.decoder_objective, played, ["prior", "decoder"]).max() < NOTHING


@sizes
def test_there_is_a_gamma_for_every_p_data(size: int, codes: int) -> None:
    game = games(size, seed=codes)
    gamma = tabular.enclosing_gamma(game)
    assert (gamma >= 1 / 64).all()
    assert game._replace(gamma=gamma).encloses(optimum(game._replace(gamma=gamma))).all()
    twice = game._replace(gamma=2 * gamma)
    assert not twice.encloses(optimum(twice))[gamma < 1].any()  # it is the first
    assert (gamma < 1).sum() > GAMES / 2  # the paper's gamma = 1 is not one of them for most


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
@sizes
def test_the_optimum_is_one(size: int, codes: int, gamma: float) -> None:
    """Stationary, and better than what is drawn and what gradient ascent finds."""
    game = games(size, gamma)
    p = optimum(game)
    slopes = game.data / p + game.gamma.unsqueeze(-1) * p.log()
    assert ((slopes.amax(-1) - slopes.amin(-1)) / slopes.abs().amax(-1)).max() < 1e-8
    assert (game.target(p) <= game.target(distributions(1000 * GAMES, size, seed=4).view(1000, GAMES, size))).all()
    played = triplet(p, torch.ones(GAMES, size, 1))
    assert gain(lambda at: -game.target(at.decoder.squeeze(-2)), played, ["decoder"]).max() < NOTHING


def test_at_the_papers_gamma_the_optimum_of_uniform_data_is_a_peak() -> None:
    """Of gamma = 1 the entropy weighs as much as the divergence, and a hundred equal data are worth less than one."""
    game = a_game(torch.full((1, 100), 0.01), torch.ones(1))
    p = optimum(game)
    assert p.max() > 0.8
    assert not game.encloses(p).any()
    assert game.target(p) < game.target(game.data) - 1
    game = game._replace(gamma=torch.tensor([0.25]))
    close(optimum(game), game.data)


# ---- Conjecture 1 ----


@sizes
def test_what_moves_a_prior_that_sides_with_the_encoder(size: int, codes: int) -> None:
    """At the optimum of Eq. 36 the derivative of L_q in its masses: a constant minus a mean under d(x|z)."""
    game, played = solved(size, codes)
    p = generated(played)
    prior = played.prior.clone().requires_grad_()
    moved = slope(game.encoder_objective(played._replace(prior=prior)), prior)
    force = game.gamma.unsqueeze(-1) * p.log() + (1 + 1 / game.alpha) * p**game.alpha
    expected = -(played.decoder * force.unsqueeze(-2)).sum(-1)
    close(moved - moved.mean(-1, keepdim=True), expected - expected.mean(-1, keepdim=True), atol=1e-9)


@sizes
def test_conjecture_1_for_a_drawn_triplet(size: int, codes: int) -> None:
    """Of the triplets that Eq. 36 allows, one that is drawn is no equilibrium: the prior gains."""
    game, played = solved(size, codes)
    assert information(generated(played), played.encoder).min() > 1e-6
    assert gain(game.encoder_objective, played, ["prior"]).min() > NOTHING


def test_conjecture_1_holds_for_two_data() -> None:
    """Unless p_data is uniform: the nearest triplet at which the prior rests is a product, which is excluded."""
    game, played = solved(2, 3)
    p = generated(played)
    assert information(p, resting(game, p, played.encoder)).max() < 1e-12


@pytest.mark.parametrize(("size", "codes"), SIZES[1:])
def test_conjecture_1_does_not_hold_for_more_data(size: int, codes: int) -> None:
    """For every p_data there is a triplet that nobody leaves, alone or with the partner, and that is no product."""
    game, drawn = solved(size, codes)
    p = generated(drawn)
    played = triplet(p, resting(game, p, drawn.encoder))
    close(generated(played), optimum(game))
    close(posterior(played.prior, played.decoder), played.encoder)
    assert (played.prior > 0).all()
    assert information(p, played.encoder).median() > 1e-3
    assert gain(game.decoder_objective, played, ["decoder"]).max() < NOTHING
    for players in (["encoder"], ["prior"], ["prior", "encoder"]):
        assert gain(game.encoder_objective, played, players).max() < NOTHING


def counterexample() -> tuple[Game, Triplet]:
    """The smallest: three data, two codes (docs/theory.md)."""
    game = a_game(torch.tensor([0.5, 0.3, 0.2]), torch.tensor(0.25))
    p = optimum(game)
    return game, triplet(p, resting(game, p, torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])))


def test_the_smallest_counterexample_to_conjecture_1() -> None:
    game, played = counterexample()
    assert game.encloses(generated(played))
    assert information(generated(played), played.encoder) > 0.05
    hard = {"starts": 200, "steps": 200}
    assert gain(game.decoder_objective, played, ["decoder"], **hard) < 1e-12
    for players in (["encoder"], ["prior"], ["prior", "encoder"]):
        assert gain(game.encoder_objective, played, players, **hard) < 1e-12


@pytest.mark.parametrize("size", [2, 4])
def test_with_uniform_data_any_code_is_an_equilibrium(size: int) -> None:
    """The simplest counterexample: each datum a code of its own."""
    game = a_game(torch.full((size,), 1 / size), torch.tensor(0.25))
    p = optimum(game)
    close(p, game.data)
    played = triplet(p, torch.eye(size))
    assert gain(game.decoder_objective, played, ["decoder"]) < NOTHING
    for players in (["encoder"], ["prior"], ["prior", "encoder"]):
        assert gain(game.encoder_objective, played, players) < NOTHING


@sizes
def test_what_conjecture_1_excludes_is_an_equilibrium(size: int, codes: int) -> None:
    """The control: a code that says nothing."""
    game, played = solved(size, codes)
    played = triplet(generated(played), played.prior.unsqueeze(-2).expand(GAMES, size, codes))
    assert gain(game.decoder_objective, played, ["decoder"]).max() < NOTHING
    assert gain(game.encoder_objective, played, ["prior", "encoder"]).max() < NOTHING


# ---- How play goes ----


STARTS = 4


def start() -> Triplet:
    return Triplet(*(distributions(STARTS, *shape, seed=k) for k, shape in enumerate([(3,), (4, 3), (3, 4)])))


def played_to(steps: int, gammas: Sequence[float], schemes: Sequence[str], **how: Any) -> tuple[Game, Triplet]:
    """Scheme by gamma by start, after so many steps of the game of the figure."""
    shape = (len(schemes), len(gammas), STARTS)
    game = a_game(torch.tensor(theory.DATA).expand(*shape, 4), torch.tensor(gammas)[:, None].expand(shape))
    sides = torch.tensor([theory.SCHEMES[scheme] for scheme in schemes]).mT[..., None, None].expand(2, *shape)
    first = Triplet(*(table.expand(*shape, *table.shape[1:]) for table in start()))
    return game, next(islice(theory.play(game, first, sides, **how), steps, None))


@pytest.mark.parametrize("prior", theory.SCHEMES)
@pytest.mark.parametrize("alternating", [True, False])
def test_a_step_of_play_goes_up_ones_own_objective(prior: str, alternating: bool) -> None:
    _, after = played_to(1, [0.5], [prior], alternating=alternating, rate=(rate := 0.1))
    game = a_game(torch.tensor(theory.DATA), torch.tensor(0.5))
    logits = {name: table.log().requires_grad_() for name, table in start()._asdict().items()}
    new = dict(logits)
    for objective, side, name in (
        (game.encoder_objective, "encoder", "encoder"),
        (game.decoder_objective, "decoder", "decoder"),
    ):
        at = {k: v.detach().requires_grad_() for k, v in (new if alternating else logits).items()}
        value = objective(Triplet(**{k: v.softmax(-1) for k, v in at.items()})).sum()
        learn = [name, *["prior"] * (prior == side)]
        for each, up in zip(learn, torch.autograd.grad(value, [at[k] for k in learn]), strict=True):
            new[each] = new[each] + rate * up
    for ours, expected in zip(after, (new[name].softmax(-1) for name in Triplet._fields), strict=True):
        close(ours[0, 0], expected.detach())


def test_play() -> None:
    """With the assumption it reaches the optimum; without it only where prior and decoder cooperate, and though the
    encoder could gain there: play finds what is no equilibrium."""
    game, played = played_to(300, [0.25, 1.0], ["fixed", "decoder", "encoder"], alternating=True, rate=1.0)
    p = optimum(game)
    assert game.encloses(p).all(-1).all(0).tolist() == [True, False]
    missed = (generated(played) - p).abs().amax((-1, -2))
    assert missed[:, 0].max() < 0.02
    assert missed[1].max() < 1e-3
    assert missed[[0, 2], 1].min() > 0.01
    away = divergence(played.encoder, posterior(played.prior, played.decoder)).amax((-1, -2))
    assert away[:, 0].max() < 0.02
    assert away[1, 1] < 1e-3 < 1e-2 < away[[0, 2], 1].min()
    assert gain(game.encoder_objective, played, ["encoder"])[1, 1].min() > 1e-3


def test_the_course_tells_of_every_play_alone() -> None:
    rows = list(theory.course(2, 3))
    assert len(rows) == 2 * 2 * len(theory.SCHEMES) * len(theory.GAMMAS) * 4
    starts = [distributions(2, *shape, seed=k) for k, shape in enumerate([(3,), (4, 3), (3, 4)])]
    for row in rows[::7]:
        game = a_game(torch.tensor(theory.DATA), torch.tensor(row["gamma"]))
        sides, first = torch.tensor(theory.SCHEMES[row["prior"]]), Triplet(*(table[row["start"]] for table in starts))
        plays = theory.play(game, first, sides, row["order"] == "alternating")
        prior, encoder, decoder = next(islice(plays, row["step"], None))
        both = (prior.unsqueeze(-1) * decoder).mT
        p = both.sum(-1)
        away = (encoder * (encoder * p.unsqueeze(-1) / both).log()).sum(-1)
        values = {
            "kl_data": (game.data * (game.data / p).log()).sum(),
            "kl_optimum": (game.data * (game.data / optimum(game)).log()).sum(),
            "kl_posterior": (game.data * away).sum(),
            "information": (both * (both / (p.unsqueeze(-1) * prior)).log()).sum(),
        }
        masses = {f"prior_{z}": mass for z, mass in enumerate(sorted(prior.tolist(), reverse=True), 1)}
        expected = {name: value.item() for name, value in values.items()} | masses
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12)


# ---- Command and figure ----


def test_the_command_and_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(theory, "SIZES", [(2, 2), (3, 2)])
    monkeypatch.setitem(theory.SEARCH, "steps", 30)
    monkeypatch.setattr(theory, "course", lambda starts, steps, full=theory.course: full(2, 30))
    output, play = tmp_path / "theory.csv", tmp_path / "play.csv"
    files = ["--output", str(output), "--play", str(play)]
    assert cli.main(["theory", "--games", "0", *files]) == 2
    assert "--games: must be at least 1, is 0" in capsys.readouterr().err
    assert cli.main(["theory", "--games", "5", *files]) == 0
    rows = pd.read_csv(output)
    assert len(rows) == 3 * 6
    gaining = rows[rows["gain"] > NOTHING]
    assert set(gaining["triplet"]) == {"drawn"}
    assert set(gaining["prior"]) == {"encoder"}
    assert len(gaining) == 6
    assert set(pd.read_csv(play)["step"]) >= {0, 1, 30}
    figure = draw("theory", {"games": [output], "play": [play]})
    words = [text.get_text() for axis in figure.subfigs[0].axes for text in axis.texts]
    assert words == ["nobody gains in 6 games", "someone gains in 6 of 6 games", "nobody gains in 3 games"]
    assert [len(axis.lines) for axis in figure.subfigs[1].axes] == [4, 3, 3, 3] * 2
