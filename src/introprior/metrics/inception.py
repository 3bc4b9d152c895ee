"""Features of images by the Inception network of FID, under two protocols; each is part of its metric's name.

The network and its weights are pytorch-fid's (the 2015 Inception ported from TensorFlow, pool3, 2048 dimensions), and
so is the preprocessing in both protocols: resized to 299 x 299 (bilinear, corners not aligned), scaled once from
[0, 1] to [-1, 1]; grey images are repeated to three channels first. What differs:

* ``fid_authors``, what the paper's tables hold. The authors' code leaves Inception in *training* mode, in which its
  BatchNorms normalise by the statistics of the batch at hand (training mode has no other effect on these layers), with
  batches of the training size: 128, on CIFAR-10 32. Features of an image then depend on the rest of its batch, and
  distances on the batch size; they must never be compared with published FIDs. Decoded images are truncated to
  8 bits.
* ``fid``, what the literature means: evaluation mode, and decoded images rounded to 8 bits as when saved as PNG files.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from introprior.errors import UserError
from introprior.operations.downloads import downloading
from introprior.operations.files import checksum

DIMENSIONS = 2048
WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the weights' file, 95,628,359 bytes."""


def truncated(images: Tensor) -> Tensor:
    """``uint8(clip(255 x)) / 255``, without rounding, as the authors' code has it; NaN stays NaN.

    >>> truncated(torch.tensor([0.999, 1.5])) * 255
    tensor([254., 255.])
    """
    return (255 * images).clamp(0, 255).floor() / 255


def rounded(images: Tensor) -> Tensor:
    """The nearest of the values k / 255, halves upwards, as torchvision saves images; NaN stays NaN.

    >>> rounded(torch.tensor([0.999, 1.5])) * 255
    tensor([255., 255.])
    """
    return (255 * images + 0.5).clamp(0, 255).floor() / 255


def shown(images: Tensor, quantise: Callable[[Tensor], Tensor] = rounded) -> Tensor:
    """Images as a viewer would see them: float32 in [0, 1], of 256 levels.

    Args:
        images: uint8, a dataset's, which are only divided by 255; or floating-point, a decoder's, nominally in [0, 1].
        quantise: what brings the latter to 8 bits.

    >>> shown(torch.tensor([0, 255], dtype=torch.uint8)), shown(torch.tensor([-0.2, 1.3]))
    (tensor([0., 1.]), tensor([0., 1.]))
    """
    return images.float() / 255 if images.dtype == torch.uint8 else quantise(images.float())


@dataclass(frozen=True)
class InceptionProtocol:
    """How features are taken.

    Attributes:
        name: of the metric.
        batch_statistics: BatchNorms normalise by the batch's statistics rather than by the trained ones.
        quantise: brings decoded images to 8 bits.
    """

    name: str
    batch_statistics: bool
    quantise: Callable[[Tensor], Tensor]


FID_AUTHORS = InceptionProtocol("fid_authors", True, truncated)
"""The authors' code: Inception in training mode, truncation. Batches must have the training's size."""
FID = InceptionProtocol("fid", False, rounded)
"""pytorch-fid as published: Inception in evaluation mode, images as saved to PNG files. Batches may have any size."""
PROTOCOLS = {protocol.name: protocol for protocol in (FID_AUTHORS, FID)}


def features(network: nn.Module, images: Tensor, protocol: InceptionProtocol) -> Tensor:
    """pool3 features of one batch, which under ``fid_authors`` is a unit of the measurement.

    Args:
        network: what :func:`load` returned; its parameters and running statistics stay as they are.
        images: ``[B, C, H, W]`` with 1 or 3 channels, uint8 (a dataset's) or floating-point in [0, 1] (a decoder's).
        protocol: one of ``PROTOCOLS``.

    Returns:
        ``[B, 2048]``, float32, on the network's device, where convolutions have PyTorch's default precision (TF32 on
        GPUs that have it).
    """
    images = shown(images.to(next(network.parameters()).device), protocol.quantise)
    network.train(protocol.batch_statistics)
    with torch.no_grad():
        pooled: Tensor = network(images.expand(-1, 3, -1, -1))[0]
    return pooled.flatten(1)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu", sha256: str | None = SHA256) -> nn.Module:
    """pytorch-fid's network with weights of its file format, frozen.

    Args:
        path: the file, see :func:`weights`.
        device: where to put the network.
        sha256: what the file must be, by default FID's weights; None takes any, with which no distance may be called
            FID.

    Raises:
        UserError: missing, damaged or other weights.
    """
    path = Path(path)
    remedy = f"give the file {WEIGHTS} of pytorch-fid"
    try:
        if sha256 is not None:
            check(path, sha256)
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = _build(state)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {remedy}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror or error})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged, or not weights of pytorch-fid's Inception; {remedy}") from error
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UserError(f"{path}: weights that are not finite; {remedy}")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # In training mode they now use the batch's statistics and leave the running ones alone.
            module.track_running_stats = False
    network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def check(path: Path, sha256: str = SHA256) -> None:
    """Compare a file of weights with its checksum.

    Raises:
        UserError: they are others.
    """
    found = checksum(path)
    if found != sha256:
        raise UserError(
            f"{path}: not the weights of FID (SHA-256 {found[:8]}…, not {sha256[:8]}…); give the file {WEIGHTS} of "
            "pytorch-fid"
        )


def weights(path: str | os.PathLike[str] | None = None) -> Path:
    """The file of Inception's weights: the given one, else that in PyTorch's cache, else a checked download into it.

    The cache is where pytorch-fid itself keeps them: ``hub/checkpoints`` below ``TORCH_HOME``.

    Raises:
        UserError: no file there; no way to download it; a cache that cannot be written.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file of Inception weights; correct its path, or leave it out to download")
        return Path(path)
    cached = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS)
    if not cached.is_file():
        from pytorch_fid.inception import FID_WEIGHTS_URL

        remedy = (
            f"download {FID_WEIGHTS_URL} where there is a network, and put it at {cached} or give its path in the "
            "configuration; or use fd_classifier, which needs no weights"
        )
        with downloading(WEIGHTS, cached.parent, remedy):
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(cached), hash_prefix=SHA256)
    return cached


def _build(state: dict[str, Any]) -> nn.Module:
    """pytorch-fid's own class around given weights; it knows no other source than its download."""
    from pytorch_fid import inception as upstream  # late: it takes seconds to import

    download = upstream.load_state_dict_from_url
    upstream.load_state_dict_from_url = lambda *_, **__: state
    try:
        network: nn.Module = upstream.InceptionV3([upstream.InceptionV3.BLOCK_INDEX_BY_DIM[DIMENSIONS]])
        return network
    finally:
        upstream.load_state_dict_from_url = download
