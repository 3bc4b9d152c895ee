"""Choices among what was tried, as the authors make them.

In 2D, of the searched hyperparameters those of the lowest histogram KL of one run with seed 0. On images, of every
cell's r_entropy the one of the lowest mean distance of generated images. Apart from the rest because choosing needs no
torch.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from introprior.errors import UserError


def read_slices(paths: Iterable[Path]) -> list[dict[str, str]]:
    """All rows of the slices' CSV files.

    Raises:
        UserError: a missing, empty or truncated file.
    """
    return [row for path in paths for row in _rows(path, "a slice of a search")]


def choose(rows: list[dict[str, str]]) -> dict[str, Any]:
    """The setting with the lowest KL; of equals the first in the grid.

    Settings that successive halving dropped (their rows say so in ``detail``) stand back behind those that finished: an
    early KL is no match for a late one. Where every setting diverged the first is taken, with KL None: its training
    will diverge too, and the tables say so.

    Returns:
        beta_rec, beta_kl, beta_neg (None for a VAE), KL, settings, diverged.

    Raises:
        UserError: a KL is not a number.
    """
    try:
        alive = [row for row in rows if row["status"] == "ok"]
        finished = [row for row in alive if not row["detail"]]
        best = min(finished or alive, key=lambda row: float(row["KL"])) if alive else rows[0]
        betas = {name: float(best[name]) if best[name] else None for name in ("beta_rec", "beta_kl", "beta_neg")}
        kl = float(best["KL"]) if alive else None
    except (ValueError, KeyError) as error:
        raise UserError(f"search results are damaged ({error}); delete the slices and run again") from error
    return {**betas, "KL": kl, "settings": len(rows), "diverged": len(rows) - len(alive)}


def choose_r_entropy(paths: Iterable[Path], dataset: str, metric: str) -> dict[str, Any]:
    """The r_entropy of every cell of a dataset of images: the lowest mean of a distance over the seeds.

    The paper's rule ("the one that led to the optimal FID(GEN)") with a mean that leaves out the seeds that diverged:
    hence fewer of these come first, then the lower mean, then the smaller r_entropy. Where everything diverged the
    smallest is taken, with mean None: the tables say so.

    Args:
        paths: ``metrics.csv`` files of all runs of the dataset.
        dataset: its name.
        metric: a distance, the smaller the better, e.g. ``fid_authors_gen``.

    Returns:
        dataset, metric and cells: by cell r_entropy and candidates, each with r_entropy, mean, n (seeds behind the
        mean) and diverged.

    Raises:
        UserError: no files, one that is missing, malformed, of another dataset or without the metric, a run met twice,
            or values of r_entropy that were tried with different seeds.
    """
    tried: dict[str, dict[float, dict[int, float]]] = {}  # cell, r_entropy, seed
    for path in paths:
        measured = [row for row in _rows(path, "metrics of a run") if row.get("metric") == metric]
        if not measured:
            raise UserError(f"{path}: no {metric}; delete it and run again")
        for row in measured:
            try:
                r_entropy, seed, value = float(row["r_entropy"]), int(row["seed"]), float(row["value"] or "nan")
                if not 0 <= r_entropy < math.inf:
                    raise ValueError(f"r_entropy {r_entropy}")
                seeds = tried.setdefault(row["cell"], {}).setdefault(r_entropy, {})
            except (KeyError, ValueError) as error:
                raise UserError(f"{path}: damaged ({error}); delete it and run again") from None
            if row.get("dataset") != dataset:
                raise UserError(f"{path}: results of {row.get('dataset')}, not of {dataset}; name that dataset's files")
            if seed in seeds:
                raise UserError(f"{path}: {row['cell']}, r_entropy {r_entropy:g}, seed {seed} given twice")
            seeds[seed] = value if row["status"] == "ok" else math.nan
    if not tried:
        raise UserError(f"choice of r_entropy: no results of {dataset} given; name its metrics.csv files")
    for cell, candidates in tried.items():
        if len({frozenset(seeds) for seeds in candidates.values()}) > 1:
            raise UserError(
                f"choice of r_entropy: {dataset}, {cell} was tried with different seeds; run what is missing"
            )
    return {"dataset": dataset, "metric": metric, "cells": {cell: _best(of) for cell, of in tried.items()}}


def _best(tried: dict[float, dict[int, float]]) -> dict[str, Any]:
    """The best r_entropy, and what speaks for each."""
    candidates = []
    for r_entropy, seeds in sorted(tried.items()):
        values = [value for value in seeds.values() if math.isfinite(value)]
        candidates.append(
            {
                "r_entropy": int(r_entropy) if r_entropy.is_integer() else r_entropy,
                "mean": math.fsum(values) / len(values) if values else None,
                "n": len(values),
                "diverged": len(seeds) - len(values),
            }
        )
    best = min(candidates, key=lambda tried: (tried["diverged"], math.inf if tried["mean"] is None else tried["mean"]))
    return {"r_entropy": best["r_entropy"], "candidates": candidates}


def _rows(path: Path, kind: str) -> list[dict[str, str]]:
    """The rows of a CSV file of results, checked to be whole."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    rows = list(csv.DictReader(text.splitlines()))
    complete = all(
        row.get("status") in ("ok", "diverged") and None not in row and None not in row.values() for row in rows
    )
    if not (rows and complete and text.endswith("\n")):
        raise UserError(f"{path}: empty, truncated or not {kind}; delete it and run again")
    return rows
