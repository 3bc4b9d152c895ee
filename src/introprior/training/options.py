"""What a training run is made of, as plain values: read from JSON, hashed, kept beside its results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from introprior.errors import UserError, unknown
from introprior.experiment import cells, protocols
from introprior.game.losses import Betas, Rules
from introprior.game.priors import Conversion

PRECISIONS = ("tf32", "float32", "bf16")
"""What image networks may compute in; the first is the default."""


@dataclass(frozen=True)
class TrainingOptions:
    """The numbers of a 2D training run; the defaults are the paper's.

    Attributes:
        iterations: all of them, warm-up included.
        warmup_iterations: as a VAE, before the game; ignored by ``vae-`` cells, which stay one.
        mixture_warmup_iterations: the last ones of the warm-up, with the converted, free mixture.
        batch_size: fresh samples per iteration.
        monte_carlo_samples: T of Eq. 99.
        hidden_width, hidden_layers, latent_dim: the networks' sizes.
        learning_rate: Adam's, for all players.
        milestones: iterations at which the learning rate is divided by 10.
        alpha, gamma, gamma_r: of Eq. 98.
        clip_steepness: K of Eq. 93.
        r_entropy: weight of the responsibility entropy.
    """

    iterations: int = 30_000
    warmup_iterations: int = 2_000
    mixture_warmup_iterations: int = 100
    batch_size: int = 512
    monte_carlo_samples: int = 100
    hidden_width: int = 256
    hidden_layers: int = 4
    latent_dim: int = 2
    learning_rate: float = 2e-4
    milestones: tuple[int, ...] = (10_000, 15_000)
    alpha: float = 2.0
    gamma: float = 1.0
    gamma_r: float = 1e-8
    clip_steepness: float = 10.0
    r_entropy: float = 0.0

    def __post_init__(self) -> None:
        may_be_zero = ("r_entropy", "gamma_r", "mixture_warmup_iterations", "warmup_iterations")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and field.name not in may_be_zero and value <= 0:
                raise UserError(f"training.{field.name}: {value} is not positive")
        if self.warmup_iterations >= self.iterations:
            raise UserError(
                f"training.warmup_iterations: {self.warmup_iterations} leaves none of {self.iterations} iterations to "
                "the game; lower it"
            )
        if self.mixture_warmup_iterations > self.warmup_iterations:
            raise UserError(
                f"training.mixture_warmup_iterations: {self.mixture_warmup_iterations} is more than the whole warm-up "
                f"({self.warmup_iterations}); lower it"
            )

    @property
    def data_elements(self) -> int:
        """Numbers per data sample; its inverse is the loss scale where that is per element."""
        return 2

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values; unknown keys are refused."""
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise unknown("key", key, known, "training")
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@dataclass(frozen=True)
class ImageTrainingOptions(TrainingOptions):
    """The numbers of a training run on images, counted in iterations like all others; the defaults are Fashion-MNIST's.

    An epoch of 60,000 images in batches of 128 has 469 iterations; the paper's runs have 220 epochs, the first 20 as a
    VAE, the last 5 of those with the free mixture, and a constant learning rate. The hidden sizes are not used.

    Attributes:
        shape: channels, height, width of an image.
        widths: channels after each halving of height and width.
        precision: of the networks on a GPU; ``tf32``: convolutions in TF32 where the GPU has it, all else in float32:
            PyTorch's default, and so the authors'; ``float32``: no TF32 either; ``bf16``: networks under autocast to
            bfloat16, on a CPU too. Losses, divergences and the prior are float32 in any case.
    """

    iterations: int = 220 * 469
    warmup_iterations: int = 20 * 469
    mixture_warmup_iterations: int = 5 * 469
    batch_size: int = 128
    latent_dim: int = 32
    milestones: tuple[int, ...] = ()
    shape: tuple[int, int, int] = (1, 28, 28)
    widths: tuple[int, ...] = (64, 128)
    precision: str = "tf32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS, "training.precision")

    @property
    def data_elements(self) -> int:
        """C x H x W."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Member:
    """One run of an ensemble: its seed and its weights; ``beta_neg`` is None for a VAE."""

    seed: int
    beta_rec: float
    beta_kl: float
    beta_neg: float | None = None

    def __post_init__(self) -> None:
        for name in ("beta_rec", "beta_kl", "beta_neg"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}: {value} is not positive; every weight of a loss has to be above 0")

    @property
    def warmup(self) -> Member:
        """The run as far as its warm-up goes, which knows nothing of beta_neg."""
        return dataclasses.replace(self, beta_neg=None)

    @property
    def betas(self) -> Betas:
        """As the losses take them."""
        return Betas(self.beta_rec, self.beta_kl, self.beta_neg or 0.0)


@dataclass(frozen=True)
class Run:
    """An ensemble to train: one dataset, one cell, several members."""

    dataset: str
    cell: cells.Cell
    members: tuple[Member, ...]
    training: TrainingOptions = TrainingOptions()
    protocol: protocols.Protocol = protocols.Protocol()

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError(f"{self.dataset}/{self.cell.name}: no member to train; give at least one seed")
        if len(set(self.members)) < len(self.members):
            raise UserError(f"{self.dataset}/{self.cell.name}: a member occurs twice; give each seed and setting once")
        if self.cell.adversarial and any(member.beta_neg is None for member in self.members):
            raise UserError(f"{self.dataset}/{self.cell.name}: beta_neg is missing; the game needs all three weights")
        if self.training.r_entropy and not self.cell.family.components:
            raise UserError(
                f"{self.dataset}/{self.cell.name}: the prior has no components that r_entropy could bear on; leave it "
                "at 0"
            )

    @property
    def rules(self) -> Rules:
        """The game's numbers; a loss scale per element is 1/2 in 2D, 1/(CHW) for images."""
        options, protocol = self.training, self.protocol
        return Rules(
            scale=1 / options.data_elements if protocol.loss_scale == "per-element" else 1.0,
            alpha=options.alpha,
            gamma=options.gamma,
            gamma_r=options.gamma_r,
            r_entropy=options.r_entropy,
            monte_carlo_samples=0 if self.cell.closed_form_kl else options.monte_carlo_samples,
            reconstructions_are_fakes=protocol.fake_terms == "generated-and-reconstructed",
            fresh_noise=protocol.decoder_noise == "fresh",
            gamma_r_terms=protocol.gamma_r_terms == "compute",
            normalised_entropy=protocol.responsibility_weight == "normalised-scaled",
        )

    @property
    def conversion(self) -> Conversion:
        """How the prior changes before the game."""
        protocol = self.protocol
        return Conversion(protocol.conversion_logits, protocol.component_variance, self.training.clip_steepness)

    def stream(self, member: Member) -> int:
        """Seed of the member's random stream; on images all seeds may share one, see ``image_streams``."""
        shared = isinstance(self.training, ImageTrainingOptions) and self.protocol.image_streams == "shared"
        return 0 if shared else member.seed

    @property
    def warmup(self) -> dict[str, Any]:
        """All that the warm-up depends on, as plain values: runs with the same may share it.

        Neither IP nor r_entropy nor beta_neg is among it, nor any other number of the game.
        """
        training, protocol = self.training.as_dict(), self.protocol.as_dict()
        game = ("iterations", "alpha", "gamma", "gamma_r", "r_entropy")
        choices = (
            *("conversion", "conversion_logits", "conversion_resets_optimizers", "learning_rate_decay"),
            *("component_variance", "image_streams"),
        )
        return {
            "dataset": self.dataset,
            "prior": self.cell.warmup,
            "closed_form_kl": self.cell.closed_form_kl,
            "members": [dataclasses.asdict(member) for member in dict.fromkeys(m.warmup for m in self.members)],
            **{key: value for key, value in training.items() if key not in game},
            **{key: protocol[key] for key in choices},
        }

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "dataset": self.dataset,
            "cell": self.cell.name,
            "members": [dataclasses.asdict(member) for member in self.members],
            "training": self.training.as_dict(),
            "protocol": self.protocol.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """From what :meth:`as_dict` gave."""
        options = ImageTrainingOptions if "shape" in values["training"] else TrainingOptions
        return cls(
            dataset=values["dataset"],
            cell=cells.parse(values["cell"]),
            members=tuple(Member(**member) for member in values["members"]),
            training=options.from_dict(values["training"]),
            protocol=protocols.Protocol(**values["protocol"]),
        )

    @property
    def key(self) -> str:
        """A hash of all that the outcome depends on; names the resume state."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]
