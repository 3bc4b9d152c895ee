"""The losses of Eq. 98 against loops over samples, and who takes which gradient."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from torch import Tensor

from introprior.game import objectives
from introprior.game.objectives import Betas, Terms

pytestmark = pytest.mark.usefixtures("float64")

BETAS = Betas(0.2, 0.3, 0.9)
BATCH = 9


@pytest.fixture
def kinds(float64) -> list[Terms]:
    """Real data, decoded prior samples, reconstructions: errors and divergences, which can be negative when sampled."""
    g = torch.Generator().manual_seed(0)
    return [Terms(3 * torch.rand(BATCH, generator=g), torch.randn(BATCH, generator=g)) for _ in range(3)]


@pytest.mark.parametrize("dims", [1, 3])
def test_the_reconstruction_error_sums_squares_over_a_samples_elements(dims):
    shape = (4, 5, *([3] * dims))
    target, output = torch.randn(shape), torch.randn(shape)
    error = objectives.reconstruction_error(target, output, dims)
    assert error.shape == (4, 5)
    for e in range(4):
        torch.testing.assert_close(error[e], naive.squared_error(target[e], output[e]))


def test_the_vae_loss_has_no_scale(kinds):
    torch.testing.assert_close(objectives.vae_loss(kinds[0], BETAS), 0.2 * kinds[0].rec + 0.3 * kinds[0].kl)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("scale", "alpha"), [(1.0, 2.0), (0.5, 2.0), (1 / 784, 1.0)])
def test_the_encoder_loss_is_that_of_equation_98_for_every_sample(kinds, count, scale, alpha):
    real, *fakes = kinds[: 1 + count]
    loss = objectives.encoder_loss(real, fakes, BETAS, scale=scale, alpha=alpha)
    torch.testing.assert_close(loss, naive.encoder_loss(real, fakes, BETAS, scale, alpha))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("scale", "gamma", "gamma_r"), [(1.0, 1.0, 1e-8), (0.5, 0.7, 0.1)])
def test_decoder_prior_and_cooperation_losses_are_those_of_equation_98(kinds, count, scale, gamma, gamma_r):
    real, *fakes = kinds[: 1 + count]
    zeros = torch.zeros(BATCH)
    errors, kls = [fake.rec for fake in fakes], [fake.kl for fake in fakes]
    decoder = objectives.decoder_loss(real.rec, kls, BETAS, fakes_rec=errors, scale=scale, gamma=gamma, gamma_r=gamma_r)
    prior = objectives.prior_loss(real.kl, kls, BETAS, scale=scale, gamma=gamma)
    both = objectives.cooperation_loss(real, kls, BETAS, fakes_rec=errors, scale=scale, gamma=gamma, gamma_r=gamma_r)
    torch.testing.assert_close(decoder, naive.cooperation_loss((real.rec, zeros), fakes, BETAS, scale, gamma, gamma_r))
    sources = [(zeros, kl) for kl in kls]
    torch.testing.assert_close(prior, naive.cooperation_loss((zeros, real.kl), sources, BETAS, scale, gamma, gamma_r))
    torch.testing.assert_close(both, naive.cooperation_loss(real, fakes, BETAS, scale, gamma, gamma_r))


def test_the_gamma_r_term_can_be_left_out(kinds):
    real, fake = kinds[:2]
    without = objectives.cooperation_loss(real, [fake.kl], BETAS)
    nothing = Terms(torch.zeros(BATCH), fake.kl)
    torch.testing.assert_close(without, naive.cooperation_loss(real, [nothing], BETAS, 1.0, 1.0, 1e-8))
    change = objectives.cooperation_loss(real, [fake.kl], BETAS, fakes_rec=[fake.rec]) - without
    torch.testing.assert_close(change, 1e-8 * 0.2 * fake.rec, rtol=1e-6, atol=0)


def test_every_member_has_its_own_weights(kinds):
    members = [BETAS, Betas(1.0, 0.5, 0.25)]
    betas = Betas(*(torch.tensor(column).unsqueeze(-1) for column in zip(*members, strict=True)))
    real, *fakes = [Terms(kind.rec.expand(2, BATCH), kind.kl.expand(2, BATCH)) for kind in kinds]
    losses = {
        "vae": lambda real, fakes, b: objectives.vae_loss(real, b),
        "encoder": lambda real, fakes, b: objectives.encoder_loss(real, fakes, b, scale=0.5),
        "cooperation": lambda real, fakes, b: objectives.cooperation_loss(
            real, [f.kl for f in fakes], b, fakes_rec=[f.rec for f in fakes]
        ),
    }
    for name, loss in losses.items():
        together = loss(real, fakes, betas)
        for e, own in enumerate(members):
            torch.testing.assert_close(together[e], loss(kinds[0], kinds[1:], own), msg=name)


def test_the_exponential_is_taken_per_sample_before_any_mean():
    kl = torch.tensor([0.0, 100.0])
    loss = objectives.encoder_loss(Terms(torch.zeros(2), torch.zeros(2)), [Terms(torch.zeros(2), kl)], BETAS)
    assert loss.mean().item() == pytest.approx(0.25)  # mean of 1/2 and 0; exp of the mean would be 0
    assert loss.tolist() == pytest.approx([0.5, 0.0])


def test_cooperation_is_the_decoders_loss_for_the_decoder_and_the_priors_for_the_prior():
    """A toy model: the reconstruction depends on the decoder d, the real KL on the prior p, the fakes' KL on both."""
    d, p = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    real = Terms((d**2).sum().expand(BATCH), p.exp().sum().expand(BATCH))
    kls = [(d * p).sum().expand(BATCH), (d * p**2).sum().expand(BATCH)]
    errors = [d.sin().sum().expand(BATCH)] * 2
    options = {"scale": 0.5, "gamma": 0.7}

    def gradient(loss: Tensor, player: Tensor) -> Tensor:
        return torch.autograd.grad(loss.mean(), player, retain_graph=True)[0]

    both = objectives.cooperation_loss(real, kls, BETAS, fakes_rec=errors, gamma_r=0.1, **options)
    decoder = objectives.decoder_loss(real.rec, kls, BETAS, fakes_rec=errors, gamma_r=0.1, **options)
    prior = objectives.prior_loss(real.kl, kls, BETAS, **options)
    torch.testing.assert_close(gradient(both, d), gradient(decoder, d))
    torch.testing.assert_close(gradient(both, p), gradient(prior, p))
    assert not torch.allclose(gradient(both, d), gradient(prior, d))


