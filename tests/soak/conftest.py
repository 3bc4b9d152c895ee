"""Options of the soak."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--killer-seed", type=int, default=None, help="of the killer's choices; a failure tells its own")
