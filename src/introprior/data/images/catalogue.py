"""The image datasets by name: what they are, which files they are published as, where those are found.

To add one, append an entry to `DATASETS`; docs/add-an-image-dataset.md walks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from introprior.data.images import formats, standins
from introprior.data.images.formats import Content, Shape, Splits
from introprior.errors import unknown


@dataclass(frozen=True)
class Publication:
    """The files that a dataset is published as.

    Attributes:
        files: what is downloaded: name and SHA-256.
        contents: what is read from them, each lying open, gzipped (``.gz``) or in the archive: name and SHA-256.
        mirrors: addresses of the folder that holds ``files``, in the order of preference; each ends with ``/``.
        folders: where the contents may lie below a folder that the user names, beside that folder itself.
        read: from the contents to arrays of images of the given shape.
        archive: the tar file among ``files`` that holds the contents, and the folder inside it.
        system: folders where a Linux distribution installs the files.
        hint: another way to get them, for those without network.
    """

    files: Mapping[str, str]
    contents: Mapping[str, str]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[Mapping[str, Content], Shape], Splits]
    archive: tuple[str, str] | None = None
    system: tuple[Path, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Embedded:
    """A dataset made from what an installed package brings along.

    Attributes:
        make: makes its arrays; the same ones every time.
        origin: where they come from.
    """

    make: Callable[[], Splits]
    origin: str


@dataclass(frozen=True)
class ImageDataset:
    """A labelled set of 8-bit images.

    Attributes:
        name: the paper's name, also in paths and configurations.
        title: name for headings and captions; that of a stand-in says what it stands in for.
        shape: channels, height, width.
        counts: number of images of each split.
        classes: what the labels 0, 1, ... mean.
        source: where it comes from.
        stand_in_for: name of the dataset that it replaces; None for the paper's own.
    """

    name: str
    title: str
    shape: Shape
    counts: Mapping[str, int]
    classes: tuple[str, ...]
    source: Publication | Embedded
    stand_in_for: str | None = None


def dataset(name: str, where: str = "") -> ImageDataset:
    """The dataset called ``name``; ``where`` is the place to blame in the error.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DATASETS:
        raise unknown("image dataset", name, DATASETS, where)
    return DATASETS[name]


# The SHA-256 of the files are those of torchvision and Keras. Those of the contents follow from them: for Fashion-MNIST
# a test derives one from the other where Debian's package is installed.
_MNIST = Publication(
    files={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    contents={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    folders=("MNIST", "MNIST/raw", "mnist"),
    read=formats.read_idx,
)

_FMNIST = Publication(
    files={
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    contents={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    folders=("FMNIST", "FashionMNIST/raw", "FashionMNIST", "fashion-mnist"),
    read=formats.read_idx,
    system=(Path("/usr/share/datasets/fashion-mnist"),),
    hint="apt-get install dataset-fashion-mnist",
)

_CIFAR10 = Publication(
    files={"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
    contents={
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    },
    mirrors=("https://www.cs.toronto.edu/~kriz/", "https://dataset.bj.bcebos.com/cifar/"),
    folders=("CIFAR-10", "CIFAR-10/cifar-10-batches-py", "cifar-10-batches-py", "CIFAR10", "cifar10"),
    read=formats.read_cifar,
    archive=("cifar-10-python.tar.gz", "cifar-10-batches-py"),
)

_DIGITS = tuple("0123456789")

DATASETS: dict[str, ImageDataset] = {
    entry.name: entry
    for entry in (
        ImageDataset(
            name="MNIST",
            title="MNIST",
            shape=(1, 28, 28),
            counts={"train": 60_000, "test": 10_000},
            classes=_DIGITS,
            source=_MNIST,
        ),
        ImageDataset(
            name="FMNIST",
            title="Fashion-MNIST",
            shape=(1, 28, 28),
            counts={"train": 60_000, "test": 10_000},
            classes=(
                "T-shirt/top",
                "trouser",
                "pullover",
                "dress",
                "coat",
                "sandal",
                "shirt",
                "sneaker",
                "bag",
                "ankle boot",
            ),
            source=_FMNIST,
        ),
        ImageDataset(
            name="CIFAR-10",
            title="CIFAR-10",
            shape=(3, 32, 32),
            counts={"train": 50_000, "test": 10_000},
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            source=_CIFAR10,
        ),
        ImageDataset(
            name="digits",
            title="Digits (stand-in for MNIST)",
            shape=(1, 28, 28),
            counts={"train": 1_501, "test": 296},
            classes=_DIGITS,
            source=Embedded(standins.digits, "scikit-learn's handwritten digits (load_digits), enlarged"),
            stand_in_for="MNIST",
        ),
        ImageDataset(
            name="photos",
            title="Photos (stand-in for CIFAR-10)",
            shape=(3, 32, 32),
            counts={"train": 4_500, "test": 900},
            classes=standins.PHOTO_CLASSES,
            source=Embedded(standins.photos, "patches of scikit-learn's photographs (load_sample_images)"),
            stand_in_for="CIFAR-10",
        ),
    )
}
"""All datasets by name: the paper's in the order of its tables, then the stand-ins."""
