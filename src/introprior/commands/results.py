"""The command that looks at finished results: verify."""

from __future__ import annotations

import argparse
import json

from introprior.errors import UserError
from introprior.operations import verification


def verify(given: argparse.Namespace) -> None:
    """Check a results tree.

    Raises:
        UserError: something is wrong with it; what, is printed.
    """
    found = verification.verify(given.results, given.partial)
    if given.json:
        print(json.dumps({"ok": not found["problems"], **found}, indent=2))
    else:
        for path, what in found["problems"]:
            print(f"{given.results / path}: {what}")
        for note in found["notes"]:
            print(f"note: {note}")
    if found["problems"]:
        raise UserError(f"{given.results}: {len(found['problems'])} problem(s), see above")
    if not given.json:
        print(f"{given.results}: {found['files']:,} files of {found['records']:,} jobs are as they were made")
