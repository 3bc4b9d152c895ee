"""Priors: the third player. A family of priors is a file here, or in a module of the user's, entered in
:mod:`introprior.experiment.families`; nothing else in the project names one.

A prior owns parameters and returns a :class:`~introprior.game.distributions.Distribution`. The losses see that alone:
"prior as target" and "prior as source" are two uses of one value, one of them detached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from introprior.game.distributions import Distribution, Posterior

Encode = Callable[[Tensor], Posterior]
"""An encoder: data ``[E, N, *data]`` to posteriors ``[E, N, D]``."""


@dataclass(frozen=True)
class Start:
    """What a prior may begin from.

    Attributes:
        latent_dim: D.
        size: the number behind the family's name in the cell's, such as the M of ``mog<M>``; 1 where it has none.
        contributions: LC, weights of components are to be learned.
        data: ``n`` data points for each member to start from, ``[E, n, *data]``; drawn anew at each call.
        generators: random generators of the members, for parameters that start at random, on the CPU.
        bounds: lowest and highest value of the data; None where it has none.
    """

    latent_dim: int
    size: int
    contributions: bool
    data: Callable[[int], Tensor]
    generators: Sequence[torch.Generator]
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Conversion:
    """How a prior changes before the game, where it does (docs/fidelity.md).

    Attributes:
        logits: ``probabilities`` gives the new logits the values of the old probabilities, as the authors' code does
            (contributions become softmax(softmax(w)), nearly uniform); ``log-probabilities`` keeps the contributions.
        variance: ``diagonal``, or ``isotropic`` (the mean log-variance over the latent dimensions).
        steepness: K of the soft clipping to come.
    """

    logits: str
    variance: str
    steepness: float


class Prior(nn.Module):
    """A prior of every member of an ensemble; a family's first class is what its runs begin with.

    Every parameter and buffer has a leading member axis, but for those that :meth:`shared` names.
    """

    family: ClassVar[str]
    """The name that the family is entered by."""
    waits: ClassVar[bool] = False
    """Whether its distribution has the host wait for the device, so that no graph of an iteration can be captured."""

    @classmethod
    def begin(cls, start: Start) -> Self:
        """The prior at the beginning of training."""
        raise NotImplementedError(f"{cls.__name__} is no prior that a run begins with")

    def forward(self, encode: Encode) -> Distribution:
        """The present distribution; ``encode`` is for those that are made of posteriors."""
        raise NotImplementedError

    def convert(self, encode: Encode, conversion: Conversion) -> Prior:
        """What it turns into some time before the game; itself, unless it is something else in the game."""
        return self

    def begin_game(self, clipped: bool) -> None:
        """The game begins; ``clipped``: what might explode is to be bounded by what it is now."""

    def shared(self) -> Iterable[str]:
        """Names of parameters and buffers that have no member axis."""
        return ()

    def diagnostics(
        self, target: Distribution | None, posterior: Posterior | None, noise: Tensor | None
    ) -> dict[str, Tensor]:
        """What the history tells of it, ``[E]`` each.

        Args:
            target: what it was in the last encoder's step, in the game; None before.
            posterior: of a batch of real data, in the game; None before.
            noise: ``[T, B, D]`` for samples of it, the same for all members.
        """
        return {}

    def plain(self) -> dict[str, Any]:
        """What :meth:`restore` needs beside the tensors."""
        return {}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Prior:
        """The prior that had these tensors (its ``state_dict``) and plain values."""
        return cls(**tensors, **plain)
