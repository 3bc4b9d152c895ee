"""Encoders and decoders. A network may hold an ensemble: its parameters and inputs then have a leading member axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """An affine map per member: ``[E, B, in]`` to ``[E, B, out]``, or without members ``[B, in]`` to ``[B, out]``.

    Each member starts as ``torch.nn.Linear`` would: weights and biases uniform within 1/sqrt(in).

    Args:
        inputs, outputs: sizes.
        generators: one random generator per member (on the CPU, so that a member starts alike on every device), or a
            single one for a network without member axis.
    """

    def __init__(self, inputs: int, outputs: int, generators: Sequence[torch.Generator] | torch.Generator):
        super().__init__()
        bound = 1 / math.sqrt(inputs)

        def start(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
            return weight, torch.empty(outputs).uniform_(-bound, bound, generator=generator)

        if isinstance(generators, torch.Generator):
            weight, bias = start(generators)
        else:
            weight, bias = (torch.stack(parts) for parts in zip(*map(start, generators), strict=True))
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return F.linear(x, self.weight, self.bias)
        if self.weight.shape[0] == 1:  # one matrix product, in the fastest form there is
            return F.linear(x[0], self.weight[0], self.bias[0]).unsqueeze(0)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, as Soft-IntroVAE's 2D experiments use."""

    def __init__(self, sizes: Sequence[int], generators: Sequence[torch.Generator] | torch.Generator):
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [Linear(inputs, outputs, generators), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])


class MLPEncoder(nn.Module):
    """The 2D encoder: ``[..., B, data_dim]`` to mean and log-variance ``[..., B, latent_dim]``.

    With the paper's sizes (2, four hidden layers of 256, 2) it has 199,172 parameters.
    """

    couples_samples = False
    """Whether a sample's output depends on the rest of its batch, as with BatchNorm."""

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        width: int,
        layers: int,
        generators: Sequence[torch.Generator] | torch.Generator,
    ):
        super().__init__()
        self.body = MLP([data_dim, *[width] * layers, 2 * latent_dim], generators)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.body(x).chunk(2, -1)
        return mean, logvar


class MLPDecoder(nn.Module):
    """The 2D decoder: ``[..., B, latent_dim]`` to ``[..., B, data_dim]``; 198,658 parameters at the paper's sizes."""

    couples_samples = False

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        width: int,
        layers: int,
        generators: Sequence[torch.Generator] | torch.Generator,
    ):
        super().__init__()
        self.body = MLP([latent_dim, *[width] * layers, data_dim], generators)

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z)
