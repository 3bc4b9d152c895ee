"""The losses against a naive script of the whole procedure, fed with the same random numbers; who takes gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import naive
import pytest
import torch
from naive import PROTOCOLS
from runs import STEEPNESS, a_member, density_run
from torch import Tensor, nn

from introprior.game import losses
from introprior.game.distributions import Gaussian, Posterior
from introprior.game.losses import Betas, Rules, Terms
from introprior.game.model import IntroVAE
from introprior.game.networks import MLPDecoder, MLPEncoder
from introprior.game.priors import Prior
from introprior.game.priors.gaussian import StandardGaussian
from introprior.game.priors.mixture import LearnedMixture, VampPrior
from introprior.game.randomness import MemberStreams
from introprior.training import loop

pytestmark = pytest.mark.usefixtures("float64")

EQUAL = {"rtol": 1e-9, "atol": 1e-10}
MEMBERS = (a_member(0, 0.2, 0.3, 0.9), a_member(1, 0.8, 0.5, 1.5))
BATCH, DIM, COMPONENTS = 8, 2, 5
CPU = torch.device("cpu")


def build(prior: str) -> IntroVAE:
    """Two members: ``sg``, ``vamp``, ``mog``, or ``clipped`` and isotropic; contributions learned and uneven."""
    generators = [torch.Generator().manual_seed(member.seed) for member in MEMBERS]
    sizes = (2, DIM, 16, 2)
    encoder, decoder = MLPEncoder(*sizes, generators), MLPDecoder(*sizes, generators)
    if prior == "sg":
        return IntroVAE(encoder, decoder, StandardGaussian(torch.zeros(len(MEMBERS), DIM)))
    shape = (len(MEMBERS), COMPONENTS, DIM)
    g = torch.Generator().manual_seed(2)
    means, logits = torch.randn(shape, generator=g), torch.randn(shape[:2], generator=g)
    if prior == "vamp":
        vamp = VampPrior(means, learnable_contributions=True)
        vamp.logits.data += logits
        return IntroVAE(encoder, decoder, vamp)
    variances = shape if prior == "mog" else (*shape[:2], 1)
    logvars = torch.randn(variances, generator=g) - 1
    mixture = LearnedMixture(means, logvars, logits, learnable_contributions=True, steepness=STEEPNESS)
    if prior == "clipped":
        mixture.begin_game(clipped=True)
        mixture.logvars.data *= 1.3  # some are beyond their bounds by now
    return IntroVAE(encoder, decoder, mixture)


def rules(protocol: str, cell: str = "mog5-lc-ip", overrides: dict[str, str] | None = None, **training: Any) -> Rules:
    run = density_run(cell, MEMBERS, protocol=protocol, overrides=overrides, monte_carlo_samples=6, **training)
    return loop.rules(run)


def data() -> Tensor:
    return torch.randn(len(MEMBERS), BATCH, 2, generator=torch.Generator().manual_seed(4))


def betas() -> Betas:
    return Betas(*(torch.tensor(column).unsqueeze(-1) for column in zip(*map(loop.betas, MEMBERS), strict=True)))


def streams() -> MemberStreams:
    return MemberStreams([member.seed for member in MEMBERS], CPU)


def gradients(player: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in player.parameters()]


class Duel:
    """A model and its naive copies, taken through the same losses."""

    def __init__(self, prior: str, rules: Rules, choices: naive.Choices):
        self.model, self.rules, self.choices = build(prior), rules, choices
        self.copies = [naive.Model(self.model, e) for e in range(len(MEMBERS))]
        self.x, self.streams = data(), streams()
        self.replays = naive.listen(self.streams)

    def naively(
        self, step: Callable[..., tuple[Tensor, object]], *per_member: Sequence[object], **options: Any
    ) -> list:
        """One of the script's steps for every member, with gradients for everyone."""
        results = []
        for e, member in enumerate(MEMBERS):
            loss, left = step(
                self.copies[e],
                self.x[e],
                *(column[e] for column in per_member),
                replay=self.replays[e],
                betas=loop.betas(member),
                choices=self.choices,
                **options,
            )
            loss.backward()
            assert self.replays[e].used_up()
            results.append((loss.detach(), left))
        return results

    def assert_losses(self, loss: Tensor, means: losses.Means, results: list) -> None:
        """The loss and what the history takes of it, its name first."""
        assert loss.shape == (len(MEMBERS), BATCH)
        values = torch.stack([value for value, _ in results])
        terms = [getattr(state, "terms", state) for _, state in results]
        torch.testing.assert_close(loss.detach().mean(-1), values, **EQUAL)
        expected = {name: torch.stack([own[name].mean() for own in terms]) for name in terms[0]}
        torch.testing.assert_close(means, {next(iter(means)): loss.mean(-1)} | expected, **EQUAL)

    def pairs(self, *players: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Parameters, and what the copies have in their place."""
        for player in players:
            for i, (name, parameter) in enumerate(getattr(self.model, player).named_parameters()):
                for e, copy in enumerate(self.copies):
                    own = copy.prior[name] if player == "prior" else copy.players()[player][i]
                    yield f"{player}.{name}[{e}]", parameter, own

    def assert_gradients(self, *players: str) -> None:
        for name, parameter, own in self.pairs(*players):
            e = int(name[-2])
            assert own.grad.abs().sum() > 0, name
            torch.testing.assert_close(parameter.grad[e], own.grad, **EQUAL, msg=lambda m, name=name: f"{name}: {m}")

    def update_encoders(self) -> None:
        """A step downhill on both sides; then everyone's gradients are forgotten."""
        with torch.no_grad():
            for parameter in (*self.model.encoder.parameters(), *(p for c in self.copies for p in c.encoder)):
                parameter -= 0.05 * parameter.grad
        self.model.zero_grad()
        for copy in self.copies:
            for parameter in (p for player in copy.players().values() for p in player):
                parameter.grad = None

    def encoder_step(self, **options: Any) -> tuple[losses.EncoderStep, list]:
        players = (self.model.encoder, self.model.prior) if options.get("prior_learns") else (self.model.encoder,)
        with losses.learning(*players, among=self.model):
            loss, step, means = losses.encoder_loss(self.model, self.x, self.streams, betas(), self.rules, **options)
            loss.mean(-1).sum().backward()
        results = self.naively(naive.encoder_step, **options)
        self.assert_losses(loss, means, results)
        return step, [state for _, state in results]

    def game(self, prior_learns: bool, with_encoder: bool = False) -> None:
        """An encoder's step, its update, a decoder's step; losses and gradients agree all the way."""
        step, states = self.encoder_step(prior_learns=with_encoder)
        self.assert_gradients("encoder", *["prior"] * with_encoder)
        self.update_encoders()
        players = ("decoder", "prior") if prior_learns else ("decoder",)
        with losses.learning(*(getattr(self.model, player) for player in players), among=self.model):
            loss, means = losses.decoder_prior_loss(
                self.model, self.x, step, self.streams, betas(), self.rules, prior_learns=prior_learns
            )
            loss.mean(-1).sum().backward()
        self.assert_losses(loss, means, self.naively(naive.decoder_step, states, prior_learns=prior_learns))
        self.assert_gradients(*players)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("prior", ["sg", "vamp", "mog"])
def test_the_warm_up_equals_the_naive_script(prior, protocol):
    agree_on_the_warm_up(Duel(prior, rules(protocol), PROTOCOLS[protocol]), prior)


@pytest.mark.parametrize("prior", ["vamp", "mog"])
def test_the_warm_up_with_the_cauchy_schwarz_divergence_equals_the_naive_script(prior):
    choices = PROTOCOLS["authors"]._replace(cauchy_schwarz=True)
    agree_on_the_warm_up(Duel(prior, rules("authors", "mog5-cs"), choices), prior)


def agree_on_the_warm_up(duel: Duel, prior: str) -> None:
    loss, means = losses.warmup_loss(duel.model, duel.x, duel.streams, betas(), duel.rules)
    loss.mean(-1).sum().backward()
    duel.assert_losses(loss, means, duel.naively(naive.warmup_step))
    duel.assert_gradients("encoder", "decoder", *(["prior"] if prior != "sg" else []))


@pytest.mark.parametrize(
    ("prior", "prior_learns", "r_entropy"),
    [("sg", False, 0.0), ("mog", False, 0.0), ("mog", True, 0.0), ("mog", False, 3.0), ("clipped", True, 3.0)],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_game_equals_the_naive_script(protocol, prior, prior_learns, r_entropy):
    choices = PROTOCOLS[protocol]._replace(r_entropy=r_entropy)
    Duel(prior, rules(protocol, r_entropy=r_entropy), choices).game(prior_learns)


@pytest.mark.parametrize("r_entropy", [0.0, 3.0])
@pytest.mark.parametrize("prior", ["vamp", "mog", "clipped"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_game_of_a_prior_that_sides_with_the_encoder_equals_the_naive_script(protocol, prior, r_entropy):
    """Paired with the encoder, as a VampPrior, or free."""
    choices = PROTOCOLS[protocol]._replace(r_entropy=r_entropy)
    duel = Duel(prior, rules(protocol, "mog5-lc-ep", r_entropy=r_entropy), choices)
    duel.game(prior_learns=False, with_encoder=True)
    assert gradients(duel.model.prior) == [None] * len(list(duel.model.prior.parameters()))  # in the decoder's step


@pytest.mark.parametrize(
    ("prior", "with_decoder", "with_encoder", "r_entropy"),
    [("mog", False, False, 0.0), ("clipped", True, False, 3.0), ("vamp", False, True, 3.0)],
)
def test_the_game_with_the_cauchy_schwarz_divergence_equals_the_naive_script(
    prior, with_decoder, with_encoder, r_entropy
):
    choices = PROTOCOLS["authors"]._replace(cauchy_schwarz=True, r_entropy=r_entropy)
    Duel(prior, rules("authors", "mog5-cs", r_entropy=r_entropy), choices).game(with_decoder, with_encoder)


def test_the_game_in_closed_form_equals_the_naive_script():
    choices = PROTOCOLS["authors"]._replace(closed_form=True)
    Duel("sg", rules("authors", "sg-dt-closed"), choices).game(prior_learns=False)


def test_the_closed_form_is_that_of_the_prior_at_hand():
    """A unit Gaussian about 3 is 9 / 2 nats from one about 0, per dimension, and is drawn to it."""
    centre, origin = torch.full((len(MEMBERS), DIM), 3.0, requires_grad=True), torch.zeros(len(MEMBERS), DIM)
    posterior = Posterior(torch.zeros(len(MEMBERS), 1, DIM), torch.zeros(len(MEMBERS), 1, DIM))
    kl = losses.divergence(posterior, Gaussian(centre, origin), streams(), rules("authors", "sg-dt-closed"))
    torch.testing.assert_close(kl, torch.full((len(MEMBERS), 1), 4.5 * DIM))
    kl.sum().backward()
    torch.testing.assert_close(centre.grad, torch.full_like(centre, 3.0))


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"gamma_r_terms": "compute"}, {"gamma_r_terms": True}),
        ({"fake_terms": "generated"}, {"reconstructions": False}),
        ({"decoder_noise": "reused"}, {"fresh_noise": False}),
        ({"loss_scale": "none"}, {"scale": 1.0}),
        ({"responsibility_weight": "plain"}, {"normalised": False}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_every_option_of_the_protocol_alone_equals_the_naive_script(overrides, changed):
    numbers = {"r_entropy": 2.0, "alpha": 1.5, "gamma": 0.7, "gamma_r": 0.1}  # large enough to tell in the gradients
    choices = PROTOCOLS["authors"]._replace(**numbers, **changed)
    Duel("clipped", rules("authors", overrides=overrides, **numbers), choices).game(prior_learns=True)


def test_the_target_of_a_reconstructions_own_error_stays_attached():
    duel = Duel("mog", rules("authors"), PROTOCOLS["authors"]._replace(detached_target=True))
    duel.encoder_step()  # the loss is the same, the gradient is not
    distance = [(p.grad[int(name[-2])] - own.grad).abs().max() for name, p, own in duel.pairs("encoder")]
    assert max(distance) > 1e-4


# Formulas, sample by sample


def paper(**changes: Any) -> Rules:
    """The authors' rules, but for some changes."""
    return replace(rules("authors"), **changes)


BETAS = Betas(0.2, 0.3, 0.9)
NINE = 9


@pytest.fixture
def kinds(float64) -> list[Terms]:
    """Real data, decoded prior samples, reconstructions: errors and divergences, which can be negative when sampled."""
    g = torch.Generator().manual_seed(0)
    return [Terms(3 * torch.rand(NINE, generator=g), torch.randn(NINE, generator=g)) for _ in range(3)]


@pytest.mark.parametrize("dims", [1, 3])
def test_the_reconstruction_error_sums_squares_over_a_samples_elements(dims):
    shape = (4, 5, *([3] * dims))
    target, output = torch.randn(shape), torch.randn(shape)
    error = losses.reconstruction_error(target, output, dims)
    assert error.shape == (4, 5)
    for e in range(4):
        torch.testing.assert_close(error[e], naive.squared_error(target[e], output[e]))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("scale", "alpha"), [(1.0, 2.0), (0.5, 2.0), (1 / 784, 1.0)])
def test_the_encoder_loss_is_that_of_equation_98_for_every_sample(kinds, count, scale, alpha):
    real, *fakes = kinds[: 1 + count]
    loss = losses.encoder_objective(
        real, Terms(*map(torch.cat, zip(*fakes, strict=True))), BETAS, paper(scale=scale, alpha=alpha)
    )
    torch.testing.assert_close(loss, naive.encoder_loss(real, fakes, BETAS, scale, alpha))


def test_the_exponential_is_taken_per_sample_before_any_mean():
    kl = torch.tensor([0.0, 100.0])
    loss = losses.encoder_objective(
        Terms(torch.zeros(2), torch.zeros(2)), Terms(torch.zeros(2), kl), BETAS, paper(scale=1.0)
    )
    assert loss.mean().item() == pytest.approx(0.25)  # mean of 1/2 and 0; exp of the mean would be 0
    assert loss.tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("components", [1, 2, 3, 64])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_responsibility_penalty_is_divided_by_log_m_only_above_one(components, normalised):
    shares = torch.softmax(torch.randn(3, components), -1)
    scale = 0.5 if normalised else 1.0
    penalty = losses.responsibility_penalty(shares, paper(scale=scale, r_entropy=10.0, normalised_entropy=normalised))
    assert penalty.shape == (3,)
    for e in range(3):
        torch.testing.assert_close(penalty[e], naive.responsibility_penalty(shares[e], 10.0, scale, normalised))


def test_the_penalty_rewards_even_responsibilities():
    uneven, even, rules = torch.tensor([0.9, 0.05, 0.05]), torch.full((3,), 1 / 3), paper(scale=1.0, r_entropy=1.0)
    assert losses.responsibility_penalty(even, rules) < losses.responsibility_penalty(uneven, rules) < 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_loss_serves_decoder_and_prior(protocol):
    """Its gradient in the decoder is that of L_D, in the prior that of L_P, each of Eq. 98 with all its terms."""
    numbers = {"alpha": 1.5, "gamma": 0.7, "gamma_r": 0.1}
    choices = PROTOCOLS[protocol]._replace(**numbers, gamma_r_terms=True)
    duel = Duel("clipped", rules(protocol, overrides={"gamma_r_terms": "compute"}, **numbers), choices)
    step, states = duel.encoder_step()
    duel.update_encoders()
    with losses.learning(duel.model.decoder, duel.model.prior, among=duel.model):
        loss, _ = losses.decoder_prior_loss(duel.model, duel.x, step, duel.streams, betas(), duel.rules, True)
        loss.mean(-1).sum().backward()
    for e, copy in enumerate(duel.copies):
        terms = naive.decoder_terms(copy, duel.x[e], states[e], duel.replays[e], choices, prior_learns=True)
        real, fakes, weights = *terms, loop.betas(MEMBERS[e])
        of_decoder = naive.decoder_loss(real, fakes, weights, choices).mean()
        of_prior = naive.prior_loss(real, fakes, weights, choices).mean()
        for player, value in (("decoder", of_decoder), ("prior", of_prior)):
            pairs = [(ours, own) for name, ours, own in duel.pairs(player) if name.endswith(f"[{e}]")]
            expected = torch.autograd.grad(value, [own for _, own in pairs], retain_graph=True)
            for (ours, _), gradient in zip(pairs, expected, strict=True):
                torch.testing.assert_close(ours.grad[e], gradient, **EQUAL)


# Who takes gradients, who is a constant


def game_gradients(
    model: IntroVAE, rules: Rules, prior_learns: bool = True, freeze: bool = False
) -> dict[str, Tensor | None]:
    """The decoder step's gradients by name, the real posteriors being those of the present encoder."""
    model.zero_grad()
    stream, x = streams(), data()
    _, step, _ = losses.encoder_loss(model, x, stream, betas(), rules)
    learners = [model.decoder] + [model.prior] * prior_learns if freeze else [model]
    with losses.learning(*learners, among=model):
        losses.decoder_prior_loss(model, x, step, stream, betas(), rules, prior_learns)[0].sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("prior", ["sg", "mog"])
def test_in_the_encoders_step_only_the_encoder_takes_gradients(prior, protocol):
    model = build(prior)
    with losses.learning(model.encoder, among=model):
        loss, step, _ = losses.encoder_loss(model, data(), streams(), betas(), rules(protocol, r_entropy=1.0))
        loss.sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model.encoder))
    assert gradients(model.decoder) == [None] * len(list(model.decoder.parameters()))
    assert gradients(model.prior) == [None] * len(list(model.prior.parameters()))
    constants = (*step.posterior, step.z, step.real_kl, *step.prior_noise)
    assert not any(tensor.requires_grad for tensor in constants)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_prior_is_a_constant_in_the_encoders_step_even_unfrozen(protocol):
    model = build("mog")
    losses.encoder_loss(model, data(), streams(), betas(), rules(protocol, r_entropy=1.0))[0].sum().backward()
    assert gradients(model.prior) == [None] * 3


