"""The sections that say what is shown: tables, figures and the results page."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from introprior.errors import unknown
from introprior.experiment import fields
from introprior.experiment.cells import TABLE1_CELLS
from introprior.experiment.fields import Model, option, wrong

IMAGE_CELLS = (
    "sg", "mog10", "mog10-ip", "mog10-lc", "mog10-lc-ip", "mog100", "mog100-ip", "mog100-lc", "mog100-lc-ip",
)  # fmt: skip


FIGURES = {
    "figure3": ("Figure 3", "data, samples, densities and latent spaces"),
    "search": ("Search of {cell}", "what the search saw"),
    "samples": ("Images, {dataset}", "generated and reconstructed images"),
    "figure5": ("Figure 5", "the first two latent dimensions"),
    "figure6": ("Figure 6", "latent spaces by t-SNE"),
    "figure4": ("Figure 4", "responsibilities and distances over training"),
    "figure2": ("Figure 2", "log-variances of the prior with and without clipping"),
    "figureS2": ("Figure S2", "the encoder overfitted in three configurations"),
    "figureS3": ("Figure S3", "soft clipping"),
    "theory": ("The theory", "small games, solved and played"),
}
"""Every figure's title, and what it shows; of a search there is one for each cell, of samples one for each dataset."""


class Tables(Model):
    """What the tables show; Tables 3 and 4 have the paper's cells."""

    table1: fields.Some[fields.Cell] = option(TABLE1_CELLS, "Cells of Table 1, from left to right.")
    table2: fields.Some[fields.Cell] = option(
        ("sg", "mog100", "mog100-ip", "mog100-lc", "mog100-lc-ip"), "Cells of Table 2, from left to right."
    )
    table5: fields.Some[fields.Cell] = option(IMAGE_CELLS, "Cells of Table 5, from left to right.")


class Figure2(Model):
    """What Figure 2 shows, two runs of its own, with and without clipping; no text of the paper has weight and seed."""

    dataset: str = option("CIFAR-10", "One of images.datasets.")
    cell: fields.Cell = option("mog100-lc-ip", "A cell with -ip; the other run is its -unclipped.")
    r_entropy: fields.Weight = option(0.0, "Weight of the responsibility entropy.")
    seed: fields.Seed = option(0, "Seed of both runs.")
    epochs: fields.Epochs = option(120, "Epochs in all, warm-up included.")
    every: fields.Epochs = option(20, "Epochs from one measured distance to the next.")


class Figure3(Model):
    """What Figure 3 shows, for every dataset."""

    cells: fields.Some[fields.Cell] = option(
        ("sg", "mog64-lc", "mog64-lc-ip"), "Cells of Figure 3, from left to right: columns 2, 5 and 6 of Table 1."
    )
    seed: fields.Seed = option(0, "The run that is shown, one of density.seeds.")
    points: fields.Size = option(2000, "Points of data, samples and latent codes.")
    grid: fields.Grid = option(200, "Points along each side of the density maps.")


class Figure4(Model):
    """What Figure 4 shows, for every dataset and all mixtures."""

    r_entropy: fields.Some[fields.Weight] = option(
        (0.0, 10.0, 100.0), "Weights of the responsibility entropy, some of images.r_entropy."
    )


class Latents(Model):
    """The runs shown in Figures 5 and 6 and in the grids of images, each with the r_entropy that the tables take."""

    cells: fields.Some[fields.Cell] = option(IMAGE_CELLS, "Cells, some of those of Tables 2 and 5.")
    seed: fields.Seed = option(0, "The run that is shown, one of images.seeds.")


class FigureS2(Model):
    """The run whose encoder Figure S2 overfits to a handful of images."""

    dataset: str = option("CIFAR-10", "One of images.datasets.")
    cell: fields.Cell = option("mog10", "One of the cells of Tables 2 and 5.")
    r_entropy: fields.Weight = option(10.0, "One of images.r_entropy; 0 for sg.")
    seed: fields.Seed = option(0, "One of images.seeds.")
    iterations: fields.Count = option(2000, "Iterations of each overfitted encoder.")


def _figure(name: str) -> str:
    if name not in FIGURES:
        raise wrong("", str(unknown("figure", name, FIGURES)))
    return name


class Page(Model):
    """What the results page shows, hence what has to be made for it."""

    tables: fields.Some[Annotated[int, Field(ge=1, le=5)]] = option(
        (1, 2, 3, 4, 5), "Numbers of tables; claims are tested on their cells."
    )
    figures: fields.Listed[Annotated[str, AfterValidator(_figure)]] = option(
        tuple(name for name in FIGURES if name != "theory"),
        "Figures, in this order; `theory`, which is not in the paper, where it is named.",
    )
