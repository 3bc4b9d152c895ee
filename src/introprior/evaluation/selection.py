"""Choices among what was tried, as the authors make them.

In 2D, of the searched hyperparameters those of the lowest histogram KL of one run with seed 0. On images, of every
cell's r_entropy the one of the lowest mean distance of generated images. Apart from the rest because choosing needs no
torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from introprior.errors import UserError


def choose(rows: Sequence[dict[str, Any]], dataset: str, cell: str) -> dict[str, Any]:
    """The setting with the lowest KL; of equals the first in the grid.

    Settings that successive halving dropped (their rows say so in ``detail``) stand back behind those that finished: an
    early KL is no match for a late one. Where every setting diverged the first is taken, with KL None: its training
    will diverge too, and the tables say so.

    Args:
        rows: what searches tried, at least one setting.
        dataset, cell: whose settings these must be.

    Returns:
        beta_rec, beta_kl, beta_neg (None for a VAE), KL, settings, diverged.

    Raises:
        UserError: settings of another dataset or cell.
    """
    for row in rows:
        if (row["dataset"], row["cell"]) != (dataset, cell):
            raise UserError(f"settings of {row['dataset']}, {row['cell']}, not of {dataset}, {cell}; name its slices")
    alive = [row for row in rows if row["status"] == "ok" and math.isfinite(row["KL"])]
    finished = [row for row in alive if not row["detail"]]
    best = min(finished or alive, key=lambda row: row["KL"]) if alive else rows[0]
    betas = {name: None if math.isnan(best[name]) else best[name] for name in ("beta_rec", "beta_kl", "beta_neg")}
    return {**betas, "KL": best["KL"] if alive else None, "settings": len(rows), "diverged": len(rows) - len(alive)}


def choose_r_entropy(rows: Iterable[dict[str, Any]], dataset: str, metric: str) -> dict[str, Any]:
    """The r_entropy of every cell of a dataset of images: the lowest mean of a distance over the seeds.

    The paper's rule ("the one that led to the optimal FID(GEN)") with a mean that leaves out the seeds that diverged:
    hence fewer of these come first, then the lower mean, then the smaller r_entropy. Where everything diverged the
    smallest is taken, with mean None: the tables say so.

    Args:
        rows: of the ``metrics.csv`` files of all runs of the dataset.
        dataset: its name.
        metric: a distance, the smaller the better, e.g. ``fid_authors_gen``.

    Returns:
        dataset, metric and cells: by cell r_entropy and candidates, each with r_entropy, mean, n (seeds behind the
        mean) and diverged.

    Raises:
        UserError: rows of another dataset, a run without the metric, or values of r_entropy that were tried
            with different seeds.
    """
    values: dict[tuple[str, float, int], float | None] = {}
    for row in rows:
        if row["dataset"] != dataset or "r_entropy" not in row:
            problem = f"results of {row['dataset']}, {row['cell']}, not of images of {dataset}"
            raise UserError(f"choice of r_entropy: {problem}; name the latter's files")
        run = (row["cell"], row["r_entropy"], row["seed"])
        values.setdefault(run, None)
        if row["metric"] == metric:
            values[run] = row["value"] if row["status"] == "ok" else math.nan
    tried: dict[str, dict[float, dict[int, float]]] = {}
    for (cell, r_entropy, seed), value in values.items():
        if value is None:
            problem = f"{dataset}, {cell}, r_entropy {r_entropy:g}, seed {seed} has no {metric}"
            raise UserError(f"choice of r_entropy: {problem}; delete its metrics.csv and run again")
        tried.setdefault(cell, {}).setdefault(r_entropy, {})[seed] = value
    for cell, candidates in tried.items():
        if len({frozenset(seeds) for seeds in candidates.values()}) > 1:
            problem = f"{dataset}, {cell} was tried with different seeds"
            raise UserError(f"choice of r_entropy: {problem}; run what is missing")
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
