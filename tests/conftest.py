"""Fixtures shared by the tests of the training's parts."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import compiled, interpreted, started, there  # noqa: F401
from runs import a_member, density_run
from torch import nn

from introprior.data import density as points
from introprior.experiment.run import Member
from introprior.metrics import registry
from introprior.operations import dag
from introprior.training import density
from introprior.training.loop import Training
from tests.projects import Project

TINY = {"iterations": 40, "warmup_iterations": 6, "mixture_warmup_iterations": 2, "batch_size": 16}
TINY |= {"monte_carlo_samples": 5, "hidden_width": 16, "hidden_layers": 2, "milestones": (9, 12)}

APART = [Path(__file__).parent / name for name in ("fuzz", "kernel", "slurm", "soak", "whole")]
"""What takes minutes, or a machine of its own; each has a target of its name, such as `make whole`."""

PROGRAMS = {"cli", "counters", "downloads", "house", "image_commands"}
PROGRAMS |= {"image_figures", "kernels", "planning", "status", "workflow_dag"}
"""The tests that `make quick` leaves out: they start commands and workflows."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in PROGRAMS:
            item.add_marker("programs")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))
    # What takes longest begins first, lest one worker is left with it at the end.
    items.sort(key=lambda item: item.get_closest_marker("programs") is None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what is apart, unless it or something in it was named."""
    named = [Path(os.path.abspath(argument.partition("::")[0])) for argument in config.args]
    for folder in APART:
        if collection_path.is_relative_to(folder) and not any(path.is_relative_to(folder) for path in named):
            return True
    return None


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell ignores SIGINT for what it starts in the background, nohup SIGHUP, and so would tests that send them."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def paper_plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], Path]:
    """How many jobs of each rule the paper takes, and where the jobs are told; planned once, whoever asks first."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    told = base / "paper.json"
    with told.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            counts = Project(base / "paper").plan()
            told.write_text(json.dumps(counts))
    return json.loads(told.read_text()), base / "paper/results/paper" / dag.PLANNED


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Whatever a test draws without a generator of its own, it draws again the next time."""
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 the default dtype, so that oracles agree to rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def exact(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data in float64 as well, which the package makes in float32: members agree alone and in company to rounding."""
    draw = points.sample_members
    monkeypatch.setattr(points, "sample_members", lambda *arguments: draw(*arguments).double())


@pytest.fixture
def tiny() -> Callable[..., Training]:
    """Begin a training of a few small networks: game from iteration 6, conversion at 4, decays at 9 and 12."""

    def begin(
        cell: str,
        *members: Member,
        protocol: str = "authors",
        options: dict[str, Any] | None = None,
        **training: Any,
    ) -> Training:
        members = members or (a_member(0, 0.2, 0.3, 0.9),)
        run = density_run(cell, members, protocol=protocol, overrides=options, **TINY | training)
        return density.begin(run, torch.device("cpu"))

    return begin


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, prepared; nobody changes them."""
    from introprior.data.images import prepare  # late: whoever needs no images need not wait

    folder = tmp_path_factory.mktemp("digits")
    prepare("digits", folder)
    return folder


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of PyTorch's that holds random weights where pytorch-fid looks for the real ones."""
    from pytorch_fid import inception as upstream  # late: it takes seconds to import

    from introprior.metrics import inception

    home = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        network = upstream.fid_inception_v3()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # keeps the signal's size from layer to layer
            module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight.data, 0.7, 1.3),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.7, 1.3),
            ):
                values.uniform_(low, high, generator=generator)
    path = home / "hub" / "checkpoints" / inception.WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    return home


@pytest.fixture(scope="session")
def inception_network(torch_home: Path) -> nn.Module:
    """The network with these weights; tests share it, as its parameters and running statistics never change."""
    from introprior.metrics import inception

    return inception.load(torch_home / "hub" / "checkpoints" / inception.WEIGHTS, sha256=None)


@pytest.fixture
def published_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics that the project came with: a test of its tables is not to fail for one that was added."""
    names = ["gnELBO", "KL", "JSD", "JSD_nats", "r_entropy", *registry.ENTROPIES, "checkpoint_epoch"]
    names += [f"{name}_{of}" for name in registry.DISTANCES for of in ("gen", "rec")]
    names += [f"{kind}_{number}" for kind in ("svm", "knn") for number in ("few", "many")]
    for name in [name for name in registry.METRICS if name.removesuffix("_floor") not in names]:
        monkeypatch.delitem(registry.METRICS, name)
