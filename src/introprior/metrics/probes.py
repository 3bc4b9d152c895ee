"""How well simple classifiers read labels off latent codes: the rows SVM and k-NN of Tables 2 and 5.

The authors' code takes one *sampled* z per image (not the posterior's mean), standardises each latent dimension by the
train split, and reports accuracy on the test split, for both kinds of classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from introprior.errors import UserError
from introprior.metrics.outcome import outcome

Array = NDArray[Any]

CODES = ("train", "train_labels", "test", "test_labels", "status", "detail")
COLUMNS = ("metric", "value", "status", "detail")


def svm_accuracy(train: Array, train_labels: Array, test: Array, test_labels: Array, max_iter: int) -> float:
    """Accuracy of a linear SVM (C = 0.025) that may stop before it has converged.

    Args:
        train, test: codes, ``[N, D]`` and ``[N', D]``.
        train_labels, test_labels: ``[N]`` and ``[N']``.
        max_iter: libsvm's cap on the iterations of each one-against-one problem, part of the protocol: 2,000 in the
            rows "2K-SVM", 10,000 in "10K-SVM".

    Returns:
        share of the test codes with the right label, from 0 to 1.

    >>> codes, labels = np.linspace(0, 1, 20).reshape(-1, 1), np.repeat([0, 1], 10)  # two halves of a line
    >>> svm_accuracy(codes, labels, codes, labels, max_iter=2_000)
    1.0
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # to stop early is the protocol
        return _accuracy(SVC(kernel="linear", C=0.025, max_iter=max_iter), train, train_labels, test, test_labels)


def knn_accuracy(train: Array, train_labels: Array, test: Array, test_labels: Array, k: int) -> float:
    """Accuracy of the majority among the k nearest training codes (Euclidean): 5 and 100 in the tables.

    Arguments and result as in `svm_accuracy`.

    Raises:
        UserError: k above N.

    >>> codes, labels = np.linspace(0, 1, 21).reshape(-1, 1), np.repeat([0, 1], [7, 14])
    >>> knn_accuracy(codes, labels, codes, labels, k=1)
    1.0
    >>> round(knn_accuracy(codes, labels, codes, labels, k=21), 3)  # the majority of all
    0.667
    """
    if k > len(train):
        raise UserError(f"k-NN: k must be from 1 to {len(train)}, the number of training codes, got {k}")
    return _accuracy(KNeighborsClassifier(n_neighbors=k), train, train_labels, test, test_labels)


def _accuracy(
    classifier: SVC | KNeighborsClassifier, train: Array, train_labels: Array, test: Array, test_labels: Array
) -> float:
    """On codes of which each dimension has mean 0 and variance 1 over the train split."""
    return float(make_pipeline(StandardScaler(), classifier).fit(train, train_labels).score(test, test_labels))


def probe(codes: Mapping[str, Any], functions: Mapping[str, Callable[..., float]]) -> list[dict[str, Any]]:
    """Accuracies on the test split, from the codes that ``introprior evaluate`` wrote.

    Args:
        codes: train and test ``[N, D]``, train_labels and test_labels ``[N]``, status and detail of the run.
        functions: of train, train_labels, test, test_labels, by the names of their metrics.

    Returns:
        a row for each metric with the columns ``COLUMNS``; of a run that diverged, or of data without labels (status
        ``unlabelled``), they have no value.

    >>> codes, labels = np.linspace(0, 1, 20).reshape(-1, 1), np.repeat([0, 1], 10)
    >>> known = dict(zip(CODES, (codes, labels, codes, labels, "ok", ""), strict=True))
    >>> probe(known, {"knn": lambda *arrays: knn_accuracy(*arrays, k=3)})
    [{'metric': 'knn', 'value': 1.0, 'status': 'ok', 'detail': ''}]
    """
    *arrays, status, detail = (codes[name] for name in CODES)
    train, train_labels, test, _ = arrays
    if status == "ok" and not all(np.isfinite(part).all() for part in (train, test)):
        status, detail = "diverged", "codes are not finite"
    elif status == "ok" and len(np.unique(train_labels)) < 2:
        status, detail = "unlabelled", "images of one class alone, or without labels: nothing to tell apart"
    record = {"status": status, "detail": detail}
    return [
        {"metric": name, **outcome(function(*arrays) if status == "ok" else None, record, f"{name} is not finite")}
        for name, function in functions.items()
    ]
