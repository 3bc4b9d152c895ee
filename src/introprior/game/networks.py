"""Encoders and decoders. A network may hold an ensemble: its parameters and inputs then have a leading member axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from introprior.errors import UserError


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
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, as Soft-IntroVAE's 2D experiments use.

    On a CPU an ensemble goes through layer by layer and member by member, each with plain matrix products.
    """

    def __init__(self, sizes: Sequence[int], generators: Sequence[torch.Generator] | torch.Generator):
        super().__init__(*(Linear(*pair, generators) for pair in itertools.pairwise(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3 and x.device.type == "cpu":
            output: Tensor = _Chain.apply(x, *self.parameters())  # type: ignore[no-untyped-call]
            return output
        *hidden, last = self
        for layer in hidden:
            x = F.relu(layer(x))
        x = last(x)
        return x


class _Chain(torch.autograd.Function):
    """An ensemble of ReLU networks on a CPU: ``[E, B, in]`` to ``[E, B, out]``, parameters weight, bias, weight, ...

    Per member and layer one matrix product forward and at most two backward, straight into the results' rows; and of
    the gradients just those that somebody wants: of a frozen network that of its input alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        layers = [x, *(x.new_empty(*x.shape[:2], weight.shape[1]) for weight in weights)]
        for e in range(len(x)):
            for before, after, weight, bias in zip(layers, layers[1:], weights, biases, strict=False):
                torch.addmm(bias[e], before[e], weight[e].T, out=after[e])
                if after is not layers[-1]:
                    after[e].relu_()
        ctx.save_for_backward(*layers[:-1], *weights)
        return layers[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        layers, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        wanted = ctx.needs_input_grad
        weight_grads = [torch.empty_like(w) if wanted[1 + 2 * i] else None for i, w in enumerate(weights)]
        bias_grads = [w.new_empty(w.shape[:2]) if wanted[2 + 2 * i] else None for i, w in enumerate(weights)]
        input_grad = torch.empty_like(layers[0]) if wanted[0] else None
        for e in range(len(grad)):
            g = grad[e]
            for i in reversed(range(len(weights))):
                x, weight = layers[i][e], weights[i][e]
                if (weight_grad := weight_grads[i]) is not None:
                    # The first layer has few inputs: a product with few rows is far faster than one with few columns.
                    torch.mm(*((x.T, g) if i == 0 else (g.T, x)), out=weight_grad[e].T if i == 0 else weight_grad[e])
                if (bias_grad := bias_grads[i]) is not None:
                    torch.sum(g, 0, out=bias_grad[e])
                if i > 0:
                    g = g @ weight
                    torch.ops.aten.threshold_backward.grad_input(g, x, 0, grad_input=g)
                elif input_grad is not None:
                    torch.mm(g, weight.T.contiguous().T, out=input_grad[e])
        gradients = (gradient for pair in zip(weight_grads, bias_grads, strict=True) for gradient in pair)
        return input_grad, *gradients


class MLPEncoder(nn.Module):
    """The 2D encoder: ``[..., B, data_dim]`` to mean and log-variance ``[..., B, latent_dim]``.

    With the paper's sizes (2, four hidden layers of 256, 2) it has 199,172 parameters.
    """

    couples_samples = False
    """Whether a sample's output depends on the rest of its batch, as with BatchNorm."""
    event_dims = 1
    """Dimensions of one data sample: 1 for points, 3 for images."""

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        width: int,
        layers: int,
        generators: Sequence[torch.Generator] | torch.Generator,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.body = MLP([data_dim, *[width] * layers, 2 * latent_dim], generators)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.body(x).chunk(2, -1)
        return mean, logvar


class MLPDecoder(nn.Module):
    """The 2D decoder: ``[..., B, latent_dim]`` to ``[..., B, data_dim]``; 198,658 parameters at the paper's sizes."""

    couples_samples, event_dims = False, 1

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
        output: Tensor = self.body(z)
        return output


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around an identity, a 1x1 convolution where the widths differ."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.identity = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.body(x).add_(self.identity(x)), 0.2)


class ConvEncoder(nn.Module):
    """The image encoder of Soft-IntroVAE: ``[1, B, C, H, W]`` to mean and log-variance ``[1, B, latent_dim]``.

    The member axis is there for the losses' sake; image runs are ensembles of one. Weights start as torch starts them,
    from its global generator.

    Args:
        shape: channels, height, width; height and width are halved once per width.
        latent_dim: D.
        widths: channels after each halving, ``(64, 128)`` for 28x28 images, ``(64, 128, 256)`` for 32x32.
    """

    couples_samples, event_dims = True, 3

    def __init__(self, shape: tuple[int, int, int], latent_dim: int, widths: Sequence[int]):
        super().__init__()
        self.latent_dim = latent_dim
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], widths[0], 5, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.LeakyReLU(0.2, inplace=True),
            nn.AvgPool2d(2),
        ]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [ResidualBlock(inputs, outputs), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*layers, ResidualBlock(widths[-1], widths[-1]), nn.Flatten())
        self.head = nn.Linear(math.prod(_coarsest(shape, widths)), 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.head(self.body(_channels_last(x.squeeze(0)))).unsqueeze(0).chunk(2, -1)
        return mean, logvar


class ConvDecoder(nn.Module):
    """The image decoder of Soft-IntroVAE: ``[1, B, latent_dim]`` to images ``[1, B, C, H, W]``, unbounded.

    Arguments as for :class:`ConvEncoder`.
    """

    couples_samples, event_dims = True, 3

    def __init__(self, shape: tuple[int, int, int], latent_dim: int, widths: Sequence[int]):
        super().__init__()
        coarsest = _coarsest(shape, widths)
        self.head = nn.Sequential(
            nn.Linear(latent_dim, math.prod(coarsest)), nn.ReLU(inplace=True), nn.Unflatten(1, coarsest)
        )
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise([widths[-1], *reversed(widths)]):
            layers += [ResidualBlock(inputs, outputs), nn.Upsample(scale_factor=2, mode="nearest")]
        self.body = nn.Sequential(
            *layers, ResidualBlock(widths[0], widths[0]), nn.Conv2d(widths[0], shape[0], 5, padding=2)
        )

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.body(_channels_last(self.head(z.squeeze(0))))
        return output.unsqueeze(0)


def _channels_last(x: Tensor) -> Tensor:
    """The same values with channels side by side in memory; a step takes a quarter less time on a CPU for it.

    Weights stay as they are: a convolution follows its input. ``x.contiguous`` would not do, since with one channel
    it finds both orders the same and changes nothing.
    """
    return x.to(memory_format=torch.channels_last)


def _coarsest(shape: tuple[int, int, int], widths: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of the last convolution's output, e.g. 128x7x7."""
    factor = 2 ** len(widths)
    if shape[1] % factor or shape[2] % factor or shape[1:] == (factor, factor):
        raise UserError(
            f"networks: {shape[1]}x{shape[2]} images cannot be halved {len(widths)} times, with some pixels left for "
            "BatchNorm; use fewer widths"
        )
    return widths[-1], shape[1] // factor, shape[2] // factor
