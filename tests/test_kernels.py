"""The mixture's Triton kernels against the three-way broadcast in float64, interpreted and on a GPU if there is one."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import Any

import pytest
import torch
from cards import registers_in_memory
from runs import a_member, density_run
from test_divergences import INPUTS, case, ours, theirs, with_gradients
from torch import Tensor

from introprior.game import fused
from introprior.training import density

if not find_spec("triton"):  # not imported: a test asks who does
    pytest.skip("there is no Triton", allow_module_level=True)

FULL = {"draws": 100, "batch": 512, "components": 64, "dim": 2}
"""The paper's sizes."""
POSTERIOR, MIXTURE = INPUTS[:2], INPUTS[2:]


# What is done there


def errors(device: str, learning: tuple[str, ...] = INPUTS, members: int = 2, **shape: Any) -> dict[str, float]:
    """The largest error of the divergences and of each gradient, relative to the largest number."""
    values = case(members, **{"dim": 2} | shape)
    kl, gradients = with_gradients(ours, {name: value.to(device) for name, value in values.items()}, learning)
    exact, exact_gradients = with_gradients(theirs, {name: value.double() for name, value in values.items()}, learning)
    pairs = {"kl": (kl, exact)} | {name: (gradients[name], exact_gradients[name]) for name in learning}
    return {name: float((a.cpu() - b).abs().max() / (b.abs().max() or 1)) for name, (a, b) in pairs.items()}


def parts(device: str, *lead: int, dtype: torch.dtype = torch.float32, **shape: Any) -> list[Tensor]:
    """Arguments of ``mixture_cross_entropy``."""
    values = case(*lead, **{"dim": 2} | shape)
    values["logits"] = torch.log_softmax(values["logits"], -1)
    return [value.to(device, dtype) for value in values.values()]


def computed(arguments: list[Tensor]) -> list[Tensor]:
    """The values and their gradients in all but the noise, each posterior with a weight of its own."""
    *learning, noise = arguments
    learning = [part.detach().requires_grad_() for part in learning]
    value = fused.mixture_cross_entropy(*learning, noise)
    weights = torch.linspace(-1, 2, value.shape[-1], device=value.device).expand_as(value)
    return [value.detach(), *torch.autograd.grad(value, learning, weights)]


