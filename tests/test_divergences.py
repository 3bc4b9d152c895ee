"""Divergences and responsibilities against the three-way broadcast, closed forms, and the paper's derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import naive
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from introprior.game import fused
from introprior.game.distributions import Gaussian, GaussianMixture, Posterior, Samples
from introprior.game.divergences import (
    cauchy_schwarz,
    kl_monte_carlo,
    responsibilities,
    responsibility_entropy,
)
from introprior.game.randomness import MemberStreams

EXACT = {"rtol": 1e-10, "atol": 1e-10}
INPUTS = ("mean", "logvar", "means", "logvars", "logits")


def case(*lead: int, draws: int = 6, batch: int = 5, components: int = 7, dim: int = 3, spread: float = 2.0) -> dict:
    """Posteriors, a mixture (as logits, so that its weights are normalised whatever their gradient) and noise."""
    g = torch.Generator().manual_seed(draws * components + dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=g)

    return {
        "mean": spread * normal(batch, dim),
        "logvar": normal(batch, dim) - 1,
        "means": spread * normal(components, dim),
        "logvars": normal(components, dim),
        "logits": normal(components),
        "noise": normal(draws, batch, dim),
    }


def ours(values: dict[str, Tensor]) -> Tensor:
    mixture = GaussianMixture(values["means"], values["logvars"], torch.log_softmax(values["logits"], -1))
    return kl_monte_carlo(Posterior(values["mean"], values["logvar"]), mixture, Samples(values["noise"]))


def theirs(values: dict[str, Tensor]) -> Tensor:
    mixture = naive.Mixture(values["means"], values["logvars"], torch.log_softmax(values["logits"], -1))
    return naive.kl_monte_carlo(values["mean"], values["logvar"], mixture, values["noise"])


def with_gradients(
    kl: Callable[[dict[str, Tensor]], Tensor], values: dict[str, Tensor], learning: tuple[str, ...] = INPUTS
) -> tuple[Tensor, dict[str, Tensor]]:
    """The divergences, and the gradients of an arbitrary function of them in the inputs that learn."""
    values = {name: value.detach().clone().requires_grad_(name in learning) for name, value in values.items()}
    result = kl(values)
    weights = torch.linspace(-1, 2, result.numel(), dtype=result.dtype).view_as(result)
    leaves = [values[name] for name in learning]
    gradients = torch.autograd.grad((result * weights).sum(), leaves, materialize_grads=True)
    return result.detach(), dict(zip(learning, gradients, strict=True))


def assert_agree(values: dict[str, Tensor], learning: tuple[str, ...] = INPUTS) -> None:
    (kl, gradients), (expected, expected_gradients) = (with_gradients(f, values, learning) for f in (ours, theirs))
    torch.testing.assert_close(kl, expected, **EXACT)
    for name in learning:
        torch.testing.assert_close(gradients[name], expected_gradients[name], rtol=1e-9, atol=1e-10, msg=name)


# Against the broadcast


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("shape", [{}, {"components": 1}, {"dim": 1}, {"draws": 1, "batch": 1}, {"components": 40}])
def test_values_and_all_gradients_equal_the_broadcast(lead, shape):
    assert_agree(case(*lead, **shape))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("block", [1, 35, 80, 150, 250, 10_000])
def test_the_size_of_a_block_changes_nothing(block, monkeypatch):
    # 5 samples x 7 components are 35 elements a draw, 210 a member: blocks of 1, 1, 2 and 4 draws, of 1 and 3 members.
    monkeypatch.setattr(fused, "_BLOCK", dict.fromkeys(fused._BLOCK, block))
    assert_agree(case(3))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("learning", [("mean", "logvar"), ("mean",), ("means", "logvars", "logits"), ("means",)])
@pytest.mark.parametrize("components", [1, 7])
def test_any_player_may_be_frozen(learning, components):
    assert_agree(case(2, components=components), learning)


@pytest.mark.usefixtures("float64")
def test_the_contributions_alone_may_learn():
    assert_agree(case(2), ("logits",))


@pytest.mark.usefixtures("float64")
def test_the_members_may_share_a_mixture_without_member_axis():
    values = case(3)
    values |= {name: values[name][0] for name in ("means", "logvars", "logits")}
    (kl, gradients), spread = with_gradients(ours, values), dict(values)
    spread |= {name: values[name].expand(3, *values[name].shape) for name in ("means", "logvars", "logits")}
    expected, expected_gradients = with_gradients(theirs, spread)
    torch.testing.assert_close(kl, expected, **EXACT)
    for name in INPUTS:
        wanted = expected_gradients[name]
        wanted = wanted.sum(0) if wanted.dim() > gradients[name].dim() else wanted
        torch.testing.assert_close(gradients[name], wanted, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("distance", [30.0, 1e3, 1e5])
def test_components_far_away_neither_underflow_nor_leak(distance):
    values = case()
    values["mean"] = values["mean"] + distance
    values["means"][0] += 2 * distance
    _, gradients = with_gradients(ours, values)
    _, expected = with_gradients(theirs, values)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    torch.testing.assert_close(ours(values), theirs(values), rtol=1e-9, atol=0)
    for name in INPUTS:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-6, atol=1e-6, msg=name)


def test_float32_loses_little_where_training_takes_place():
    values = case(2, draws=20, batch=64, components=64, dim=2)
    values |= {"logvar": values["logvar"] - 2, "logvars": values["logvars"] / 2 - 3}
    kl, gradients = with_gradients(ours, values)
    expected, expected_gradients = with_gradients(theirs, {name: value.double() for name, value in values.items()})
    torch.testing.assert_close(kl.double(), expected, rtol=1e-4, atol=1e-4)
    for name in INPUTS:
        scale = expected_gradients[name].abs().max()
        assert ((gradients[name] - expected_gradients[name]).abs() < 1e-4 * scale).all(), name


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("components", [1, 7])
def test_mean_responsibilities_equal_the_broadcast(lead, components):
    values = case(*lead, components=components)
    mixture = (values["means"], values["logvars"], torch.log_softmax(values["logits"], -1))
    posterior = [values[name].requires_grad_() for name in ("mean", "logvar")]
    shares = responsibilities(Posterior(*posterior), GaussianMixture(*mixture), values["noise"])
    expected = naive.mean_responsibilities(*posterior, naive.Mixture(*mixture), values["noise"])
    torch.testing.assert_close(shares, expected, **EXACT)
    torch.testing.assert_close(shares.sum(-1), torch.ones(lead), **EXACT)
    weights = torch.arange(float(components))
    for pair in zip(*(torch.autograd.grad((c * weights).sum(), posterior) for c in (shares, expected)), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-10)


# Memory


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, backward passes included."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


@pytest.mark.parametrize("learning", [("mean", "logvar"), INPUTS], ids=["fixed-mixture", "learning-mixture"])
def test_memory_never_holds_samples_by_components_by_dimensions(learning):
    draws, batch, components, dim = 100, 16, 64, 32
    values = case(draws=draws, batch=batch, components=components, dim=dim)
    with Largest() as largest:
        with_gradients(ours, values, learning)
    few = {name: value[:2] if name == "noise" else value for name, value in values.items()}
    with Largest() as broadcast:
        with_gradients(theirs, few, learning)
    assert broadcast.numel == 2 * batch * components * dim  # the gauge works
    assert largest.numel <= draws * batch * (2 * dim + 1)  # the features [z^2, z, 1]; with 64 components, above T B M


def test_with_a_fixed_mixture_memory_never_holds_samples_by_components():
    values = case(draws=100, batch=512, components=64, dim=2)  # the paper's sizes
    with Largest() as largest:
        with_gradients(ours, values, ("mean", "logvar"))
    assert largest.numel < 100 * 512 * 64 / 5


def test_nothing_is_kept_for_a_backward_pass_that_will_not_come():
    values = case(draws=100, batch=16, components=64, dim=2)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        values["mean"].requires_grad_()
        ours(values)
    assert 0 < max(kept) < 100 * 16 * 64


# Closed form


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_closed_form_is_that_of_torch_distributions(lead):
    """For any Gaussian prior, with gradients to it and to the posterior."""
    values = case(*lead)
    leaves = [values["mean"], values["logvar"], values["means"][..., 0, :] + 3, values["logvars"][..., 0, :] - 1]
    mean, logvar, prior_mean, prior_logvar = (leaf.requires_grad_() for leaf in leaves)
    kl = Gaussian(prior_mean, prior_logvar).kl(Posterior(mean, logvar))
    target = Normal(prior_mean.unsqueeze(-2), (prior_logvar / 2).exp().unsqueeze(-2))
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), target).sum(-1)
    torch.testing.assert_close(kl, expected, **EXACT)
    for pair in zip(*(torch.autograd.grad(f.sum(), leaves) for f in (kl, expected)), strict=True):
        torch.testing.assert_close(*pair, **EXACT)


def test_under_the_standard_gaussian_the_closed_form_is_the_textbooks_to_the_bit():
    mean, logvar = case(2)["mean"], case(2)["logvar"]
    kl = Gaussian(torch.zeros(2, 3), torch.zeros(2, 3)).kl(Posterior(mean, logvar))
    assert torch.equal(kl, 0.5 * (mean * mean + logvar.exp() - 1 - logvar).sum(-1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("as_mixture", [False, True])
def test_monte_carlo_agrees_with_the_closed_form(as_mixture):
    # As a mixture: two halves of the standard Gaussian that are both the whole of it, so that nothing is simplified.
    runs, draws, batch = 400, 25, 4
    mean, logvar = torch.randn(batch, 2), torch.randn(batch, 2)
    target = standard = Gaussian(torch.zeros(2), torch.zeros(2))
    if as_mixture:
        target = GaussianMixture(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0.3, 0.7]).log())
    noise = torch.randn(runs, draws, batch, 2, generator=torch.Generator().manual_seed(0))
    estimates = torch.stack([kl_monte_carlo(Posterior(mean, logvar), target, Samples(eps)) for eps in noise])
    error = estimates.std(0) / math.sqrt(runs)
    assert ((estimates.mean(0) - standard.kl(Posterior(mean, logvar))).abs() < 5 * error).all()
    assert (error > 0).all()


@pytest.mark.usefixtures("float64")
def test_the_divergence_from_itself_is_zero_for_every_sample():
    mean, logvar = torch.randn(1, 3), torch.randn(1, 3)
    for weights in ([1.0], [0.25, 0.75]):
        copies = len(weights)
        itself = GaussianMixture(mean.expand(copies, 3), logvar.expand(copies, 3), torch.tensor(weights).log())
        torch.testing.assert_close(
            kl_monte_carlo(Posterior(mean, logvar), itself, Samples(torch.randn(9, 1, 3))), torch.zeros(1), **EXACT
        )


# Cauchy and Schwarz


def by_quadrature(values: dict[str, Tensor]) -> Tensor:
    """The definition, its three integrals as sums over a grid; densities by torch.distributions."""
    axis = torch.linspace(-14, 14, 449)
    dim, cell = values["means"].shape[-1], float(axis[1] - axis[0])
    z = torch.cartesian_prod(*[axis] * dim).view(-1, dim)

    def density(mean: Tensor, logvar: Tensor) -> Tensor:
        return Normal(mean, (logvar / 2).exp()).log_prob(z.unsqueeze(-2)).sum(-1).exp()

    q, p = density(values["mean"], values["logvar"]), density(values["means"], values["logvars"])
    p = (p * torch.softmax(values["logits"], -1)).sum(-1, keepdim=True)
    overlap, own, prior = ((f * g).sum(0) * cell**dim for f, g in ((q, p), (q, q), (p, p)))
    return -(overlap / (own * prior).sqrt()).log()


def exactly(values: dict[str, Tensor]) -> Tensor:
    mixture = GaussianMixture(values["means"], values["logvars"], torch.log_softmax(values["logits"], -1))
    return cauchy_schwarz(Posterior(values["mean"], values["logvar"]), mixture)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("dim", "components"), [(1, 1), (1, 3), (2, 3)])
def test_the_cauchy_schwarz_divergence_is_that_of_its_integrals(dim, components):
    values = case(dim=dim, components=components, spread=1.5)
    (found, gradients), (expected, slopes) = (with_gradients(f, values) for f in (exactly, by_quadrature))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (found > 0).all()
    for name in INPUTS:
        torch.testing.assert_close(gradients[name], slopes[name], rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_the_cauchy_schwarz_divergence_has_the_gradients_of_finite_differences(lead):
    values = case(*lead, batch=2, components=3, dim=2)
    inputs = [values[name].requires_grad_() for name in INPUTS]
    assert exactly(values).shape == (*lead, 2)
    assert torch.autograd.gradcheck(lambda *parts: exactly(dict(zip(INPUTS, parts, strict=True))), inputs)


def test_the_cauchy_schwarz_divergence_of_far_and_narrow_gaussians_is_finite():
    values = case(spread=1e3) | {"logvar": torch.full((5, 3), -60.0), "logvars": torch.full((7, 3), 60.0)}
    found, gradients = with_gradients(exactly, values)
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


# The paper's derivatives, T = 1 and one posterior, components sigma_i^2 I


@pytest.fixture
def single(float64):
    """One sample z of one posterior; means, standard deviations and energies e (w = e / sum e) of M = 4 components."""
    g = torch.Generator().manual_seed(5)
    return {
        "mean": torch.randn(1, 3, generator=g),
        "logvar": torch.randn(1, 3, generator=g),
        "noise": torch.randn(1, 1, 3, generator=g),
        "mu": torch.randn(4, 3, generator=g).requires_grad_(),
        "sigma": (0.5 + torch.rand(4, 1, generator=g)).requires_grad_(),
        "e": (0.2 + torch.rand(4, generator=g)).requires_grad_(),
    }


def components(single: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    w = single["e"] / single["e"].sum()
    return single["mu"], 2 * single["sigma"].log().expand(4, 3), w.log()


def sample_and_densities(single: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """z_s, the components' densities at z_s, and c^s by its definition."""
    z = single["mean"] + (single["logvar"] / 2).exp() * single["noise"][0]
    means, logvars, log_weights = components(single)
    density = naive.log_gaussian(z, means, logvars).exp()
    weighted = log_weights.exp() * density
    return z.detach(), density.detach(), (weighted / weighted.sum()).detach()


