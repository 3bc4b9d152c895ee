"""An iteration on a GPU as the replay of a CUDA graph: one launch in place of a thousand.

In 2D the arithmetic of an iteration takes less time than the host needs to say what is to be done. A graph says it
once. Replays are the same kernels on the same memory with the same scalars, so they give the bits that iterations made
call by call would; what changes between them (learning rate, iteration, the generators' state) lies on the device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from introprior.game.distributions import Posterior

Played = tuple[dict[str, Tensor], Posterior | None]
"""The history's values of an iteration, and the posteriors of its batch."""

EAGER = 3
"""Iterations of a phase that are made call by call before one is captured: libraries take their workspaces there."""


class Replay:
    """Makes iterations: the first of a phase call by call, then one that is captured, then replays of it.

    All run on one side stream, since autograd remembers streams. Where a batch is shorter than the captured one, and
    for good where the capture fails, iterations are made call by call.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self.possible = True
        self.forget()

    def forget(self) -> None:
        """A phase begins, or tensors were put in others' places."""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.left = EAGER

    def __call__(self, play: Callable[[Tensor], Played], x: Tensor, generators: Sequence[torch.Generator]) -> Played:
        """One iteration on a batch ``[E, B, *data]``; the generators are those that ``play`` draws from."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            if self.possible and self.graph is None and self.left == 0:
                self._capture(play, x, generators)
            if self.graph is not None and x.shape == self.x.shape:
                self.x.copy_(x)
                self.graph.replay()
                played = dict(self.values), self.posterior  # a copy: the loop adds to it
            else:
                self.left = max(0, self.left - 1)
                played = play(x)
        torch.cuda.current_stream().wait_stream(self.stream)
        return played

    def _capture(self, play: Callable[[Tensor], Played], x: Tensor, generators: Sequence[torch.Generator]) -> None:
        graph = torch.cuda.CUDAGraph()
        self.x = x.clone()
        try:
            for generator in generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=self.stream):
                self.values, self.posterior = play(self.x)
        except (RuntimeError, AttributeError) as error:
            self.possible = False
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"no CUDA graph of an iteration ({reason}); going on without", file=sys.stderr)
            return
        self.graph = graph
