"""How well simple classifiers read labels off latent codes: the rows SVM and k-NN of Tables 2 and 5.

The authors' code takes one *sampled* z per image (not the posterior's mean), standardises each latent dimension by the
train split, and reports accuracy on the test split, for both kinds of classifier.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from introprior.errors import UserError


def svm_accuracy(
    train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike, max_iter: int
) -> float:
    """Accuracy of a linear SVM (C = 0.025) that may stop before it has converged.

    Args:
        train, test: codes, ``[N, D]`` and ``[N', D]``.
        train_labels, test_labels: ``[N]`` and ``[N']``.
        max_iter: libsvm's cap on the iterations of each one-against-one problem, part of the protocol: 2,000 in the
            rows "2K-SVM", 10,000 in "10K-SVM".

    Returns:
        share of the test codes with the right label, from 0 to 1.

    Raises:
        UserError: wrong shapes, codes that are not finite, fewer than two labels, a cap below 1.
    """
    if max_iter < 1:
        raise UserError(f"SVM: max_iter must be at least 1, got {max_iter}")
    data = _standardised(train, train_labels, test, test_labels, "SVM")
    if (data[1] == data[1][0]).all():
        raise UserError("SVM: training labels must be of at least 2 kinds; check the labels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # to stop early is the protocol
        return _accuracy(SVC(kernel="linear", C=0.025, max_iter=max_iter), *data)


def knn_accuracy(train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike, k: int) -> float:
    """Accuracy of the majority among the k nearest training codes (Euclidean): 5 and 100 in the tables.

    Arguments, result and errors as in `svm_accuracy`; k from 1 to N.
    """
    data = _standardised(train, train_labels, test, test_labels, "k-NN")
    if not 1 <= k <= len(data[0]):
        raise UserError(f"k-NN: k must be from 1 to {len(data[0])}, the number of training codes, got {k}")
    return _accuracy(KNeighborsClassifier(n_neighbors=k), *data)


_Floats = NDArray[np.floating]
_Labels = NDArray[np.integer]
_Data = tuple[_Floats, _Labels, _Floats, _Labels]


def _standardised(
    train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike, probe: str
) -> _Data:
    """Checked arrays, each dimension with mean 0 and variance 1 over the train split."""
    codes, labels = [np.asarray(train), np.asarray(test)], [np.asarray(train_labels), np.asarray(test_labels)]
    for split, z, y in zip(("training", "test"), codes, labels, strict=True):
        if z.ndim != 2 or not z.size:
            raise UserError(f"{probe}: {split} codes must have shape [N, D] with N at least 1, got {list(z.shape)}")
        if y.shape != z.shape[:1]:
            raise UserError(f"{probe}: {split} labels must have shape [{len(z)}], as the codes, got {list(y.shape)}")
        if not np.isfinite(z).all():
            raise UserError(f"{probe}: {split} codes must be finite; the encoder that made them has diverged")
    if codes[0].shape[1] != codes[1].shape[1]:
        raise UserError(f"{probe}: codes of {codes[0].shape[1]} and {codes[1].shape[1]} dimensions do not go together")
    scaler = StandardScaler().fit(codes[0])
    return scaler.transform(codes[0]), labels[0], scaler.transform(codes[1]), labels[1]


def _accuracy(
    classifier: SVC | KNeighborsClassifier, train: _Floats, labels: _Labels, test: _Floats, test_labels: _Labels
) -> float:
    return float(classifier.fit(train, labels).score(test, test_labels))
