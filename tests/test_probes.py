"""Probes of latent codes, and the small classifier whose features stand in for Inception's."""

from __future__ import annotations

import collections
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import statistics
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC

from introprior.metrics import classifier as small
from introprior.metrics.frechet import frechet_distance
from introprior.metrics.probes import knn_accuracy, svm_accuracy
from tests.commands import refused

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def codes() -> Split:
    """Three overlapping classes in four dimensions of very different scales, float32 as codes are."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    z = (rng.normal(size=(400, 4)) + 1.5 * np.eye(3, 4)[labels]) * [1e-2, 1.0, 30.0, 1e3] + [5.0, 0.0, -7.0, 1e4]
    z = z.astype(np.float32)
    return z[:300], labels[:300], z[300:], labels[300:]


def by_train(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = train.mean(0, dtype=float), train.std(0, dtype=float)
    return (train - mean) / std, (test - mean) / std


def naive_knn(data: Split, k: int) -> float:
    train, test = by_train(data[0], data[2])
    right = 0
    for z, label in zip(test, data[3], strict=True):
        distances = [math.dist(z, other) for other in train]
        votes = collections.Counter(data[1][i] for i in sorted(range(len(train)), key=distances.__getitem__)[:k])
        right += min(votes, key=lambda kind: (-votes[kind], kind)) == label
    return right / len(test)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_knn_is_a_vote_among_standardised_neighbours(codes: Split, k: int) -> None:
    found = knn_accuracy(*codes, k=k)
    assert found == pytest.approx(naive_knn(codes, k), abs=1e-12)
    assert 0.5 < found < 1  # above chance, and above what the dimension of the largest scale says alone


@pytest.mark.parametrize("max_iter", [3, 2000])
def test_svm_is_capped_and_standardised(codes: Split, max_iter: int) -> None:
    train, test = by_train(codes[0], codes[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm = SVC(kernel="linear", C=0.025, max_iter=max_iter).fit(train, codes[1])
    assert (svm.n_iter_ <= max_iter).all()
    assert svm.n_iter_.shape == (3,)  # the cap holds for each pair of labels
    expected = (svm.predict(test) == codes[3]).mean()
    assert svm_accuracy(*codes, max_iter=max_iter) == pytest.approx(expected, abs=0.011)


def test_svm_that_stops_early_is_the_protocol_and_no_warning(codes: Split) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        few, many = svm_accuracy(*codes, max_iter=1), svm_accuracy(*codes, max_iter=10_000)
    assert not caught
    assert few < many < 1


def test_probes_care_neither_for_the_units_of_a_dimension_nor_for_a_collapsed_one(codes: Split) -> None:
    units = np.float32([8.0, 0.25, 1.0, 2.0**-10])  # powers of two: no rounding
    scaled = (codes[0] * units, codes[1], codes[2] * units, codes[3])
    assert knn_accuracy(*scaled, k=5) == knn_accuracy(*codes, k=5)
    assert svm_accuracy(*scaled, max_iter=2000) == pytest.approx(svm_accuracy(*codes, max_iter=2000), abs=0.011)
    dead = tuple(np.insert(part, 2, 3.0, axis=1) if part.ndim == 2 else part for part in codes)
    assert knn_accuracy(*dead, k=5) == knn_accuracy(*codes, k=5)
    assert svm_accuracy(*dead, max_iter=2000) == svm_accuracy(*codes, max_iter=2000)


def test_more_neighbours_than_codes_are_refused(codes: Split) -> None:
    refused(lambda: knn_accuracy(*codes, k=301), "k must be from 1 to 300")


# The classifier

Images = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    """scikit-learn's handwritten digits, 8 x 8, as uint8, in two splits."""
    content = load_digits()
    images = torch.from_numpy(np.rint(content.images * 255 / 16).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(content.target)
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def train(digits: tuple[Images, Images], seed: int = 0, epochs: int = 1) -> small.Classifier:
    return small.train_classifier(*digits[0], test=digits[1], epochs=epochs, seed=seed, device="cpu")


@pytest.fixture(scope="module")
def trained(digits: tuple[Images, Images]) -> small.Classifier:
    return train(digits, epochs=8)


def test_classifier_learns_and_records_its_accuracy(trained: small.Classifier, digits: tuple[Images, Images]) -> None:
    images, labels = digits[1]
    assert trained.test_accuracy > 0.85
    found = torch.stack([trained(image[None] / 255).argmax() for image in images])
    assert trained.test_accuracy == pytest.approx((found == labels).double().mean().item(), abs=1e-12)
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_classifier_is_the_same_for_a_seed_and_leaves_the_global_stream_alone(digits: tuple[Images, Images]) -> None:
    before = torch.get_rng_state()
    first, again, other = train(digits, 3), train(digits, 3), train(digits, 4)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)


def test_classifier_features(trained: small.Classifier, digits: tuple[Images, Images]) -> None:
    images = digits[1][0]
    found = small.features(trained, images)
    assert found.shape == (len(images), small.DIMENSIONS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(torch.cat([small.features(trained, part) for part in images.split(37)]), found)
    torch.testing.assert_close(trained.head(found), trained(images / 255))
    decoded = images / 255 + torch.empty(images.shape).uniform_(-0.4 / 255, 0.4 / 255)  # below and above [0, 1] too
    torch.testing.assert_close(small.features(trained, decoded), found, msg="decoded images pass through 8 bits")


def test_classifier_distance_orders_images_by_damage(trained: small.Classifier, digits: tuple[Images, Images]) -> None:
    (reference, _), (images, _) = digits
    real = statistics([small.features(trained, reference)])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    distances = [
        frechet_distance(real, statistics([small.features(trained, images / 255 + level * noise)]))
        for level in (0.0, 0.2, 0.5)
    ]
    assert distances[0] < distances[1] < distances[2]


def test_classifier_of_colour_images_of_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10, 3, 32, 20), generator=generator, dtype=torch.uint8)
    labels = torch.arange(10) % 4
    found = small.train_classifier(images, labels, test=(images, labels), epochs=1, seed=0, device="cpu")
    assert found(images / 255).shape == (10, 4)


def test_classifier_file(trained: small.Classifier, digits: tuple[Images, Images], tmp_path: Path) -> None:
    path = tmp_path / "classifier.pt"
    small.save(path, trained)
    loaded = small.load(path)
    assert loaded.test_accuracy == trained.test_accuracy
    assert torch.equal(small.features(loaded, digits[1][0]), small.features(trained, digits[1][0]))
    path.write_bytes(path.read_bytes()[:-50])
    refused(lambda: small.load(path), "damaged")
    small.checkpoints.save(path, {"model": {}})
    refused(lambda: small.load(path), "not a classifier of images")


def test_classifier_is_trained_by_adam_at_a_falling_rate(digits: tuple[Images, Images]) -> None:
    images, labels = (part[:300] for part in digits[0])
    found = small.train_classifier(images, labels, test=digits[1], epochs=2, seed=5, device="cpu")
    torch.manual_seed(5)
    script, order = small.Classifier(1, 10), torch.Generator().manual_seed(5)
    adam = torch.optim.Adam(script.parameters())
    for epoch in range(2):
        for k, rows in enumerate(torch.randperm(300, generator=order).split(128)):
            adam.param_groups[0]["lr"] = 1e-3 * (1 - (3 * epoch + k) / 6)
            logits = script.head(script.body(2 * (images[rows] / 255) - 1).mean((2, 3)))
            adam.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
            adam.step()
    for ours, expected in zip(found.state_dict().values(), script.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, expected)
