"""What becomes of a measured value in a row of results; apart from the titles of metrics, which outdate nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def outcome(value: float | None, record: Mapping[str, Any] | None = None, why: str = "not finite") -> dict[str, Any]:
    """Value, status and detail of a row; what is not finite, or of a run whose record is not ok, has no value.

    None is the value of what does not apply: of what takes components, of a prior without any.

    >>> outcome(math.nan)
    {'value': None, 'status': 'diverged', 'detail': 'not finite'}
    """
    if record is not None and record["status"] != "ok":
        return {"value": None, "status": record["status"], "detail": record["detail"]}
    if value is None:
        return {"value": None, "status": "inapplicable", "detail": "does not apply to this prior or data"}
    if not math.isfinite(value):
        return {"value": None, "status": "diverged", "detail": why}
    return {"value": value, "status": "ok", "detail": ""}
