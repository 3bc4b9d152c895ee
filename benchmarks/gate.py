"""Whether two results trees hold the same numbers: the gate of every change that is to change none.

    OMP_NUM_THREADS=1 snakemake --cores 2 --configfile config/demo-all.yaml        in a checkout of before, and of after
    python benchmarks/gate.py BEFORE/results/demo-all AFTER/results/demo-all

Every table, metrics.csv, distances.csv, probes.csv, history.csv and slice of a search is compared as text, column by
column; what a run's speed was is left out, since no two share it. With ``--options`` the options of every job are
compared instead, as the jobs.json or .planned.json of both folders tell of them after a run or a dry run.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from introprior.operations import dag

PATTERNS = (
    *("**/metrics.csv", "**/distances.csv", "**/probes.csv", "**/history.csv", "**/search/slice-*.csv"),
    *("tables/*.csv", "tables/*.md", "tables/*.tex"),
)
TIMED = "samples_per_second"


def compared(before: Path, after: Path) -> Iterator[str]:
    """A line for every file that differs, and how."""
    names = sorted({str(path.relative_to(root)) for root in (before, after) for p in PATTERNS for path in root.glob(p)})
    for name in names:
        if missing := [root for root in (before, after) if not (root / name).exists()]:
            yield f"{name}: not in {missing[0]}"
        elif name.endswith(".csv"):
            old, new = (_columns(root / name) for root in (before, after))
            different = [column for column in old if new.get(column) != old[column]]
            if different:
                yield f"{name}: other values in {', '.join(different)}"
        elif (before / name).read_bytes() != (after / name).read_bytes():
            yield f"{name}: another text"
    yield from () if names else ("no results to compare",)


def _columns(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = [row for row in reader if row.get("quantity") != TIMED]
        return {name: [row[name] for row in rows] for name in reader.fieldnames or ()}


def told(before: Path, after: Path) -> Iterator[str]:
    """A line for every job whose options differ."""
    old, new = ({job.outputs: job.options for job in dag.read(root).jobs} for root in (before, after))
    renamed = {_relative(outputs, before): options for outputs, options in old.items()}
    for outputs, options in new.items():
        key = _relative(outputs, after)
        if key not in renamed:
            yield f"{' '.join(key)}: a new job"
        elif renamed.pop(key) != options:
            yield f"{' '.join(key)}: other options"
    yield from (f"{' '.join(outputs)}: no job any more" for outputs in renamed)


def _relative(outputs: tuple[str, ...], root: Path) -> tuple[str, ...]:
    return tuple(path.removeprefix(f"{root}/").removeprefix(f"{root.parent}/") for path in outputs)


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--options", action="store_true", help="compare the options of all jobs")
    given = parser.parse_args(arguments)
    lines = list((told if given.options else compared)(given.before, given.after))
    print("\n".join(lines) or "the same")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
