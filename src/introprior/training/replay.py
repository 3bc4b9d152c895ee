"""An iteration on a GPU as the replay of a CUDA graph: one launch in place of hundreds.

In 2D the arithmetic of an iteration takes less time than the host needs to say what is to be done. A graph says it
once. Replays are the same kernels on the same memory with the same scalars, so they give the bits that iterations made
call by call would; what changes between them (learning rate, iteration, the generators' state) lies on the device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from introprior.game.losses import EncoderStep

Played = tuple[dict[str, Tensor], EncoderStep | None]
"""The history's values of an iteration, and in the game what the encoder's step left."""
Play = Callable[[Tensor | None], Played]

EAGER = 3
"""Iterations of a phase that are made call by call before one is captured: libraries take their workspaces there."""


class Replay:
    """Makes iterations: the first of a phase call by call, then one that is captured, then replays of it.

    All on one side stream, since autograd remembers streams. Where a batch is shorter than the captured one, and for
    good where the capture fails, iterations are made call by call.

    Args:
        stream: of a GPU; the present one whenever this is called.
    """

    def __init__(self, stream: torch.cuda.Stream):
        self.stream = stream
        self.possible = True
        self.forget()

    def forget(self) -> None:
        """A phase begins, or tensors were put in others' places."""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.left = EAGER

    def __call__(self, play: Play, x: Tensor | None, generators: Sequence[torch.Generator]) -> Played:
        """One iteration, on a batch ``[E, B, *data]`` if the host makes them; ``play`` draws from the generators."""
        if self.possible and self.graph is None and self.left == 0:
            self._capture(play, x, generators)
        if self.graph is None or (x is not None and x.shape != self.x.shape):
            self.left = max(0, self.left - 1)
            return play(x)
        if x is not None:
            self.x.copy_(x)
        self.graph.replay()
        return dict(self.values), self.encoder_step  # a copy: the loop adds to it

    def _capture(self, play: Play, x: Tensor | None, generators: Sequence[torch.Generator]) -> None:
        graph = torch.cuda.CUDAGraph()
        self.x = torch.empty(0) if x is None else x.clone()
        try:
            for generator in generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=self.stream):
                self.values, self.encoder_step = play(None if x is None else self.x)
        except (RuntimeError, AttributeError) as error:
            self.possible = False
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"no CUDA graph of an iteration ({reason}); going on without", file=sys.stderr)
            return
        self.graph = graph
