"""Priors: the contract that every family keeps, and what is special to each."""

from __future__ import annotations

import math
from collections.abc import Callable

import naive
import pytest
import torch
from runs import STEEPNESS, conversion
from torch import Tensor, nn

from introprior.errors import UserError
from introprior.experiment import families
from introprior.experiment.families import FAMILIES, Family
from introprior.game.distributions import Distribution, Gaussian, Posterior, Samples
from introprior.game.divergences import kl_monte_carlo, largest_entropy
from introprior.game.networks import MLPEncoder
from introprior.game.priors import Prior, Start
from introprior.game.priors.mixture import LearnedMixture, VampPrior, soft_clip

MEMBERS, COMPONENTS, DIM = 2, 5, 3


@pytest.fixture
def encoder() -> nn.Module:
    return MLPEncoder(2, DIM, 16, 2, [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)])


@pytest.fixture
def vamp() -> Callable[..., VampPrior]:
    def make(learnable_contributions: bool = False, bounds: tuple[float, float] | None = None) -> VampPrior:
        inputs = torch.randn(MEMBERS, COMPONENTS, 2, generator=torch.Generator().manual_seed(7))
        prior = VampPrior(inputs, None, learnable_contributions, bounds)
        if learnable_contributions:
            with torch.no_grad():
                prior.logits += torch.linspace(-2, 2, COMPONENTS)
        return prior

    return make


def learned(**options: object) -> LearnedMixture:
    g = torch.Generator().manual_seed(3)
    shape = (MEMBERS, COMPONENTS, DIM)
    means, logvars = (torch.randn(shape, generator=g) for _ in range(2))
    return LearnedMixture(means, logvars, **{"steepness": STEEPNESS, **options})


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def loss(prior: nn.Module, encode: nn.Module | None = None) -> Tensor:
    """Some function of the whole mixture."""
    z = torch.randn(MEMBERS, 9, DIM, generator=torch.Generator().manual_seed(1))
    return prior(encode).log_prob(z).mean()


# The contract, for every family


