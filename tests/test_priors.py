"""The three priors, their gradients, and the conversion from VampPrior to free mixture."""

from __future__ import annotations

import math
from collections.abc import Callable

import naive
import pytest
import torch
from torch import Tensor, nn

from introprior.game.networks import MLPEncoder
from introprior.game.priors import LearnedMixture, StandardGaussian, VampPrior, to_mixture, uniform_entropy

MEMBERS, COMPONENTS, DIM = 2, 5, 3


@pytest.fixture
def encoder() -> nn.Module:
    return MLPEncoder(2, DIM, 16, 2, [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)])


@pytest.fixture
def vamp() -> Callable[..., VampPrior]:
    def make(learnable_contributions: bool = False, bounds: tuple[float, float] | None = None) -> VampPrior:
        inputs = torch.randn(MEMBERS, COMPONENTS, 2, generator=torch.Generator().manual_seed(7))
        prior = VampPrior(inputs, learnable_contributions, bounds, members=1)
        if learnable_contributions:
            with torch.no_grad():
                prior.logits += torch.linspace(-2, 2, COMPONENTS)
        return prior

    return make


def learned(**options: object) -> LearnedMixture:
    g = torch.Generator().manual_seed(3)
    shape = (MEMBERS, COMPONENTS, DIM)
    return LearnedMixture(torch.randn(shape, generator=g), torch.randn(shape, generator=g), **options)


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def loss(prior: nn.Module, encode: nn.Module | None = None) -> Tensor:
    """Some function of the whole mixture."""
    z = torch.randn(MEMBERS, 9, DIM, generator=torch.Generator().manual_seed(1))
    return prior(encode).log_prob(z).mean()


# Standard Gaussian


def test_the_standard_gaussian_has_nothing_to_learn():
    prior = StandardGaussian(4)
    mixture = prior()
    assert names(prior) == set()
    assert mixture.components == 1
    assert not any(t.any() for t in (mixture.means, mixture.logvars, mixture.log_weights))
    assert mixture.means.shape == (1, 4)


# VampPrior


@pytest.mark.parametrize("contributions", [False, True])
def test_gradients_reach_pseudo_inputs_encoder_and_with_lc_the_contributions(vamp, encoder, contributions):
    prior = vamp(contributions)
    loss(prior, encoder).backward()
    for parameter in (*prior.parameters(), *encoder.parameters()):
        assert all(parameter.grad[e].abs().sum() > 0 for e in range(MEMBERS))
    assert names(prior) == {"pseudo_inputs"} | ({"logits"} if contributions else set())


def test_the_vamp_prior_is_the_mixture_of_the_pseudo_inputs_posteriors(vamp, encoder):
    prior = vamp(True)
    mixture, (means, logvars) = prior(encoder), encoder(prior.pseudo_inputs)
    assert torch.equal(mixture.means, means)
    assert torch.equal(mixture.logvars, logvars)
    torch.testing.assert_close(mixture.log_weights.exp(), torch.softmax(prior.logits, -1))


@pytest.mark.parametrize("make", [lambda vamp: vamp(), lambda vamp: learned()], ids=["vamp", "mixture"])
def test_without_lc_the_contributions_are_uniform_and_no_parameter(vamp, encoder, make):
    prior = make(vamp)
    torch.testing.assert_close(
        prior(encoder).log_weights, torch.full((MEMBERS, COMPONENTS), -math.log(COMPONENTS)), rtol=0, atol=1e-6
    )
    assert "logits" not in names(prior)
    assert "logits" in prior.state_dict()


def test_pseudo_inputs_at_or_beyond_a_bound_are_frozen(encoder):
    values = torch.tensor([[0.0, 0.5], [1.0, 0.25], [-0.5, 1.5], [1e-6, 1 - 1e-6]])
    prior = VampPrior(values.expand(MEMBERS, 4, 2), bounds=(0.0, 1.0), members=1)
    loss(prior, encoder).backward()
    inside = (values > 0) & (values < 1)
    assert torch.equal(prior.pseudo_inputs.grad != 0, inside.expand(MEMBERS, 4, 2))
    assert torch.equal(prior(encoder).means, encoder(values.clamp(0, 1).expand(MEMBERS, 4, 2))[0])


def test_pseudo_inputs_without_bounds_go_anywhere(vamp, encoder):
    prior = vamp()
    with torch.no_grad():
        prior.pseudo_inputs *= 100
    loss(prior, encoder).backward()
    assert (prior.pseudo_inputs.grad.abs().sum((0, 1)) > 0).all()
    assert torch.equal(prior(encoder).means, encoder(prior.pseudo_inputs)[0])


# Conversion


