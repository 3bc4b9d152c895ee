"""What a straightforward script does: one model, the paper's equations as they stand, nothing shared, nothing skipped.

This is the yardstick of ``benchmarks/run.py``, written in plain torch from Eq. 98-99 and without a line of the
package, so that it serves as a check of it too: a test holds its losses against the package's, in float64 and on equal
noise. It does what the authors' scripts do: samples x components x dimensions in memory for every Monte Carlo KL;
a pass of its own for every real, decoded and reconstructed batch; the gamma_r terms; the responsibilities of the real
batch, whose weight is zero in 2D; a standard Gaussian as a mixture of one; one ``item()`` per loss and iteration.

On images it also freezes, as they do, the player whose turn it is not, and the responsibilities share the samples of
the real batch's KL. What their image script computes in every iteration for its log alone (norms of a Jacobian and of
gradients) is left out, to its advantage. In 2D it differs from theirs in two points: it freezes nobody, so that both
steps compute gradients of both networks; and it does not run the decoder's stack twice, as their script happens to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class Settings(NamedTuple):
    """The numbers of Eq. 98; the defaults are those of the authors' 2D experiments."""

    beta_rec: float = 0.2
    beta_kl: float = 0.3
    beta_neg: float = 0.9
    scale: float = 0.5
    alpha: float = 2.0
    gamma: float = 1.0
    gamma_r: float = 1e-8
    r_entropy: float = 0.0
    samples: int = 100
    learning_rate: float = 2e-4


def log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of N(mean, diag(exp(logvar))), summed over the last dimension; everything broadcasts."""
    return -0.5 * (LOG_2PI + logvar + (z - mean) ** 2 / logvar.exp()).sum(-1)


def log_joint(z: Tensor, means: Tensor, logvars: Tensor, log_weights: Tensor) -> Tensor:
    """log w_k + log N(z; mu_k, sigma_k^2): ``[..., D]`` to ``[..., M]`` by way of ``[..., M, D]``."""
    return log_weights + log_normal(z.unsqueeze(-2), means, logvars)


def kl(mean: Tensor, logvar: Tensor, prior: tuple[Tensor, Tensor, Tensor], noise: Tensor) -> Tensor:
    """Monte Carlo KL of Eq. 99: mean and logvar ``[B, D]``, noise ``[T, B, D]``, result ``[B]``."""
    z = mean + torch.exp(0.5 * logvar) * noise
    return (log_normal(z, mean, logvar) - torch.logsumexp(log_joint(z, *prior), -1)).mean(0)


def squared_error(target: Tensor, output: Tensor) -> Tensor:
    """Summed over all but the samples: ``[B, *data]`` to ``[B]``."""
    return ((output - target) ** 2).flatten(1).sum(1)


def soft_clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Eq. 97 with K = 10."""
    beta = 10 / (high - low)
    return x - F.softplus(beta * (x - high)) / beta + F.softplus(beta * (low - x)) / beta


def mlp(inputs: int, outputs: int, width: int, hidden_layers: int) -> nn.Sequential:
    """``hidden_layers`` layers of ``width`` with ReLU, and a linear output."""
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.ReLU()]
    for _ in range(hidden_layers - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm, around the identity or a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        y = F.leaky_relu(self.bn1(self.conv1(x)), 0.2)
        return F.leaky_relu(self.bn2(self.conv2(y)) + self.skip(x), 0.2)


class Networks(NamedTuple):
    """Data ``[B, *data]`` to mean and log-variance side by side ``[B, 2D]``, latents ``[B, D]`` to data."""

    encoder: nn.Module
    decoder: nn.Module
    latent_dim: int


def plane_networks(width: int = 256, hidden_layers: int = 4, latent_dim: int = 2) -> Networks:
    """Those of the 2D experiments."""
    return Networks(mlp(2, 2 * latent_dim, width, hidden_layers), mlp(latent_dim, 2, width, hidden_layers), latent_dim)


def image_networks(
    shape: tuple[int, int, int] = (1, 28, 28), widths: tuple[int, ...] = (64, 128), latent_dim: int = 32
) -> Networks:
    """Those of the image experiments; the defaults are (Fashion-)MNIST's."""
    channels, height, width = shape
    coarsest = (widths[-1], height >> len(widths), width >> len(widths))
    encoder: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 5, padding=2, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
    ]
    for before, after in itertools.pairwise(widths):
        encoder += [Residual(before, after), nn.AvgPool2d(2)]
    encoder += [Residual(widths[-1], widths[-1]), nn.Flatten(), nn.Linear(math.prod(coarsest), 2 * latent_dim)]
    decoder: list[nn.Module] = [nn.Linear(latent_dim, math.prod(coarsest)), nn.ReLU(), nn.Unflatten(1, coarsest)]
    for before, after in itertools.pairwise((widths[-1], *widths[::-1])):
        decoder += [Residual(before, after), nn.Upsample(scale_factor=2, mode="nearest")]
    decoder += [Residual(widths[0], widths[0]), nn.Conv2d(widths[0], channels, 5, padding=2)]
    return Networks(nn.Sequential(*encoder), nn.Sequential(*decoder), latent_dim)


