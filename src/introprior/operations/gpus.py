"""How many GPUs this machine has, told without torch: for the workflow, which is to start at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from introprior.errors import UserError

DRIVER, WSL = Path("/proc/driver/nvidia/gpus"), Path("/usr/lib/wsl/lib/nvidia-smi")
"""Where the driver lists its GPUs, and the program that lists them on Windows' Linux (WSL2), where it does not."""


def present() -> int:
    """Number of visible NVIDIA GPUs: by CUDA_VISIBLE_DEVICES, else those of the driver."""
    visible, simulated = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("INTROPRIOR_SIMULATED_GPUS")
    if visible is None and simulated:
        return int(simulated) if simulated.isdecimal() else 0
    if visible is None:
        return sum(1 for _ in DRIVER.glob("*")) or _listed()
    names = [name.strip() for name in visible.split(",")]
    hidden = (i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles"))  # CUDA stops at the first such
    return next(hidden, len(names))


def _listed() -> int:
    """Number of GPUs that ``nvidia-smi`` lists, where it is installed."""
    program = shutil.which("nvidia-smi") or shutil.which(WSL)
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "--list-gpus"], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith(b"GPU ") for line in done.stdout.splitlines())


def check(device: str, asked: int | None, count: int, jobs_per_gpu: int = 1) -> None:
    """A `UserError` if the configured device is missing, or more GPUs are asked for than the ``count`` that there are.

    Snakemake counts jobs, of which ``jobs_per_gpu`` may share a GPU; ``--resources gpu=<asked>``, None if not limited.
    The default profile asks for one GPU, which may be absent.
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
