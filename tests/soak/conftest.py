"""The soak takes minutes: it runs when it is asked for (`make soak`), not with the other tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--killer-seed", type=int, default=None, help="of the killer's choices; a failure tells its own")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this folder out unless it, or something in it, was named."""
    named = [Path(os.path.abspath(argument.partition("::")[0])) for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True
