"""The 2D runs: their model and their data."""

from __future__ import annotations

import torch
from torch import Tensor

from introprior.data import density as data
from introprior.data.catalogue import check_size
from introprior.experiment.run import DensityRun
from introprior.game.model import IntroVAE
from introprior.game.networks import MLPDecoder, MLPEncoder
from introprior.game.priors import Start
from introprior.training.loop import Training, warmups

DATA_DIM = 2


def begin(run: DensityRun, device: torch.device) -> Training:
    """A 2D run at its beginning: networks, prior and data for every distinct warm-up.

    The members' networks, and what their prior starts from, depend on their seeds and datasets alone and are drawn on
    the CPU, so that a member begins alike in any company and on any device.
    """
    for dataset in run.datasets:
        check_size(dataset, run.training.batch_size, "training.batch_size")
    members = warmups(run)
    generators = [torch.Generator().manual_seed(member.seed) for member in members]
    encoder, decoder = _networks(run, generators)
    encoder.body.precision = decoder.body.precision = run.training.precision
    start = Start(
        latent_dim=run.training.latent_dim,
        size=run.cell.size,
        contributions=run.cell.learnable_contributions,
        data=lambda count: torch.stack(
            [
                _points(member.dataset, run.training.batch_size, count, generator)
                for member, generator in zip(members, generators, strict=True)
            ]
        ),
        generators=generators,
    )
    return Training(
        run,
        IntroVAE(encoder, decoder, run.cell.family.load().begin(start)),
        lambda _, streams: streams.draw(data.of_size(run.training.batch_size)),
        device,
    )


def networks(run: DensityRun) -> tuple[MLPEncoder, MLPDecoder]:
    """Encoder and decoder of the run's shapes, to be filled from a checkpoint."""
    return _networks(run, [torch.Generator().manual_seed(member.seed) for member in run.members])


def _networks(run: DensityRun, generators: list[torch.Generator]) -> tuple[MLPEncoder, MLPDecoder]:
    options = run.training
    sizes = (DATA_DIM, options.latent_dim, options.hidden_width, options.hidden_layers)
    return MLPEncoder(*sizes, generators), MLPDecoder(*sizes, generators)


def _points(dataset: str, size: int, count: int, generator: torch.Generator) -> Tensor:
    """Data for a prior to start from: the first rows ``[count, 2]`` of a shuffled batch of the training's ``size``.

    Not a batch of ``count``: Rings and 2Spirals lay out a batch by its size (protocol note 2.2), and as many points
    drawn at once would sit on fixed angles, or in mirrored pairs. More than a batch has come from several.
    """
    points = torch.cat([data.sample(dataset, size, generator) for _ in range(-(-count // size))])
    return points[torch.randperm(len(points), generator=generator)[:count]]