def test_the_free_mixture_starts_as_the_encoders_posteriors(vamp, encoder):
    prior = vamp(True)
    mixture, (means, logvars) = to_mixture(prior, encoder), encoder(prior.pseudo_inputs)
    assert torch.equal(mixture.means, means)
    assert torch.equal(mixture.logvars, logvars)
    assert names(mixture) == {"means", "logvars", "logits"}
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in mixture.parameters())
    loss(mixture).backward()
    assert all(parameter.grad is None for parameter in (*prior.parameters(), *encoder.parameters()))


@pytest.mark.parametrize("logits", ["probabilities", "log-probabilities"])
@pytest.mark.parametrize("contributions", [False, True])
def test_contributions_after_the_conversion(vamp, encoder, logits, contributions):
    prior = vamp(contributions)
    before = torch.softmax(prior.logits.detach(), -1)
    mixture = to_mixture(prior, encoder, logits=logits)
    after = mixture().log_weights.exp()
    torch.testing.assert_close(after, torch.softmax(before, -1) if logits == "probabilities" else before)
    assert ("logits" in names(mixture)) == contributions
    if contributions and logits == "probabilities":  # softmax of softmax: no ratio above e
        assert after.max() / after.min() < math.e
        assert before.max() / before.min() > math.e


def test_isotropic_components_have_one_log_variance_each(vamp, encoder):
    prior = vamp()
    mixture, logvars = to_mixture(prior, encoder, variance="isotropic"), encoder(prior.pseudo_inputs)[1]
    assert mixture.logvars.shape == (MEMBERS, COMPONENTS, 1)
    value = mixture().logvars
    assert value.shape == (MEMBERS, COMPONENTS, DIM)
    torch.testing.assert_close(value, logvars.mean(-1, keepdim=True).expand_as(value))
    loss(mixture).backward()
    assert (mixture.logvars.grad != 0).all()


def test_the_vamp_prior_is_left_as_it_was(vamp, encoder):
    prior = vamp(True)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    with torch.no_grad():
        for parameter in to_mixture(prior, encoder).parameters():
            parameter += 1
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


# The free mixture


@pytest.mark.parametrize("contributions", [False, True])
def test_what_a_free_mixture_learns(contributions):
    prior = learned(learnable_contributions=contributions)
    loss(prior).backward()
    assert names(prior) == {"means", "logvars"} | ({"logits"} if contributions else set())
    assert all((parameter.grad.flatten(1).abs().sum(1) > 0).all() for parameter in prior.parameters())


def test_nothing_is_clipped_until_asked():
    prior = learned()
    assert torch.equal(prior().logvars, prior.logvars)
    assert prior.low is None
    assert prior.high is None


@pytest.mark.parametrize("steepness", [10.0, 4.0])
def test_log_variances_are_clipped_to_the_range_at_that_moment(steepness):
    prior = learned(steepness=steepness)
    prior.clip_to_present_range()
    low, high = prior.logvars.detach().amin(1, keepdim=True), prior.logvars.detach().amax(1, keepdim=True)
    assert torch.equal(prior.low, low)
    assert torch.equal(prior.high, high)
    with torch.no_grad():
        prior.logvars *= 20  # bounds are taken once: they do not follow
    value = prior().logvars
    torch.testing.assert_close(value, naive.soft_clip_of_the_authors(prior.logvars, low, high, steepness))
    assert ((value >= low - 1e-4) & (value <= high + 1e-4)).all()


def test_clipping_contracts_the_very_values_that_it_was_taken_from():
    prior = learned()
    prior.clip_to_present_range()
    value = prior().logvars
    kept = (value.amax(1) - value.amin(1)) / (prior.high - prior.low).squeeze(1)
    torch.testing.assert_close(kept, torch.full((MEMBERS, DIM), 0.8614), rtol=0, atol=1e-4)


def test_a_single_component_is_clipped_to_its_value_with_finite_gradients():
    prior = LearnedMixture(torch.zeros(MEMBERS, 1, DIM), torch.full((MEMBERS, 1, DIM), -2.0))
    prior.clip_to_present_range()
    loss(prior).backward()
    torch.testing.assert_close(prior().logvars, torch.full((MEMBERS, 1, DIM), -2.0))
    assert torch.isfinite(prior.logvars.grad).all()


def test_bounds_travel_with_the_state():
    prior = learned()
    assert not {"low", "high"} & set(prior.state_dict())
    prior.clip_to_present_range()
    assert {"low", "high"} <= set(prior.state_dict())


@pytest.mark.parametrize(("components", "unit"), [(1, 1.0), (2, 1.0), (3, math.log(3)), (64, math.log(64))])
def test_log_m_divides_only_above_one(components, unit):
    assert uniform_entropy(components) == pytest.approx(unit)
