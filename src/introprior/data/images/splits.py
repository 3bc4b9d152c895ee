"""Prepared image datasets in training and evaluation: memory-mapped splits, and shuffled batches on the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from introprior.data.images.catalogue import KINDS
from introprior.data.images.store import read_manifest
from introprior.errors import UserError, one_line


@dataclass(frozen=True)
class ImageSplit:
    """One split of a prepared dataset.

    Attributes:
        images: uint8 ``[N, C, H, W]``, memory-mapped.
        labels: int64 ``[N]``.
        manifest: that of the dataset: name, title, stand_in_for, origin, classes and more.
    """

    images: Tensor
    labels: Tensor
    manifest: dict[str, Any]


def load(folder: str | os.PathLike[str], split: str) -> ImageSplit:
    """Open a split, train or test, of the dataset that `introprior.data.images.prepare` wrote into ``folder``.

    Raises:
        UserError: nothing prepared there, or files that are missing, truncated or damaged.
    """
    manifest = read_manifest(folder)
    images, labels = (_open(Path(folder, f"{split}-{kind}.npy")) for kind in KINDS)
    return ImageSplit(images, labels, manifest)


def _open(path: Path) -> Tensor:
    try:
        # Copy on write: torch wants memory that it may write to, and the file must stay as it is.
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    except (OSError, ValueError, EOFError, TypeError) as error:
        what = "missing" if isinstance(error, FileNotFoundError) else f"truncated or damaged ({one_line(error)})"
        raise UserError(f"{path}: {what}; run `introprior prepare` to make it anew") from error


def to_unit(images: Tensor) -> Tensor:
    """From bytes to float32 in [0, 1], what the networks see; no augmentation."""
    return images.float().div_(255)


class Epochs:
    """Batches for training: in each epoch all images in a new order, the last batch as short as it comes.

    The whole dataset lies on the training device, as bytes. The order depends on seed and epoch alone: not on the
    device, nor on who else trains, nor on what was drawn before. So there is no state to save: a run that goes on at
    some iteration gets the batches that it would have got.

    Attributes:
        iterations: batches per epoch: 469 for 60,000 images in batches of 128, 1,563 for 50,000 in batches of 32.
    """

    def __init__(self, images: Tensor, batch_size: int, device: torch.device | str = "cpu"):
        """Use ``images``, uint8 ``[N, C, H, W]``."""
        self.images, self.batch_size = images.to(device), batch_size
        self.iterations = -(-len(images) // batch_size)
        self._orders: dict[int, tuple[int, Tensor]] = {}  # by seed: the present epoch and its order

    def __call__(self, iteration: int, seeds: Sequence[int]) -> Tensor:
        """The batch of ``iteration``, counted over all epochs, for each seed: float32 ``[S, B, C, H, W]`` in [0, 1]."""
        epoch, position = divmod(iteration, self.iterations)
        rows = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return to_unit(self.images[torch.stack([self._order(seed, epoch)[rows] for seed in seeds])])

    def _order(self, seed: int, epoch: int) -> Tensor:
        present, order = self._orders.get(seed, (None, None))
        if order is None or present != epoch:
            # Sorting raw numbers shuffles fairly, and numpy promises that these never change.
            numbers = np.random.PCG64([seed, epoch]).random_raw(len(self.images))
            order = torch.from_numpy(numbers.argsort(kind="stable")).to(self.images.device)
            self._orders[seed] = epoch, order
        return order
