"""The image runs: their model and their data. One member a run; everything else is the 2D runs' too."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from introprior.data.images.splits import Epochs, ImageSplit, load, to_unit
from introprior.errors import UserError
from introprior.experiment.run import ImageRun
from introprior.game.model import IntroVAE
from introprior.game.networks import ConvDecoder, ConvEncoder
from introprior.game.priors import Start
from introprior.training.loop import Training

PIXELS = (0.0, 1.0)
"""The range that pseudo-inputs are clamped to, as in the authors' code (where those at a bound never move)."""


def begin(run: ImageRun, device: torch.device, folder: Path) -> Training:
    """An image run at its beginning.

    The seed decides on the networks' weights and on which images the pseudo-inputs start as. Batches come in an order
    that depends on seed and epoch alone (:class:`~introprior.data.images.splits.Epochs`).

    Args:
        run: of one member; convolutions of several would not share a pass anyway.
        device: where to train; the whole dataset lies there too.
        folder: of the prepared dataset.

    Raises:
        UserError: several members; a dataset of another shape; more components than images.
    """
    options = run.training
    if len(run.members) > 1:
        raise UserError(f"{run.dataset}/{run.cell.name}: image runs have one member each; start one run a seed")
    split = load(folder, "train")
    if tuple(split.images.shape[1:]) != options.shape:
        raise UserError(
            f"{folder}: images of shape {list(split.images.shape[1:])}, but training.shape is {list(options.shape)}"
        )
    epochs = Epochs(split.images, options.batch_size, device)
    training = Training(
        run,
        _model(run, split),
        lambda iteration, streams: streams.spread(epochs(iteration, streams.seeds)),
        device,
        batch_by_host=True,
    )
    training.timed = True
    training.model.bf16 = options.precision == "bf16"
    torch.backends.cudnn.allow_tf32 = options.precision != "float32"
    torch.backends.cudnn.deterministic = True  # the same seed on the same GPU is to give the same numbers
    return training


def networks(run: ImageRun) -> tuple[ConvEncoder, ConvDecoder]:
    """Encoder and decoder of the run's shapes, to be filled from a checkpoint."""
    options = run.training
    sizes = (options.shape, options.latent_dim, options.widths)
    return ConvEncoder(*sizes), ConvDecoder(*sizes)


def _model(run: ImageRun, split: ImageSplit) -> IntroVAE:
    """Drawn with the run's seed: the networks, and what the prior starts from, images of the split for example."""
    seed = run.members[0].seed

    def images(count: int) -> Tensor:
        if count > len(split.images):
            raise UserError(
                f"{run.dataset}/{run.cell.name}: {count} components, but only {len(split.images)} training "
                "images for their pseudo-inputs to start from; use fewer components"
            )
        return to_unit(split.images[torch.randperm(len(split.images))[:count]]).unsqueeze(0)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = networks(run)
        start = Start(
            latent_dim=run.training.latent_dim,
            size=run.cell.size,
            contributions=run.cell.learnable_contributions,
            data=images,
            generators=[torch.Generator().manual_seed(seed)],
            bounds=PIXELS,
        )
        return IntroVAE(encoder, decoder, run.cell.family.load().begin(start))
