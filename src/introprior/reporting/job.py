"""What the workflow's scripts share: what they print goes to the job's log, a record of the job beside its files."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from introprior.errors import UserError
from introprior.operations import progress, provenance


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """The work of a script, logged and recorded.

    Sources of the package and the script itself, which are among the inputs so that their changes outdate the outputs,
    are not recorded one by one.
    """
    with logged(snakemake.log[0]):
        sources = (provenance.PACKAGE, Path(snakemake.scriptdir))
        inputs = [path for path in snakemake.input if not any(Path(path).resolve().is_relative_to(s) for s in sources)]
        record = provenance.Record(snakemake.rule, dict(snakemake.params.items()), inputs)
        with progress.at_work(snakemake.output[0]):
            yield
        record.write(list(snakemake.output))


@contextmanager
def logged(path: str) -> Iterator[None]:
    """Send what is printed to a file; end with one line, there and on the terminal, and exit status 2 on a `UserError`.

    Other exceptions leave their traceback in the file.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with (
        open(path, "w", encoding="utf-8", errors="backslashreplace") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            yield
        except UserError as error:
            for stream in (log, terminal):
                print(f"introprior: {error}", file=stream)
            sys.exit(2)
        except Exception:
            traceback.print_exc()
            raise
