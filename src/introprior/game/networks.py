"""Encoders and decoders. A network may hold an ensemble: its parameters and inputs then have a leading member axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from introprior.errors import UserError

Generators = Sequence[torch.Generator] | torch.Generator
"""One random generator per member, on the CPU, so that a member starts alike on every device; or a single one for a
network without member axis."""


class Linear(nn.Module):
    """An affine map per member: ``[E, B, in]`` to ``[E, B, out]``, or without members ``[B, in]`` to ``[B, out]``.

    Each member starts as ``torch.nn.Linear`` would: weights and biases uniform within 1/sqrt(in).

    >>> Linear(2, 3, [torch.Generator(), torch.Generator()])(torch.zeros(2, 5, 2)).shape  # two members
    torch.Size([2, 5, 3])
    """

    def __init__(self, inputs: int, outputs: int, generators: Generators):
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

    Attributes:
        precision: of an ensemble's matrix products, and of nothing else: ``float32``, ``tf32`` (on GPUs that have it)
            or ``bf16``. What goes in and comes out is float32 all the same, parameters and their gradients, too.

    >>> both = MLP([1, 8, 1], [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    >>> alone = MLP([1, 8, 1], torch.Generator().manual_seed(1))
    >>> x = torch.linspace(-1, 1, 4).unsqueeze(-1)
    >>> torch.allclose(both(torch.stack((x, x)))[1], alone(x))  # a member of an ensemble is what it is alone
    True
    """

    def __init__(self, sizes: Sequence[int], generators: Generators):
        super().__init__(*(Linear(*pair, generators) for pair in itertools.pairwise(sizes)))
        self.precision = "float32"

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            output: Tensor = _Chain.apply(self.precision, x, *self.parameters())  # type: ignore[no-untyped-call]
            return output
        *hidden, last = self
        for layer in hidden:
            x = F.relu(layer(x))
        x = last(x)
        return x


class _Chain(torch.autograd.Function):
    """An ensemble of ReLU networks: ``[E, B, in]`` to ``[E, B, out]``, parameters weight, bias, weight, ...

    On a GPU the members go through side by side, on a CPU one by one, each with plain matrix products straight into the
    results' rows. Of the gradients there are just those that somebody wants, a frozen network's input alone; they lie
    in memory as their parameters do.
    """

    @staticmethod
    def forward(ctx: Any, precision: str, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.precision, ctx.given = precision, x.dtype
        dtype = torch.bfloat16 if precision == "bf16" else x.dtype
        weights, biases = ([p.to(dtype) for p in some] for some in (parameters[::2], parameters[1::2]))
        layers = [x.to(dtype), *(x.new_empty(*x.shape[:2], w.shape[1], dtype=dtype) for w in weights)]
        affine = torch.addmm if _one_by_one(x) else torch.baddbmm
        with _tf32(precision):
            for e in range(len(x)) if _one_by_one(x) else [slice(None)]:
                for before, after, weight, bias in zip(layers, layers[1:], weights, biases, strict=False):
                    affine(bias[e].unsqueeze(-2), before[e], weight[e].mT, out=after[e])
                    if after is not layers[-1]:
                        after[e].relu_()
        ctx.save_for_backward(*layers[:-1], *weights)
        return layers[-1].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        layers, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        wanted, one_by_one, grad = ctx.needs_input_grad[1:], _one_by_one(grad), grad.to(layers[0].dtype)
        weight_grads = [torch.empty_like(w) if wanted[1 + 2 * i] else None for i, w in enumerate(weights)]
        bias_grads = [w.new_empty(w.shape[:2]) if wanted[2 + 2 * i] else None for i, w in enumerate(weights)]
        input_grad = torch.empty_like(layers[0]) if wanted[0] else None
        with _tf32(ctx.precision):
            for e in range(len(grad)) if one_by_one else [slice(None)]:
                g = grad[e]
                for i in reversed(range(len(weights))):
                    x, weight = layers[i][e], weights[i][e]
                    if (weight_grad := weight_grads[i]) is not None:
                        # The first layer has few inputs: a CPU's product of few rows is far faster than of few columns.
                        flat = i == 0 and one_by_one
                        torch.matmul(
                            *((x.mT, g) if flat else (g.mT, x)), out=weight_grad[e].mT if flat else weight_grad[e]
                        )
                    if (bias_grad := bias_grads[i]) is not None:
                        torch.sum(g, -2, out=bias_grad[e])
                    if i > 0:
                        g = g @ weight
                        torch.ops.aten.threshold_backward.grad_input(g, x, 0, grad_input=g)
                    elif input_grad is not None:
                        torch.matmul(g, weight.mT.contiguous().mT if one_by_one else weight, out=input_grad[e])
        gradients = (gradient for pair in zip(weight_grads, bias_grads, strict=True) for gradient in pair)
        return None, *(None if gradient is None else gradient.to(ctx.given) for gradient in (input_grad, *gradients))


def _one_by_one(x: Tensor) -> bool:
    """Whether members are computed one after another."""
    return x.device.type == "cpu"


@contextmanager
def _tf32(precision: str) -> Iterator[None]:
    """Matrix products in TF32 while it lasts, if that is the precision; the KL's and the mixture's never are."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class MLPEncoder(nn.Module):
    """The 2D encoder: ``[..., B, data_dim]`` to mean and log-variance ``[..., B, latent_dim]``.

    With the paper's sizes (2, four hidden layers of 256, 2) it has 199,172 parameters.

    >>> encoder = MLPEncoder(2, 2, width=256, layers=4, generators=torch.Generator())
    >>> sum(parameter.numel() for parameter in encoder.parameters())
    199172
    """

    couples_samples = False
    """Whether a sample's output depends on the rest of its batch, as with BatchNorm."""
    event_dims = 1
    """Dimensions of one data sample: 1 for points, 3 for images."""

    def __init__(self, data_dim: int, latent_dim: int, width: int, layers: int, generators: Generators):
        super().__init__()
        self.latent_dim = latent_dim
        self.body = MLP([data_dim, *[width] * layers, 2 * latent_dim], generators)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.body(x).chunk(2, -1)
        return mean, logvar


class MLPDecoder(nn.Module):
    """The 2D decoder: ``[..., B, latent_dim]`` to ``[..., B, data_dim]``; 198,658 parameters at the paper's sizes.

    >>> decoder = MLPDecoder(2, 2, width=256, layers=4, generators=torch.Generator())
    >>> sum(parameter.numel() for parameter in decoder.parameters())
    198658
    """

    couples_samples, event_dims = False, 1

    def __init__(self, data_dim: int, latent_dim: int, width: int, layers: int, generators: Generators):
        super().__init__()
        self.body = MLP([latent_dim, *[width] * layers, data_dim], generators)

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.body(z)
        return output


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around an identity, a 1x1 convolution where the widths differ.

    >>> ResidualBlock(3, 8)(torch.zeros(2, 3, 5, 5)).shape  # the width changes, the size does not
    torch.Size([2, 8, 5, 5])
    """

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

    >>> mean, logvar = ConvEncoder((1, 28, 28), 32, (4, 8))(torch.zeros(1, 2, 1, 28, 28))
    >>> mean.shape  # D numbers for each of two images
    torch.Size([1, 2, 32])
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

    >>> ConvDecoder((1, 28, 28), 32, (4, 8))(torch.zeros(1, 2, 32)).shape
    torch.Size([1, 2, 1, 28, 28])
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
