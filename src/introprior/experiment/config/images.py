"""The section ``images``: image generation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from introprior.data.images import folders
from introprior.data.images.catalogue import DATASETS, add, dataset
from introprior.experiment import fields, run
from introprior.experiment.fields import NAME, Model, blamed, option, shown, wrong

DIMENSIONS = {"inception": 2048, "classifier": 64}
"""The length of the features, kept equal (by a test) to those of the networks."""

_USUAL = run.ImageTraining()


class ImageSchedule(run.GameNumbers):
    """How each run is trained."""

    unit = "epochs"

    epochs: fields.Epochs = option(run.EPOCHS, "Epochs in all, warm-up included.")
    warmup_epochs: fields.Natural = option(run.WARMUP_EPOCHS, "Epochs as a plain VAE before the adversarial game.")
    mixture_warmup_epochs: fields.Natural = option(
        run.MIXTURE_WARMUP_EPOCHS, "Last epochs of the warm-up, in which the prior is a free mixture already."
    )
    beta_rec: fields.Positive = option(1.0, "Weight of the reconstruction error.")
    beta_kl: fields.Positive = option(1.0, "Weight of the KL divergence.")
    precision: run.Precision = option(
        _USUAL.precision,
        "What networks compute in; tf32: convolutions, where the GPU has it; bf16: autocast. Losses: float32.",
    )


def _own(text: str) -> Any:
    """A field of one's own data alone: nothing is said of it where there is none."""
    return Field(None, description=text, exclude_if=lambda value: value is None)


class OfDataset(Model):
    """Networks, batches and beta_neg for a dataset."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required"))  # files hold what differs

    batch_size: fields.Size = Field(description="Images per iteration; the last batch of an epoch may have fewer.")
    latent_dim: fields.Width = Field(description="Dimensions of the latent space.")
    widths: fields.OneOrMore[fields.Width] = Field(description="Channels after each halving of height and width.")
    beta_neg: fields.Positive = Field(description="Weight of the fakes' KL divergence in the encoder's loss.")
    folder: fields.PathText | None = _own(
        "Of pictures of your own: a folder, an .npz or an .npy file; see docs/your-own-data.md."
    )
    size: fields.Side | None = _own("Height and width that your own pictures are brought to.")
    channels: Literal[1, 3] | None = _own("Of your own pictures, 1 (grey) or 3 (colour, the default).")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.folder is None and (self.size or self.channels):
            raise wrong("folder", "is missing, and size and channels are of pictures of your own; give it")
        if self.folder is not None and self.size is None:
            raise wrong("size", "is missing; give the height and width to bring the pictures to")
        return self


_FMNIST = OfDataset(batch_size=_USUAL.batch_size, latent_dim=_USUAL.latent_dim, widths=_USUAL.widths, beta_neg=256.0)
_MNIST = _FMNIST.model_copy(update={"beta_neg": 128.0})  # that of the authors' code
_CIFAR = OfDataset(batch_size=32, latent_dim=128, widths=(64, 128, 256), beta_neg=256.0)
SECTIONS = {"MNIST": _MNIST, "FMNIST": _FMNIST, "CIFAR-10": _CIFAR}
SECTIONS |= {name: SECTIONS[entry.stand_in_for] for name, entry in DATASETS.items() if entry.stand_in_for}
"""What differs between the paper's datasets; a stand-in is trained like what it stands in for."""


def _over_the_usual(sections: Any) -> Any:
    """Sections of datasets, each laid over that of the paper if there is one."""
    if not isinstance(sections, Mapping):
        return sections
    with blamed():
        for name, part in sections.items():
            if not isinstance(part, Mapping) or all(part.get(key) is None for key in ("folder", "size", "channels")):
                dataset(name)
            elif not re.fullmatch(NAME, str(name)):
                raise wrong("", f"{shown(name)} must be letters, digits, . _ and -, a letter or digit first")
    usual = {name: dict(section) for name, section in SECTIONS.items()}
    return {
        name: {**usual.get(name, {}), **dict(part)} if isinstance(part, Mapping | Model) else part
        for name, part in {**usual, **sections}.items()
    }


class ImageEvaluation(Model):
    """How a run is measured."""

    epochs: fields.SomeRising[fields.Natural] = option(
        (0, 80, 120, 160, 200, 219), "Epochs after which a run is measured; the best one enters the tables."
    )
    features: Literal["inception", "classifier"] = option(
        "inception", "What distances compare, Inception's features (FID) or those of a small classifier."
    )
    weights: fields.PathText | None = option(
        None, "File of Inception's weights, as pytorch-fid has them; null, they are downloaded."
    )
    classifier_epochs: fields.Epochs = option(10, "Epochs that the small classifier is trained for.")
    samples: fields.Count = option(50_000, "Images on each side of a distance.")
    allow_few: bool = option(
        False, "Whether to take fewer images than features have dimensions (2,048; the classifier's 64)."
    )
    monte_carlo_samples: fields.Count = option(100, "Samples per image behind the responsibilities.")
    grid_images: fields.Count = option(64, "Generated images kept for the grids; half as many are reconstructed.")
    latent_points: fields.Count = option(2000, "Test images whose codes are kept for Figures 5 and 6.")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        least = DIMENSIONS[self.features]
        if self.samples < least and not self.allow_few:
            problem = f"must be at least {least}, the dimensions of {self.features} features, is {self.samples}"
            raise wrong("samples", f"{problem}; take more, or set allow_few: true")
        return self


