"""Fixtures shared by the tests of the training's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from introprior import cells, protocols
from introprior.training import density
from introprior.training.loop import Training
from introprior.training.options import Member, Run, TrainingOptions

TINY = {"iterations": 40, "warmup_iterations": 6, "mixture_warmup_iterations": 2, "batch_size": 16}
TINY |= {"monte_carlo_samples": 5, "hidden_width": 16, "hidden_layers": 2, "milestones": (9, 12)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Whatever a test draws without a generator of its own, it draws again the next time."""
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default dtype, so that oracles agree to rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def tiny() -> Callable[..., Training]:
    """Begin a training of a few small networks: game from iteration 6, conversion at 4, decays at 9 and 12."""

    def begin(
        cell: str,
        *members: Member,
        protocol: str = "authors",
        options: dict[str, Any] | None = None,
        **training: Any,
    ) -> Training:
        run = Run(
            "8Gaussian",
            cells.parse(cell),
            members or (Member(0, 0.2, 0.3, 0.9),),
            TrainingOptions.from_dict(TINY | training),
            protocols.resolve(protocol, options),
        )
        return density.begin(run, torch.device("cpu"))

    return begin