def begun(name: str, dim: int = 2, members: int = MEMBERS) -> Prior:
    """As a run begins with it."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(members)]
    data = torch.randn(members, 99, 2, generator=torch.Generator().manual_seed(7))
    family = FAMILIES[name]
    size, bounds = COMPONENTS if family.sized else 1, (-1.5, 1.5)
    start = Start(dim, size, family.contributions, lambda count: data[:, :count], generators, bounds)
    return family.load().begin(start)


@pytest.fixture
def encode() -> Callable[[Tensor], Posterior]:
    network = MLPEncoder(2, 2, 16, 2, [torch.Generator().manual_seed(seed) for seed in range(MEMBERS)])
    return lambda x: Posterior(*network(x))


@pytest.fixture(params=list(FAMILIES))
def stages(request, encode) -> list[Prior]:
    """A prior at the beginning, and in the game; its parameters are not those that it begins with any more."""
    first = begun(request.param)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    second = first.convert(encode, conversion(steepness=4.0))
    second.begin_game(clipped=FAMILIES[request.param].clipped)
    return [first, second]


def test_a_density_integrates_to_one(stages, encode):
    axis = torch.linspace(-30, 30, 301)
    plane = torch.cartesian_prod(axis, axis).expand(MEMBERS, -1, 2)
    for prior in dict.fromkeys(stages):  # which may be one and the same
        with torch.no_grad():
            mass = prior(encode).log_prob(plane).double().exp().sum(-1) * 0.2**2
        torch.testing.assert_close(mass, torch.ones(MEMBERS, dtype=torch.float64), rtol=0, atol=3e-3)


def test_samples_are_of_the_density(stages, encode):
    """The share of samples in each of sixteen wedges about the mean, against the density's."""
    axis = torch.linspace(-30, 30, 601)
    plane = torch.cartesian_prod(axis, axis)

    def wedge(z: Tensor, centre: Tensor) -> Tensor:
        angle = torch.atan2(*(z - centre).unbind(-1))
        return ((angle / (2 * math.pi) + 0.5) * 16).long().clamp(max=15)

    count = 20_000
    for prior in dict.fromkeys(stages):  # which may be one and the same
        with torch.no_grad():
            distribution = prior(encode)
            noise, uniforms = torch.randn(MEMBERS, count, 2), torch.rand(MEMBERS, count)
            samples = distribution.sample_with(noise, uniforms)
            density = distribution.log_prob(plane.expand(MEMBERS, -1, 2)).double().exp() * 0.1**2
        for e in range(MEMBERS):
            centre = samples[e].mean(0)
            expected = torch.zeros(16, dtype=torch.float64).index_add(0, wedge(plane, centre), density[e])
            found = torch.bincount(wedge(samples[e], centre), minlength=16) / count
            assert ((found - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt() + 4e-3).all()


def test_gradients_reach_every_parameter_and_stop_at_a_constant(stages, encode):
    """As a target through cross-entropy; as a source through samples, but for weights; not where it is detached."""
    posterior = Posterior(torch.randn(MEMBERS, 4, 2), torch.randn(MEMBERS, 4, 2))
    normal, uniform, draws = torch.randn(MEMBERS, 50, 2), torch.rand(MEMBERS, 50), torch.randn(MEMBERS, 8, 4, 2)

    def as_target(prior: Distribution) -> Tensor:
        return kl_monte_carlo(posterior, prior, Samples(draws)).square().sum()

    def as_source(prior: Distribution) -> Tensor:
        return prior.sample_with(normal, uniform).square().sum()

    for prior in stages:
        for use, but in ((as_target, ()), (as_source, ("logits",))):
            prior.zero_grad()
            if names(prior):
                use(prior(encode)).backward()
            for name, parameter in prior.named_parameters():
                taken = parameter.grad is not None and bool(parameter.grad.flatten(1).abs().sum(1).min() > 0)
                assert taken == (name not in but), name
            assert not use(prior(encode).detach()).requires_grad


def test_a_member_alone_is_what_it_is_in_company(stages, encode):
    z, noise, uniforms = torch.randn(MEMBERS, 7, 2), torch.randn(MEMBERS, 7, 2), torch.rand(MEMBERS, 7)
    posterior = Posterior(torch.randn(MEMBERS, 4, 2), torch.randn(MEMBERS, 4, 2))
    draws = Samples(torch.randn(MEMBERS, 6, 4, 2))
    for prior in stages:
        together = prior(encode)
        for e in range(MEMBERS):
            alone = together.member(e)
            own = Posterior(posterior.mean[e], posterior.logvar[e])
            torch.testing.assert_close(alone.log_prob(z[e]), together.log_prob(z)[e])
            torch.testing.assert_close(
                alone.sample_with(noise[e], uniforms[e]), together.sample_with(noise, uniforms)[e]
            )
            torch.testing.assert_close(
                alone.cross_entropy(own, Samples(draws.noise[e])), together.cross_entropy(posterior, draws)[e]
            )


def test_what_was_saved_is_restored(stages, encode):
    z = torch.randn(MEMBERS, 7, 2)
    for prior in stages:
        again = families.restored(families.saved(prior), prior.state_dict())
        assert type(again) is type(prior)
        assert torch.equal(again(encode).log_prob(z), prior(encode).log_prob(z))
        assert names(again) == names(prior)
        shared = set(prior.shared())
        tensors = dict((*prior.named_parameters(), *prior.named_buffers()))
        assert shared <= set(tensors)
        assert all(len(tensor) == MEMBERS for name, tensor in tensors.items() if name not in shared)


def test_only_what_has_components_tells_of_them(stages, encode):
    for prior in stages:
        assert (prior(encode).components() is not None) == FAMILIES[prior.family].components


def test_what_a_prior_does_not_know_of_itself_it_leaves_to_the_contract(stages, encode):
    first, second = stages
    if first.family != "mog":
        assert second is first
    for prior in stages:
        told = prior.diagnostics(None, None, None)
        assert (set(told) == {"prior_logvar_max", "prior_logvar_min"}) == isinstance(prior, LearnedMixture)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (Family("Flow", "x:Y", "F"), "cannot be a family's name"),
        (Family("vae", "x:Y", "F"), "cannot be a family's name"),
        (Family("flow2", "x:Y", "F"), "cannot be a family's name"),
        (Family("sg", "x:Y", "F"), "there is a family sg already"),
    ],
)
def test_a_family_has_a_name_of_its_own(family, said):
    before = dict(FAMILIES)
    with pytest.raises(UserError, match=said):
        families.register(family)
    families.register(FAMILIES["mog"])  # the same again
    assert before == FAMILIES


