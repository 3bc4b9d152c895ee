"""The section ``density``: density estimation in two dimensions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from introprior.data import catalogue
from introprior.experiment import fields
from introprior.experiment.cells import Cell
from introprior.experiment.fields import Model, blamed, option, shown, wrong
from introprior.experiment.run import DensityTraining, OwnPoints

Fraction = Annotated[float, Field(gt=0, lt=1)]

VAE_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 1.0)


class VaeGrid(Model):
    """The grid of cells that are a VAE throughout: 9 x 9 = 81 settings."""

    beta_rec: fields.Some[fields.Positive] = option(VAE_WEIGHTS, "Weights of the reconstruction error to try.")
    beta_kl: fields.Some[fields.Positive] = option(VAE_WEIGHTS, "Weights of the KL divergence to try.")


class Cuts(Model):
    """Successive halving."""

    keep: Fraction = option(0.5, "The part of the settings that goes on after each cut.")
    at: fields.SomeRising[Fraction] = option((0.25, 0.5), "When to cut, as rising fractions of the iterations.")


class Halving(Cuts):
    """Successive halving of the settings, an economy that the paper does not make."""

    enabled: bool = option(False, "Whether to drop the worse settings of a job on the way.")


def beta_neg(beta_kl: float, multiple: float) -> float:
    """A multiple of beta_kl, rounded to three decimals."""
    return round(float(multiple * beta_kl), 3)


class Search(Model):
    """Search of a grid of hyperparameters, 6 x 7 x 5 = 210 settings of S-IntroVAE, or published ones."""

    enabled: bool = option(True, "Whether to search; otherwise every cell takes published values.")
    cells: fields.AllOrSome[fields.Cell] = option(
        "all", "The cells to search the grid for; all or a list (cells with -dt are never searched)."
    )
    published: Literal["table3", "daniel-tamar"] = option(
        "table3", "The published values that games take for which no search is made; a VAE has its own."
    )
    own: dict[str, dict[fields.AllOrCell, fields.ThreeWeights]] = option(
        {},
        "In place of published values, by dataset and there by cell or for all: beta_rec, beta_kl, beta_neg.",
    )
    seed: fields.Seed = option(0, "Seed of all runs of the search.")
    samples: fields.Count = option(5000, "Real, and generated, points in the histograms that rank the settings.")
    beta_rec: fields.Some[fields.Positive] = option(
        (0.05, 0.2, 0.3, 0.4, 0.8, 1.0), "Weights of the reconstruction error to try."
    )
    beta_kl: fields.Some[fields.Positive] = option(
        (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0), "Weights of the KL divergence to try."
    )
    beta_neg_multiples: fields.Some[fields.Positive] = option(
        (1.0, 2.0, 3.0, 4.0, 5.0), "Weights of the fakes' KL divergence to try, as multiples of beta_kl."
    )
    vae: VaeGrid = VaeGrid()
    members_per_job: Annotated[fields.Count, Field(le=100_000)] = option(
        105, "Settings trained side by side in one job; those that differ only in beta_neg stay together."
    )
    halving: Halving = Halving()

    def searches(self, cell: str) -> bool:
        """Whether the grid is searched for a cell."""
        return self.enabled and (self.cells == "all" or cell in self.cells) and not Cell.parse(cell).published_betas

    @model_validator(mode="after")
    def _check(self) -> Self:
        for i, name in enumerate(() if self.cells == "all" else self.cells):
            if Cell.parse(name).published_betas:
                raise wrong(f"cells[{i}]", f"{name} is defined by published values; take it off the list")
        for dataset, cells_of in self.own.items():
            with blamed("own"):
                catalogue.dataset(dataset)
            for name in set(cells_of) - {"all"}:
                if self.searches(name) or Cell.parse(name).published_betas:
                    raise wrong("own", f"{dataset}: {name} is searched, or defined by published values; take it off")
        for kl in self.beta_kl:
            rounded = [beta_neg(kl, multiple) for multiple in self.beta_neg_multiples]
            if 0 in rounded or len(set(rounded)) < len(rounded):
                problem = f"times beta_kl {kl}, rounded to three decimals: {shown(rounded)}; use larger or fewer values"
                raise wrong("beta_neg_multiples", problem)
        return self


class DensityEvaluation(Model):
    """How a trained cell is measured."""

    samples: fields.Count = option(5000, "Real, and generated, points in the histograms of KL and JSD.")
    grid: fields.Grid = option(1024, "Points along each side of the grid of gnELBO, which fewer points only estimate.")
    data_points: fields.Count = option(12_800, "Data points in gnELBO.")
    monte_carlo_samples: fields.Count = option(100, "Samples behind each Monte Carlo KL divergence in gnELBO.")


def check_size(path: str, size: int, datasets: tuple[str, ...]) -> None:
    """Refuse a number of points that some dataset cannot draw at once."""
    for name in datasets:
        with blamed(path):
            catalogue.check_size(name, size, "")


class Density(Model):
    """Density estimation in two dimensions: Tables 1, 3 and 4, Figure 3."""

    points: OwnPoints = option(
        {}, "Points of your own by a name for them: {file: points.csv, half_width: 4}; see docs/your-own-data.md."
    )
    datasets: fields.Some[str] = option(
        ("8Gaussian", "2Spirals", "Checkerboard", "Rings"),
        "The datasets, those of points among them, in the order of the tables.",
    )
    seeds: fields.Some[fields.Seed] = option(
        (0, 1, 2, 3, 4), "Seeds of the runs behind every mean; trained together as one ensemble."
    )
    members_per_job: Annotated[fields.Count, Field(le=100_000)] = option(
        20,
        "The datasets of a cell are trained in one job, side by side, if these are members enough for all their seeds; "
        "else each has a job of its own, as suits few seeds on many CPU cores.",
    )
    training: DensityTraining = DensityTraining()
    search: Search = Search()
    evaluation: DensityEvaluation = DensityEvaluation()

    @property
    def together(self) -> bool:
        """Whether the datasets of a cell share a job."""
        return 1 < len(self.datasets) <= self.members_per_job // len(self.seeds)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for i, name in enumerate(self.datasets):
            with blamed(f"datasets[{i}]"):
                catalogue.dataset(name)
        for path, size in (
            ("training.batch_size", self.training.batch_size),
            ("search.samples", self.search.samples),
            ("evaluation.samples", self.evaluation.samples),
            ("evaluation.data_points", self.evaluation.data_points),
        ):
            check_size(path, size, self.datasets)
        return self
