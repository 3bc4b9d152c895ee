"""Snakemake, but it asks Slurm every two seconds: by itself it asks ever less often, at last every three minutes."""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _sleep(self: RemoteExecutor) -> None:
    await asyncio.sleep(2)


RemoteExecutor.sleep = _sleep

if __name__ == "__main__":
    sys.exit(main())