def test_a_checkpoint_of_an_unknown_family_is_refused():
    with pytest.raises(UserError, match="unknown family of priors 'torus'; known: sg, mog, flow"):
        families.restored({"family": "torus", "class": "Torus", "plain": {}}, {})


# Standard Gaussian


def test_the_standard_gaussian_has_nothing_to_learn():
    prior = begun("sg", dim=4)
    distribution = prior(None)
    assert isinstance(distribution, Gaussian)
    assert names(prior) == set()
    assert not distribution.mean.any()
    assert not distribution.logvar.any()
    assert distribution.mean.shape == (MEMBERS, 4)


# Flow


def test_members_of_an_ensemble_of_flows_begin_with_their_seeds_alone():
    together, alone = begun("flow"), begun("flow", members=1)
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one[:1], other)
        assert not torch.equal(one[0], one[1])


def test_a_flow_needs_two_dimensions():
    with pytest.raises(UserError, match="at least 2 latent dimensions, got 1"):
        begun("flow", dim=1)


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
    prior = VampPrior(values.expand(MEMBERS, 4, 2), bounds=(0.0, 1.0))
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
    mixture, (means, logvars) = prior.convert(encoder, conversion()), encoder(prior.pseudo_inputs)
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
    mixture = prior.convert(encoder, conversion(logits=logits))
    after = mixture().log_weights.exp()
    torch.testing.assert_close(after, torch.softmax(before, -1) if logits == "probabilities" else before)
    assert ("logits" in names(mixture)) == contributions
    if contributions and logits == "probabilities":  # softmax of softmax: no ratio above e
        assert after.max() / after.min() < math.e
        assert before.max() / before.min() > math.e


def test_isotropic_components_have_one_log_variance_each(vamp, encoder):
    prior = vamp()
    mixture, logvars = prior.convert(encoder, conversion(variance="isotropic")), encoder(prior.pseudo_inputs)[1]
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
        for parameter in prior.convert(encoder, conversion()).parameters():
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
    prior.begin_game(clipped=False)
    assert torch.equal(prior().logvars, prior.logvars)
    assert prior.low is None
    assert prior.high is None


@pytest.mark.parametrize("steepness", [10.0, 4.0])
def test_log_variances_are_clipped_to_the_range_at_that_moment(steepness):
    prior = learned(steepness=steepness)
    prior.begin_game(clipped=True)
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
    prior.begin_game(clipped=True)
    value = prior().logvars
    kept = (value.amax(1) - value.amin(1)) / (prior.high - prior.low).squeeze(1)
    torch.testing.assert_close(kept, torch.full((MEMBERS, DIM), 0.8614), rtol=0, atol=1e-4)


def test_a_single_component_is_clipped_to_its_value_with_finite_gradients():
    prior = LearnedMixture(torch.zeros(MEMBERS, 1, DIM), torch.full((MEMBERS, 1, DIM), -2.0), steepness=STEEPNESS)
    prior.begin_game(clipped=True)
    loss(prior).backward()
    torch.testing.assert_close(prior().logvars, torch.full((MEMBERS, 1, DIM), -2.0))
    assert torch.isfinite(prior.logvars.grad).all()


def test_bounds_travel_with_the_state():
    prior = learned()
    assert not {"low", "high"} & set(prior.state_dict())
    prior.begin_game(clipped=True)
    assert {"low", "high"} <= set(prior.state_dict())


@pytest.mark.parametrize(("components", "unit"), [(1, 1.0), (2, 1.0), (3, math.log(3)), (64, math.log(64))])
def test_log_m_divides_only_above_one(components, unit):
    assert largest_entropy(components) == pytest.approx(unit)


# Soft clipping

RANGES = [(-1.0, 1.0), (-9.0, -2.0), (0.0, 1e-3), (-300.0, 500.0)]


