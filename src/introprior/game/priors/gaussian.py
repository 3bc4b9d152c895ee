"""SG: the standard Gaussian, which has nothing to learn."""

from __future__ import annotations

import torch
from torch import Tensor

from introprior.game.distributions import Gaussian
from introprior.game.priors import Encode, Prior, Start


class StandardGaussian(Prior):
    """N(0, I) in D dimensions.

    >>> StandardGaussian(torch.zeros(1, 2))(None).log_prob(torch.zeros(1, 1, 2))  # -log 2 pi
    tensor([[-1.8379]])
    """

    family = "sg"
    origin: Tensor

    def __init__(self, origin: Tensor):
        super().__init__()
        self.register_buffer("origin", origin)

    @classmethod
    def begin(cls, start: Start) -> StandardGaussian:
        return cls(torch.zeros(len(start.generators), start.latent_dim))

    def forward(self, encode: Encode | None) -> Gaussian:
        return Gaussian(self.origin, self.origin)
