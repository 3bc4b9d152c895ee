"""The choice among searched settings, as the authors make it: the lowest histogram KL of one run with seed 0.

Apart from :mod:`introprior.search` because choosing needs no torch.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from introprior.errors import UserError


def read_slices(paths: Iterable[Path]) -> list[dict[str, str]]:
    """All rows of the slices' CSV files.

    Raises:
        UserError: a missing, empty or truncated file.
    """
    rows: list[dict[str, str]] = []
    for path in paths:
        try:
            text = path.read_text()
        except OSError as error:
            raise UserError(f"{path}: cannot read ({error.strerror})") from error
        part = list(csv.DictReader(text.splitlines()))
        whole = (
            text.endswith("\n")
            and part
            and all(row.get("status") in ("ok", "diverged") and None not in row.values() for row in part)
        )
        if not whole:
            raise UserError(f"{path}: empty, truncated or not a slice of a search; delete it and run again")
        rows += part
    return rows


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