def bounds(low: float, high: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(low), torch.tensor(high)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("steepness", [1.0, 10.0, 40.0])
def test_soft_clip_is_equation_10(low, high, steepness):
    a, b = bounds(low, high)
    x = a + (b - a) * torch.linspace(-4, 5, 901)
    clipped = soft_clip(x, a, b, steepness)
    # Beyond 20, log(1 + e^u) is taken as u, off by less than e^-20; and 1e-8 is added to the range.
    tolerance = (b - a) * 2.1e-9 / steepness + 1e-8
    assert ((clipped - naive.soft_clip(x, a, b, steepness)).abs() <= tolerance).all()
    authors = naive.soft_clip_of_the_authors(x, a, b, steepness)
    torch.testing.assert_close(clipped, authors, rtol=1e-12, atol=1e-12 * (high - low) + 1e-15)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize(("steepness", "kept"), [(10.0, 0.8614), (5.0, None), (20.0, None)])
def test_soft_clip_keeps_the_share_of_the_range_that_equation_96_promises(low, high, steepness, kept):
    ends = torch.tensor([low, high])
    clipped = soft_clip(ends, *bounds(low, high), steepness)
    share = ((clipped[1] - clipped[0]) / (high - low)).item()
    bound = 1 - (math.log(4) - 2 * math.log1p(math.exp(-steepness))) / steepness
    assert share == pytest.approx(bound, abs=1e-4)  # 1e-8 beside a range of 1e-3
    if kept is not None:
        assert share == pytest.approx(kept, abs=1e-4)
        assert share >= 0.85  # the rho for which the paper chose K = 10


@pytest.mark.usefixtures("float64")
def test_a_steeper_soft_clip_keeps_more():
    shares = [soft_clip(torch.tensor([0.0, 1.0]), 0.0, 1.0, k).diff().item() for k in (2, 5, 10, 20, 80)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1 - math.log(4) / 80, abs=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_soft_clip_is_monotone_and_tends_to_its_bounds(low, high):
    width = high - low
    x = low + width * torch.linspace(-3, 4, 5001)
    clipped = soft_clip(x, low, high, STEEPNESS)
    assert (clipped.diff() >= -1e-12 * max(abs(low), abs(high))).all()
    assert (soft_clip(x[(x > low) & (x < high)], low, high, STEEPNESS).diff() > 0).all()
    assert low - 1e-9 * width <= clipped.min()
    assert clipped.max() <= high + 1e-9 * width
    far = soft_clip(torch.tensor([low - 50 * width, (low + high) / 2, high + 50 * width]), low, high, STEEPNESS)
    torch.testing.assert_close(far, torch.tensor([low, (low + high) / 2, high]), rtol=0, atol=1e-9 * width + 1e-12)


@pytest.mark.parametrize(("low", "high"), [*RANGES, (2.0, 2.0), (-7.0, -7.0), (0.0, 0.0)])
@pytest.mark.parametrize("offset", [-1000.0, -9.0, -1.0, 0.0, 0.5, 1.0, 9.0, 1000.0])
def test_gradients_are_finite_everywhere_in_float32(low, high, offset):
    # The authors' own form gives NaN from 8.87 ranges beyond a bound, and where both bounds are one.
    a, b = (t.requires_grad_() for t in bounds(low, high))
    x = torch.tensor(low + offset * ((high - low) or 1.0)).requires_grad_()
    clipped = soft_clip(x, a, b, STEEPNESS)
    gradients = torch.autograd.grad(clipped, (x, a, b))
    assert torch.isfinite(torch.stack((clipped, *gradients))).all()
    assert -1e-6 <= gradients[0] <= 1 + 1e-6
    slack = 2e-6 * max(abs(x.item()), abs(low), abs(high), 1e-3)
    assert low - slack <= clipped.item() <= high + slack


@pytest.mark.usefixtures("float64")
def test_soft_clip_takes_bounds_per_dimension():
    x = torch.randn(2, 6, 3)
    low, high = x.amin(-2, keepdim=True), x.amax(-2, keepdim=True)
    clipped = soft_clip(x, low, high, STEEPNESS)
    for e in range(2):
        for d in range(3):
            alone = soft_clip(x[e, :, d], low[e, 0, d], high[e, 0, d], STEEPNESS)
            torch.testing.assert_close(clipped[e, :, d], alone)
    kept = (clipped.amax(-2) - clipped.amin(-2)) / (high - low).squeeze(-2)
    torch.testing.assert_close(kept, torch.full((2, 3), 0.8614), rtol=0, atol=1e-4)
