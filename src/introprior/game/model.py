"""The model: three players under one roof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from introprior.game.distributions import GaussianMixture


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(logvar))), ``[..., B, D]`` each."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + sigma * noise``, ``[..., B, D]``."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def detach(self) -> Posterior:
        """The same posterior as a constant."""
        return Posterior(self.mean.detach(), self.logvar.detach())


class IntroVAE(nn.Module):
    """Encoder, decoder and prior.

    Args:
        encoder: data ``[..., B, *data]`` to mean and log-variance.
        decoder: latents ``[..., B, D]`` to data.
        prior: called with the encoder, returns a mixture.
        event_dims: number of dimensions of one data sample, 1 in 2D, 3 for images.

    Attributes:
        bf16: encoder and decoder run under autocast to bfloat16; what they return is float32 all the same.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module, event_dims: int = 1):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.event_dims = event_dims
        self.bf16 = False
        self.couples_samples = bool(encoder.couples_samples) or bool(decoder.couples_samples)

    def encode(self, x: Tensor) -> Posterior:
        """Posteriors of a batch."""
        if not self.bf16:
            return Posterior(*self.encoder(x))
        with torch.autocast(x.device.type, torch.bfloat16):
            mean, logvar = self.encoder(x)
        return Posterior(mean.float(), logvar.float())

    def decode(self, z: Tensor) -> Tensor:
        """Means of p(x|z) of a batch."""
        if not self.bf16:
            return self.decoder(z)
        with torch.autocast(z.device.type, torch.bfloat16):
            output = self.decoder(z)
        return output.float()

    def encode_each(self, batches: Sequence[Tensor]) -> list[Posterior]:
        """Posteriors of several batches: in one pass where samples do not affect each other, else one pass a batch."""
        if self.couples_samples or len(batches) == 1:
            return [self.encode(batch) for batch in batches]
        mean, logvar = self.encode(torch.cat(list(batches), -1 - self.event_dims))
        return [
            Posterior(*part) for part in zip(mean.chunk(len(batches), -2), logvar.chunk(len(batches), -2), strict=True)
        ]

    def decode_each(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """What the decoder makes of several batches of latents, in as few passes as :meth:`encode_each`."""
        if self.couples_samples or len(batches) == 1:
            return [self.decode(batch) for batch in batches]
        return list(self.decode(torch.cat(list(batches), -2)).chunk(len(batches), -1 - self.event_dims))

    def mixture(self) -> GaussianMixture:
        """The prior's present distribution."""
        return self.prior(self.encode)
