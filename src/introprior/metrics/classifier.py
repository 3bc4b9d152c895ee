"""A small classifier whose features stand in for Inception's where its weights are not to be had.

It is trained on the dataset at hand, without labels to tell by how many quarters an image is turned (Gidaris, Singh and
Komodakis, 2018), so that the distance of its features, ``fd_classifier``, means something only
among models of that dataset under one classifier. It is not FID and never called so.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from introprior.errors import UserError
from introprior.metrics.inception import shown
from introprior.training import checkpoints

DIMENSIONS = 64
_BATCH = 128
_CHUNK = 1024  # images evaluated at once


class Classifier(nn.Module):
    """Three convolutions with BatchNorm and ReLU, the mean over the image (the features), a linear layer.

    Args:
        channels: of the images, which may have any size from 4 x 4.
        classes: number of labels.

    Attributes:
        dataset: whose labels these are, None until that is known.
        test_accuracy: share of the test split that it labels rightly, NaN until that is known.

    >>> Classifier(channels=1, classes=10).embed(torch.zeros(5, 1, 8, 8)).shape  # whatever the images' size
    torch.Size([5, 64])
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, stride in ((16, 1), (32, 2), (DIMENSIONS, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(DIMENSIONS, classes)
        self.test_accuracy = float("nan")
        self.dataset: str | None = None

    def embed(self, images: Tensor) -> Tensor:
        """Features ``[B, 64]`` of images ``[B, C, H, W]`` in [0, 1]."""
        maps: Tensor = self.body(2 * images - 1)
        return maps.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        logits: Tensor = self.head(self.embed(images))
        return logits


def train_classifier(
    images: Tensor, labels: Tensor, *, test: tuple[Tensor, Tensor], epochs: int, seed: int, device: torch.device | str
) -> Classifier:
    """Train on the train split, and note the accuracy on the test split.

    Images of one class alone, or without labels, are shown in all four rotations, which are then what it tells apart.
    Adam at 1e-3, falling linearly to zero; batches of 128. The same seed gives the same classifier on the same device.

    Args:
        images: ``[N, C, H, W]``, uint8.
        labels: ``[N]`` integers from 0.
        test: images and labels of the test split.
        seed: of initialisation and order.

    Returns:
        the classifier, frozen, in evaluation mode, on ``device``.

    >>> images = torch.tensor([0, 255], dtype=torch.uint8).repeat(128).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    >>> split = images, torch.tensor([0, 1]).repeat(128)  # black and white
    >>> train_classifier(*split, test=split, epochs=5, seed=0, device="cpu").test_accuracy
    1.0
    """
    if int(labels.max()) == 0:
        (images, labels), test = _turned(images), _turned(test[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(images.shape[1], int(labels.max()) + 1).to(device)
    images, labels = images.to(device), labels.to(device).long()
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for _ in range(epochs):
            for index in torch.randperm(len(images), generator=order).to(device).split(_BATCH):
                loss = F.cross_entropy(classifier(shown(images[index])), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    classifier.eval().requires_grad_(False)
    classifier.test_accuracy = accuracy(classifier, *test)
    return classifier


def _turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Square images by 0 to 3 quarters, ``[4 N, C, H, W]``, and how many."""
    return torch.cat([images.rot90(k, (2, 3)) for k in range(4)]), torch.arange(4).repeat_interleave(len(images))


@torch.no_grad()
def features(classifier: Classifier, images: Tensor) -> Tensor:
    """Features ``[N, 64]``, float32, of images ``[N, C, H, W]``: uint8, or decoded ones, which are rounded to 8 bits.

    Unlike Inception's under ``fid_authors``, they do not depend on how the images are split into batches.

    >>> classifier, images = Classifier(1, 10).eval(), torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    >>> torch.equal(features(classifier, images), features(classifier, images / 255))
    True
    """
    device = classifier.head.weight.device
    return torch.cat([classifier.embed(shown(part.to(device))) for part in images.split(_CHUNK)])


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images ``[N, C, H, W]`` whose label ``[N]`` is the likeliest, from 0 to 1.

    >>> classifier, images = Classifier(1, 2).eval(), torch.rand(8, 1, 8, 8)
    >>> said = classifier(shown(images)).argmax(1)
    >>> accuracy(classifier, images, said), accuracy(classifier, images, 1 - said)
    (1.0, 0.0)
    """
    with torch.no_grad():
        found = classifier.head(features(classifier, images)).argmax(1)
    return float((found == labels.to(found.device)).double().mean())


def save(path: str | os.PathLike[str], classifier: Classifier) -> None:
    """Write the classifier and its accuracy, as a whole or not at all."""
    known = {name: getattr(classifier, name) for name in ("test_accuracy", "dataset")}
    content = {"tensors": classifier.state_dict(), **known}
    checkpoints.save(Path(path), {"classifier": content})


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """Read what :func:`save` wrote; frozen, in evaluation mode.

    Raises:
        UserError: missing, damaged or foreign.
    """
    content = checkpoints.load(Path(path), device)
    try:
        tensors = content["classifier"]["tensors"]
        classifier = Classifier(tensors["body.0.weight"].shape[1], tensors["head.weight"].shape[0])
        classifier.load_state_dict(tensors)
        classifier.test_accuracy = float(content["classifier"]["test_accuracy"])
        classifier.dataset = content["classifier"].get("dataset")
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: not a classifier of images; delete it and run again to make it anew") from error
    return classifier.to(device).eval().requires_grad_(False)
