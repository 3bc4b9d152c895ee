"""Priors: the third player. Each owns parameters and returns a :class:`~introprior.game.distributions.GaussianMixture`.

The losses see that mixture only, never a prior's insides: "prior as target" and "prior as source" are two uses of one
value, one of them detached. A prior is called with the encoder, which the VampPrior needs and the others ignore.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from introprior.game.distributions import GaussianMixture, soft_clip, standard_gaussian

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An encoder: data ``[..., N, *data]`` to mean and log-variance, ``[..., N, D]`` each."""


class StandardGaussian(nn.Module):
    """SG: N(0, I), without parameters."""

    origin: Tensor

    def __init__(self, latent_dim: int):
        super().__init__()
        self.register_buffer("origin", torch.zeros(latent_dim), persistent=False)

    def forward(self, encode: Encode | None = None) -> GaussianMixture:
        """The mixture of one component, means ``[1, D]``."""
        return standard_gaussian(self.origin.shape[0], like=self.origin)


class _Contributions(nn.Module):
    """What both mixtures share: the logits of the components' weights, parameters only with LC."""

    logits: Tensor

    def __init__(self, logits: Tensor, learnable_contributions: bool):
        super().__init__()
        self.learnable_contributions = learnable_contributions
        if learnable_contributions:
            self.logits = nn.Parameter(logits.clone())
        else:
            self.register_buffer("logits", logits.clone())

    def log_weights(self) -> Tensor:
        """Normalised log-contributions ``[..., M]``."""
        return torch.log_softmax(self.logits, -1)


class VampPrior(_Contributions):
    """Vamp: the mixture of the posteriors of M learned pseudo-inputs (Tomczak and Welling 2018; p^q of the paper).

    Args:
        pseudo_inputs: ``[..., M, *data]``, where learning starts: real data, as in the authors' code.
        learnable_contributions: LC, the weights are learned too; otherwise they are 1/M.
        bounds: pseudo-inputs are clamped to this range when used, ``(0, 1)`` for images. A value at or beyond a bound
            takes no gradient, in the authors' code as here.
    """

    def __init__(
        self, pseudo_inputs: Tensor, learnable_contributions: bool = False, bounds: tuple[float, float] | None = None,
        members: int = 0,
    ):  # fmt: skip
        super().__init__(pseudo_inputs.new_zeros(pseudo_inputs.shape[: members + 1]), learnable_contributions)
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.clone())
        self.bounds = bounds

    def forward(self, encode: Encode) -> GaussianMixture:
        """The mixture of the pseudo-inputs' posteriors, means ``[..., M, D]``; gradients reach the encoder as well."""
        inputs = self.pseudo_inputs if self.bounds is None else F.hardtanh(self.pseudo_inputs, *self.bounds)
        return GaussianMixture(*encode(inputs), self.log_weights())


class LearnedMixture(_Contributions):
    """MoG: free means, log-variances and, with LC, contributions; its log-variances can be soft-clipped (Eq. 10).

    Args:
        means: ``[..., M, D]``, the starting values.
        logvars: ``[..., M, D]`` or, for isotropic components, ``[..., M, 1]``.
        logits: ``[..., M]``, of the contributions; uniform when None.
        learnable_contributions: LC.
        steepness: K of the soft clipping.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(
        self,
        means: Tensor,
        logvars: Tensor,
        logits: Tensor | None = None,
        learnable_contributions: bool = False,
        steepness: float = 10.0,
    ):
        super().__init__(means.new_zeros(means.shape[:-1]) if logits is None else logits, learnable_contributions)
        self.means = nn.Parameter(means.clone())
        self.logvars = nn.Parameter(logvars.clone())
        self.steepness = steepness
        self.register_buffer("low", None)
        self.register_buffer("high", None)

    def clip_to_present_range(self) -> None:
        """Soft-clip from now on to the range that the components' log-variances span now, per latent dimension.

        Sampling, KL, responsibilities and evaluation all see clipped values, as in the authors' code; the clipping
        contracts the very values its bounds were taken from (to 0.861 of their range at K = 10).
        """
        self.low = self.logvars.detach().amin(-2, keepdim=True)
        self.high = self.logvars.detach().amax(-2, keepdim=True)

    def forward(self, encode: Encode | None = None) -> GaussianMixture:
        """The mixture, means ``[..., M, D]``."""
        logvars: Tensor = self.logvars
        if self.low is not None and self.high is not None:
            logvars = soft_clip(logvars, self.low, self.high, self.steepness)
        return GaussianMixture(self.means, logvars.expand_as(self.means), self.log_weights())


def to_mixture(
    vamp: VampPrior,
    encode: Encode,
    *,
    logits: str = "probabilities",
    variance: str = "diagonal",
    steepness: float = 10.0,
) -> LearnedMixture:
    """The conversion of a VampPrior into a free mixture: the encoder's posteriors of the pseudo-inputs, set free.

    Args:
        vamp: the prior to convert; it is left as it was.
        encode: the encoder, in the mode in which it is to be used.
        logits: ``probabilities`` gives the new logits the values of the old probabilities, as the authors' code does
            (contributions become softmax(softmax(w)), nearly uniform); ``log-probabilities`` keeps the contributions.
        variance: ``diagonal`` or ``isotropic`` (the mean log-variance over the latent dimensions).
        steepness: K of the later soft clipping.
    """
    with torch.no_grad():
        mixture = vamp(encode)
        logvars = mixture.logvars if variance == "diagonal" else mixture.logvars.mean(-1, keepdim=True)
        weights = mixture.log_weights if logits == "log-probabilities" else mixture.log_weights.exp()
    return LearnedMixture(mixture.means, logvars, weights, vamp.learnable_contributions, steepness)


def uniform_entropy(components: int) -> float:
    """log M in nats, the largest entropy that M responsibilities can have; 1 where that is not above 1 (M < 3).

    The authors' code divides by log M only where it exceeds 1.
    """
    return max(math.log(components), 1.0)
