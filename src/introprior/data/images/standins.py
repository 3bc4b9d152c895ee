"""Stand-ins: small real image sets that come with scikit-learn, for machines without network and for short runs."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from introprior.data.images.catalogue import BANDS, PHOTOS

Splits = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""Images ``[N, C, H, W]`` and labels ``[N]`` of each of the catalogue's `SPLITS`."""


def digits() -> Splits:
    """The 1,797 handwritten digits of scikit-learn, made to look like MNIST's.

    Their 8x8 pixels of 0 to 16 are enlarged to 20x20 bilinearly and framed by 4 black pixels, which is how MNIST sets
    its digits into 28x28. In integers, so that every machine gets the same bytes. Of each class every sixth is for
    testing.
    """
    return _digits(20, 4)


def digits16() -> Splits:
    """The same digits enlarged to 16x16, without a frame: a third of the pixels, for networks that train in seconds."""
    return _digits(16, 0)


def _digits(side: int, frame: int) -> Splits:
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    weights, unit = _bilinear(side)
    large = weights @ small.reshape(-1, 8, 8).astype(np.int64) @ weights.T  # unit^2 times values of 0 to 16
    grey = ((large * 255 + 8 * unit**2) // (16 * unit**2)).astype(np.uint8)
    images = np.pad(grey, ((0, 0), (frame, frame), (frame, frame)))[:, None]
    labels = labels.astype(np.int64)
    rank = np.zeros_like(labels)  # of each digit among those of its class
    for label in range(10):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    test = rank % 6 == 5
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


def _bilinear(side: int) -> tuple[NDArray[np.int64], int]:
    """Weights ``[side, 8]`` of interpolation between the centres of pixels, edges repeated, times a unit; the unit."""
    unit, rows = 2 * side, np.arange(side)
    left, share = np.divmod(np.clip(16 * rows + 8 - side, 0, 7 * unit), unit)
    weights = np.zeros((side, 8), np.int64)
    weights[rows, left] = unit - share
    weights[rows, np.minimum(left + 1, 7)] += share
    return weights, unit


def photos() -> Splits:
    """Overlapping 32x32 patches, every 6 pixels, of scikit-learn's photographs of a temple and of a flower (640x427).

    A class is one of five horizontal bands, 85 pixels high, of one photograph. Of every 128 columns of pixels the first
    88 are for training and the other 40 for testing, and no patch is of both, so that the splits share no pixel.
    """
    from sklearn.datasets import load_sample_image

    columns = {"train": [(left, left + 88) for left in range(0, 640, 128)]}
    columns["test"] = [(right, right + 40) for _, right in columns["train"]]
    splits: Splits = {}
    for split, spans in columns.items():
        classes = [
            np.concatenate([_patches(photograph[85 * band : 85 * (band + 1), start:end]) for start, end in spans])
            for photograph in (load_sample_image(f"{name}.jpg") for name in PHOTOS)
            for band in range(BANDS)
        ]
        labels = np.arange(len(classes)).repeat([len(patches) for patches in classes])
        # Mixed, once and for all, as the published sets are: batches of a single class would mislead some metrics.
        order = np.random.PCG64(0).random_raw(len(labels)).argsort(kind="stable")
        splits[split] = np.concatenate(classes)[order], labels[order]
    return splits


def _patches(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The 32x32 patches of ``region [H, W, C]``: ``[N, C, 32, 32]``."""
    windows = sliding_window_view(region, (32, 32), axis=(0, 1))[::6, ::6]
    return windows.reshape(-1, *windows.shape[2:])
