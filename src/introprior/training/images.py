"""The image runs: their model and their data. One member a run; everything else is the 2D runs' too."""

from __future__ import annotations

from pathlib import Path

import torch

from introprior.data.images.splits import Epochs, ImageSplit, load, to_unit
from introprior.errors import UserError
from introprior.game.model import IntroVAE
from introprior.game.networks import ConvDecoder, ConvEncoder
from introprior.game.priors import StandardGaussian, VampPrior
from introprior.training.loop import Training
from introprior.training.options import ImageTrainingOptions, Run

PIXELS = (0.0, 1.0)
"""The range that pseudo-inputs are clamped to, as in the authors' code (where those at a bound never move)."""


def begin(run: Run, device: torch.device, folder: Path) -> Training:
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
    assert isinstance(options, ImageTrainingOptions)
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
        lambda iteration, streams: streams.spread(epochs(iteration, list(streams.by_seed))),
        device,
    )
    training.timed = True
    training.model.bf16 = options.precision == "bf16"
    torch.backends.cudnn.allow_tf32 = options.precision != "float32"
    torch.backends.cudnn.deterministic = True  # the same seed on the same GPU is to give the same numbers
    return training


def _model(run: Run, split: ImageSplit | None = None) -> IntroVAE:
    """The run's networks, drawn with the run's seed; its pseudo-inputs are images of the split, grey without one."""
    options, seed = run.training, run.members[0].seed
    assert isinstance(options, ImageTrainingOptions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = (
            ConvEncoder(options.shape, options.latent_dim, options.widths),
            ConvDecoder(options.shape, options.latent_dim, options.widths),
        )
        if run.cell.prior == "sg":
            return IntroVAE(*networks, StandardGaussian(options.latent_dim), event_dims=3)
        components = run.cell.components
        inputs = torch.full((1, components, *options.shape), 0.5)
        if split is not None:
            if components > len(split.images):
                raise UserError(
                    f"{run.dataset}/{run.cell.name}: {components} components, but only {len(split.images)} training "
                    "images for their pseudo-inputs to start from; use fewer components"
                )
            inputs = to_unit(split.images[torch.randperm(len(split.images))[:components]]).unsqueeze(0)
        prior = VampPrior(inputs, run.cell.learnable_contributions, bounds=PIXELS, members=1)
    return IntroVAE(*networks, prior, event_dims=3)


def empty(run: Run) -> IntroVAE:
    """A model of the run's shapes, to be filled from a checkpoint."""
    return _model(run)
