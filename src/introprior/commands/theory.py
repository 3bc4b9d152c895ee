"""The command that tries out the theory: theory."""

from __future__ import annotations

import argparse

from introprior.evaluation import theory as trying
from introprior.operations import files


def theory(given: argparse.Namespace) -> dict[str, str]:
    """Measure what there is to gain in random games, and play a small one."""
    files.check_writable(given.output, given.play)
    for path, rows in (
        (given.output, list(trying.conjecture(given.games))),
        (given.play, list(trying.course(starts=16, steps=4000))),
    ):
        files.write_csv(path, rows, tuple(rows[0]))
    return {}
