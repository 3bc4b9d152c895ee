"""The commands that choose, and need no torch: select for a searched setting, choose for an r_entropy."""

from __future__ import annotations

import argparse

from introprior.commands import arguments
from introprior.evaluation import selection
from introprior.experiment.cells import Cell
from introprior.experiment.fields import Part, Positive
from introprior.operations import files
from introprior.reporting import read


class Hyperparameters(Part):
    """What ``hyperparameters.json`` holds beside the story of its choice."""

    dataset: str | None = None
    beta_rec: Positive
    beta_kl: Positive
    beta_neg: Positive | None

    @property
    def betas(self) -> tuple[float | None, ...]:
        return self.beta_rec, self.beta_kl, self.beta_neg


def select(given: argparse.Namespace) -> dict[str, str]:
    """Choose among the settings that searches tried, or take over published ones."""
    Cell.parse(given.cell, "--cell")
    if given.slices:
        tried = read.slices(given.slices)
        chosen = {"source": "search", **selection.choose(tried, given.dataset, given.cell)}
    else:
        chosen = arguments.parsed(given.published, "--published")
        Hyperparameters.read(chosen, "--published")
    files.write_json(given.output, {"dataset": given.dataset, "cell": given.cell} | chosen)
    return {}


def choose(given: argparse.Namespace) -> dict[str, str]:
    """Choose the r_entropy of each cell."""
    measured = read.metrics(given.metrics)
    files.write_json(given.output, selection.choose_r_entropy(measured, given.dataset, given.metric))
    return {}
