"""How many kernels an iteration of the game asks a GPU for, counted on a CPU: docs/performance.md names the number.

Operations below autograd that compute are a kernel each (a batched product's bias is a copy more, which only the
library knows of). Kernels of ours are counted where they would be launched, and launch nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from runs import a_member, density_run
from tape import computes
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from introprior.data.catalogue import DATASETS
from introprior.game import fused, networks
from introprior.training import density

if not find_spec("triton"):  # not imported: a test asks who does
    pytest.skip("there is no Triton", allow_module_level=True)

SIZES = {"iterations": 9, "warmup_iterations": 2, "mixture_warmup_iterations": 1, "batch_size": 4}
SIZES |= {"monte_carlo_samples": 2, "hidden_width": 4}
CELLS = "mog5-lc-ip", "mog5-lc", "sg"
MOST = 400
"""What an iteration may launch at most."""
Launches = tuple[int, Counter[str]]


class Operations(TorchDispatchMode):
    """How many compute; not by a tape, which would keep gradients from becoming the parameters' without a copy."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += computes(func)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launches]:
    """The operations of an iteration of the game as a GPU would make it, and which kernels of ours how often."""
    from triton.runtime.jit import JITFunction

    from introprior.game.gpu.counters import CounterStreams
    from introprior.game.gpu.kernels import KernelCrossEntropy

    ours: Counter[str] = Counter()

    def launch(kernel: Any, *arguments: Any, **more: Any) -> None:
        ours[kernel.__name__] += 1
        if kernel.__name__ == "draw_kernel":  # of data that may be an index
            with _disable_current_modes():
                arguments[2].zero_()

    def count(cell: str, seeds: list[int], datasets: list[str]) -> Launches:
        members = [a_member(seed, 0.2, 0.3, 0.9, name) for seed, name in zip(seeds, datasets, strict=True)]
        training = density.begin(density_run(cell, members, **SIZES), torch.device("cpu"))
        while training.iteration < 3:
            training.step()
        training.streams = CounterStreams(seeds, training.clock, datasets)
        with monkeypatch.context() as on_a_gpu:
            on_a_gpu.setattr(JITFunction, "run", launch)
            on_a_gpu.setattr(networks, "_one_by_one", lambda x: False)
            on_a_gpu.setattr(fused, "_kernels", lambda *_: KernelCrossEntropy)
            on_a_gpu.setenv("TRITON_INTERPRET", "1")
            training.prepare()
            ours.clear()
            with Operations() as operations:
                training.play(None)
        return operations.number, Counter(ours)

    return count


@pytest.mark.parametrize("cell", CELLS)
def test_an_iteration_is_few_launches_whatever_the_company(cell, launches):
    alone, ours = launches(cell, [3], ["Rings"])
    assert alone + ours.total() <= MOST
    company = launches(cell, [*range(5)], ["Rings"] * 5)
    assert company[1] == ours
    assert company[0] - alone in (0, 2)  # where members have thresholds of their own, these are laid side by side
    assert launches(cell, [*range(3)], ["Rings"] * 3) == company


def test_all_datasets_together_are_few_launches_too(launches):
    _, ours = launches("mog5-lc-ip", [0, 1], ["Rings", "Rings"])
    for seeds in ([0], [0, 1]):
        names = [name for name in DATASETS for _ in seeds]
        all_of_them, theirs = launches("mog5-lc-ip", seeds * len(DATASETS), names)
        assert theirs - ours == Counter(draw_kernel=6)  # uniform, normal; integers, uniform; integers, normal
        assert all_of_them + theirs.total() <= MOST


def test_which_kernels_are_ours(launches):
    """Four KLs, the last of which has the mixture learn; the draws of each are what its name says."""
    kls = 4
    draws = {"data": 2, "real": 1, "source": 4, "fakes": 1, "kl": 4}
    expected = {"draw_kernel": sum(draws.values()), "table_kernel": kls, "value_kernel": kls, "mixture_kernel": 1}
    assert launches("mog5-lc-ip", [0, 1], ["8Gaussian"] * 2)[1] == Counter(expected)
