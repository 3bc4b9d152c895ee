"""What the workflow's scripts share: what they print goes to the job's log, a record of the job beside its files."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
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
    with logged(snakemake.log):
        sources = (provenance.PACKAGE, Path(snakemake.scriptdir))
        inputs = [path for path in snakemake.input if not any(Path(path).resolve().is_relative_to(s) for s in sources)]
        record = provenance.Record(snakemake.rule, dict(snakemake.params.items()), inputs)
        with progress.told(snakemake.output[0]):
            yield
        record.write(list(snakemake.output))


@contextmanager
def logged(logs: Sequence[str]) -> Iterator[None]:
    """Send what is printed to the first of ``logs``, if any; end with one line and exit status 2 on a `UserError`.

    The line is printed to the terminal as well. Other exceptions leave their traceback in the log.
    """
    with ExitStack() as stack:
        terminal, log = sys.stderr, sys.stderr
        if logs:
            Path(logs[0]).parent.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(open(logs[0], "w"))
            stack.enter_context(redirect_stdout(log))
            stack.enter_context(redirect_stderr(log))
        try:
            yield
        except UserError as error:
            for stream in dict.fromkeys((log, terminal)):
                print(f"introprior: {error}", file=stream)
            sys.exit(2)
        except Exception:
            traceback.print_exc(file=log)
            raise
