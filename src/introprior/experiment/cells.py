"""Cells: the columns of the paper's tables, each named by what distinguishes it.

A name is ``[vae-](sg|mog<M>)[-lc][-ip[-unclipped]][-dt][-closed]``:

============== ======================================================================================
``vae-``       a VAE throughout, no adversarial game (Table 1, first column)
``sg``         the standard Gaussian prior
``mog<M>``     a mixture of M Gaussians, learned during the warm-up as a VampPrior of M pseudo-inputs
``-lc``        learnable contributions (mixture weights)
``-ip``        the prior goes on learning during the game, in cooperation with the decoder ("Intro-Prior")
``-unclipped`` its log-variances are left free instead of soft-clipped (Figure 2); only after ``-ip``
``-dt``        hyperparameters of Daniel and Tamar (2021) instead of searched ones (Table 4, "reproduced")
``-closed``    the KL divergence in closed form instead of Monte Carlo (Table 4, "c"); standard Gaussian only
============== ======================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from introprior.errors import UserError

_NAME = re.compile(
    r"(?P<vae>vae-)?(?P<prior>sg|mog(?P<m>\d+))(?P<lc>-lc)?(?P<ip>-ip(?P<free>-unclipped)?)?(?P<dt>-dt)?(?P<closed>-closed)?"
)

TABLE1_CELLS = ("vae-sg", "sg", "mog64", "mog64-ip", "mog64-lc", "mog64-lc-ip")
"""The six columns of Table 1, in the paper's order."""

TABLE4_SETTINGS = {
    "ours_reproduced_closed_form_kl": "sg-dt-closed",
    "ours_reproduced_sampled_kl": "sg-dt",
    "ours_replicated_sampled_kl": "sg",
}
"""The columns of Table 4 that can be trained here, in the paper's order, and the cell behind each."""


@dataclass(frozen=True)
class Cell:
    """One column of a table: which model, which prior, who learns what.

    Attributes:
        name: the cell's name, see the module's text.
        adversarial: whether the game is played after the warm-up (False: a VAE throughout).
        prior: ``"sg"`` or ``"mog"``.
        components: number M of mixture components; 1 for ``sg``.
        learnable_contributions: LC, the mixture weights are parameters.
        intro_prior: IP, the prior learns during the game.
        published_betas: use Daniel and Tamar's hyperparameters, never searched ones.
        closed_form_kl: closed-form instead of Monte Carlo KL.
        clipped: the learning prior's log-variances are soft-clipped (Eq. 10); without IP nothing ever is.
    """

    name: str
    adversarial: bool
    prior: str
    components: int
    learnable_contributions: bool
    intro_prior: bool
    published_betas: bool
    closed_form_kl: bool
    clipped: bool

    @property
    def warmup(self) -> str:
        """Name of the prior family, all that a warm-up depends on: cells that share it share their warm-ups."""
        return (
            self.prior + (str(self.components) if self.prior == "mog" else "") + ("-lc" * self.learnable_contributions)
        )

    @property
    def label(self) -> str:
        """A short label for figures, e.g. ``MoG(64)+LC+IP``."""
        prior = "SG" if self.prior == "sg" else f"MoG({self.components})"
        extras = "+LC" * self.learnable_contributions + "+IP" * self.intro_prior
        notes = [
            note
            for note, on in (
                ("unclipped", self.intro_prior and not self.clipped),
                ("D&T", self.published_betas),
                ("closed KL", self.closed_form_kl),
            )
            if on
        ]
        return ("" if self.adversarial else "VAE ") + prior + extras + (f" ({', '.join(notes)})" if notes else "")


def parse(name: str, where: str = "cells") -> Cell:
    """The cell called ``name``.

    Raises:
        UserError: the name does not follow the grammar, or asks for something contradictory.
    """
    match = _NAME.fullmatch(str(name))
    if match is None:
        raise UserError(
            f"{where}: unknown cell {str(name)!r}; a cell is [vae-](sg|mog<M>)[-lc][-ip[-unclipped]][-dt][-closed], "
            f"for example {', '.join(TABLE1_CELLS)}"
        )
    mixture = match["m"] is not None
    components = int(match["m"]) if mixture else 1
    problem = None
    if components < 1:
        problem = "a mixture needs at least 1 component"
    elif not mixture and (match["lc"] or match["ip"]):
        problem = "the standard Gaussian has nothing to learn: -lc and -ip need a mog<M> prior"
    elif match["lc"] and components == 1:
        problem = "the contribution of a single component is always 1: -lc needs at least 2"
    elif match["vae"] and match["ip"]:
        problem = "a VAE plays no game in which the prior could take part: drop vae- or -ip"
    elif match["vae"] and match["dt"]:
        problem = "Daniel and Tamar's hyperparameters are those of S-IntroVAE: drop vae- or -dt"
    elif mixture and match["closed"]:
        problem = "the KL to a mixture has no closed form: -closed needs the sg prior"
    if problem:
        raise UserError(f"{where}: contradictory cell {name!r}: {problem}")
    return Cell(
        name=name,
        adversarial=not match["vae"],
        prior="mog" if mixture else "sg",
        components=components,
        learnable_contributions=bool(match["lc"]),
        intro_prior=bool(match["ip"]),
        published_betas=bool(match["dt"]),
        closed_form_kl=bool(match["closed"]),
        clipped=bool(match["ip"]) and not match["free"],
    )
