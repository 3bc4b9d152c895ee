"""Cells: the columns of the paper's tables, each named by what distinguishes it.

A name is ``[vae-]<family>[-lc][-ip[-unclipped]|-ep][-dt][-closed|-cs]``:

============== ======================================================================================
``vae-``       a VAE throughout, no adversarial game (Table 1, first column)
``<family>``   of the prior, see :mod:`introprior.experiment.families`: ``sg``, the standard Gaussian; ``mog<M>``, a
               mixture of M Gaussians, learned during the warm-up as a VampPrior of M pseudo-inputs; or another
``-lc``        learnable contributions (weights of components)
``-ip``        the prior goes on learning during the game, in cooperation with the decoder ("Intro-Prior")
``-unclipped`` its log-variances are left free instead of soft-clipped (Figure 2); only after ``-ip``
``-ep``        it goes on learning in cooperation with the encoder instead, as a VampPrior still or as a mixture, see
               :mod:`introprior.experiment.protocol`; not in the paper's tables
``-dt``        hyperparameters of Daniel and Tamar (2021) instead of searched ones (Table 4, "reproduced")
``-closed``    the KL divergence in closed form instead of Monte Carlo (Table 4, "c"); where there is one
``-cs``        the Cauchy-Schwarz divergence in place of the KL (Yu et al. 2023); for priors with components
============== ======================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from introprior.errors import UserError, cut
from introprior.experiment.families import FAMILIES, Family

_NAME = re.compile(
    r"(?P<vae>vae-)?(?P<family>[a-z]+)(?P<size>[1-9][0-9]{0,5})?"
    r"(?P<lc>-lc)?(?P<ip>-ip(?P<free>-unclipped)?)?(?P<ep>-ep)?(?P<dt>-dt)?((?P<closed>-closed)|(?P<cs>-cs))?"
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
        intro_prior: IP, the prior learns during the game, in the decoder's step.
        prior_encoder: EP, it learns in the encoder's step.
        published_betas: use Daniel and Tamar's hyperparameters, never searched ones.
        closed_form_kl: closed-form instead of Monte Carlo KL.
        cauchy_schwarz: the Cauchy-Schwarz divergence instead of the KL.
        clipped: what of the learning prior might explode is clipped (Eq. 10); without IP nothing ever is.
    """

    name: str
    adversarial: bool
    family: Family
    size: int
    learnable_contributions: bool
    intro_prior: bool
    prior_encoder: bool
    published_betas: bool
    closed_form_kl: bool
    cauchy_schwarz: bool
    clipped: bool

    @property
    def warmup(self) -> str:
        """Name of what a warm-up depends on: cells that share it share their warm-ups.

        Family, size and LC; EP, whose prior need not turn into a mixture; the divergence.
        """
        family = self.family.name + (str(self.size) * self.family.sized) + "-lc" * self.learnable_contributions
        return family + "-ep" * self.prior_encoder + "-cs" * self.cauchy_schwarz

    @property
    def notes(self) -> list[str]:
        """What else distinguishes it, for captions and headings."""
        unclipped = self.family.clipped and self.intro_prior and not self.clipped
        notes = {"EP": self.prior_encoder, "unclipped": unclipped, "D&T": self.published_betas}
        notes |= {"closed KL": self.closed_form_kl, "CS": self.cauchy_schwarz}
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

    @classmethod
    def parse(cls, name: str, where: str = "cells") -> Cell:
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
                f"[vae-]({families})[-lc][-ip[-unclipped]|-ep][-dt][-closed|-cs], with M from 1 to 999999, "
                f"for example {', '.join(TABLE1_CELLS)}"
            )
        size, lc, ip, ep = int(match["size"] or 1), bool(match["lc"]), bool(match["ip"]), bool(match["ep"])
        problems = {
            "the prior sides with the decoder or with the encoder: drop -ip or -ep": ip and ep,
            f"the prior {family.name} has nothing to learn: drop -lc, -ip and -ep, or take another prior": (
                (lc or ip or ep) and not family.learns
            ),
            f"the prior {family.name} has no contributions: drop -lc": lc and not family.contributions,
            "the contribution of a single component is always 1: -lc needs at least 2": lc and size == 1,
            "a VAE plays no game in which the prior could take part: drop vae-, or -ip and -ep": match["vae"]
            and (ip or ep),
            "Daniel and Tamar's hyperparameters are those of S-IntroVAE: drop vae- or -dt": match["vae"]
            and match["dt"],
            f"nothing of the prior {family.name} is ever clipped: drop -unclipped": match["free"]
            and not family.clipped,
            f"the KL to the prior {family.name} has no closed form: drop -closed": (
                match["closed"] and not family.closed_form
            ),
            f"the Cauchy-Schwarz divergence is for mixtures, and the prior {family.name} has no components: drop -cs": (
                match["cs"] and not family.components
            ),
        }
        for problem in (problem for problem, there in problems.items() if there):
            raise UserError(f"{where}: contradictory cell {name!r}: {problem}")
        return cls(
            name=name,
            adversarial=not match["vae"],
            family=family,
            size=size,
            learnable_contributions=lc,
            intro_prior=ip,
            prior_encoder=ep,
            published_betas=bool(match["dt"]),
            closed_form_kl=bool(match["closed"]),
            cauchy_schwarz=bool(match["cs"]),
            clipped=family.clipped and ip and not match["free"],
        )
