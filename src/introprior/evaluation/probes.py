"""The probes of a run: its codes read from their file, labels read off them by simple classifiers."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from introprior.errors import UserError
from introprior.metrics.probes import knn_accuracy, svm_accuracy

COLUMNS = ("metric", "value", "status", "detail")
_ARRAYS = ("train", "train_labels", "test", "test_labels")


def probe(path: Path, svm_iterations: Sequence[int], neighbours: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracies on the test split, from the codes that ``introprior evaluate`` wrote.

    Args:
        path: of codes.npz.
        svm_iterations: few and many, see :func:`~introprior.metrics.probes.svm_accuracy`.
        neighbours: few and many, see :func:`~introprior.metrics.probes.knn_accuracy`.

    Returns:
        rows ``svm_few``, ``svm_many``, ``knn_few``, ``knn_many`` with the columns ``COLUMNS``; of a run that diverged
        they have no value.

    Raises:
        UserError: a file that is missing or damaged; as the probes themselves.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = [content[name] for name in _ARRAYS]
            status, detail = str(content["status"]), str(content["detail"])
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such codes") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or not codes; delete it and run again to make it anew") from error
    if status == "ok" and not all(np.isfinite(codes).all() for codes in arrays[::2]):
        status, detail = "diverged", "codes are not finite"
    rows = []
    train, train_labels, test, test_labels = arrays
    for kind, few_and_many in (("svm", svm_iterations), ("knn", neighbours)):
        accuracy = svm_accuracy if kind == "svm" else knn_accuracy
        for name, number in zip(("few", "many"), few_and_many, strict=True):
            value = accuracy(train, train_labels, test, test_labels, number) if status == "ok" else None
            rows.append({"metric": f"{kind}_{name}", "value": value, "status": status, "detail": detail})
    return rows
