"""What a training run is made of, as plain values: read from JSON, hashed, kept beside its results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, PlainSerializer, model_validator

from introprior.data import catalogue
from introprior.errors import UserError
from introprior.experiment import fields
from introprior.experiment.cells import Cell
from introprior.experiment.fields import Model, blamed, option, wrong
from introprior.experiment.protocol import TrainingProtocol

Precision = Literal["tf32", "float32", "bf16"]


EPOCHS, WARMUP_EPOCHS, MIXTURE_WARMUP_EPOCHS = 220, 20, 5
"""Of the paper's runs on images: in all, of them as a VAE, and the last of those with the free mixture."""

FMNIST_BATCHES = 469
"""In an epoch of 60,000 images in batches of 128."""


class GameNumbers(Model):
    """The numbers of a training, whatever is learned and whatever its length is counted in; defaults: the paper's."""

    unit: ClassVar[str] = "iterations"

    monte_carlo_samples: fields.Count = option(100, "Samples T behind each Monte Carlo KL divergence.")
    learning_rate: fields.Positive = option(2e-4, "Adam's learning rate, for all players.")
    alpha: fields.Positive = option(
        2.0, "Sharpness of the exponentiated ELBO of fakes, alpha of the paper.", stage="game"
    )
    gamma: fields.Weight = option(1.0, "Weight of the fakes' KL divergence in the decoder's loss.", stage="game")
    gamma_r: fields.Weight = option(
        1e-8, "Weight of the fakes' reconstruction error in the decoder's loss.", stage="game"
    )
    clip_steepness: fields.Positive = option(10.0, "Steepness K of the soft clipping of the components' log-variances.")

    @model_validator(mode="after")
    def _phases(self) -> Self:
        unit = self.unit
        total, warmup, mixture = (getattr(self, phase + unit) for phase in ("", "warmup_", "mixture_warmup_"))
        if warmup >= total:
            raise wrong(f"warmup_{unit}", f"must be below {unit}, {total}, is {warmup}")
        if mixture > warmup:
            raise wrong(f"mixture_warmup_{unit}", f"must be at most warmup_{unit}, {warmup}, is {mixture}")
        return self


class AnyTraining(GameNumbers):
    """A training counted in iterations, the warm-up included."""

    iterations: fields.Count
    warmup_iterations: fields.Natural
    mixture_warmup_iterations: fields.Natural
    batch_size: fields.Size
    latent_dim: fields.Width
    milestones: fields.Rising[fields.Natural]
    r_entropy: fields.Weight = option(0.0, "Weight of the responsibility entropy.", stage="game")

    @property
    def data_elements(self) -> int:
        """Numbers per data sample; its inverse is the loss scale where that is per element."""
        raise NotImplementedError


class DensityTraining(AnyTraining):
    """How a 2D cell is trained."""

    iterations: fields.Count = option(30_000, "Iterations in all, warm-up included.", stage="game")
    warmup_iterations: fields.Natural = option(2_000, "Iterations as a plain VAE before the adversarial game.")
    mixture_warmup_iterations: fields.Natural = option(
        100, "Last iterations of the warm-up, in which the prior is a free mixture already."
    )
    batch_size: fields.Size = option(512, "Data points per iteration; a multiple of 4 for Rings, of 2 for 2Spirals.")
    hidden_width: fields.Width = option(256, "Units in each hidden layer of encoder and decoder.")
    hidden_layers: Annotated[fields.Count, Field(le=1000)] = option(4, "Hidden layers of encoder and decoder.")
    latent_dim: fields.Width = option(2, "Dimensions of the latent space; 2, since the figures draw it.")
    precision: Precision = option(
        "float32", "What the networks' matrix products compute in; tf32: where the GPU has it. All else: float32."
    )
    milestones: fields.Rising[fields.Natural] = option(
        (10_000, 15_000), "Iterations at which the learning rates are divided by 10, where the protocol does so."
    )

    @model_validator(mode="after")
    def _plane(self) -> Self:
        if self.latent_dim != 2:
            raise wrong("latent_dim", f"must be 2, is {self.latent_dim}")
        return self

    @property
    def data_elements(self) -> int:
        return 2


class Points(Model):
    """Points of one's own, in place of a distribution."""

    file: fields.PathText = Field(description="CSV with two columns of numbers, or .npy of [N, 2].")
    half_width: fields.Positive | None = option(
        None, "Half the side of the window, about the origin, of histograms and grids; null, all points are in it."
    )


def _known(own: dict[str, Points]) -> dict[str, Points]:
    for name, points in own.items():
        with blamed(f"{name}.file"):
            catalogue.add(name, points.file, points.half_width)
    return own


OwnPoints = Annotated[dict[fields.Name, Points], AfterValidator(_known)]
"""By the name that they are to have; whoever reads them makes them known (:func:`introprior.data.catalogue.add`)."""