# Responsibilities


def test_the_entropy_of_uniform_responsibilities_is_the_largest():
    uniform = torch.full((64,), 1 / 64)
    assert objectives.responsibility_entropy(uniform).item() == pytest.approx(math.log(64), abs=1e-5)
    one = torch.nn.functional.one_hot(torch.tensor(3), 64).double().requires_grad_()
    entropy = objectives.responsibility_entropy(one)
    assert entropy.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(entropy, one)[0]).all()


@pytest.mark.parametrize("components", [1, 2, 3, 64])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_responsibility_penalty_is_divided_by_log_m_only_above_one(components, normalised):
    shares = torch.softmax(torch.randn(3, components), -1)
    scale = 0.5 if normalised else 1.0
    penalty = objectives.responsibility_penalty(shares, 10.0, scale=scale, normalised=normalised)
    assert penalty.shape == (3,)
    for e in range(3):
        torch.testing.assert_close(penalty[e], naive.responsibility_penalty(shares[e], 10.0, scale, normalised))


def test_the_penalty_rewards_even_responsibilities():
    uneven, even = torch.tensor([0.9, 0.05, 0.05]), torch.full((3,), 1 / 3)
    assert objectives.responsibility_penalty(even, 1.0) < objectives.responsibility_penalty(uneven, 1.0) < 0
