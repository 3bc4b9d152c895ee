"""Adam for ensembles: torch's fused kernel, with states that follow the members.

Why not ``torch.optim.Adam``: making one imports torch's compiler, as long as importing torch itself, in each of the
workflow's many short jobs; and its state would have to be taken apart whenever members come and go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Adam:
    """Adam (Kingma and Ba 2015) with betas (0.9, 0.999) and eps 1e-8, the defaults that the authors' code uses.

    Every parameter has a leading member axis; elementwise updates keep the members apart.

    Args:
        parameters: all in training; may be none.
        learning_rate: can be set anew, in place, before any step.

    Attributes:
        learning_rate: a number on the parameters' device, where the replay of a graph reads it anew; float32 on a
            GPU, as its kernel wants it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float):
        self.parameters = list(parameters)
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self.learning_rate = torch.tensor(learning_rate, dtype=dtype, device=device)
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, *others: Adam) -> None:
        """Update the parameters that have gradients, and with them those of others of the same learning rate."""
        rows = [
            row
            for adam in (self, *others)
            for row in zip(adam.parameters, adam.means, adam.squares, adam.steps, strict=True)
            if row[0].grad is not None
        ]
        if not rows:
            return
        parameters, means, squares, steps = map(list, zip(*rows, strict=True))
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=self.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def select(self, index: Tensor) -> None:
        """Let the members be those at ``index``; the parameters themselves are the caller's to change."""
        self.means = [mean[index] for mean in self.means]
        self.squares = [square[index] for square in self.squares]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state, taken from an Adam of the same parameters."""
        device = self.parameters[0].device if self.parameters else None
        self.means, self.squares, self.steps = ([t.to(device) for t in state[k]] for k in ("means", "squares", "steps"))
