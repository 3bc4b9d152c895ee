"""MoG: a mixture that begins as a VampPrior and is set free before the game."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from introprior.game.distributions import Distribution, GaussianMixture, Posterior
from introprior.game.divergences import largest_entropy, responsibilities, responsibility_entropy
from introprior.game.priors import Conversion, Encode, Prior, Start


class _Contributions(Prior):
    """What both share: the logits of the components' weights, ``[E, M]``, parameters only with LC."""

    family = "mog"
    logits: Tensor

    def __init__(self, logits: Tensor, learnable_contributions: bool):
        super().__init__()
        self.learnable_contributions = learnable_contributions
        if learnable_contributions:
            self.logits = nn.Parameter(logits.clone())
        else:
            self.register_buffer("logits", logits.clone())

    def log_weights(self) -> Tensor:
        """Normalised log-contributions ``[E, M]``."""
        return torch.log_softmax(self.logits, -1)


class VampPrior(_Contributions):
    """Vamp: the mixture of the posteriors of M learned pseudo-inputs (Tomczak and Welling 2018; p^q of the paper).

    Args:
        pseudo_inputs: ``[E, M, *data]``, where learning starts: real data, as in the authors' code.
        logits: ``[E, M]`` of the contributions; uniform when None.
        learnable_contributions: LC, the weights are learned too; otherwise they are 1/M.
        bounds: pseudo-inputs are clamped to this range when used, ``(0, 1)`` for images. A value at or beyond a bound
            takes no gradient, in the authors' code as here.

    >>> prior = VampPrior(torch.tensor([[[-4.0], [4.0]]]))  # two pseudo-inputs
    >>> mixture = prior(lambda x: Posterior(x / 2, torch.zeros_like(x)))  # an encoder that halves
    >>> mixture.means.tolist(), mixture.log_weights.exp().tolist()
    ([[[-2.0], [2.0]]], [[0.5, 0.5]])
    """

    def __init__(
        self, pseudo_inputs: Tensor, logits: Tensor | None = None, learnable_contributions: bool = False,
        bounds: tuple[float, float] | None = None,
    ):  # fmt: skip
        logits = pseudo_inputs.new_zeros(pseudo_inputs.shape[:2]) if logits is None else logits
        super().__init__(logits, learnable_contributions)
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.clone())
        self.bounds = bounds

    @classmethod
    def begin(cls, start: Start) -> VampPrior:
        inputs = start.data(start.size)
        return cls(inputs, learnable_contributions=start.contributions, bounds=start.bounds)

    def forward(self, encode: Encode) -> GaussianMixture:
        """The mixture of the pseudo-inputs' posteriors; gradients reach the encoder as well."""
        inputs = self.pseudo_inputs if self.bounds is None else F.hardtanh(self.pseudo_inputs, *self.bounds)
        return GaussianMixture(*encode(inputs), self.log_weights())

    def convert(self, encode: Encode, conversion: Conversion) -> LearnedMixture:
        """The encoder's posteriors of the pseudo-inputs, set free; this prior is left as it was."""
        with torch.no_grad():
            mixture = self(encode)
            logvars = mixture.logvars
            if conversion.variance == "isotropic":
                logvars = logvars.mean(-1, keepdim=True)
            log_weights = mixture.log_weights
            weights = log_weights if conversion.logits == "log-probabilities" else log_weights.exp()
        return LearnedMixture(
            mixture.means, logvars, weights,
            learnable_contributions=self.learnable_contributions, steepness=conversion.steepness,
        )  # fmt: skip

    def diagnostics(
        self, target: Distribution | None, posterior: Posterior | None, noise: Tensor | None
    ) -> dict[str, Tensor]:
        """Of its mixture, in the game; the encoder is not asked anew, since its running statistics would tell."""
        return {} if target is None else _diagnostics(target.components(), posterior, noise)

    def plain(self) -> dict[str, Any]:
        return {"learnable_contributions": self.learnable_contributions, "bounds": self.bounds}


