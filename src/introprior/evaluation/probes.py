"""The probes of a run: labels read off its codes by simple classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from introprior.metrics.probes import knn_accuracy, svm_accuracy

CODES = ("train", "train_labels", "test", "test_labels", "status", "detail")
COLUMNS = ("metric", "value", "status", "detail")


def probe(codes: Mapping[str, Any], svm_iterations: Sequence[int], neighbours: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracies on the test split, from the codes that ``introprior evaluate`` wrote.

    Args:
        codes: train and test ``[N, D]``, train_labels and test_labels ``[N]``, status and detail of the run.
        svm_iterations, neighbours: few and many, see :mod:`introprior.metrics.probes`.

    Returns:
        rows ``svm_few``, ``svm_many``, ``knn_few``, ``knn_many`` with the columns ``COLUMNS``; of a run that diverged,
        or of data without labels (status ``unlabelled``), they have no value.
    """
    train, train_labels, test, test_labels, status, detail = (codes[name] for name in CODES)
    if status == "ok" and not all(np.isfinite(part).all() for part in (train, test)):
        status, detail = "diverged", "codes are not finite"
    elif status == "ok" and len(np.unique(train_labels)) < 2:
        status, detail = "unlabelled", "images of one class alone, or without labels: nothing to tell apart"
    rows = []
    for kind, few_and_many in (("svm", svm_iterations), ("knn", neighbours)):
        accuracy = svm_accuracy if kind == "svm" else knn_accuracy
        for name, number in zip(("few", "many"), few_and_many, strict=True):
            value = accuracy(train, train_labels, test, test_labels, number) if status == "ok" else None
            rows.append({"metric": f"{kind}_{name}", "value": value, "status": status, "detail": detail})
    return rows
