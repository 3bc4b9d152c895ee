"""The distributions that priors return: densities, samples, cross-entropies."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from introprior.errors import UserError
from introprior.game.distributions import Distribution, Gaussian, GaussianMixture, Moments, Posterior, Samples

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random_mixture(*lead: int, components: int = 7, dim: int = 3, seed: int = 0) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)
    shape = (*lead, components, dim)
    means, logvars = 2 * torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    return GaussianMixture(means, logvars, torch.log_softmax(torch.randn(shape[:-1], generator=g), -1))


def oracle(mixture: GaussianMixture) -> naive.Mixture:
    return naive.Mixture(mixture.means, mixture.logvars, mixture.log_weights)


# Densities


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("components", "dim"), [(1, 2), (2, 1), (7, 3), (64, 2)])
def test_log_prob_and_responsibilities_equal_the_three_way_broadcast(lead, components, dim):
    mixture = random_mixture(*lead, components=components, dim=dim)
    z = 3 * torch.randn(*lead, 11, dim, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixture.log_prob(z), naive.log_prob(z, oracle(mixture)), **EXACT)
    shares = mixture.responsibilities(z)
    torch.testing.assert_close(shares, naive.responsibilities(z, oracle(mixture)), **EXACT)
    torch.testing.assert_close(shares.sum(-1), torch.ones(*lead, 11), **EXACT)


@pytest.mark.usefixtures("float64")
def test_the_broadcast_itself_equals_torch_distributions():
    mixture = random_mixture()
    z = torch.randn(20, 3)
    reference = MixtureSameFamily(
        Categorical(logits=mixture.log_weights), Independent(Normal(mixture.means, (mixture.logvars / 2).exp()), 1)
    )
    torch.testing.assert_close(naive.log_prob(z, oracle(mixture)), reference.log_prob(z), **EXACT)


@pytest.mark.usefixtures("float64")
def test_log_prob_has_the_gradients_of_the_broadcast():
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    gradients = []
    for log_prob in (GaussianMixture.log_prob, lambda mixture, z: naive.log_prob(z, oracle(mixture))):
        mixture, inputs = random_mixture(2), z.clone()
        leaves = [inputs, mixture.means, mixture.logvars, mixture.log_weights]
        for leaf in leaves:
            leaf.requires_grad_()
        gradients.append(torch.autograd.grad(log_prob(mixture, inputs).square().sum(), leaves))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_far_from_every_component_nothing_underflows():
    mixture = random_mixture()
    z = torch.tensor([[1e4, -1e4, 1e4], [300.0, 0.0, 0.0]])
    assert (naive.log_joint(z, oracle(mixture)).exp() == 0).all()  # without log-sum-exp, log 0
    torch.testing.assert_close(mixture.log_prob(z), naive.log_prob(z, oracle(mixture)), rtol=1e-10, atol=0)
    torch.testing.assert_close(
        mixture.responsibilities(z), naive.responsibilities(z, oracle(mixture)), rtol=0, atol=1e-6
    )


def test_float32_loses_little_where_training_takes_place():
    g = torch.Generator().manual_seed(0)
    means, logvars = 2 * torch.randn(64, 2, generator=g), 0.5 * torch.randn(64, 2, generator=g) - 3
    mixture = GaussianMixture(means, logvars, torch.full((64,), -math.log(64)))
    z = 2 * torch.randn(500, 2, generator=g)
    exact = oracle(GaussianMixture(means.double(), logvars.double(), mixture.log_weights.double()))
    torch.testing.assert_close(mixture.log_prob(z).double(), naive.log_prob(z.double(), exact), rtol=1e-4, atol=1e-4)
    shares = naive.responsibilities(z.double(), exact)
    torch.testing.assert_close(mixture.responsibilities(z).double(), shares, rtol=0, atol=2e-4)


@pytest.mark.usefixtures("float64")
def test_the_density_integrates_to_one():
    mixture = random_mixture(components=5, dim=2)
    axis = torch.arange(-22, 22, 0.1)
    grid = torch.cartesian_prod(axis, axis)
    assert mixture.log_prob(grid).exp().sum().item() * 0.1**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_gaussian_is_that_of_torch(lead):
    mean, logvar, z = torch.randn(*lead, 4), torch.randn(*lead, 4), torch.randn(*lead, 9, 4)
    reference = Normal(mean.unsqueeze(-2), (logvar / 2).exp().unsqueeze(-2))
    torch.testing.assert_close(Gaussian(mean, logvar).log_prob(z), reference.log_prob(z).sum(-1), **EXACT)
    torch.testing.assert_close(
        Gaussian(mean, logvar).sample_with(z, torch.rand(*lead, 9)), reference.mean + reference.stddev * z
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["mixture", "gaussian"])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_better_way_to_the_cross_entropy_is_the_default_one(kind, lead):
    """Values, and gradients in posterior and prior, against Monte Carlo over the log-density."""
    mixture = random_mixture(*lead)
    parts = [mixture.means, mixture.logvars, mixture.log_weights]
    prior: Distribution = mixture
    if kind == "gaussian":
        parts = [mixture.means[..., 0, :].clone(), mixture.logvars[..., 0, :].clone()]
        prior = Gaussian(*parts)
    posterior = Posterior(torch.randn(*lead, 5, 3), torch.randn(*lead, 5, 3))
    noise = Samples(torch.randn(*lead, 6, 5, 3))
    leaves = [leaf.requires_grad_() for leaf in (*posterior, *parts)]
    results = [
        cross_entropy(prior, posterior, noise)
        for cross_entropy in (type(prior).cross_entropy, Distribution.cross_entropy)
    ]
    torch.testing.assert_close(*results, **EXACT)
    weights = torch.linspace(-1, 2, results[0].numel()).view_as(results[0])
    for ours, default in zip(*(torch.autograd.grad((r * weights).sum(), leaves) for r in results), strict=True):
        torch.testing.assert_close(ours, default, rtol=1e-9, atol=1e-10)


def test_a_mixture_needs_more_of_the_noise_than_its_moments():
    posterior = Posterior(torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(TypeError, match="needs the samples"):
        random_mixture().cross_entropy(posterior, Moments(torch.zeros(5, 3), torch.ones(5, 3)))


def test_a_kl_without_a_closed_form_is_refused_in_one_line():
    with pytest.raises(UserError, match="GaussianMixture: its KL has no closed form"):
        random_mixture().kl(Posterior(torch.zeros(5, 3), torch.zeros(5, 3)))


def test_detaching_makes_a_constant_of_equal_value():
    mixture = random_mixture()
    mixture.means.requires_grad_()
    constant = mixture.detach()
    assert not any(t.requires_grad for t in (constant.means, constant.logvars, constant.log_weights))
    torch.testing.assert_close(constant.means, mixture.means.detach())


# Sampling


def draws(n: int, dim: int, *lead: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, n, dim, generator=g), torch.rand(*lead, n, generator=g)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("components", [1, 2, 7])
def test_samples_invert_the_cumulative_weights(components):
    mixture, (noise, uniforms) = random_mixture(components=components), draws(50, 3)
    torch.testing.assert_close(
        mixture.sample_with(noise, uniforms), naive.draw(oracle(mixture), noise, uniforms), **EXACT
    )


@pytest.mark.usefixtures("float64")
def test_members_sample_from_their_own_mixtures():
    mixture, (noise, uniforms) = random_mixture(3), draws(20, 3, 3)
    samples = mixture.sample_with(noise, uniforms)
    for e in range(3):
        own = naive.Mixture(*(part[e] for part in oracle(mixture)))
        torch.testing.assert_close(samples[e], naive.draw(own, noise[e], uniforms[e]), **EXACT)


@pytest.mark.usefixtures("float64")
def test_samples_have_the_moments_and_frequencies_of_the_mixture():
    n, mixture = 40_000, random_mixture(dim=2)
    samples, weights = mixture.sample_with(*draws(n, 2)), mixture.log_weights.exp()
    mean = weights @ mixture.means
    second = weights @ (mixture.means**2 + mixture.logvars.exp())
    for values, expected in ((samples, mean), (samples**2, second)):
        assert ((values.mean(0) - expected).abs() < 5 * values.std(0) / math.sqrt(n)).all()
    apart = GaussianMixture(100 * torch.arange(7.0)[:, None].expand(7, 2), torch.zeros(7, 2), mixture.log_weights)
    counts = torch.bincount((apart.sample_with(*draws(n, 2, seed=1))[:, 0] / 100).round().long(), minlength=7)
    assert ((counts - n * weights).abs() < 5 * (n * weights * (1 - weights)).sqrt()).all()


def test_sampling_is_a_function_of_its_randomness():
    mixture, randomness = random_mixture(), draws(30, 3)
    assert torch.equal(mixture.sample_with(*randomness), mixture.sample_with(*randomness))
    assert not torch.equal(mixture.sample_with(*randomness), mixture.sample_with(randomness[0], randomness[1].flip(0)))


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_component_without_weight_is_never_chosen(zero):
    weights = torch.full((3,), 0.5)
    weights[zero] = 0
    mixture = GaussianMixture(torch.arange(3.0)[:, None], torch.full((3, 1), -40.0), weights.log())
    uniforms = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999999])
    samples = mixture.sample_with(torch.zeros(5, 1), uniforms)[:, 0]
    allowed = [k for k in range(3) if k != zero]
    assert samples.tolist() == [allowed[0], allowed[0], allowed[1], allowed[1], allowed[1]]


def test_the_largest_uniform_number_chooses_the_last_component():
    short = 0
    for m in range(2, 200):  # rounded weights may add up to less than it
        mixture = GaussianMixture(
            torch.arange(float(m))[:, None], torch.full((m, 1), -40.0), torch.full((m,), 1 / m).log()
        )
        largest = torch.tensor([1 - 2.0**-24])
        short += bool(mixture.log_weights.exp().cumsum(0)[-1] <= largest)
        assert mixture.sample_with(torch.zeros(1, 1), largest).item() == m - 1
    assert short


def test_samples_carry_gradients_to_means_and_log_variances_but_not_to_weights():
    mixture, (noise, uniforms) = random_mixture(), draws(200, 3)
    for leaf in (mixture.means, mixture.logvars, mixture.log_weights):
        leaf.requires_grad_()
    upstream = torch.randn(200, 3, generator=torch.Generator().manual_seed(3))
    leaves = (mixture.means, mixture.logvars, mixture.log_weights)
    gradients = torch.autograd.grad((mixture.sample_with(noise, uniforms) * upstream).sum(), leaves, allow_unused=True)
    expected = torch.autograd.grad((naive.draw(oracle(mixture), noise, uniforms) * upstream).sum(), leaves[:2])
    assert gradients[2] is None
    for ours, theirs in zip(gradients[:2], expected, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_samples_by_count_are_those_of_their_generators_numbers():
    mixture = random_mixture(dim=4)
    generator = torch.Generator().manual_seed(5)
    noise, uniforms = torch.randn(10, 4, generator=generator), torch.rand(10, generator=generator)
    samples = mixture.sample(10, 4, torch.Generator().manual_seed(5))
    torch.testing.assert_close(samples, mixture.sample_with(noise, uniforms))
