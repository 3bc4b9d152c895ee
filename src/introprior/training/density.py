"""The 2D runs: their model and their data."""

from __future__ import annotations

from functools import partial

import torch

from introprior.data import density as data
from introprior.game.model import IntroVAE
from introprior.game.networks import MLPDecoder, MLPEncoder
from introprior.game.priors import StandardGaussian, VampPrior
from introprior.training.loop import Training, warmups
from introprior.training.options import Run

DATA_DIM = 2


def begin(run: Run, device: torch.device) -> Training:
    """A 2D run at its beginning: networks, pseudo-inputs and data for every distinct warm-up.

    The members' networks, and the pseudo-inputs (samples of the data), depend on their seeds alone and are drawn on the
    CPU, so that a member begins alike in any company and on any device.
    """
    data.check_size(run.dataset, run.training.batch_size, "training.batch_size")
    seeds = [member.seed for member in warmups(run)]
    return Training(
        run,
        _model(run, [torch.Generator().manual_seed(seed) for seed in seeds]),
        lambda _, streams: streams.draw(partial(data.sample_members, run.dataset, run.training.batch_size)),
        device,
    )


def _model(run: Run, generators: list[torch.Generator]) -> IntroVAE:
    options = run.training
    sizes = (DATA_DIM, options.latent_dim, options.hidden_width, options.hidden_layers)
    encoder, decoder = MLPEncoder(*sizes, generators), MLPDecoder(*sizes, generators)
    if run.cell.prior == "sg":
        return IntroVAE(encoder, decoder, StandardGaussian(options.latent_dim))
    inputs = torch.stack([_pseudo_inputs(run, generator) for generator in generators])
    return IntroVAE(encoder, decoder, VampPrior(inputs, run.cell.learnable_contributions, members=1))


def _pseudo_inputs(run: Run, generator: torch.Generator) -> torch.Tensor:
    """Where pseudo-inputs start: the first rows ``[M, 2]`` of a shuffled batch of the training's size.

    Not a batch of M: Rings and 2Spirals lay out a batch by its size (protocol note 2.2), and M points drawn at once
    would sit on fixed angles, or in mirrored pairs. More components than a batch has points come from several.
    """
    components, size = run.cell.components, run.training.batch_size
    batches = [data.sample(run.dataset, size, generator) for _ in range(-(-components // size))]
    points = torch.cat(batches)
    return points[torch.randperm(len(points), generator=generator)[:components]]


def empty(run: Run) -> IntroVAE:
    """A model of the run's shapes, to be filled from a checkpoint."""
    return _model(run, [torch.Generator().manual_seed(member.seed) for member in run.members])