class ImageTraining(AnyTraining):
    """How a run on images is trained, counted in iterations like all others; the defaults are Fashion-MNIST's.

    The learning rate is constant.
    """

    iterations: fields.Count = option(EPOCHS * FMNIST_BATCHES, "Iterations in all, warm-up included.", stage="game")
    warmup_iterations: fields.Natural = WARMUP_EPOCHS * FMNIST_BATCHES
    mixture_warmup_iterations: fields.Natural = MIXTURE_WARMUP_EPOCHS * FMNIST_BATCHES
    batch_size: fields.Size = 128
    latent_dim: fields.Width = 32
    milestones: fields.Rising[fields.Natural] = ()
    shape: fields.Three = (1, 28, 28)
    widths: fields.OneOrMore[fields.Width] = (64, 128)
    precision: Precision = "tf32"

    @property
    def data_elements(self) -> int:
        return math.prod(self.shape)


class Member(Model):
    """One run of an ensemble: its data, seed and weights; ``beta_neg`` is None for a VAE, which has no fakes."""

    dataset: str
    seed: fields.Seed
    beta_rec: fields.Positive
    beta_kl: fields.Positive
    beta_neg: fields.Positive | None = None

    @property
    def warmup(self) -> Member:
        """The run as far as its warm-up goes, which knows nothing of beta_neg."""
        return self.model_copy(update={"beta_neg": None})


def _cell(value: Any) -> Cell:
    return value if isinstance(value, Cell) else Cell.parse(str(value), "cell")


class Run(Model):
    """An ensemble to train: one cell, several members."""

    half: ClassVar[str]

    cell: Annotated[InstanceOf[Cell], BeforeValidator(_cell), PlainSerializer(lambda cell: cell.name)]
    members: fields.OneOrMore[Member]
    training: AnyTraining
    protocol: TrainingProtocol = TrainingProtocol()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        name = f"{self.dataset}/{self.cell.name}"
        if len(set(self.members)) < len(self.members):
            raise UserError(f"{name}: a member occurs twice; give each seed and setting once")
        if self.cell.adversarial and any(member.beta_neg is None for member in self.members):
            raise UserError(f"{name}: beta_neg is missing; the game needs all three weights")
        if self.training.r_entropy and not self.cell.family.components:
            raise UserError(f"{name}: the prior has no components that r_entropy could bear on; leave it at 0")
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        """Of the members, each once."""
        return tuple(dict.fromkeys(member.dataset for member in self.members))

    @property
    def dataset(self) -> str:
        """The dataset, if it is one; else how many there are."""
        return self.datasets[0] if len(self.datasets) == 1 else f"{len(self.datasets)} datasets"

    def rows(self, dataset: str) -> list[int]:
        """Which members are of a dataset."""
        return [row for row, member in enumerate(self.members) if member.dataset == dataset]

    def of(self, dataset: str) -> Self:
        """The run of the members of one dataset, which trains them as this one does."""
        return self.model_copy(update={"members": tuple(self.members[row] for row in self.rows(dataset))})

    @property
    def converts(self) -> bool:
        """Whether the prior turns into another before the game; a VAE's never does, and with -ep it need not."""
        paired = self.cell.prior_encoder and self.protocol.encoder_cooperation == "paired"
        return self.cell.adversarial and not paired

    def stream(self, member: Member) -> int:
        """Seed of the member's random stream."""
        return member.seed

    @property
    def warmup(self) -> dict[str, Any]:
        """All that the warm-up depends on, as plain values: runs with the same may share it.

        Neither IP nor r_entropy nor beta_neg is among it, nor any other number of the game.
        """
        return {
            "datasets": list(self.datasets),
            "prior": self.cell.warmup,
            "closed_form_kl": self.cell.closed_form_kl,
            "members": [member.dump() for member in dict.fromkeys(member.warmup for member in self.members)],
            **self.training.dump(half=self.half, stage="warmup"),
            **self.protocol.dump(half=self.half, stage="warmup"),
        }

    def as_dict(self) -> dict[str, Any]:
        return {"half": self.half, **self.model_dump(mode="json")}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> DensityRun | ImageRun:
        """From what :meth:`as_dict` gave.

        Raises:
            UserError: it is none, or of another version.
        """
        content = {key: value for key, value in values.items() if key != "half"}
        if values.get("half") == ImageRun.half:
            return ImageRun.read(content, "run")
        return DensityRun.read(content, "run")

    @property
    def key(self) -> str:
        """A hash of all that the outcome depends on; names the resume state."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


class DensityRun(Run):
    """A 2D run."""

    half = "density"
    training: DensityTraining = DensityTraining()


class ImageRun(Run):
    """A run on images; all seeds may share one random stream, see ``image_streams``."""

    half = "images"
    training: ImageTraining = ImageTraining()

    def stream(self, member: Member) -> int:
        return 0 if self.protocol.image_streams == "shared" else member.seed
