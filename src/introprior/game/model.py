"""The model: three players under one roof."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from introprior.game.distributions import Distribution, Posterior
from introprior.game.priors import Prior


class IntroVAE(nn.Module):
    """Encoder, decoder and prior.

    Args:
        encoder: data ``[..., B, *data]`` to mean and log-variance.
        decoder: latents ``[..., B, D]`` to data.
        prior: called with the encoder, returns a distribution.

    Attributes:
        bf16: encoder and decoder run under autocast to bfloat16; what they return is float32 all the same.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: Prior):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.event_dims: int = decoder.event_dims  # type: ignore[assignment]
        self.latent_dim: int = encoder.latent_dim  # type: ignore[assignment]
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
        output: Tensor
        if not self.bf16:
            output = self.decoder(z)
            return output
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

    def distribution(self) -> Distribution:
        """The prior's present one."""
        distribution: Distribution = self.prior(self.encode)
        return distribution