def test_equations_105_and_106_are_the_derivatives_in_the_prior(single):
    kl = kl_monte_carlo(
        Posterior(single["mean"], single["logvar"]), GaussianMixture(*components(single)), Samples(single["noise"])
    )
    by_mu, by_sigma, by_e = torch.autograd.grad(kl.sum(), (single["mu"], single["sigma"], single["e"]))
    z, density, c = sample_and_densities(single)
    mu, sigma, e = (single[name].detach() for name in ("mu", "sigma", "e"))
    difference, c = z - mu, c.unsqueeze(-1)
    torch.testing.assert_close(by_mu, -c * difference / sigma**2)
    # For D dimensions that share sigma_i, Eq. 105 sums over them.
    torch.testing.assert_close(by_sigma, (-c * (difference**2 - sigma**2) / sigma**3).sum(-1, keepdim=True))
    mixture_density = (e / e.sum() * density).sum()
    torch.testing.assert_close(by_e, (mixture_density - density) / (e * density).sum())


def test_equations_101_and_103_are_the_derivative_in_the_sample(single):
    z, _, c = sample_and_densities(single)
    z.requires_grad_()
    means, logvars, log_weights = (t.detach() for t in components(single))
    log_q = naive.log_gaussian(z, single["mean"], single["logvar"])
    kl = log_q - GaussianMixture(means, logvars, log_weights).log_prob(z)
    by_z = torch.autograd.grad(kl.sum(), z, retain_graph=True)[0]
    pull = (single["mean"] - z) / single["logvar"].exp()
    pulls = (means - z) / logvars.exp()
    torch.testing.assert_close(by_z, pull - (c.unsqueeze(-1) * pulls).sum(0))  # Eq. 101, minus d log q / dz and all
    to_each = [
        torch.autograd.grad((log_q - GaussianMixture(m[None], v[None], torch.zeros(1)).log_prob(z)).sum(), z,
                            retain_graph=True)[0]
        for m, v in zip(means, logvars, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(by_z, sum(c_i * gradient for c_i, gradient in zip(c, to_each, strict=True)))


def test_the_gradient_in_the_posterior_goes_through_the_sample(single):
    # dz/dmean = 1 and dz/dlogvar = sigma eps / 2, while log q(z) = -logvar/2 - eps^2/2 + const.
    mean, logvar, noise = single["mean"].requires_grad_(), single["logvar"].requires_grad_(), single["noise"]
    kl = kl_monte_carlo(Posterior(mean, logvar), GaussianMixture(*components(single)), Samples(noise))
    by_mean, by_logvar = torch.autograd.grad(kl.sum(), (mean, logvar))
    z, _, c = sample_and_densities(single)
    means, logvars, _ = components(single)
    pull = (c.unsqueeze(-1) * (means - z) / logvars.exp()).sum(0)
    torch.testing.assert_close(by_mean, -pull.unsqueeze(0))
    torch.testing.assert_close(by_logvar, -0.5 - pull * (logvar / 2).exp() * noise[0] / 2)


def test_moments_are_distributed_as_those_of_drawn_noise():
    """Against noise drawn in full: location and spread of both moments, and their independence."""
    n, draws = 40_000, 10
    first, second = MemberStreams([0], torch.device("cpu")).moments(draws, n)
    noise = torch.randn(draws, n, generator=torch.Generator().manual_seed(1))
    for ours, drawn in ((first[0], noise.mean(0)), (second[0], (noise * noise).mean(0))):
        assert kstest(ours.numpy(), drawn.numpy()).pvalue > 1e-3
    variances = second[0] - first[0] ** 2
    assert abs(torch.corrcoef(torch.stack((first[0], variances)))[0, 1]) < 4 / n**0.5
    alone, square = MemberStreams([0], torch.device("cpu")).moments(1, 5)
    torch.testing.assert_close(square, alone * alone)


# Entropy of the responsibilities


@pytest.mark.usefixtures("float64")
def test_the_entropy_of_uniform_responsibilities_is_the_largest():
    uniform = torch.full((64,), 1 / 64)
    assert responsibility_entropy(uniform).item() == pytest.approx(math.log(64), abs=1e-5)
    one = torch.nn.functional.one_hot(torch.tensor(3), 64).double().requires_grad_()
    entropy = responsibility_entropy(one)
    assert entropy.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(entropy, one)[0]).all()
