"""Hyperparameter search: a slice of the grid as one ensemble, each setting scored by the histogram KL of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from introprior.evaluation.density import sample_metrics, streams_for
from introprior.experiment.config.density import Cuts
from introprior.experiment.run import Member
from introprior.metrics.density import histogram_jsd, histogram_kl
from introprior.training.loop import Training

COLUMNS = ("beta_rec", "beta_kl", "beta_neg", "seed", "KL", "JSD", "status", "detail")
_SCORES = {"KL": histogram_kl, "JSD": histogram_jsd}


def rungs(halving: Cuts | None, iterations: int, game_start: int) -> list[int]:
    """Iterations, in rising order, at which successive halving drops settings: those within the game."""
    if halving is None:
        return []
    return sorted({rung for rung in (int(part * iterations) for part in halving.at) if game_start < rung < iterations})


def finished(training: Training, samples: int) -> list[dict[str, Any]]:
    """One row per member in training: its setting, its metrics as of now, and whether it diverged."""
    iterations = training.run.training.iterations
    streams = streams_for(training.members, iterations - 1, training.device)
    with torch.no_grad():
        values = sample_metrics(_SCORES, training.run.dataset, training.model, streams, samples)
    rows = []
    for e, (member, record) in enumerate(zip(training.members, training.records(), strict=True)):
        kl, jsd = values["KL"][e], values["JSD"][e]
        status, detail = record["status"], record["detail"]
        if status == "ok" and not math.isfinite(kl):
            status, detail = "diverged", "no generated point lies in the window"
        scores = {"KL": kl, "JSD": jsd} if status == "ok" else {"KL": None, "JSD": None}
        betas = {name: getattr(member, name) for name in ("beta_rec", "beta_kl", "beta_neg")}
        rows.append({**betas, "seed": member.seed, **scores, "status": status, "detail": detail})
    return rows


def drop_losers(training: Training, keep: float, samples: int) -> None:
    """One rung of successive halving: the better ``keep`` (0 to 1) of the members go on, the rest are set down."""
    rows = finished(training, samples)
    order = sorted(range(len(rows)), key=lambda e: math.inf if rows[e]["KL"] is None else rows[e]["KL"])
    survivors = sorted(order[: max(1, math.ceil(keep * len(order)))])
    dropped = [rows[e] for e in order if e not in survivors]
    for row in dropped:
        row["detail"] = row["detail"] or f"dropped by successive halving at iteration {training.iteration}"
    training.notes.setdefault("dropped", []).extend(dropped)
    training.select(survivors, [training.members[e] for e in survivors])


def in_order(rows: Sequence[dict[str, Any]], members: Sequence[Member]) -> list[dict[str, Any]]:
    """Rows in the order of the grid."""
    by_setting = {(row["beta_rec"], row["beta_kl"], row["beta_neg"], row["seed"]): row for row in rows}
    return [by_setting[member.beta_rec, member.beta_kl, member.beta_neg, member.seed] for member in members]
