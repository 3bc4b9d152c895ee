"""Kernels without a card: a process that interprets them, and a compiler that takes them for an H100's.

The interpreter has to be asked for before Triton is imported, so it has a process of its own. Compiling for a GPU needs
none.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

CAPTURED: dict[str, Any] = {"check": True, "capture_output": True, "text": True}


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[ProcessPoolExecutor, bool]]:
    """A process in which Triton interprets, and whether it had imported Triton before anybody wanted it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            early = process.submit(triton_is_imported).result()
        yield process, early


@pytest.fixture
def interpreted(started: tuple[ProcessPoolExecutor, bool]) -> Callable[..., Any]:
    """Calls a function of a device, and of more, in that process."""
    return lambda function, *arguments, **more: started[0].submit(partial(function, "cpu", *arguments, **more)).result()


@pytest.fixture(params=["interpreted", pytest.param("cuda", marks=pytest.mark.gpu)])
def there(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a function of a device, and of more, where that device has kernels."""
    if request.param == "cuda":
        return lambda function, *arguments, **more: function("cuda", *arguments, **more)
    call: Callable[..., Any] = request.getfixturevalue("interpreted")
    return call


def triton_is_imported() -> bool:
    return "triton" in sys.modules


class NoCard:
    """What the compiler asks a driver for."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 99  # no card that may be there

    def get_current_stream(self, device: int) -> int:
        return device


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """Kernels that are launched are compiled for compute capability 9.0 instead; their machine codes."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    codes: list[bytes] = []
    compile_ = JITFunction.run

    def run(kernel: Any, *arguments: Any, warmup: bool, **more: Any) -> None:
        codes.append(compile_(kernel, *arguments, warmup=True, **more).asm["cubin"])

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(driver, "_active", NoCard())
    return codes


def registers_in_memory(code: bytes, path: Path) -> int | None:
    """Bytes a thread that the kernel spills; None where Triton came without the tool that tells."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return None
    path.write_bytes(code)
    usage = subprocess.run([tool, "--dump-resource-usage", path], **CAPTURED).stdout
    (found,) = re.findall(r"STACK:(\d+) .*LOCAL:(\d+)", usage)
    return sum(map(int, found))
