"""The model: three players under one roof."""

from __future__ import annotations

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

    >>> from introprior.game.networks import MLPDecoder, MLPEncoder
    >>> from introprior.game.priors.gaussian import StandardGaussian
    >>> sizes = (2, 3, 8, 1, torch.Generator())  # points in the plane, three latent dimensions
    >>> model = IntroVAE(MLPEncoder(*sizes), MLPDecoder(*sizes), StandardGaussian(torch.zeros(3)))
    >>> fakes = model.decode(model.distribution().sample(5, 3, torch.Generator()))
    >>> fakes.shape, model.encode(fakes).mean.shape
    (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: Prior):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.event_dims: int = decoder.event_dims  # type: ignore[assignment]
        self.latent_dim: int = encoder.latent_dim  # type: ignore[assignment]
        self.bf16 = False
        self.couples_samples = bool(encoder.couples_samples) or bool(decoder.couples_samples)

    def encode(self, x: Tensor, batches: int = 1) -> Posterior:
        """Posteriors of a batch, or of several that lie one after another.

        Those go through in one pass where samples do not affect each other, else each in a pass of its own.
        """
        if self.couples_samples and batches > 1:
            each = map(self.encode, x.chunk(batches, -1 - self.event_dims))
            return Posterior(*(torch.cat(parts, -2) for parts in zip(*each, strict=True)))
        if not self.bf16:
            return Posterior(*self.encoder(x))
        with torch.autocast(x.device.type, torch.bfloat16):
            mean, logvar = self.encoder(x)
        return Posterior(mean.float(), logvar.float())

    def decode(self, z: Tensor, batches: int = 1) -> Tensor:
        """Means of p(x|z) of a batch, or of several, as in :meth:`encode`."""
        if self.couples_samples and batches > 1:
            return torch.cat([self.decode(batch) for batch in z.chunk(batches, -2)], -1 - self.event_dims)
        output: Tensor
        if not self.bf16:
            output = self.decoder(z)
            return output
        with torch.autocast(z.device.type, torch.bfloat16):
            output = self.decoder(z)
        return output.float()

    def distribution(self) -> Distribution:
        """The prior's present one."""
        distribution: Distribution = self.prior(self.encode)
        return distribution
