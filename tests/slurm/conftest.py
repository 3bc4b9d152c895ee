"""One Slurm for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, Unavailable, started

REQUIRED = "INTROPRIOR_REQUIRE_SLURM"
"""Environment variable: with 1, tests that find no Slurm to start fail; otherwise they are skipped."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running Slurm of one node with two GPUs that are none."""
    pytest.importorskip("snakemake_executor_plugin_slurm")
    try:
        with started() as running:
            yield running
    except Unavailable as reason:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but no Slurm can be started: {reason}")
        pytest.skip(f"no Slurm can be started: {reason}")
