"""The workflow's scripts, run as Snakemake runs them."""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Wildcards
from snakemake.script import Snakemake

FOLDER = Path(__file__).resolve().parent.parent / "workflow" / "scripts"


def run_script(
    name: str,
    input: Mapping[str, Any] | None = None,
    output: Sequence[object] = (),
    params: Mapping[str, Any] | None = None,
    log: Sequence[object] = (),
    wildcards: Mapping[str, str] | None = None,
) -> None:
    """Run a script with Snakemake's own object.

    Args:
        name: the script's.
        input: files, or lists of files, by name.
        output: files.
        params: by name.
        log: files.
        wildcards: by name.
    """
    files = InputFiles()
    for key, value in (input or {}).items():
        many = not isinstance(value, str | Path)
        start = len(files)
        files.extend(map(str, value) if many else [str(value)])
        files._set_name(key, start, end=len(files) if many else None)
    given = Snakemake(
        files,
        OutputFiles(toclone=list(map(str, output))),
        Params(fromdict=dict(params or {})),
        Wildcards(fromdict=dict(wildcards or {})),
        1,
        ResourceList(),
        Log(toclone=list(map(str, log))),
        {},
        name.removesuffix(".py"),
        None,
        FOLDER,
    )
    runpy.run_path(str(FOLDER / name), init_globals={"snakemake": given})
