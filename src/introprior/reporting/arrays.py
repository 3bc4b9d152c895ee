"""Archives of arrays (.npz) read with care: what is missing, cut short or foreign is refused in one line."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from introprior.errors import UserError

REMEDY = "delete it and run again to make it anew"


def read_arrays(path: str | Path, arrays: Sequence[str], scalars: Sequence[str] = ()) -> dict[str, Any]:
    """The named entries of an archive, the scalars as plain values.

    Raises:
        UserError: the file is absent or damaged, an entry is missing, or what should be a scalar isn't one.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in (*arrays, *scalars) if name in archive}
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run again to make it") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cut short or not an archive of arrays ({error}); {REMEDY}") from error
    for name in (*arrays, *scalars):
        if name not in content:
            raise UserError(f"{path}: no entry {name!r}; {REMEDY}")
    for name in scalars:
        if content[name].size != 1:
            raise UserError(f"{path}: {name} has shape {list(content[name].shape)}, not a single value; {REMEDY}")
        content[name] = content[name].item()
    return content
