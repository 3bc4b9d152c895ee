"""An iteration can be captured: what a CUDA graph would repeat is all of it. Shown on a CPU, done on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import a_member, density_run, image_run
from tape import WAITS, Tape
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from introprior.game.randomness import MemberStreams
from introprior.training import density, images
from introprior.training.loop import Training

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = {"iterations": 60, "warmup_iterations": 12, "mixture_warmup_iterations": 6, "batch_size": 16}
MEMBERS = a_member(0, 0.2, 0.3, 0.9), a_member(0, 0.2, 0.3, 1.5), a_member(1, 0.8, 0.5, 1.0)
CELLS = ("vae-sg", "sg", "sg-dt-closed", "mog5", "mog5-lc", "mog5-ip", "mog5-lc-ip", "mog5-lc-ep", "mog3-cs", "flow-ip")
IMAGE_CELLS = ("sg", "mog5-lc-ip", "mog5-lc-ep")
Begin = Callable[..., Training]


def in_two_dimensions(cell: str, device: torch.device = CPU, **changes: Any) -> Training:
    small = {"monte_carlo_samples": 4, "hidden_width": 8, "hidden_layers": 2, "milestones": (5, 18)}
    return density.begin(density_run(cell, changes.pop("members", MEMBERS), **SIZES | small | changes), device)


@pytest.fixture(scope="module")
def on_images(digits: Path) -> Begin:
    def begin(cell: str, device: torch.device = CPU) -> Training:
        small = {"monte_carlo_samples": 2, "widths": (2, 2), "latent_dim": 3}
        entropy = 0.0 if cell == "sg" else 5.0
        return images.begin(image_run(cell, MEMBERS[:1], **SIZES | small, r_entropy=entropy), device, digits)

    return begin


@pytest.fixture(params=[*((cell, "2D") for cell in CELLS), *((cell, "images") for cell in IMAGE_CELLS)], ids="-".join)
def begin(request: pytest.FixtureRequest, on_images: Begin) -> Callable[[], Training]:
    cell, half = request.param
    make = on_images if half == "images" else in_two_dimensions
    return lambda *arguments, **changes: make(cell, *arguments, **changes)


def run_to(training: Training, until: int) -> Training:
    while training.iteration < until:
        training.step()
    return training


@pytest.mark.parametrize("cell", ["sg", "mog5-lc-ip"])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_tf32_reaches_the_networks_products_and_nothing_else(cell, precision):
    """The KL would lose up to 4 nats by it, and the choice of components its sense."""
    training, allowed = run_to(in_two_dimensions(cell, precision=precision), 13), set()

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.backends.cuda.matmul.allow_tf32:
                allowed.add(func._schema.name.removeprefix("aten::"))
            return func(*args, **(kwargs or {}))

    training.prepare()
    with Watched():
        training.play(None)
    assert not torch.backends.cuda.matmul.allow_tf32
    chain = {"addmm", "mm", "relu_", "threshold_backward", "sum", "transpose", "t", "select", "unsqueeze", "clone"}
    if precision == "float32":
        assert not allowed
    else:
        assert {"addmm", "mm"} <= allowed <= chain | {"empty", "empty_like", "new_empty", "detach", "view", "slice"}


def recorded(training: Training, x: Tensor | None) -> tuple[Tape, Any]:
    """An iteration, on the memory of ``x`` if the host makes its batch, and what it gave."""
    prepared(training, x)
    with Tape() as tape:
        played = training.play(x)
    training.iteration += 1
    return tape, played


def prepared(training: Training, x: Tensor | None) -> None:
    training.prepare()
    if x is not None:
        x.copy_(training.batch(training.iteration, training.streams))


def room(training: Training) -> Tensor | None:
    """Memory for batches, if the host makes them."""
    if not training.batch_by_host:
        return None
    return training.batch(training.iteration, training.streams).clone()


def everything(training: Training) -> dict[str, Tensor]:
    """All tensors that the training's future depends on."""
    flat, _ = pytree.tree_flatten_with_path(training.state())
    return {str(path): leaf for path, leaf in flat if isinstance(leaf, Tensor)} | {"clock": training.clock}


def different(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name].nan_to_num(1.5), theirs[name].nan_to_num(1.5))]


