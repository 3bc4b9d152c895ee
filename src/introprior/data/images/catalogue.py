"""The image datasets by name. Light, so that configurations are checked without importing numpy.

To add one, append an entry to `DATASETS`; docs/add-an-image-dataset.md walks through it. Pictures of one's own come in
from a configuration (`add`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from introprior.errors import UserError, unknown

SPLITS, KINDS = ("train", "test"), ("images", "labels")


@dataclass(frozen=True)
class ImageDataset:
    """A labelled set of 8-bit images: files that torchvision downloads and reads, or a stand-in that is made here.

    Attributes:
        name: the paper's name, also in paths and configurations.
        title: name for headings and captions; that of a stand-in says what it stands in for.
        shape: channels, height, width.
        train, test: number of images of each split.
        classes: what the labels 0, 1, ... mean.
        torchvision: the class in ``torchvision.datasets``, of the kind of MNIST's or CIFAR-10's.
        folder: where this class keeps its files, below its root.
        files: what it reads there, name and SHA-256; each may also be there gzipped (``.gz``).
        archive: the tar file in the root that holds the folder, name and SHA-256.
        debian: the package that brings them, and the folder that it puts them into.
        stand_in_for: name of the dataset that a stand-in replaces; `standins` has a function of its own name.
        origin: what a stand-in is made from.
        own: the folder or file of somebody's own pictures, which `folders` reads.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    train: int
    test: int
    classes: tuple[str, ...]
    torchvision: str = ""
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    archive: tuple[str, str] | None = None
    debian: tuple[str, str] | None = None
    stand_in_for: str | None = None
    origin: str = ""
    own: str = ""


def dataset(name: str, where: str = "") -> ImageDataset:
    """The dataset called ``name``; ``where`` is the place to blame in the error.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DATASETS:
        raise unknown("image dataset", name, DATASETS, where)
    return DATASETS[name]


PHOTOS, BANDS = ("china", "flower"), 5
"""The photographs of `standins.photos`, and into how many bands, counted from the top, each is cut."""

_DIGITS = ImageDataset(
    name="digits",
    title="Digits (stand-in for MNIST)",
    shape=(1, 28, 28),
    train=1_501,
    test=296,
    classes=tuple("0123456789"),
    stand_in_for="MNIST",
    origin="scikit-learn's handwritten digits (load_digits), enlarged",
)
_ENTRIES = (
    ImageDataset(
        name="MNIST",
        title="MNIST",
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        classes=tuple("0123456789"),
        torchvision="MNIST",
        folder="MNIST/raw",
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    ImageDataset(
        name="FMNIST",
        title="Fashion-MNIST",
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        classes=(
            *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
        torchvision="FashionMNIST",
        folder="FashionMNIST/raw",
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        debian=("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    ),
    ImageDataset(
        name="CIFAR-10",
        title="CIFAR-10",
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        torchvision="CIFAR10",
        folder="cifar-10-batches-py",
        files={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
            "batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
        },
        archive=("cifar-10-python.tar.gz", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    ),
    _DIGITS,
    replace(
        _DIGITS,
        name="digits16",
        title="Digits, 16x16 (stand-in for MNIST)",
        shape=(1, 16, 16),
        origin=f"{_DIGITS.origin} to 16x16",
    ),
    ImageDataset(
        name="photos",
        title="Photos (stand-in for CIFAR-10)",
        shape=(3, 32, 32),
        train=4_500,
        test=900,
        classes=tuple(f"{photo}, band {band + 1} of {BANDS}" for photo in PHOTOS for band in range(BANDS)),
        stand_in_for="CIFAR-10",
        origin="patches of scikit-learn's photographs (load_sample_images)",
    ),
)

DATASETS = {entry.name: entry for entry in _ENTRIES}
"""All datasets by name: the paper's in the order of its tables, then the stand-ins."""


def add(entry: ImageDataset) -> None:
    """Make somebody's own pictures known in this process, in place of those that had the name before.

    Raises:
        UserError: the name is one of the project's.
    """
    if entry.name in DATASETS and not DATASETS[entry.name].own:
        raise UserError(f"there is a dataset {entry.name} already; give yours another name")
    DATASETS[entry.name] = entry


def title(name: str) -> str:
    """What headings call a dataset: one that is not known here is somebody's own, and called by its name."""
    return DATASETS[name].title if name in DATASETS else name


def published(name: str) -> bool:
    """Whether it is a dataset that others know, too: neither a stand-in nor somebody's own."""
    return name in DATASETS and bool(DATASETS[name].torchvision)
