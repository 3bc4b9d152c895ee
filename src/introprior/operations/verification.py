"""Whether a results tree is what its records say: complete, unaltered, and nothing made from what has changed since."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from introprior.errors import UserError
from introprior.operations import dag, provenance
from introprior.operations.dag import Dag

Problem = tuple[str, str]
"""A file, relative to the results tree, and what is wrong with it."""


@dataclass
class Verdict:
    """What a look at a results tree has found.

    Attributes:
        problems: files that are missing, damaged or outdated.
        notes: what else is worth knowing.
        records: how many records there are.
        files: how many files they name, all of which were read.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    files: int = 0


def verify(results: Path, partial: bool = False, seen: Callable[[Iterable[Path]], Iterable[Path]] = iter) -> Verdict:
    """Read every file of a results tree again and hold it against its record.

    Args:
        results: the folder of an experiment, also a copy of one.
        partial: whether results that nobody has made yet are no problem.
        seen: is handed the records' paths, for a progress bar.

    Raises:
        UserError: the folder is no results tree.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; give the folder of an experiment, for example results/demo")
    known = dag.read(results)
    verdict, sums = Verdict(), _Checksums()
    records: dict[Path, dict[str, Any]] = {}
    for path in seen(sorted(results.rglob(f"*{provenance.SUFFIX}"))):
        if any(part.startswith(".") for part in path.relative_to(results).parts):
            continue
        try:
            records[path] = provenance.read(path)
        except UserError as error:
            verdict.problems.append((_name(path, results), str(error).removeprefix(f"{path}: ")))
            continue
        verdict.files += len(records[path]["outputs"])
        verdict.problems += [(_name(file, results), what) for file, what in _altered(path, records[path], sums)]
    verdict.records = len(records)
    bad = {name for name, _ in verdict.problems}
    for path, record in records.items():
        for file, what in _outdated(path, record, sums):
            if _name(file, results) not in bad:  # else it was said already
                verdict.problems.append((_name(_first(path, record), results), what.format(_name(file, results))))
    verdict.problems += _unplanned(results, known, records, partial)
    verdict.notes += _origins(known, records)
    return verdict


class _Checksums(dict[Path, str | None]):
    """The checksums of files as they are, each read once; None for a file that is not there."""

    def __missing__(self, path: Path) -> str | None:
        self[path] = found = provenance.checksum(path) if path.is_file() else None
        return found


def _altered(path: Path, record: Mapping[str, Any], sums: _Checksums) -> Iterator[tuple[Path, str]]:
    """Outputs that are not what the record says."""
    for name, made in record["outputs"].items():
        file = _beside(path, name)
        if not file.is_file():
            yield file, "missing, though its record is there; copy it again, or make it anew"
        elif (size := file.stat().st_size) < made["bytes"]:
            yield file, f"half-copied: {size:,} of {made['bytes']:,} bytes; copy it again"
        elif sums[file] != made["sha256"]:
            yield file, "altered since it was made; copy it again, or delete it and make it anew"


def _outdated(path: Path, record: Mapping[str, Any], sums: _Checksums) -> Iterator[tuple[Path, str]]:
    """Inputs that are not what the outputs were made from. What lies elsewhere and is not there is not looked for."""
    for name, known in record["inputs"].items():
        file = _beside(path, name)
        if sums[file] is not None and sums[file] != known:
            yield file, "outdated: made from another {}; run snakemake, or --forcerun its rule"


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
        if record is None:
            if not absent:
                yield _name(inside[0], results), "no record of where it is from; copy that too, or make it anew"
            elif len(absent) < len(inside):
                yield _name(absent[0], results), "missing, and so is the record; copy both, or make them anew"
            else:
                missing.append(job)
        elif job.options is not None and (other := _differs(record["options"], job.options)):
            yield _name(inside[0], results), f"outdated: made with another {other}; run snakemake"
    if missing and not partial:
        first = os.path.relpath(missing[0].outputs[0], results)
        yield (
            first,
            f"missing, with the results of {len(missing) - 1} other jobs; run snakemake (see introprior status)",
        )


def _differs(made: Any, wanted: Any, path: str = "") -> str | None:
    """The first option by which two differ."""
    if isinstance(made, dict) and isinstance(wanted, dict):
        for key in sorted(made.keys() | wanted.keys()):
            if found := _differs(made.get(key), wanted.get(key), f"{path}.{key}".lstrip(".")):
                return found
        return None
    return None if made == wanted else f"{path or 'set of options'} ({_short(made)}, now {_short(wanted)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _origins(known: Dag, records: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    """What the results do not share."""
    for key, what in (("code", "versions of the code"), ("device", "devices"), ("libraries", "sets of libraries")):
        kinds = {str(record[key]): record for record in records.values()}
        if len(kinds) > 1:
            shown = {str(record["commit"] if key == "code" else record["device"]) for record in kinds.values()}
            yield f"made by {len(kinds)} {what}" + (f" ({', '.join(sorted(shown))})" if key != "libraries" else "")
    now = known.identity.partition("-")[0]
    earlier = sum(record["configuration"] not in (None, now) for record in records.values())
    if earlier:
        yield f"{earlier} jobs ran under another configuration as a whole, with the same options of their own"


def _first(path: Path, record: Mapping[str, Any]) -> Path:
    return _beside(path, next(iter(record["outputs"])))


def _beside(record: Path, name: str) -> Path:
    return Path(os.path.normpath(record.parent / name))


def _name(path: Path, results: Path) -> str:
    return os.path.relpath(path, results)
