"""Divergence is a result: which member's loss stopped being finite, when, and what it was before."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

STAGES = ("vae_loss", "encoder_loss", "decoder_loss")


class Watch:
    """Keeps, per member, the first iteration with a loss that is not finite; all on the device, without a wait.

    Args:
        members: E.
        device: of the losses.
    """

    def __init__(self, members: int, device: torch.device):
        self.iteration = torch.full((members,), -1, dtype=torch.long, device=device)
        self.stage = torch.full((members,), -1, dtype=torch.long, device=device)
        self.last = torch.full((len(STAGES), members), math.nan, device=device)

    def see(self, iteration: Tensor, stage: str, loss: Tensor) -> None:
        """Take note of a loss ``[E]`` at an iteration ``[]``, both on the device."""
        row, alive, finite = STAGES.index(stage), self.iteration < 0, loss.abs() < math.inf  # nor is what is no number
        torch.where(alive & finite, loss, self.last[row], out=self.last[row])
        news = alive > finite
        self.stage.masked_fill_(news, row)
        self.iteration.masked_fill_(news, iteration)

    def alive(self) -> int:
        """How many members still have finite losses. Waits for the device."""
        return int((self.iteration < 0).sum())

    def select(self, index: Tensor) -> None:
        """Let the members be those at ``index``."""
        self.iteration, self.stage = self.iteration[index], self.stage[index]
        self.last = self.last[:, index]

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"iteration": self.iteration, "stage": self.stage, "last": self.last}

    def restore(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        self.iteration, self.stage, self.last = (state[k].to(self.last.device) for k in ("iteration", "stage", "last"))

    def records(self) -> list[dict[str, Any]]:
        """One per member: ``status`` (ok or diverged), ``detail``, ``iteration``, the last finite losses."""
        rows = []
        for e, (iteration, stage) in enumerate(zip(self.iteration.tolist(), self.stage.tolist(), strict=True)):
            last = {n: v for n, v in zip(STAGES, self.last[:, e].tolist(), strict=True) if math.isfinite(v)}
            diverged = iteration >= 0
            before = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
            detail = f"{STAGES[stage]} not finite at iteration {iteration} (last finite: {before or 'none'})"
            rows.append(
                {
                    "status": "diverged" if diverged else "ok",
                    "detail": detail if diverged else "",
                    "iteration": iteration if diverged else None,
                    "last": last,
                }
            )
        return rows
