"""The rows "Entr." of Tables 2 and 5: how evenly the prior's components answer for the aggregated posterior."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from introprior.game.distributions import GaussianMixture, Posterior
from introprior.game.divergences import largest_entropy, responsibilities, responsibility_entropy


class NormalisedEntropy(NamedTuple):
    """Entropy of mean responsibilities over log M: 0 where one component takes all, 1 where all share alike.

    Divided by log M only where that exceeds 1, as in the authors' code: with one or two components it is in nats.

    Attributes:
        per_batch: the mean, over images, of the entropy of their batch's mean responsibilities: the authors' code.
        pooled: the entropy of the mean responsibilities of all images: what the paper's text describes (Eq. 11). It is
            never below ``per_batch``, since entropy is concave; the smaller the batches, the larger the difference.
    """

    per_batch: float
    pooled: float


@torch.no_grad()
def normalised_entropy(
    mean: Tensor,
    logvar: Tensor,
    mixture: GaussianMixture,
    *,
    batch_size: int,
    generator: torch.Generator,
    monte_carlo_samples: int,
) -> NormalisedEntropy:
    """Both entropies in one pass over the posteriors of the test split.

    Args:
        mean, logvar: ``[N, D]``, in the order in which the images are batched.
        mixture: the prior, means ``[M, D]``.
        batch_size: 128, on CIFAR-10 32; the last batch may be smaller, and counts for less.
        generator: of the samples of z, on the posteriors' device.
        monte_carlo_samples: samples of z per image.

    Returns:
        the entropies, NaN where posteriors or prior are not finite.

    >>> p = GaussianMixture(20 * torch.arange(4.0).unsqueeze(-1), torch.zeros(4, 1), torch.full((4,), 0.25).log())
    >>> entropy = normalised_entropy(  # four images, each a component's own and a batch of its own
    ...     p.means, p.logvars, p, batch_size=1, generator=torch.Generator(), monte_carlo_samples=1
    ... )
    >>> [round(value, 3) for value in entropy]
    [0.0, 1.0]
    """
    means, shares = [], []
    for m, v in zip(mean.split(batch_size), logvar.split(batch_size), strict=True):
        noise = torch.randn(monte_carlo_samples, *m.shape, generator=generator, dtype=m.dtype, device=m.device)
        means.append(responsibilities(Posterior(m, v), mixture, noise).double())
        shares.append(len(m) / len(mean))
    of_batches = torch.stack(means)
    share = torch.tensor(shares, dtype=torch.float64, device=mean.device)
    both = torch.stack((share @ responsibility_entropy(of_batches), responsibility_entropy(share @ of_batches)))
    # The 1e-8 within the logarithm takes the entropy of a single component a trifle below 0.
    return NormalisedEntropy(*(both / largest_entropy(mixture.means.shape[-2])).clamp(min=0).tolist())
