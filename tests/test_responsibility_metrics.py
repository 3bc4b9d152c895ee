"""Normalised entropy of responsibilities, per batch and pooled: float64 loops as the oracle, limits, concavity."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from introprior.game.distributions import GaussianMixture
from introprior.metrics.responsibilities import NormalisedEntropy, normalised_entropy

Posteriors = tuple[torch.Tensor, torch.Tensor]


def problem(components: int, images: int, dim: int = 3, seed: int = 0) -> tuple[Posteriors, GaussianMixture]:
    """Random posteriors and a random mixture, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixture = GaussianMixture(
        2 * normal(components, dim), 0.5 * normal(components, dim), torch.log_softmax(normal(components), 0)
    )
    return (2 * normal(images, dim), normal(images, dim) - 1), mixture


def entropy(posteriors: Posteriors, mixture: GaussianMixture, batch_size: int, draws: int) -> NormalisedEntropy:
    generator = torch.Generator().manual_seed(7)
    return normalised_entropy(
        *posteriors, mixture, batch_size=batch_size, generator=generator, monte_carlo_samples=draws
    )


def naive(posteriors: Posteriors, mixture: GaussianMixture, batch_size: int, draws: int) -> tuple[float, float]:
    """Eq. 11 sample by sample; the same noise, drawn batch by batch."""
    generator = torch.Generator().manual_seed(7)
    mean, logvar = posteriors
    images, dim = mean.shape
    components = len(mixture.means)

    def density(z: list[float], k: int) -> float:
        value = mixture.log_weights[k].exp().item()
        for d in range(dim):
            variance = mixture.logvars[k, d].exp().item()
            value *= math.exp(-((z[d] - mixture.means[k, d].item()) ** 2) / (2 * variance))
            value /= math.sqrt(2 * math.pi * variance)
        return value

    def entropy_of(c: list[float]) -> float:
        unit = math.log(components) if math.log(components) > 1 else 1.0
        return -sum(p * math.log(p + 1e-8) for p in c) / unit

    per_batch, everything = 0.0, [0.0] * components
    for start in range(0, images, batch_size):
        size = min(batch_size, images - start)
        noise = torch.randn(draws, size, dim, generator=generator, dtype=mean.dtype)
        c = [0.0] * components
        for t in range(draws):
            for i in range(size):
                z = [
                    (mean[start + i, d] + (logvar[start + i, d] / 2).exp() * noise[t, i, d]).item() for d in range(dim)
                ]
                densities = [density(z, k) for k in range(components)]
                for k in range(components):
                    c[k] += densities[k] / sum(densities)
        per_batch += size * entropy_of([value / (draws * size) for value in c])
        everything = [a + b / (draws * images) for a, b in zip(everything, c, strict=True)]
    return per_batch / images, entropy_of(everything)


@pytest.mark.parametrize("components", [1, 2, 3, 6])
def test_entropies_equal_loops_over_samples(components: int) -> None:
    posteriors, mixture = problem(components, images=11)
    found = entropy(posteriors, mixture, batch_size=4, draws=5)  # batches of 4, 4 and 3
    assert found == pytest.approx(naive(posteriors, mixture, 4, 5), abs=1e-7 if components == 1 else 1e-12)


def test_float32_is_close_to_float64() -> None:
    posteriors, mixture = problem(100, images=300, dim=8)
    generator = torch.Generator().manual_seed(0)
    rough = normalised_entropy(
        *(part.float() for part in posteriors),
        GaussianMixture(mixture.means.float(), mixture.logvars.float(), mixture.log_weights.float()),
        batch_size=32,
        generator=generator,
        monte_carlo_samples=100,
    )
    assert rough == pytest.approx(entropy(posteriors, mixture, 32, 100), abs=5e-3)


@given(
    components=st.integers(3, 12), images=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 999)
)
@settings(max_examples=50, deadline=None)
def test_per_batch_is_never_above_pooled(components: int, images: int, batch_size: int, seed: int) -> None:
    posteriors, mixture = problem(components, images, seed=seed)
    found = entropy(posteriors, mixture, batch_size, draws=3)
    assert 0 <= found.per_batch <= found.pooled + 1e-12
    assert found.pooled <= 1 + 1e-6
    if batch_size >= images:
        assert found.per_batch == found.pooled


def test_batches_of_one_class_hide_what_the_whole_uses() -> None:
    """Each batch on a component of its own: 0 per batch, 1 pooled; the two agree where every batch sees everything."""
    means = 100 * torch.eye(5, dtype=torch.float64)
    mixture = GaussianMixture(means, torch.zeros_like(means), torch.full((5,), -math.log(5), dtype=torch.float64))
    sorted_by_class = means.repeat_interleave(8, 0)
    logvar = torch.full_like(sorted_by_class, -4)
    found = entropy((sorted_by_class, logvar), mixture, 8, draws=4)
    assert found == pytest.approx((0, 1), abs=1e-6)
    assert entropy((means.repeat(8, 1), logvar), mixture, 10, draws=4) == pytest.approx((1, 1), abs=1e-6)


def test_a_single_component_has_no_entropy() -> None:
    posteriors, mixture = problem(1, images=9)
    assert entropy(posteriors, mixture, 4, draws=5) == (0, 0)


def test_unequal_weights_lower_the_entropy_of_components_that_coincide() -> None:
    """Responsibilities are then the weights themselves."""
    posteriors, _ = problem(4, images=12)
    weights = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    expected = -(weights * weights.log()).sum().item() / math.log(4)
    assert entropy(posteriors, GaussianMixture(zeros, zeros, weights.log()), 5, 3) == pytest.approx((expected,) * 2)


def test_posteriors_that_are_not_finite_give_nan() -> None:
    (mean, logvar), mixture = problem(4, images=12)
    mean[3, 1] = math.nan
    assert all(map(math.isnan, entropy((mean, logvar), mixture, 5, 3)))
