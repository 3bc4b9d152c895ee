"""The counted random numbers against Philox in plain integers, and against the laws that they are to have."""

from __future__ import annotations

import argparse
import copy
import math
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cards import registers_in_memory
from runs import a_member, density_run
from scipy import stats
from test_replay import different, everything, recorded, run_to
from torch import Tensor

from introprior.commands.running import Session
from introprior.data import density as data
from introprior.game import fused, randomness
from introprior.game.randomness import MemberStreams
from introprior.training import checkpoints, density
from introprior.training.loop import Training

if not find_spec("triton"):
    pytest.skip("there is no Triton", allow_module_level=True)

CPU = torch.device("cpu")
SEEDS = 5, 2**40 + 7, 2**64 - 1
NOW, CALL = 70_000, 3
MEMBERS = a_member(0, 0.2, 0.3, 0.9), a_member(0, 0.2, 0.3, 1.5), a_member(1, 0.8, 0.5, 1.0)
SIZES = {"iterations": 40, "warmup_iterations": 3, "mixture_warmup_iterations": 1, "batch_size": 16}
SIZES |= {"monte_carlo_samples": 4, "hidden_width": 8, "hidden_layers": 2, "milestones": (2, 5)}


def philox(key: int, *counters: int) -> list[int]:
    """Four words of 32 bits: Philox-4x32-10."""
    low, high = key % 2**32, key // 2**32
    a, b, c, d = counters
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = second // 2**32 ^ b ^ low, second % 2**32, first // 2**32 ^ d ^ high, first % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def normals(a: int, b: int) -> tuple[float, float]:
    """Box and Muller, by the angle's two lowest bits and the others."""
    radius, angle = math.sqrt(-2 * math.log((a + 0.5) / 2**32)), math.pi / 2 * (b % 4 + b // 4 / 2**30 - 0.5)
    return radius * math.cos(angle), radius * math.sin(angle)


def all_normals(words: list[int]) -> list[float]:
    return [*normals(*words[:2]), *normals(*words[2:])]


def expected(kind: str, seed: int, n: int, high: int = 0, draws: int = 0) -> np.ndarray:
    """Row of a draw, or moments ``[2, n]``, at iteration NOW and call CALL."""
    if kind == "moments":
        columns = [[all_normals(philox(seed, i, CALL, NOW, t)) for t in range(0, draws, 4)] for i in range(n)]
        z = np.array(columns).reshape(n, -1)[:, :draws]
        return np.stack((z.mean(1), (z * z).mean(1)))
    shapes = {
        "uniform": lambda words: [word // 2**8 / 2**24 for word in words],
        "integers": lambda words: [word * high // 2**32 for word in words],
        "normal": all_normals,
    }
    blocks = np.array([shapes[kind](philox(seed, block, CALL, NOW, 0)) for block in range(-(-n // 1024) * 256)])
    return blocks.reshape(-1, 256, 4).transpose(0, 2, 1).reshape(-1)[:n]  # by program, word, block


# What is done where there are kernels


def streams(device: str, seeds: tuple[int, ...] = SEEDS, now: int = NOW, datasets: tuple[str, ...] = ()) -> Any:
    from introprior.game.gpu.counters import CounterStreams

    return CounterStreams(seeds, torch.tensor(now, device=device), datasets)


def drawn(device: str, kind: str, *arguments: int, seeds: tuple[int, ...] = SEEDS, **more: int) -> Tensor:
    """Rows ``[E, ...]``; of moments, ``[2, E, ...]``."""
    source = streams(device, seeds, more.get("now", NOW))
    source.rows.call = more.get("call", CALL)
    numbers = getattr(source, kind)(*arguments)
    return (torch.stack(numbers) if kind == "moments" else numbers).cpu()


def data_of(device: str, name: str, n: int, seeds: tuple[int, ...] = SEEDS) -> Tensor:
    return streams(device, seeds, datasets=(name,) * len(seeds)).draw(data.of_size(n)).cpu()


def an_iteration(device: str, members: list[tuple[int, str]]) -> Tensor:
    """Data and noise of an iteration of some seeds and datasets, ``[E, 16, 2]``."""
    seeds, datasets = zip(*members, strict=True)
    source = streams(device, seeds, datasets=datasets)
    source.begin()
    return torch.cat((source.draw(data.of_size(8)), source.normal(8, 2)), 1).cpu()


def drawn_in(device: str, dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """What numbers and integers come as."""
    torch.set_default_dtype(dtype)
    try:
        return drawn(device, "normal", 3).dtype, drawn(device, "integers", 5, 3).dtype
    finally:
        torch.set_default_dtype(torch.float32)


def wrong(device: str) -> tuple[type, str]:
    """The streams taken, and why, where the kernels draw something else."""
    from triton import language as tl

    from introprior.game.gpu import counters

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said:
        patch.setattr(counters, "EIGHTH", tl.constexpr(math.pi / 4.1 * 2.0**-29))
        works = randomness._counters_work.__wrapped__(torch.device(device))
    return works, said.getvalue()


def begin(device: str, cell: str = "mog5-lc-ip", counted: bool = True) -> Training:
    """A small training, whose numbers are counted even where it is on a CPU; the KL is computed as there."""
    from introprior.game.gpu.counters import CounterStreams

    fused._kernels = lambda *_: fused._CrossEntropy
    training = density.begin(density_run(cell, MEMBERS, **SIZES), torch.device(device))
    if counted:
        seeds, datasets = zip(*((member.seed, member.dataset) for member in training.members), strict=True)
        training.streams = CounterStreams(seeds, training.clock, datasets)
    return training


def cut_and_whole(device: str) -> list[str]:
    """What a cut changes, in the warm-up and in the game."""
    whole = run_to(begin(device, "sg"), 6)
    going_on = begin(device, "sg")
    for at in (2, 4):
        cut, going_on = run_to(going_on, at), begin(device, "sg")
        going_on.restore(cut.state(), Path())
    return different(everything(whole), everything(run_to(going_on, 6)))


def replayed(device: str, cell: str) -> tuple[list[str], bool, int]:
    """What differs between iterations of the game and replays of one, and between the calls of two; how many draw.

    A launch is made an operation, which the tape sees.
    """
    from introprior.game.gpu import counters

    launch = counters.Counters._launch
    library = torch.library.Library("counted", "DEF")
    library.define("launch(Tensor keys, Tensor clock, Tensor(a!)[] out, int call, str kernel, str more) -> ()")

    def launched(keys: Tensor, clock: Tensor, out: list[Tensor], call: int, kernel: str, more: str) -> None:
        rows = object.__new__(counters.Counters)
        rows.keys, rows.clock, rows.call = keys, clock, call
        launch(rows, getattr(counters, kernel), *out, **dict(eval(more)))

    library.impl("launch", launched, "CompositeExplicitAutograd")

    def told(rows: Any, kernel: Any, *out: Tensor, **more: Any) -> None:
        name = "moments_kernel" if kernel is counters.moments_kernel else "draw_kernel"
        torch.ops.counted.launch(rows.keys, rows.clock, list(out), rows.call, name, repr(list(more.items())))
        rows.call += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters.Counters, "_launch", told)
        state = run_to(begin(device, cell, counted=False), 4).state()
        ordinary, again = begin(device, cell), begin(device, cell)
        for training in (ordinary, again):
            training.restore(copy.deepcopy(state), Path())
        x = again.batch(4, again.streams).clone()
        first, _ = recorded(again, x)
        tape, _ = recorded(again, x)
        for _ in range(2):
            again.prepare()
            x.copy_(again.batch(again.iteration, again.streams))
            tape.replay()
            again.iteration += 1
        changed = different(everything(run_to(ordinary, 8)), everything(again))
    names = [name for name, *_ in tape.calls()]
    return changed, first.calls() == tape.calls(), sum("counted" in name for name in names)


def resumed(device: str, folder: Path) -> dict[str, Any]:
    """A run begun with generators goes on with counters, and then with generators again: what its record says."""
    state, training = folder / "warmup-7.pt", run_to(begin(device, counted=False), 1)
    session = None
    for counted, until in ((True, 2), (False, 3)):
        checkpoints.keep(state, training.state())
        training = begin(device, counted=counted)
        given = argparse.Namespace(name="warmup", state=folder, checkpoint_seconds=300.0)
        state.rename(folder / f"warmup-{training.run.key}.pt")
        with redirect_stderr(StringIO()):
            session = Session(given, training, folder / "model.pt")
        run_to(training, until)
        (folder / f"warmup-{training.run.key}.pt").unlink()
    assert session is not None
    return session.facts()


def adopted(device: str) -> tuple[list[dict[str, Any]], bool]:
    """A game on counters begins with a warm-up that generators made."""
    training = begin(device)
    training.adopt(run_to(begin(device, counted=False), 3).state(), Path())
    told = run_to(training, 4).step()
    return training.handovers, all(bool(value.isfinite().all()) for value in told.values())


# The numbers


@pytest.mark.parametrize(
    ("key", "counters", "words"),
    [
        (0, [0] * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (2**64 - 1, [2**32 - 1] * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            0x299F31D0A4093822,
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_written_out_gives_the_known_answers(key, counters, words):
    assert philox(key, *counters) == [int(word, 16) for word in words.split()]


@pytest.mark.parametrize(
    ("kind", "arguments", "error"),
    [
        ("uniform", (7,), 0),
        ("uniform", (1500,), 0),
        ("integers", (1000, 1100), 0),
        ("normal", (600, 2), 2e-6),
        ("moments", (6, 300), 2e-6),
        ("moments", (1, 2, 2), 2e-6),
    ],
    ids=str,
)
def test_every_number_is_philox_of_its_place(there, kind, arguments, error):
    numbers = there(drawn, kind, *arguments)
    shape = arguments[1:] if kind in ("integers", "moments") else arguments
    assert numbers.shape[-len(shape) :] == shape
    more = {"integers": {"high": arguments[0]}, "moments": {"draws": arguments[0]}}.get(kind, {})
    for row, seed in enumerate(SEEDS):
        values = numbers[:, row] if kind == "moments" else numbers[row]
        wanted = torch.from_numpy(expected(kind, seed, math.prod(shape), **more))
        torch.testing.assert_close(values.double().reshape(wanted.shape), wanted.double(), rtol=0, atol=error)


@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "moments"])
def test_the_same_bits_alone_in_company_and_again(there, kind):
    arguments = {"integers": (9, 70), "moments": (5, 35, 2)}.get(kind, (35, 2))
    company = there(drawn, kind, *arguments, seeds=(3, 7, 3, 9))
    axis = company.dim() - (1 if kind == "integers" else 2) - 1
    for member, seed in enumerate((3, 7, 3, 9)):
        alone = there(drawn, kind, *arguments, seeds=(seed,))
        assert torch.equal(company.select(axis, member), alone.select(axis, 0))
        shared = there(drawn, kind, *arguments, seeds=(seed,) * 3)
        assert torch.equal(shared, alone.expand_as(shared))
    assert torch.equal(company, there(drawn, kind, *arguments, seeds=(3, 7, 3, 9)))


@pytest.mark.parametrize("seeds", [(3, 7, 3, 9), (3, 3, 3, 3)])
def test_data_and_what_follows_do_not_depend_on_others_datasets(there, seeds):
    members = [*zip(seeds, ("Rings", "Checkerboard", "2Spirals", "Rings"), strict=True)]
    company = there(an_iteration, members)
    for row, member in zip(company, members, strict=True):
        assert torch.equal(row, there(an_iteration, [member])[0])


def test_no_number_twice(there):
    """Of all that may differ: seed (its upper half, too), iteration, call, place; 8,192 numbers of 2^31."""
    seeds = 1, 2, 2**32 + 1, 2**63
    draws = [
        there(drawn, "integers", 2**31, 256, seeds=seeds, now=now, call=call)
        for now in (1, 2, 65_537, 2**31 + 1)
        for call in (0, 1)
    ]
    assert len(torch.stack(draws).unique()) == 8192


def test_they_have_the_distributions_that_they_say(there):
    uniform = there(drawn, "uniform", 30_720)
    assert 0 <= uniform.min() < 1e-3
    assert 0.999 < uniform.max() < 1
    normal = there(drawn, "normal", 30_720)
    whole = there(drawn, "integers", 8, 30_720)
    for row in range(len(SEEDS)):
        assert stats.kstest(uniform[row].double(), "uniform").pvalue > 1e-3
        assert stats.kstest(normal[row].double(), "norm").pvalue > 1e-3
        assert stats.chisquare(torch.bincount(whole[row], minlength=8)).pvalue > 1e-3
    assert np.abs(np.corrcoef(normal) - np.eye(3)).max() < 5 / math.sqrt(30_720)
    halves = normal.view(3, -1, 256).double()  # words of a pair
    assert abs(np.corrcoef(halves[:, ::2].flatten(), halves[:, 1::2].flatten())[0, 1]) < 5 / math.sqrt(46_080)


@pytest.mark.parametrize("draws", [2, 9, 30])
def test_moments_have_their_exact_law(there, draws):
    """The mean is normal; independent of it, the squares about it are chi-square (Cochran)."""
    first, second = there(drawn, "moments", draws, 2000).double()
    about = draws * (second - first * first)
    for mean, squares in zip(first, about, strict=True):
        assert stats.kstest(mean * math.sqrt(draws), "norm").pvalue > 1e-3
        assert stats.kstest(squares, stats.chi2(draws - 1).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(mean.abs(), squares)[0, 1]) < 5 / math.sqrt(2000)


@pytest.mark.parametrize("name", ["8Gaussian", "2Spirals", "Checkerboard", "Rings"])
def test_data_of_theirs_are_like_those_of_generators(there, name):
    n = 4000
    ours = there(data_of, name, n, (11, 4))
    theirs = data.sample_members(name, n, MemberStreams([1], CPU))[0]
    assert torch.equal(ours[1], there(data_of, name, n, (4,))[0])
    for project in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x.norm(dim=-1)):
        assert stats.ks_2samp(project(ours[0][: n // 2]), project(theirs[: n // 2])).pvalue > 1e-3


def test_the_default_type_is_heeded(there):
    for dtype in (torch.float32, torch.float64):
        assert there(drawn_in, dtype) == (dtype, torch.int64)


# In training


@pytest.mark.parametrize(("cell", "draws"), [("sg", 9), ("mog5-lc-ip", 10)])
def test_a_replay_draws_the_next_iterations_numbers(interpreted, cell, draws):
    """The launches' arguments are constants: what changes is the clock on the device."""
    changed, same_calls, launches = interpreted(replayed, cell)
    assert changed == []
    assert same_calls
    assert launches == draws  # however many members and seeds


def test_cut_and_resumed_is_whole(interpreted):
    assert interpreted(cut_and_whole) == []


def test_a_run_that_changes_its_device_says_so(interpreted, tmp_path):
    facts = interpreted(resumed, tmp_path)
    assert facts["streams"] == [
        {"iteration": 1, "from": "cpu", "to": "counters"},
        {"iteration": 2, "from": "counters", "to": "cpu"},
    ]


def test_a_warm_up_of_another_device_is_adopted(interpreted):
    handovers, finite = interpreted(adopted)
    assert handovers == [{"iteration": 3, "from": "cpu", "to": "counters"}]
    assert finite


def test_new_generators_repeat_no_number():
    """Neither of the same seed's beginning, nor of another handover."""

    def after(iteration: int) -> Tensor:
        streams = MemberStreams([3], CPU)
        assert not streams.restore({"kind": "counters"}, iteration)
        return streams.normal(50)

    draws = torch.cat([MemberStreams([3], CPU).normal(50), after(7), after(8)])
    assert len(draws.unique()) == 150
    assert torch.equal(after(7), after(7))


# Where they cannot be had


def test_kernels_that_draw_something_else_are_not_used(interpreted):
    assert interpreted(wrong) == (
        False,
        "this GPU draws random numbers seed by seed, which is slower: its normal numbers are wrong\n",
    )


def test_without_triton_generators_draw_and_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "introprior.game.gpu.counters", raising=False)
    randomness._counters_work.cache_clear()
    assert [randomness._counters_work(CPU) for _ in range(3)] == [False] * 3
    randomness._counters_work.cache_clear()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("this GPU draws random numbers seed by seed, which is slower: ")


def test_a_cpu_keeps_its_generators():
    assert type(randomness.streams_of([1, 2], CPU)) is MemberStreams


# Compiled for an H100, and on a card


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("uniform", (512,)),
        ("normal", (100, 512, 2)),
        ("normal", (1,)),
        ("integers", (8, 512)),
        ("moments", (100, 512, 2)),
    ],
    ids=str,
)
def test_every_launch_compiles_for_an_h100_and_spills_nothing(kind, arguments, compiled, tmp_path):
    getattr(streams("cpu"), kind)(*arguments)
    (code,) = compiled
    assert registers_in_memory(code, tmp_path / "kernel.cubin") in (0, None)


@pytest.mark.gpu
def test_a_graphs_replays_draw_new_numbers():
    source = streams("cuda")
    wanted = [drawn("cuda", "normal", 33, 2, now=NOW + step, call=0) for step in range(3)]
    graph = torch.cuda.CUDAGraph()
    source.begin()
    with torch.cuda.graph(graph):
        numbers = source.normal(33, 2)
        source.clock += 1
    for step in range(3):
        graph.replay()
        assert torch.equal(numbers.cpu(), wanted[step])


@pytest.mark.gpu
def test_a_card_takes_them():
    assert randomness.streams_of([1], torch.device("cuda")).kind == "counters"