@pytest.mark.parametrize("at", [2, 8, 14], ids=["warm-up", "converted", "game"])
def test_two_iterations_are_the_same_calls_on_the_same_memory(begin, at):
    """And none of them waits for the device."""
    training = run_to(begin(), at)
    x = room(training)
    (first, _), (second, _) = recorded(training, x), recorded(training, x)
    assert first.calls() == second.calls()
    assert training.model.prior.waits == bool(WAITS & {name for name, *_ in first.calls()})
    assert len(first.operations) > 50


@pytest.mark.parametrize("at", [2, 14], ids=["warm-up", "game"])
def test_replays_equal_iterations_bit_for_bit(begin, at):
    """Over a change of the learning rate."""
    ordinary, replayed = run_to(begin(), at), run_to(begin(), at)
    x = room(replayed)
    tape, (values, _) = recorded(replayed, x)
    ordinary.step()
    for _ in range(6 if at > 2 else 3):
        prepared(replayed, x)
        tape.replay()
        replayed.iteration += 1
        told = ordinary.step()
    assert different(everything(replayed), everything(ordinary)) == []
    assert different(values, told) == []


def test_what_would_change_behind_a_graphs_back_is_seen(monkeypatch):
    """The comparison has eyes: a scalar of the host's that changes, and memory that moves."""
    training = run_to(in_two_dimensions("sg"), 14)
    batch = training.batch
    monkeypatch.setattr(training, "batch", lambda iteration, streams: batch(iteration, streams) * (1 + iteration))
    assert recorded(training, None)[0].calls() != recorded(training, None)[0].calls()
    monkeypatch.setattr(training, "batch", batch)
    first = recorded(training, None)[0].calls()
    training.watch.last = training.watch.last.clone()
    assert first != recorded(training, None)[0].calls()


# ---- On a card ----


@pytest.fixture
def card() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield GPU
    torch.use_deterministic_algorithms(deterministic)


class Sent(MemberStreams):
    """A CPU's numbers, sent to another device."""

    target: torch.device

    def spread(self, rows: Tensor) -> Tensor:
        return super().spread(rows).to(self.target)


def eager(training: Training) -> Training:
    training.replay = None
    return training


@pytest.mark.gpu
def test_on_a_card_replays_equal_iterations_bit_for_bit(begin, card):
    ordinary, replayed = run_to(eager(begin(card)), 60), run_to(begin(card), 60)
    assert replayed.model.prior.waits or replayed.replay.graph is not None
    assert different(everything(replayed), everything(ordinary)) == []


@pytest.mark.gpu
def test_on_a_card_the_same_run_has_the_same_bits_twice_and_after_a_cut(begin, card, tmp_path):
    first, second, cut = run_to(begin(card), 40), run_to(begin(card), 40), run_to(begin(card), 23)
    going_on = begin(card)
    going_on.restore(cut.state(), tmp_path)
    assert different(everything(first), everything(second)) == []
    assert different(everything(first), everything(run_to(going_on, 40))) == []


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
def test_on_a_card_a_member_is_the_same_alone_and_in_company(cell, card):
    """Up to rounding: matrix products of other sizes may add in another order."""
    company = run_to(in_two_dimensions(cell, card), 24).model.state_dict()
    alone = run_to(in_two_dimensions(cell, card, members=MEMBERS[2:]), 24).model
    shared = {f"prior.{name}" for name in alone.prior.shared()}
    for name, tensor in alone.state_dict().items():
        theirs = company[name] if name in shared else company[name][2:]
        torch.testing.assert_close(tensor, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_card_computes_what_the_cpu_computes(begin, card):
    """One iteration of each phase from the same numbers."""
    for at in (0, 14):
        here = run_to(begin(), at)
        there = eager(begin(card))
        state = here.state()
        state["streams"] = there.streams.state()
        there.restore(state, Path())
        x = here.batch(at, here.streams)
        for training in (here, there):
            training.prepare()
            training.streams = Sent([member.seed for member in training.members], CPU)
            training.streams.target = training.device
        (ours, _), (theirs, _) = here.play(x), there.play(x.to(card))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name].cpu(), value, rtol=1e-3, atol=1e-4)
