"""How many GPUs this machine has, told without torch: for the workflow, which is to start at once."""

from __future__ import annotations

import os
from pathlib import Path

from introprior.errors import UserError


def present() -> int:
    """Number of visible NVIDIA GPUs: by CUDA_VISIBLE_DEVICES, else those of the driver."""
    visible, simulated = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("INTROPRIOR_SIMULATED_GPUS")
    if visible is None and simulated:
        return int(simulated) if simulated.isdecimal() else 0
    if visible is None:
        return sum(1 for _ in Path("/proc/driver/nvidia/gpus").glob("*"))
    names = [name.strip() for name in visible.split(",")]
    hidden = (i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles"))  # CUDA stops at the first such
    return next(hidden, len(names))


def check(device: str, asked: int | None, count: int, jobs_per_gpu: int = 1) -> None:
    """Check that the device exists and that no more GPUs are to be used than there are.

    Args:
        device: the configured one.
        asked: how many GPUs Snakemake may use at a time, ``--resources gpu=<asked>``; None: not limited.
        count: how many there are. The default profile asks for one, which may be absent.
        jobs_per_gpu: how many jobs may share one; Snakemake counts jobs.

    Raises:
        UserError: the device or some GPUs are missing.
    """
    if device == "cpu":
        return
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= count:
        raise UserError(f"configuration: device: {device} is not there, {_gpus(count)} visible; use auto or cpu")
    most = count * jobs_per_gpu
    if asked is not None and asked > max(most, 1):
        shared = f", {jobs_per_gpu} jobs each" if jobs_per_gpu > 1 else ""
        remedy = f"ask for gpu={most} at most{shared}" if count else "leave it out to run on the CPU"
        raise UserError(f"--resources gpu={asked}: {_gpus(count)} visible on this machine; {remedy}")


def _gpus(count: int) -> str:
    return "no GPU is" if not count else "1 GPU is" if count == 1 else f"{count} GPUs are"