class Script:
    """One S-IntroVAE in adversarial training, with networks in training mode.

    ``components`` 1 is the standard Gaussian. With ``intro_prior`` the mixture learns in the decoder's step, and its
    log-variances are soft-clipped. ``as_on_images`` freezes the player whose turn it is not, and shares the samples of
    the real batch with the responsibilities. Standard normals come from ``normal``.
    """

    def __init__(
        self,
        networks: Networks,
        components: int = 1,
        intro_prior: bool = False,
        learnable_contributions: bool = False,
        settings: Settings | None = None,
        as_on_images: bool = False,
        device: torch.device | str = "cpu",
        normal: Callable[..., Tensor] = torch.randn,
    ):
        self.settings = settings = settings or Settings()
        self.intro_prior, self.as_on_images, self.device, self.normal = intro_prior, as_on_images, device, normal
        self.encoder, self.decoder = networks.encoder.to(device), networks.decoder.to(device)
        spread = 2.0 if components > 1 else 0.0
        self.means = spread * torch.randn(components, networks.latent_dim, device=device)
        self.logvars = -spread * torch.rand(components, networks.latent_dim, device=device)
        self.logits = torch.zeros(components, device=device)
        self.low, self.high = self.logvars.amin(0, keepdim=True), self.logvars.amax(0, keepdim=True)
        learned = [self.means, self.logvars] + [self.logits] * learnable_contributions if intro_prior else []
        for tensor in learned:
            tensor.requires_grad_()
        self.learned = learned
        self.encoder_optimizer = torch.optim.Adam(self.encoder.parameters(), settings.learning_rate)
        self.decoder_optimizer = torch.optim.Adam(self.decoder.parameters(), settings.learning_rate)
        self.prior_optimizer = torch.optim.Adam(learned, settings.learning_rate) if learned else None

    @classmethod
    def like(cls, training: Any, networks: Networks, **arguments: Any) -> Script:
        """A script that stands where the first member of a training of the package stands."""
        cell, rules, member = training.run.cell, training.rules, training.run.members[0]
        settings = Settings(
            member.beta_rec, member.beta_kl, member.beta_neg or 0.0, rules.scale, gamma_r=rules.gamma_r,
            r_entropy=rules.r_entropy, samples=rules.monte_carlo_samples,
            learning_rate=training.run.training.learning_rate,
        )  # fmt: skip
        learns = cell.intro_prior, cell.learnable_contributions
        script = cls(networks, cell.size, *learns, settings, device=training.device, **arguments)
        prior, members = training.model.prior, slice(None) if script.as_on_images else 0  # convolutions have no members
        with torch.no_grad():
            for own, theirs in ((script.encoder, training.model.encoder), (script.decoder, training.model.decoder)):
                for tensor, given in zip(own.parameters(), theirs.parameters(), strict=True):
                    tensor.copy_(given[members])
            for name in ("means", "logvars", "logits", "low", "high"):
                if (given := getattr(prior, name, None)) is not None:
                    getattr(script, name).copy_(given[0])
        return script

    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log-variances and log-weights."""
        logvars = soft_clip(self.logvars, self.low, self.high) if self.intro_prior else self.logvars
        return self.means, logvars, torch.log_softmax(self.logits, 0)

    def target(self) -> tuple[Tensor, Tensor, Tensor]:
        """The prior as a constant."""
        means, logvars, log_weights = self.prior()
        return means.detach(), logvars.detach(), log_weights.detach()

    def choose(self, log_weights: Tensor, n: int) -> Tensor:
        """Components of ``n`` samples, by their weights."""
        return torch.multinomial(log_weights.detach().exp(), n, replacement=True)

    def sample_prior(self, n: int) -> Tensor:
        """``[n, D]``; gradients reach means and log-variances."""
        means, logvars, log_weights = self.prior()
        chosen = self.choose(log_weights, n)
        return self.sample(means[chosen], logvars[chosen])

    def sample(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """A sample of each of ``[B, D]`` Gaussians."""
        return mean + torch.exp(0.5 * logvar) * self.normal(*mean.shape, device=self.device)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        mean, logvar = self.encoder(x).chunk(2, -1)
        return mean, logvar

    def noise(self, mean: Tensor) -> Tensor:
        """For the Monte Carlo samples of ``[B, D]`` Gaussians: ``[T, B, D]``."""
        return self.normal(self.settings.samples, *mean.shape, device=self.device)

    def kl(self, mean: Tensor, logvar: Tensor, prior: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """KL by Monte Carlo, ``[B]``."""
        return kl(mean, logvar, prior, self.noise(mean))

    def kl_and_entropy(self, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """KL ``[B]`` and r_entropy sum_k c_k log c_k / log M, with the same samples or with samples of its own."""
        target = self.target()
        z = mean + torch.exp(0.5 * logvar) * self.noise(mean)
        joint = log_joint(z, *target)
        divergence = (log_normal(z, mean, logvar) - torch.logsumexp(joint, -1)).mean(0)
        if not self.as_on_images:
            joint = log_joint(mean + torch.exp(0.5 * logvar) * self.noise(mean), *target)
        c = torch.softmax(joint, -1).mean((0, 1))
        return divergence, self.settings.r_entropy * (c * torch.log(c + 1e-8)).sum() / max(math.log(len(c)), 1.0)

    def turn(self, *learning: Tensor) -> None:
        """On images: let these parameters learn, and no others."""
        if self.as_on_images:
            for parameter in (*self.encoder.parameters(), *self.decoder.parameters(), *self.learned):
                parameter.requires_grad_(False)
            for parameter in learning:
                parameter.requires_grad_(True)

    def step(self, x: Tensor) -> tuple[float, float]:
        """One adversarial iteration on the data ``[B, *data]``; L_E and L_D + L_P of Eq. 98."""
        s = self.settings
        n = len(x)

        # Encoder
        self.turn(*self.encoder.parameters())
        fake = self.decoder(self.sample_prior(n))
        real_mean, real_logvar = self.encode(x)
        z = self.sample(real_mean, real_logvar)
        rec = self.decoder(z)
        rec_mean, rec_logvar = self.encode(rec.detach())
        fake_mean, fake_logvar = self.encode(fake.detach())
        rec_rec = self.decoder(self.sample(rec_mean, rec_logvar))
        fake_rec = self.decoder(self.sample(fake_mean, fake_logvar))
        target = self.target()
        real_error = squared_error(x, rec)
        real_kl, entropy = self.kl_and_entropy(real_mean, real_logvar)
        rec_error, rec_kl = squared_error(rec, rec_rec), self.kl(rec_mean, rec_logvar, target)
        fake_error, fake_kl = squared_error(fake.detach(), fake_rec), self.kl(fake_mean, fake_logvar, target)
        exp_rec = torch.exp(-s.alpha * s.scale * (s.beta_rec * rec_error + s.beta_neg * rec_kl)).mean()
        exp_fake = torch.exp(-s.alpha * s.scale * (s.beta_rec * fake_error + s.beta_neg * fake_kl)).mean()
        encoder_loss = (
            s.scale * (s.beta_rec * real_error.mean() + s.beta_kl * real_kl.mean())
            + 0.5 * (exp_rec + exp_fake) / s.alpha
        )
        encoder_loss = encoder_loss + s.scale * entropy
        self.encoder_optimizer.zero_grad()
        encoder_loss.backward()
        self.encoder_optimizer.step()

        # Decoder and prior
        self.turn(*self.decoder.parameters(), *self.learned)
        real_mean, real_logvar, z = real_mean.detach(), real_logvar.detach(), z.detach()
        fake = self.decoder(self.sample_prior(n))
        rec = self.decoder(z)
        rec_mean, rec_logvar = self.encode(rec)
        fake_mean, fake_logvar = self.encode(fake)
        rec_rec = self.decoder(self.sample(rec_mean, rec_logvar).detach())
        fake_rec = self.decoder(self.sample(fake_mean, fake_logvar).detach())
        real_error = squared_error(x, rec).mean()
        real_kl = self.kl(real_mean, real_logvar, self.prior()).mean()
        rec_kl = self.kl(rec_mean, rec_logvar, target).mean()
        fake_kl = self.kl(fake_mean, fake_logvar, target).mean()
        rec_error = squared_error(rec.detach(), rec_rec).mean()
        fake_error = squared_error(fake.detach(), fake_rec).mean()
        decoder_loss = s.scale * (
            s.beta_rec * real_error
            + s.beta_kl * real_kl
            + s.gamma * s.beta_kl * 0.5 * (rec_kl + fake_kl)
            + s.gamma * s.gamma_r * s.beta_rec * 0.5 * (rec_error + fake_error)
        )
        self.decoder_optimizer.zero_grad()
        if self.prior_optimizer:
            self.prior_optimizer.zero_grad()
        decoder_loss.backward()
        self.decoder_optimizer.step()
        if self.prior_optimizer:
            self.prior_optimizer.step()
        return encoder_loss.item(), decoder_loss.item()

    @torch.no_grad()
    def negative_elbo(self, x: Tensor, noise: Tensor, batch: int = 512) -> Tensor:
        """KL + reconstruction error of the points ``[N, 2]``, with noise ``[T, D]`` for all of them: ``[N]``."""
        energies = []
        for points in x.split(batch):
            mean, logvar = self.encode(points)
            divergence = kl(mean, logvar, self.target(), noise.unsqueeze(1).expand(-1, len(points), -1))
            energies.append(divergence + ((points - self.decoder(mean)) ** 2).sum(-1))
        return torch.cat(energies)