def way(device: str, **shape: Any) -> str:
    """Which way is taken."""
    arguments = parts(device, 1, **shape)
    arguments[0].requires_grad_()
    return type(fused.mixture_cross_entropy(*arguments).grad_fn).__name__.removesuffix("Backward")


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Bit by bit, but for what is not a number."""
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(some, others, strict=True))


def twice(device: str) -> bool:
    arguments = parts(device, 2, components=3)
    return same(computed(arguments), computed(arguments))


def alone(device: str) -> bool:
    arguments = parts(device, 3, components=3)
    company = computed(arguments)
    return all(
        same(computed([part[e : e + 1] for part in arguments]), [result[e : e + 1] for result in company])
        for e in range(3)
    )


def wherever_they_lie(device: str) -> bool:
    """Halves of one tensor, and noise that the members share, against copies of them."""
    mean, logvar, *mixture, noise = parts(device, 2, components=2)
    both = torch.cat((mean, logvar), -1).chunk(2, -1)
    shared = noise[:1].expand_as(noise)
    views, copies = [*both, *mixture, shared], [mean, logvar, *mixture, shared.contiguous()]
    odd = [torch.stack((part, part), -1)[..., 0] for part in copies]  # every other number
    return same(computed(views), computed(copies)) and same(computed(odd), computed(copies))


def spoilt(device: str) -> tuple[list[int], bool]:
    """One posterior is not a number: which values are none, and whether the other values and their gradients stay."""
    arguments = parts(device, 1, batch=40, components=2)
    value, by_mean, *_ = computed(arguments)
    arguments[0][0, 7, 1] = torch.nan
    spoilt_value, spoilt_by_mean, _, *by_mixture = computed(arguments)
    kept = torch.arange(40, device=value.device) != 7
    stays = same([value[:, kept], by_mean[:, kept]], [spoilt_value[:, kept], spoilt_by_mean[:, kept]])
    assert by_mixture[0].isnan().any()  # as in the sum that they come from
    return spoilt_value[0].isnan().nonzero().flatten().tolist(), stays


def without_weight(device: str) -> bool:
    """A component of no weight is as none."""
    arguments = parts(device, 2, components=4)
    arguments[4][:, -1] = -torch.inf
    fewer = [part[:, :3] if index in (2, 3, 4) else part for index, part in enumerate(arguments)]
    results, expected = computed(arguments), computed(fewer)
    nothing = all((result[:, 3] == 0).all() for result in results[3:])
    return nothing and same([*results[:3], *(result[:, :3] for result in results[3:])], expected)


def wrong(device: str) -> tuple[str, str]:
    """The way taken, and why, by kernels that compute something else."""
    from triton import language as tl

    from introprior.game.gpu import kernels

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said:
        patch.setattr(kernels, "LN_2", tl.constexpr(0.6932))
        return fused._kernels.__wrapped__(torch.device(device), 2).__name__, said.getvalue()


def trained(device: str) -> dict[str, list[float]]:
    """Losses of a few small iterations, warm-up and game, of a mixture that learns."""
    sizes = {"iterations": 5, "warmup_iterations": 3, "mixture_warmup_iterations": 1, "batch_size": 16}
    sizes |= {"monte_carlo_samples": 2, "hidden_width": 16, "hidden_layers": 2, "milestones": (4,)}
    members = [a_member(seed, 0.2, 0.3, 0.9) for seed in (0, 1)]
    training = density.begin(density_run("mog3-lc-ip", members, **sizes), torch.device(device))
    rows = [training.step() for _ in range(5)]
    return {name: torch.stack([row[name] for row in rows if name in row]).tolist() for name in rows[-1]}


# Against the broadcast


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"components": 5, "draws": 18, "batch": 40},  # no power of two; neither draws nor posteriors fill a tile
        {"components": 1, "draws": 1, "batch": 1},
        {"dim": 1},
        {"dim": 4, "components": 3},
        {"spread": 50.0},  # far away from nearly all components
    ],
    ids=str,
)
def test_values_and_all_gradients_are_those_of_float64(there, shape):
    for name, error in there(errors, **shape).items():
        assert error <= 1e-5, name


@pytest.mark.parametrize("learning", [POSTERIOR, MIXTURE, ("logvar",), ("logits",)], ids="-".join)
def test_any_player_may_be_frozen(there, learning):
    assert max(there(errors, learning).values()) <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("components", [64, 100, 128])
def test_at_full_shape_on_a_gpu(components):
    for name, error in errors("cuda", members=3, **FULL | {"components": components}).items():
        assert error <= 1e-5, name


@pytest.mark.parametrize("property_", [twice, alone, wherever_they_lie, without_weight])
def test_the_same_bits(there, property_):
    assert there(property_)


def test_what_is_not_a_number_stays_none_and_alone(there):
    assert there(spoilt) == ([7], True)


def test_training_with_kernels_is_training_with_blocks(interpreted):
    losses, expected = interpreted(trained), trained("cpu")
    assert losses.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(torch.tensor(losses[name]), torch.tensor(expected[name]), rtol=1e-3, atol=1e-5)
    assert losses != expected  # these sums are others


@pytest.mark.gpu
def test_a_graph_replays_both_passes():
    arguments = parts("cuda", 3, **FULL)
    expected = computed(arguments)  # compiled here, not in the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = computed(arguments)
    for result in results:
        result.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert same(results, expected)


# Which way is taken


def test_shapes_that_the_kernels_cannot_take_go_the_other_way(there):
    assert there(way) == there(way, components=128, draws=1, batch=1) == "KernelCrossEntropy"
    for shape in ({"dim": 5}, {"components": 129}, {"dtype": torch.float64}):
        assert there(way, **shape) == "_CrossEntropy"


def test_a_cpu_goes_the_other_way():
    assert way("cpu") == "_CrossEntropy"


def test_nobody_imports_triton_before_it_is_wanted(started):
    assert not started[1]


@pytest.mark.parametrize("missing", [True, False], ids=["no-triton", "no-gpu"])
def test_what_cannot_be_had_is_told_in_one_line_once(missing, monkeypatch, capsys):
    """Without Triton, or without a GPU that it knows: kernels cannot run on a CPU's memory."""
    if missing:
        monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "introprior.game.gpu.kernels", raising=False)
    fused._kernels.cache_clear()
    ways = [fused._kernels(torch.device("cpu"), 2).__name__ for _ in range(3)]
    fused._kernels.cache_clear()
    assert ways == ["_CrossEntropy"] * 3
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("the KL's GPU kernel is not used, a slower way is: ")
    assert len(said) < 260


def test_kernels_that_compute_something_else_are_not_used(interpreted):
    name, said = interpreted(wrong)
    assert name == "_CrossEntropy"
    assert said == "the KL's GPU kernel is not used, a slower way is: its numbers are wrong\n"


# Compiled for an H100, without one


@pytest.mark.parametrize(
    ("learning", "shape"),
    [(POSTERIOR, FULL), (MIXTURE, FULL), (INPUTS, FULL), (INPUTS, {"batch": 1, "draws": 1, "components": 1})],
    ids=["posterior", "mixture", "both", "ones"],
)
def test_every_launch_compiles_for_an_h100_and_spills_nothing(learning, shape, compiled, tmp_path):
    """Triton takes numbers that are one for constants: a lonely member's, too."""
    from introprior.game.gpu.kernels import KernelCrossEntropy

    arguments = parts("cpu", 1, **shape)
    learns = [part.requires_grad_(name in learning) for part, name in zip(arguments, INPUTS, strict=False)]
    KernelCrossEntropy.apply(*learns, arguments[-1]).sum().backward()
    assert len(compiled) == 2 + (learning != POSTERIOR)
    spilt = [registers_in_memory(code, tmp_path / "kernel.cubin") for code in compiled]
    assert spilt in ([0] * len(compiled), [None] * len(compiled))