class LearnedMixture(_Contributions):
    """MoG: free means, log-variances and, with LC, contributions; its log-variances can be soft-clipped (Eq. 10).

    Args:
        means: ``[E, M, D]``, the starting values.
        logvars: ``[E, M, D]`` or, for isotropic components, ``[E, M, 1]``.
        logits: ``[E, M]``, of the contributions; uniform when None.
        low, high: ``[E, 1, D]``, bounds of the soft clipping; None: not clipped.
        learnable_contributions: LC.
        steepness: K of the soft clipping.

    >>> prior = LearnedMixture(torch.zeros(1, 2, 1), torch.tensor([[[0.0], [1.0]]]), steepness=10)
    >>> prior.begin_game(clipped=True)
    >>> low, high = prior().logvars.flatten().tolist()
    >>> round(high - low, 3)  # clipping to a range keeps this share of it, Eq. 96
    0.861
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(
        self, means: Tensor, logvars: Tensor, logits: Tensor | None = None, low: Tensor | None = None,
        high: Tensor | None = None, learnable_contributions: bool = False, *, steepness: float,
    ):  # fmt: skip
        super().__init__(means.new_zeros(means.shape[:-1]) if logits is None else logits, learnable_contributions)
        self.means = nn.Parameter(means.clone())
        self.logvars = nn.Parameter(logvars.clone())
        self.steepness = steepness
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def begin_game(self, clipped: bool) -> None:
        """Soft-clip from now on to the range that the components' log-variances span now, per latent dimension.

        Sampling, KL, responsibilities and evaluation all see clipped values, as in the authors' code; the clipping
        contracts the very values its bounds were taken from (to 0.861 of their range at K = 10).
        """
        if clipped:
            self.low = self.logvars.detach().amin(-2, keepdim=True)
            self.high = self.logvars.detach().amax(-2, keepdim=True)

    def forward(self, encode: Encode | None = None) -> GaussianMixture:
        logvars: Tensor = self.logvars
        if self.low is not None and self.high is not None:
            logvars = soft_clip(logvars, self.low, self.high, self.steepness)
        return GaussianMixture(self.means, logvars.expand_as(self.means), self.log_weights())

    def diagnostics(
        self, target: Distribution | None, posterior: Posterior | None, noise: Tensor | None
    ) -> dict[str, Tensor]:
        return _diagnostics(self(None), posterior, noise)

    def plain(self) -> dict[str, Any]:
        return {"learnable_contributions": self.learnable_contributions, "steepness": self.steepness}


def _diagnostics(
    mixture: GaussianMixture | None, posterior: Posterior | None, noise: Tensor | None
) -> dict[str, Tensor]:
    """Extremes of the log-variances, clipped, over components and latent dimensions (Figure 2), and in the game the
    entropy of the responsibilities over log M (Eq. 11, Figure 4)."""
    assert mixture is not None
    logvars = mixture.logvars
    values = {"prior_logvar_max": logvars.amax((-2, -1)), "prior_logvar_min": logvars.amin((-2, -1))}
    if posterior is not None and noise is not None:
        entropy = responsibility_entropy(responsibilities(posterior, mixture, noise))
        values["responsibility_entropy"] = entropy / largest_entropy(logvars.shape[-2])
    return values


def soft_clip(x: Tensor, low: Tensor | float, high: Tensor | float, steepness: float) -> Tensor:
    """Adaptive soft clipping of log-variances, f_c of Eq. 10 and 97, with beta = steepness / (high - low), Eq. 93.

    Inside (low, high) it is nearly the identity, far outside it is nearly constant; ``steepness`` is the paper's K.
    The softplus is taken as linear where its argument exceeds 20, as the authors' code does; unlike theirs, the
    gradient is finite everywhere, also where ``low == high`` (where the result is that value).

    Args:
        x: any shape.
        low, high: broadcastable to ``x``, ``low <= high``.
        steepness: K > 0.

    Returns:
        the shape of ``x``, within [low, high] up to rounding.

    >>> soft_clip(torch.tensor([-9.0, 0.0, 9.0]), -1.0, 1.0, steepness=10).round(decimals=3)
    tensor([-1.,  0.,  1.])
    """
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in (low, high))
    unit = (high - low + 1e-8) / steepness  # 1 / beta
    return x - unit * F.softplus((x - high) / unit) + unit * F.softplus((low - x) / unit)