class Probes(Model):
    """The classifiers of latent codes in Tables 2 and 5."""

    svm_iterations: fields.FewAndMany = option((2000, 10_000), "Iterations of the SVM, few and many.")
    neighbours: fields.FewAndMany = option((5, 100), "Neighbours of the k-NN classifier, few and many.")
    train_images: fields.AllOrCount = option("all", "Training images whose codes they learn from; all or a number.")


class Images(Model):
    """Image generation: Tables 2 and 5, Figures 2, 4, 5, 6, S2 and S3."""

    datasets: fields.Some[str] = option(
        ("MNIST", "FMNIST", "CIFAR-10"),
        "MNIST, FMNIST (Fashion-MNIST), CIFAR-10, the stand-ins digits, digits16 and photos, or your own (by_dataset), "
        "in the tables' order.",
    )
    seeds: fields.Some[fields.Seed] = option((0, 1, 2), "Seeds of the runs behind every mean; one job each.")
    r_entropy: fields.Some[fields.Weight] = option(
        (0.0, 1.0, 10.0, 100.0),
        "Weights of the responsibility entropy tried for every mixture; the best by FID enters the tables.",
    )
    source: fields.PathText | None = option(
        None, "torchvision's root, a folder that holds the datasets' files or is to; null, one beside the results."
    )
    verify: bool = option(True, "Whether to refuse files that are not the published ones.")
    training: ImageSchedule = ImageSchedule()
    by_dataset: Annotated[dict[str, OfDataset], BeforeValidator(_over_the_usual)] = option(
        SECTIONS, "What differs between the datasets."
    )
    evaluation: ImageEvaluation = ImageEvaluation()
    probes: Probes = Probes()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.datasets:
            own = self.by_dataset.get(name)
            if own and own.folder and own.size:
                with blamed(f"by_dataset.{name}.folder"):
                    add(folders.describe(name, own.folder, own.size, own.channels or 3))
        for i, name in enumerate(self.datasets):
            with blamed(f"datasets[{i}]"):
                dataset(name)
            if name not in self.by_dataset:
                raise wrong(f"datasets[{i}]", f"{name} has no section; give it one in images.by_dataset")
        for i, weight in enumerate(self.r_entropy):
            check_weight(f"r_entropy[{i}]", weight)
        epochs, evaluated, warmup = self.training.epochs, self.evaluation.epochs, self.training.warmup_epochs
        if evaluated[-1] > epochs:
            problem = f"must be at most images.training.epochs, {epochs}, is {evaluated[-1]}"
            raise wrong(f"evaluation.epochs[{len(evaluated) - 1}]", problem)
        if evaluated[-1] < warmup:
            raise wrong("evaluation.epochs", f"all are within the warm-up; add one from {warmup} on")
        for name in self.datasets:
            self._check_dataset(name)
        return self

    def _check_dataset(self, name: str) -> None:
        facts, section, evaluation = DATASETS[name], self.by_dataset[name], self.evaluation
        halvings = len(section.widths)
        size = f"{facts.shape[1]}x{facts.shape[2]}"
        if any(side % 2**halvings for side in facts.shape[1:]):
            problem = f"{halvings} widths halve {size} images more often than they can be; use fewer"
            raise wrong(f"by_dataset.{name}.widths", problem)
        if facts.shape[1:] == (2**halvings, 2**halvings):
            problem = f"{halvings} widths leave one pixel of {size} images, of which BatchNorm needs two; use fewer"
            raise wrong(f"by_dataset.{name}.widths", problem)
        asked = self.probes.train_images
        codes = facts.train if asked == "all" else asked
        for path, value, most, reason in (
            (f"by_dataset.{name}.batch_size", section.batch_size, facts.train, "the {} training images"),
            ("evaluation.samples", evaluation.samples, facts.train, "{}, the training images of " + name),
            ("evaluation.latent_points", evaluation.latent_points, facts.test, "{}, the test images of " + name),
            # Half of them are reconstructions.
            ("evaluation.grid_images", evaluation.grid_images, 2 * facts.test, "{}, twice the test images of " + name),
            ("probes.train_images", codes, facts.train, "{} (training images of " + name + ")"),
            ("probes.neighbours[1]", self.probes.neighbours[-1], codes, "{}, the codes to search for " + name),
        ):
            if value > most:
                raise wrong(path, f"must be at most {reason.format(most)}, is {value}")


def check_weight(path: str, weight: float) -> None:
    """Refuse a weight that its path could not tell of."""
    if float(text(weight)) != weight:
        raise wrong(path, f"{weight} has more than six digits, too many for a path; try {text(weight)}")


def text(r_entropy: float) -> str:
    """A weight as in paths."""
    return f"{r_entropy:g}"