@pytest.mark.parametrize("prior", ["vamp", "mog"])
def test_with_the_encoder_a_prior_takes_gradients_from_the_real_data_alone(prior):
    """Whatever the weight of fakes, the prior's gradient is that of the real data's KL."""
    taken = []
    for neg in (0.9, 50.0):
        model = build(prior)
        weights = betas()._replace(neg=neg)
        with losses.learning(model.encoder, model.prior, among=model):
            loss, step, _ = losses.encoder_loss(model, data(), streams(), weights, rules("authors"), True)
            loss.sum().backward()
        assert not any(tensor.requires_grad for tensor in vars(step.target).values())
        taken.append(model)
    for one, other in zip(*(gradients(model.prior) for model in taken), strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0
    assert not torch.equal(*(gradients(model.encoder)[0] for model in taken))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("prior_learns", [False, True], ids=["fixed", "ip"])
def test_in_the_decoders_step_the_prior_takes_gradients_only_with_ip(protocol, prior_learns):
    taken = game_gradients(build("mog"), rules(protocol), prior_learns, freeze=True)
    for name, gradient in taken.items():
        learns = name.startswith("decoder") or (prior_learns and name.startswith("prior"))
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == learns, name


def test_without_ip_the_prior_is_a_constant_even_unfrozen():
    taken = game_gradients(build("mog"), rules("authors"), prior_learns=False)
    assert [taken[f"prior.{name}"] for name in ("means", "logvars", "logits")] == [None] * 3


def without_fakes(rules: Rules) -> Rules:
    return replace(rules, gamma=0.0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_contributions_take_gradients_from_the_real_divergence_alone(protocol):
    ours = rules(protocol)
    everything, real = (game_gradients(build("mog"), r) for r in (ours, without_fakes(ours)))
    torch.testing.assert_close(everything["prior.logits"], real["prior.logits"])
    assert real["prior.logits"].abs().sum() > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_a_source_the_prior_takes_gradients_from_the_fakes(protocol):
    ours = rules(protocol)
    everything, real = (game_gradients(build("mog"), r) for r in (ours, without_fakes(ours)))
    for name in ("prior.means", "prior.logvars"):
        assert (everything[name] - real[name]).abs().max() > 1e-4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_a_target_of_fakes_the_prior_is_a_constant(protocol):
    """A decoder that ignores its latents cuts the path through the source: what were left is that of the target."""
    ours, taken = rules(protocol), []
    for r in (ours, without_fakes(ours)):
        model = build("mog")
        next(model.decoder.parameters()).data.zero_()
        taken.append(game_gradients(model, r))
    for name in ("prior.means", "prior.logvars", "prior.logits"):
        torch.testing.assert_close(taken[0][name], taken[1][name])
        assert taken[0][name].abs().sum() > 0


def test_the_terms_of_gamma_r_change_next_to_nothing():
    # Without IP their random numbers are the last that are drawn, so all the rest is alike.
    omitted = game_gradients(build("mog"), rules("authors"), prior_learns=False, freeze=True)
    computed = game_gradients(
        build("mog"), rules("authors", overrides={"gamma_r_terms": "compute"}), prior_learns=False, freeze=True
    )
    names = [name for name in omitted if name.startswith("decoder")]
    changes = torch.stack([(omitted[name] - computed[name]).abs().max() for name in names])
    assert 0 < changes.max() < 1e-6
    assert all(omitted[name].abs().max() > 1e-3 for name in names)


@pytest.mark.parametrize("player", ["encoder", "decoder", "prior"])
def test_freezing_ends_with_its_block_whatever_happens(player):
    model = build("mog")
    learning: set[str] = set()

    def fail() -> None:
        with losses.learning(getattr(model, player), among=model):
            learning.update(name for name, parameter in model.named_parameters() if parameter.requires_grad)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert learning == {name for name, _ in model.named_parameters() if name.startswith(player)}
    assert all(parameter.requires_grad for parameter in model.parameters())


# Several batches in one pass


class Normalising(nn.Module):
    """An encoder whose outputs depend on the whole batch, as with BatchNorm; images ``[B, C, H, W]``."""

    couples_samples, event_dims, latent_dim = True, 3, 12

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1)
        flat = (flat - flat.mean(0)) / flat.std(0)
        return flat, flat.exp()


class Scaling(nn.Module):
    """A decoder of latents ``[B, 3 * 2 * 2]`` to images, and an encoder back."""

    couples_samples, event_dims, latent_dim = False, 3, 12

    def forward(self, z: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return 2 * z.unflatten(-1, (3, 2, 2)) if z.dim() == 2 else (z.flatten(1), z.flatten(1) + 1)


@pytest.mark.parametrize("encoder", [Normalising(), Scaling()], ids=["coupled", "independent"])
def test_batches_of_images_do_not_affect_each_other(encoder):
    model = IntroVAE(encoder, Scaling(), Prior())
    images = [torch.randn(4, 3, 2, 2) + i for i in range(3)]
    alone = (torch.cat(parts) for parts in zip(*map(encoder, images), strict=True))
    for ours, theirs in zip(model.encode(torch.cat(images), 3), alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    latents = [torch.randn(4, 12) for _ in range(3)]
    torch.testing.assert_close(model.decode(torch.cat(latents), 3), torch.cat([model.decode(z) for z in latents]))


def test_batches_of_an_ensemble_keep_their_order():
    model, batches = build("sg"), [data(), 1 - data(), 2 * data()]
    together = torch.cat(batches, 1)
    torch.testing.assert_close(model.encode(together, 3).mean, torch.cat([model.encode(x).mean for x in batches], 1))
    torch.testing.assert_close(model.decode(together, 3), torch.cat([model.decode(z) for z in batches], 1))
