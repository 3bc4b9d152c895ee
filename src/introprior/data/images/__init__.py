"""The image datasets of the paper, and stand-ins for where they cannot be had.

`prepare` finds or downloads a dataset, checks it and converts it once; `introprior.data.images.splits` loads the result
and feeds it to training. This module is light: importing it brings neither torch nor numpy.
"""

from introprior.data.images.catalogue import DATASETS, ImageDataset, add, dataset, published, title
from introprior.data.images.store import FILES, prepare, read_manifest

__all__ = ["DATASETS", "FILES", "ImageDataset", "add", "dataset", "prepare", "published", "read_manifest", "title"]
