"""Cells: the columns of the paper's tables, each named by what distinguishes it.

A name is ``[vae-]<family>[-lc][-ip[-unclipped]][-dt][-closed]``:

============== ======================================================================================
``vae-``       a VAE throughout, no adversarial game (Table 1, first column)
``<family>``   of the prior, see :mod:`introprior.experiment.families`: ``sg``, the standard Gaussian; ``mog<M>``, a
               mixture of M Gaussians, learned during the warm-up as a VampPrior of M pseudo-inputs; or another
``-lc``        learnable contributions (weights of components)
``-ip``        the prior goes on learning during the game, in cooperation with the decoder ("Intro-Prior")
``-unclipped`` its log-variances are left free instead of soft-clipped (Figure 2); only after ``-ip``
``-dt``        hyperparameters of Daniel and Tamar (2021) instead of searched ones (Table 4, "reproduced")
``-closed``    the KL divergence in closed form instead of Monte Carlo (Table 4, "c"); where there is one
============== ======================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from introprior.errors import UserError, cut
from introprior.experiment.families import FAMILIES, Family

_NAME = re.compile(
    r"(?P<vae>vae-)?(?P<family>[a-z]+)(?P<size>[1-9][0-9]{0,5})?"
    r"(?P<lc>-lc)?(?P<ip>-ip(?P<free>-unclipped)?)?(?P<dt>-dt)?(?P<closed>-closed)?"
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
        adversarial: whether the game is played after the warm-up (False: a VAE throughout).
        size: the number behind the family's name, such as the number M of mixture components; 1 where it has none.
        learnable_contributions: LC, the weights of the components are parameters.
        intro_prior: IP, the prior learns during the game.
        published_betas: use Daniel and Tamar's hyperparameters, never searched ones.
        closed_form_kl: closed-form instead of Monte Carlo KL.
        clipped: what of the learning prior might explode is clipped (Eq. 10); without IP nothing ever is.
    """

    name: str
    adversarial: bool
    family: Family
    size: int
    learnable_contributions: bool
    intro_prior: bool
    published_betas: bool
    closed_form_kl: bool
    clipped: bool

    @property
    def warmup(self) -> str:
        """Name of what a warm-up depends on, family, size and LC: cells that share it share their warm-ups."""
        return self.family.name + (str(self.size) * self.family.sized) + "-lc" * self.learnable_contributions

    @property
    def notes(self) -> list[str]:
        """What else distinguishes it, for captions and headings."""
        unclipped = self.family.clipped and self.intro_prior and not self.clipped
        notes = {"unclipped": unclipped, "D&T": self.published_betas, "closed KL": self.closed_form_kl}
        return [note for note, on in notes.items() if on]

    @property
    def prior_label(self) -> str:
        """The prior in tables and figures, e.g. ``MoG(64)``."""
        return self.family.label.format(size=self.size)

    @property
    def label(self) -> str:
        """A short label for figures, e.g. ``MoG(64)+LC+IP``."""
        extras = "+LC" * self.learnable_contributions + "+IP" * self.intro_prior
        notes = f" ({', '.join(self.notes)})" if self.notes else ""
        return ("" if self.adversarial else "VAE ") + self.prior_label + extras + notes


def parse(name: str, where: str = "cells") -> Cell:
    """The cell called ``name``.

    Raises:
        UserError: the name does not follow the grammar, or asks for something contradictory.
    """
    match = _NAME.fullmatch(str(name))
    family = FAMILIES.get(match["family"]) if match else None
    if match is None or family is None or family.sized != (match["size"] is not None):
        families = "|".join(known.name + "<M>" * known.sized for known in FAMILIES.values())
        raise UserError(
            f"{where}: unknown cell {cut(repr(str(name)))}; a cell is "
            f"[vae-]({families})[-lc][-ip[-unclipped]][-dt][-closed], with M from 1 to 999999, "
            f"for example {', '.join(TABLE1_CELLS)}"
        )
    size, lc, ip = int(match["size"] or 1), bool(match["lc"]), bool(match["ip"])
    problems = {
        f"the prior {family.name} has nothing to learn: drop -lc and -ip, or take another prior": (
            (lc or ip) and not family.learns
        ),
        f"the prior {family.name} has no contributions: drop -lc": lc and not family.contributions,
        "the contribution of a single component is always 1: -lc needs at least 2": lc and size == 1,
        "a VAE plays no game in which the prior could take part: drop vae- or -ip": match["vae"] and ip,
        "Daniel and Tamar's hyperparameters are those of S-IntroVAE: drop vae- or -dt": match["vae"] and match["dt"],
        f"nothing of the prior {family.name} is ever clipped: drop -unclipped": match["free"] and not family.clipped,
        f"the KL to the prior {family.name} has no closed form: drop -closed": (
            match["closed"] and not family.closed_form
        ),
    }
    for problem in (problem for problem, there in problems.items() if there):
        raise UserError(f"{where}: contradictory cell {name!r}: {problem}")
    return Cell(
        name=name,
        adversarial=not match["vae"],
        family=family,
        size=size,
        learnable_contributions=lc,
        intro_prior=ip,
        published_betas=bool(match["dt"]),
        closed_form_kl=bool(match["closed"]),
        clipped=family.clipped and ip and not match["free"],
    )
