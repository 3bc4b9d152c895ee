"""Whether a results tree is what its records say: complete, unaltered, and nothing made from what has changed since."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from introprior.errors import UserError, cut, one_line
from introprior.operations import dag, provenance
from introprior.operations.dag import Dag

Problem = tuple[Path, str]
"""A file and what is wrong with it."""

Checksums = Callable[[Path], str | None]
"""Of files as they are, each read once."""


def verify(results: Path, partial: bool = False) -> dict[str, Any]:
    """Read every file of a results tree, or of a copy, again and hold it against its record.

    So with what the tree was made of and lies elsewhere, prepared data above all, where that is there.

    Args:
        results: the folder of an experiment; a `UserError` if it is none.
        partial: whether results that nobody has made yet are no problem.

    Returns:
        problems, pairs of a file, relative to the tree, and what is wrong with it; notes, what else is worth knowing;
        how many records there are, and how many files they name, all of which were read.
    """
    from tqdm import tqdm

    if not results.is_dir():
        raise UserError(f"{results}: no such folder; give the folder of an experiment, for example results/demo")
    known, sums = dag.read(results), cache(_checksum)
    problems: list[Problem] = []
    records: dict[Path, dict[str, Any]] = {}
    paths = sorted(results.rglob(f"*{provenance.SUFFIX}"))
    for path in tqdm(paths, desc="reading", unit="job", leave=False, disable=not sys.stderr.isatty()):
        try:
            record = provenance.read(path)
        except UserError as error:
            problems.append((path, str(error).removeprefix(f"{path}: ")))
        else:
            if not provenance.repeated(record):
                records[path] = record
                problems += _altered(path, record, sums)
    inputs = {_beside(path, name) for path, record in records.items() for name in record["inputs"]}
    for path in sorted(provenance.path_of(file) for file in inputs if not file.is_relative_to(results)):
        with suppress(UserError):  # no record of this version, which results are not wrong for
            problems += _altered(path, provenance.read(path), sums)
    said = {path for path, _ in problems}
    for path, record in records.items():
        problems += _outdated(path, record, sums, said, results)
    problems += _unplanned(results, known, records, partial)
    return {
        "problems": [(os.path.relpath(path, results), what) for path, what in problems],
        "notes": list(_origins(known, records)),
        "records": len(records),
        "files": sum(len(record["outputs"]) for record in records.values()),
    }


def _checksum(path: Path) -> str | None:
    """Of a file as it is, or what keeps it from being read; None for one that is not there."""
    try:
        return provenance.checksum(path) if path.is_file() else None
    except OSError as error:
        return f"cannot read it ({one_line(error)}); mend that, or copy it again"


def _altered(path: Path, record: Mapping[str, Any], sums: Checksums) -> Iterator[Problem]:
    """Outputs that are not what the record says."""
    for name, made in record["outputs"].items():
        file = _beside(path, name)
        if (found := sums(file)) is None:
            yield file, "missing, though its record is there; copy it again, or make it anew"
        elif " " in found:
            yield file, found
        elif found != made["sha256"]:
            size = os.path.getsize(file) if file.exists() else 0
            if size < made["bytes"]:
                yield file, f"half-copied: {size:,} of {made['bytes']:,} bytes; copy it again"
            else:
                yield file, "altered since it was made; copy it again, or delete it and make it anew"


def _outdated(
    path: Path, record: Mapping[str, Any], sums: Checksums, said: set[Path], results: Path
) -> Iterator[Problem]:
    """Outputs of inputs that have changed; not of those that were named before, or lie elsewhere and are not there."""
    for name, known in record["inputs"].items():
        file = _beside(path, name)
        if file not in said and sums(file) not in (None, known):
            first = _beside(path, next(iter(record["outputs"])))
            other = os.path.relpath(file, results)
            yield first, f"outdated: made from another {other}; run snakemake, or --forcerun its rule"


def _unplanned(
    results: Path, known: Dag, records: Mapping[Path, Mapping[str, Any]], partial: bool
) -> Iterator[Problem]:
    """What the jobs were to make and is not there, or was made with other options."""
    missing = []
    for job in known.jobs:
        inside = [Path(file) for file in job.outputs if Path(file).is_relative_to(results)]
        if not inside:
            continue
        record = records.get(provenance.path_of(inside[0]))
        absent = [file for file in inside if not file.exists()]
        if record is not None:
            if job.options is not None and (other := _differs(record["options"], job.options)):
                yield inside[0], f"outdated: made with another {other}; run snakemake"
        elif not absent:
            yield inside[0], "no record of where it is from; copy that too, or make it anew"
        elif len(absent) < len(inside):
            yield absent[0], "missing, and so is the record; copy both, or make them anew"
        else:
            missing.append(inside[0])
    if missing and not partial:
        others = f"missing, with the results of {len(missing) - 1} other jobs"
        yield missing[0], f"{others}; run snakemake (see introprior status)"


def _differs(made: Any, wanted: Any, path: str = "") -> str | None:
    """The first option by which two differ."""
    if isinstance(made, dict) and isinstance(wanted, dict):
        inside = (_differs(made.get(key), wanted.get(key), f"{path}.{key}") for key in sorted(made.keys() | wanted))
        return next(filter(None, inside), None)
    short = [cut(str(value), 40) for value in (made, wanted)]
    return None if made == wanted else f"{path.lstrip('.') or 'set of options'} ({short[0]}, now {short[1]})"


def _origins(known: Dag, records: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    """What the results do not share."""
    kinds = {"code": ("commit", "versions of the code"), "device": ("device", "devices")}
    kinds["libraries"] = ("introprior", "sets of libraries")
    changed = sum("versions" in record for record in records.values())
    if changed:
        yield f"{changed} trainings went on with another code than they began with (versions, in their records)"
    for key, (shown, what) in kinds.items():
        if (count := len({str(record[key]) for record in records.values()})) > 1:
            names = ", ".join(sorted({str(record[shown]) for record in records.values()}))
            yield f"made by {count} {what} ({names})"
    now = known.identity.partition("-")[0]
    earlier = sum(record["configuration"] not in (None, now) for record in records.values())
    if earlier:
        yield f"{earlier} jobs ran under another configuration as a whole, with the same options of their own"


def _beside(record: Path, name: str) -> Path:
    return Path(os.path.normpath(record.parent / name))
