"""Training as a whole: against a naive script, its schedule, its ensembles, and what a run is made of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import naive
import numpy as np
import pytest
import torch
from runs import a_member, density_run
from scipy import stats
from torch import Tensor

from introprior.data import density as data
from introprior.errors import UserError
from introprior.experiment.cells import Cell
from introprior.experiment.protocol import PRESETS, Overrides, Protocol, resolve
from introprior.experiment.run import DensityRun, DensityTraining, Member, Run
from introprior.game import distributions
from introprior.game.networks import MLPDecoder, MLPEncoder
from introprior.game.priors.gaussian import StandardGaussian
from introprior.game.priors.mixture import LearnedMixture, VampPrior
from introprior.game.randomness import MemberStreams
from introprior.training import density
from introprior.training.adam import Adam
from introprior.training.loop import PLAYERS, Training, rules
from introprior.training.watch import Watch

CPU = torch.device("cpu")
ALONE = a_member(0, 0.2, 0.3, 0.9)
TWIN = a_member(0, 0.2, 0.3, 1.5)
"""Shares its warm-up with the one above."""
OTHER = a_member(1, 0.8, 0.5, 1.0)
ELSEWHERE = a_member(0, 0.2, 0.3, 0.9, "Rings")
GAME, CONVERSION, END = 6, 4, 14  # of the tiny trainings; the learning rate decays at 9 and 12

Begin = Callable[..., Training]


def run_to(training: Training, until: int) -> Training:
    while training.iteration < until:
        training.step()
    return training


def tensors(training: Training, row: int | None = None) -> dict[str, Tensor]:
    """A copy of the model's tensors, of one member or of all."""
    state = training.model.state_dict()
    return {name: (value if row is None else value[row]).clone() for name, value in state.items()}


def test_adam_is_that_of_kingma_and_ba(float64):
    ours = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(3, 2))]
    idle = torch.nn.Parameter(torch.randn(3))
    theirs = [p.detach().clone() for p in ours]
    adam, oracle, before = Adam([*ours, idle], 0.5), naive.Adam(theirs), idle.detach().clone()
    for step in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad = torch.randn_like(q) * 10.0 ** (-4 * step)
        adam.learning_rate = 0.1 / (step + 1)
        adam.step()
        oracle.step(0.1 / (step + 1))
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p.detach(), q)
    assert torch.equal(idle, before)
    adam.zero_grad()
    assert ours[0].grad is None


# Pseudo-inputs


def angles_of_the_outer_ring(points: Tensor) -> Tensor:
    """Within the spacing that 64 points drawn at once would have: 16 angles a ring."""
    outer = points[points.norm(dim=-1) > 2.625]
    return torch.atan2(outer[:, 1], outer[:, 0]) % (2 * math.pi / 16)


def distances_to_mirror_images(points: Tensor) -> Tensor:
    """From each point to the nearest mirror image of another one."""
    between = torch.cdist(points, -points)
    return between.masked_fill(torch.eye(len(points), dtype=torch.bool), math.inf).amin(1)


@pytest.mark.parametrize(
    ("dataset", "looked_at"), [("Rings", angles_of_the_outer_ring), ("2Spirals", distances_to_mirror_images)]
)
def test_pseudo_inputs_are_the_first_rows_of_a_shuffled_batch(dataset, looked_at):
    """Two-sample test over seeds, which tells them from a batch of their own number."""
    seeds, components = range(40), 64

    def seen(samples: Iterable[Tensor]) -> np.ndarray:
        return torch.cat([looked_at(points) for points in samples]).numpy()

    members = [a_member(seed, 0.2, 0.3, 0.9) for seed in seeds]
    run = density_run("mog64", members, dataset, hidden_width=2)
    ours = seen(density.begin(run, CPU).model.prior.pseudo_inputs.detach())

    def batch(seed: int, size: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + seed)
        points = data.sample(dataset, size, generator)
        return points[torch.randperm(size, generator=generator)][:components]

    assert stats.ks_2samp(ours, seen(batch(seed, 512) for seed in seeds)).pvalue > 0.01
    assert stats.ks_2samp(ours, seen(batch(seed, components) for seed in seeds)).pvalue < 1e-6


def test_more_pseudo_inputs_than_a_batch_has_points_come_from_several():
    run = density_run("mog10", [ALONE], "Rings", hidden_width=2, batch_size=4)
    inputs = density.begin(run, CPU).model.prior.pseudo_inputs
    assert inputs.shape == (1, 10, 2)
    assert len(inputs[0].unique(dim=0)) == 10


# Networks


def test_the_papers_networks_have_the_papers_sizes():
    run = density_run("mog64-lc", [ALONE, OTHER])
    model = density.begin(run, CPU).model
    counts = {player: sum(p[0].numel() for p in getattr(model, player).parameters()) for player in PLAYERS}
    assert counts == {"encoder": 199_172, "decoder": 198_658, "prior": 64 * 2 + 64}


@pytest.mark.parametrize(("network", "count"), [(MLPEncoder, 199_172), (MLPDecoder, 198_658)])
def test_networks_start_as_torch_would_start_them(network, count):
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    together, alone = network(2, 2, 256, 4, seeds), network(2, 2, 256, 4, torch.Generator().manual_seed(1))
    assert sum(p.numel() for p in alone.parameters()) == count
    for ensemble, single in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ensemble[1], single)
        assert not torch.equal(ensemble[0], single)
    bound = 1 / math.sqrt(256)
    weights = list(alone.parameters())[2]
    assert weights.shape == (256, 256)
    assert 0.999 * bound < weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    x = torch.randn(7, 2)
    many, one = (y if isinstance(y, tuple) else (y,) for y in (together(x.expand(2, 7, 2)), alone(x)))
    for member, single in zip(many, one, strict=True):
        torch.testing.assert_close(member[1], single)


# The schedule


def events(training: Training) -> dict[str, Any]:
    """What each iteration was, from outside."""
    rows: list[tuple[str, type, bool, float]] = []
    while training.iteration < END:
        values = training.step()
        game = {"encoder_loss", "decoder_loss"} <= set(values)
        assert game != ("vae_loss" in values)
        prior, rate = training.model.prior, float(training.optimizers["encoder"].learning_rate)
        rows.append(("game" if game else "vae", type(prior), getattr(prior, "low", None) is not None, rate))

    def first(condition: Callable[[tuple], bool]) -> int | None:
        return next((i for i, row in enumerate(rows) if condition(row)), None)

    return {
        "game": first(lambda row: row[0] == "game"),
        "conversion": first(lambda row: row[1] is LearnedMixture),
        "clipping": first(lambda row: row[2]),
        "rates": [row[3] for row in rows],
        "prior": rows[-1][1],
    }


@pytest.mark.parametrize(
    ("cell", "protocol", "game", "conversion", "clipping", "prior"),
    [
        ("mog5-lc-ip", "authors", GAME, CONVERSION, GAME, LearnedMixture),
        ("mog5-ip", "text", GAME, GAME, GAME, LearnedMixture),
        ("mog5-lc", "authors", GAME, CONVERSION, None, LearnedMixture),
        ("mog5", "text", GAME, GAME, None, LearnedMixture),
        ("sg", "authors", GAME, None, None, StandardGaussian),
        ("vae-mog5", "authors", None, None, None, VampPrior),
        ("vae-sg", "text", None, None, None, StandardGaussian),
    ],
)
def test_events_happen_at_their_iterations(tiny, cell, protocol, game, conversion, clipping, prior):
    seen = events(tiny(cell, ALONE if game else ALONE.warmup, protocol=protocol))
    assert {name: seen[name] for name in ("game", "conversion", "clipping", "prior")} == {
        "game": game, "conversion": conversion, "clipping": clipping, "prior": prior,
    }  # fmt: skip
    decays = [2e-4] * 9 + [2e-5] * 3 + [2e-6] * (END - 12) if protocol == "authors" else [2e-4] * END
    assert seen["rates"] == pytest.approx(decays)


@pytest.mark.parametrize(("warmup", "mixture_warmup"), [(6, 4), (6, 0), (6, 6), (0, 0)])
def test_the_conversion_precedes_the_game_by_the_mixtures_own_warm_up(tiny, warmup, mixture_warmup):
    seen = events(tiny("mog5-ip", warmup_iterations=warmup, mixture_warmup_iterations=mixture_warmup))
    assert (seen["conversion"], seen["game"], seen["clipping"]) == (warmup - mixture_warmup, warmup, warmup)


def test_the_papers_schedule():
    training = density.begin(density_run("mog64-lc-ip", [ALONE]), CPU)
    assert (training.conversion, training.game_start, training.run.training.iterations) == (1_900, 2_000, 30_000)
    rates = [training.learning_rate(i) for i in (0, 9_999, 10_000, 14_999, 15_000, 29_999)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6])


@pytest.mark.parametrize(
    ("cell", "options", "resets"),
    [
        ("mog5-ip", {}, True),
        ("mog5", {"conversion": "at-game"}, True),
        ("mog5-ip", {"conversion_resets_optimizers": False}, False),
        ("sg", {}, False),
    ],
)
def test_the_conversion_starts_all_optimizers_afresh(tiny, cell, options, resets):
    training = tiny(cell, options=options)
    at = GAME if "conversion" in options else CONVERSION
    run_to(training, at)
    before = training.optimizers["encoder"].means[0].clone()
    training.step()
    steps = {player: {int(t) for t in training.optimizers[player].steps} for player in ("encoder", "decoder")}
    assert steps == {"encoder": (expected := {1 if resets else at + 1}), "decoder": expected}
    after = training.optimizers["encoder"].means[0]
    # After one step from zero, the first moment is a tenth of the gradient; otherwise it remembers.
    gradient = training.model.encoder.body[0].weight.grad
    torch.testing.assert_close(after, 0.1 * gradient + (0 if resets else 0.9) * before)


def test_bounds_are_those_of_the_moment_when_the_game_begins(tiny):
    training = run_to(tiny("mog5-lc-ip", ALONE, TWIN, OTHER, clip_steepness=4.0), GAME)
    logvars = training.model.prior.logvars.detach()[[0, 0, 1]]  # the twins' shared warm-up becomes two
    training.step()
    prior = training.model.prior
    assert torch.equal(prior.low, logvars.amin(1, keepdim=True))
    assert torch.equal(prior.high, logvars.amax(1, keepdim=True))
    assert not torch.equal(prior.logvars, logvars)
    bounds = prior.low.clone(), prior.high.clone()
    run_to(training, END)
    assert torch.equal(prior.low, bounds[0])
    assert torch.equal(prior.high, bounds[1])
    assert prior.steepness == 4


@pytest.mark.parametrize("cell", ["sg", "mog5", "mog5-lc", "mog5-ip", "mog5-lc-ip", "mog5-lc-ep"])
@pytest.mark.parametrize("iteration", [0, CONVERSION, GAME, GAME + 1])
def test_who_trains_when(tiny, cell, iteration):
    parsed = Cell.parse(cell)
    training = run_to(tiny(cell), iteration)
    before = tensors(training)
    training.step()
    after = tensors(training)
    changed = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    if (
        iteration == CONVERSION and parsed.family.sized and training.run.converts
    ):  # new tensors: compare with what they started from
        changed -= {name for name in changed if name.startswith("prior.")}
        start = run_to(tiny(cell), CONVERSION)
        mixture = start.model.distribution()
        learned = training.model.prior
        changed |= {
            f"prior.{n}" for n in ("means", "logvars") if not torch.equal(getattr(learned, n), getattr(mixture, n))
        }
        changed |= {"prior.logits"} if not torch.equal(learned.logits, mixture.log_weights.exp()) else set()
    names = {"vamp": {"pseudo_inputs"}, "mog": {"means", "logvars"}}[
        "vamp" if iteration < CONVERSION or not training.run.converts else "mog"
    ]
    names |= {"logits"} if parsed.learnable_contributions else set()
    if not parsed.family.learns or (iteration >= GAME and not (parsed.intro_prior or parsed.prior_encoder)):
        names = set()
    assert {name.removeprefix("prior.") for name in changed if name.startswith("prior.")} - {"low", "high"} == names
    for player in ("encoder", "decoder"):
        assert {f"{player}.{name}" for name, _ in getattr(training.model, player).named_parameters()} <= changed


# Ensembles


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("cell", ["sg", "mog5-lc", "mog5-lc-ip", "mog5-lc-ep"])
def test_a_member_is_the_same_alone_and_in_company(tiny, cell, exact):
    members = OTHER, ELSEWHERE, ALONE, TWIN
    company = run_to(tiny(cell, *members), END)
    for row, member in enumerate(members):
        alone = run_to(tiny(cell, member), END)
        assert_same(tensors(company, row), tensors(alone, 0), rtol=1e-8, atol=1e-10)
    with pytest.raises(AssertionError):  # the comparison can tell members apart
        assert_same(tensors(company, 2), tensors(company, 3), rtol=1e-8, atol=1e-10)


def test_alone_and_in_company_agree_in_float32_up_to_rounding(tiny):
    company = run_to(tiny("mog64-lc-ip", OTHER, ALONE, TWIN), END)
    for row, member in enumerate((OTHER, ALONE, TWIN)):
        assert_same(tensors(company, row), tensors(run_to(tiny("mog64-lc-ip", member), END), 0), rtol=0, atol=1e-5)


def test_members_that_differ_only_in_beta_neg_share_their_warm_up(tiny):
    training = tiny("mog5-ip", OTHER, ALONE, TWIN)
    assert training.members == [OTHER.warmup, ALONE.warmup]
    assert training.numbers() == [0, 1]
    run_to(training, GAME + 1)
    assert training.members == [OTHER, ALONE, TWIN]
    assert training.numbers() == [0, 1, 2]
    assert all(len(parameter) == 3 for parameter in training.model.parameters())
    twins = training.model.encoder.body[0].weight[1:]
    torch.testing.assert_close(twins[0], twins[1], rtol=0, atol=1e-3)  # one step of the game apart
    assert not torch.equal(twins[0], twins[1])


def test_members_that_are_dropped_leave_the_others_as_they_were(tiny, exact):
    whole, halved = (run_to(tiny("mog5-lc-ip", OTHER, ALONE, TWIN), GAME + 2) for _ in range(2))
    halved.select([0, 2], [OTHER, TWIN])
    for training in (whole, halved):
        run_to(training, END)
    for mine, theirs in ((0, 0), (1, 2)):
        assert_same(tensors(halved, mine), tensors(whole, theirs), rtol=1e-8, atol=1e-10)
    assert halved.numbers() == [0, 2]
    assert len(halved.records()) == 2


def poison(training: Training, what: str, row: int) -> None:
    """Make a member's loss infinite or NaN from the next step on."""
    if what == "moments":  # the encoder's update spoils it, so that the decoder's step is the first to see it
        training.optimizers["encoder"].means[0][row] = math.nan
    else:
        getattr(training.model, what).body[0].weight.data[row] = math.nan


@pytest.mark.parametrize(
    ("what", "at", "stage"),
    [
        ("encoder", 2, "vae_loss"),
        ("decoder", CONVERSION + 1, "vae_loss"),
        ("encoder", GAME + 1, "encoder_loss"),
        ("decoder", GAME + 3, "encoder_loss"),
        ("moments", GAME + 2, "decoder_loss"),
    ],
)
@pytest.mark.parametrize("cell", ["sg", "mog5-lc-ip"])
def test_a_member_that_diverges_is_recorded_and_the_others_go_on_undisturbed(tiny, cell, what, at, stage):
    members = (OTHER, ALONE, a_member(2, 0.5, 0.5, 0.5))
    undisturbed = run_to(tiny(cell, *members), END)
    training = run_to(tiny(cell, *members), at)
    poison(training, what, 1)
    run_to(training, END)
    ok, diverged, also_ok = training.records()
    assert diverged["status"] == "diverged"
    assert diverged["iteration"] == at
    assert f"{stage} not finite at iteration {at}" in diverged["detail"]
    assert all(math.isfinite(value) for value in diverged["last"].values())
    for row, record in ((0, ok), (2, also_ok)):
        assert (record["status"], record["detail"], record["iteration"]) == ("ok", "", None)
        assert_same(tensors(training, row), tensors(undisturbed, row), rtol=0, atol=0)


def test_a_record_tells_the_last_finite_losses(tiny):
    training = run_to(tiny("sg", ALONE, OTHER), GAME + 1)
    values = training.step()
    poison(training, "encoder", 0)
    run_to(training, END)
    record = training.records()[0]
    assert set(record["last"]) == {"vae_loss", "encoder_loss", "decoder_loss"}
    assert record["last"]["encoder_loss"] == pytest.approx(values["encoder_loss"][0].item())
    assert re.search(r"last finite: vae_loss \S+, encoder_loss \S+, decoder_loss \S+\)", record["detail"])


def test_who_has_diverged_once_stays_so():
    watch = Watch(1, CPU)
    for iteration, loss in enumerate((math.nan, 1.0, math.inf)):
        watch.see(torch.tensor(iteration), "vae_loss", torch.tensor([loss]))
    assert (watch.alive(), watch.records()[0]["iteration"], watch.records()[0]["last"]) == (0, 0, {})


def test_divergence_in_a_shared_warm_up_is_everyones_who_shares_it(tiny):
    training = run_to(tiny("mog5-ip", OTHER, ALONE, TWIN), 2)
    poison(training, "encoder", 1)
    training.advance(END)
    assert training.members == [OTHER, ALONE, TWIN]
    assert [record["status"] for record in training.records()] == ["ok", "diverged", "diverged"]
    assert {record["iteration"] for record in training.records()[1:]} == {2}


@pytest.mark.parametrize("at", [2, GAME + 1], ids=["warm-up", "game"])
def test_when_all_have_diverged_training_ends_early_with_a_record_for_each(tiny, at):
    training = run_to(tiny("sg", ALONE, TWIN, iterations=1_000), at)
    for row in range(len(training.members)):
        poison(training, "encoder", row)
    training.advance(1_000, log_every=5)
    assert training.iteration < 20
    assert training.members == [ALONE, TWIN]
    assert [record["status"] for record in training.records()] == ["diverged", "diverged"]


# Progress


def test_the_history_has_a_row_for_each_member_quantity_and_logged_iteration(tiny, capsys):
    training = tiny("sg", ALONE, TWIN, OTHER)
    training.advance(END, log_every=4, label="a label")
    rows = list(training.history.tidy())
    logged = {(row["iteration"], row["member"]) for row in rows}
    assert logged == {(4, 0), (4, 2), *((i, m) for i in (8, 12, END) for m in range(3))}
    assert {row["quantity"] for row in rows if row["iteration"] == 4} == {"vae_loss", "real_rec", "real_kl"}
    assert {"encoder_loss", "decoder_loss"} <= {row["quantity"] for row in rows if row["iteration"] == 8}
    assert all(math.isfinite(row["value"]) for row in rows)
    output = capsys.readouterr()
    assert re.search(rf"a label: 100%.*{END}/{END} \[.*it/s", output.err.splitlines()[-1])
    assert output.out == ""


def test_training_stops_where_it_is_told_and_goes_on_from_there(tiny):
    pieces, whole = tiny("mog5-lc-ip"), tiny("mog5-lc-ip")
    for until in (3, CONVERSION, GAME, 10, END):
        pieces.advance(until)
        assert pieces.iteration == until
    whole.advance(END)
    assert_same(tensors(pieces), tensors(whole), rtol=0, atol=0)
    again = tiny("mog5-lc-ip")
    again.restore(pieces.state(), Path("state.pt"))
    assert int(again.clock) == again.iteration == END


def test_streams_of_another_device_go_on_as_their_iteration_says():
    streams = [MemberStreams([7], CPU) for _ in range(3)]
    assert not any(each.restore({"kind": "counters"}, at) for each, at in zip(streams, (5, 6, 5), strict=True))
    five, six, again = (each.normal(9) for each in streams)
    assert torch.equal(five, again)
    assert not torch.equal(five, six)


# Random streams


def test_a_member_draws_the_same_numbers_in_any_company():
    alone, company = MemberStreams([7], CPU), MemberStreams([3, 7, 3, 9], CPU)
    for _ in range(2):
        for draw in (lambda s: s.normal(4, 2), lambda s: s.uniform(5)):
            one, many = draw(alone), draw(company)
            assert torch.equal(many[1], one[0])
            assert torch.equal(many[0], many[2])
            assert not torch.equal(many[0], many[3])


def test_streams_survive_new_members_and_checkpoints():
    streams = MemberStreams([1, 2], CPU)
    streams.normal(3)
    streams.assign([2, 2, 1])
    saved = streams.state()
    drawn = streams.normal(3)
    assert torch.equal(drawn[0], drawn[1])
    fresh = MemberStreams([1, 2], CPU)
    fresh.assign([2, 2, 1])
    assert fresh.restore(saved, 0)
    assert torch.equal(fresh.normal(3), drawn)


def test_streams_have_the_distributions_that_they_say():
    streams = MemberStreams([0, 1], CPU)
    normal, uniform = streams.normal(20_000, 2), streams.uniform(40_000)
    assert normal.shape == (2, 20_000, 2)
    assert uniform.shape == (2, 40_000)
    assert normal.mean().abs() < 5 / math.sqrt(normal.numel())
    assert normal.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / normal.numel()))
    assert 0 <= uniform.min() < uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * uniform.numel()))


# What a run is made of


def a_run(cell: str = "mog5-ip", members: Sequence[Any] = (ALONE, OTHER), **changes: Any) -> DensityRun:
    return density_run(cell, members, **changes)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (Member, {"beta_rec": 0.0}, "beta_rec: must be above 0"),
        (Member, {"beta_kl": -1.0}, "beta_kl: must be above 0"),
        (Member, {"beta_neg": 0.0}, "beta_neg: must be above 0"),
        (Member, {"beta_rec": math.nan}, "beta_rec: must be finite"),
        (Member, {"seed": -1}, "seed: must be at least 0"),
        (DensityRun, {"members": ()}, "members: must not be empty"),
        (DensityRun, {"members": (ALONE, OTHER, ALONE)}, "twice"),
        (DensityRun, {"members": (ALONE.warmup,)}, "beta_neg"),
        (DensityRun, {"cell": "sg", "training": DensityTraining(r_entropy=1.0)}, "no components"),
        (DensityTraining, {"iterations": 0}, "iterations: must be at least 1"),
        (DensityTraining, {"batch_size": -4}, "batch_size: must be at least 1"),
        (DensityTraining, {"learning_rate": 0.0}, "learning_rate: must be above 0"),
        (DensityTraining, {"monte_carlo_samples": 0}, "monte_carlo_samples: must be at least 1"),
        (DensityTraining, {"clip_steepness": 0}, "clip_steepness: must be above 0"),
        (DensityTraining, {"iterations": 50, "warmup_iterations": 50}, "warmup_iterations: must be below iterations"),
        (DensityTraining, {"warmup_iterations": 50}, "mixture_warmup_iterations: must be at most warmup_iterations"),
        (DensityTraining, {"batchsize": 3}, "did you mean 'batch_size'"),
        (Overrides, {"conversions": "at-game"}, "did you mean 'conversion'"),
        (Overrides, {"conversion": "later"}, "must be 'during-warmup' or 'at-game'"),
        (Overrides, {"learning_rate_decay": 1}, "must be true or false"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_the_place(model, values, message):
    usual = {
        Member: {"dataset": "8Gaussian", "seed": 0, "beta_rec": 0.2, "beta_kl": 0.3},
        DensityRun: {"cell": "mog5-ip", "members": (ALONE,)},
    }
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        model.read(usual.get(model, {}) | values, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: density.begin(a_run(dataset="Circles"), CPU), "unknown dataset 'Circles'"),
        (lambda: density.begin(a_run(dataset="Rings", batch_size=514), CPU), "multiple of 4"),
    ],
)
def test_what_is_not_there_is_named(make, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make()


def test_a_run_survives_its_plain_form():
    run = a_run(milestones=(3, 5), r_entropy=2.0, protocol="text")
    assert Run.from_dict(run.as_dict()) == run
    assert Run.from_dict(run.as_dict()).key == run.key


def test_the_key_of_a_run_depends_on_all_that_its_outcome_depends_on():
    changes: list[dict[str, Any]] = [
        {},
        {"dataset": "Rings"},
        {"cell": "mog5"},
        {"members": (OTHER, ALONE)},
        {"members": (ALONE, TWIN)},
        {"iterations": 29_999},
        {"gamma_r": 1e-7},
        {"protocol": "text"},
    ]
    keys = [a_run(**change).key for change in changes]
    assert len(set(keys)) == len(keys)
    assert keys[0] == a_run().key


@pytest.mark.parametrize(("protocol", "scale"), [("authors", 0.5), ("text", 1.0)])
def test_the_loss_scale_in_two_dimensions(protocol, scale):
    assert rules(a_run(protocol=protocol)).scale == scale


@pytest.mark.parametrize(
    ("cell", "cooperation", "kind"),
    [
        ("mog5-lc-ip", "paired", LearnedMixture),
        ("mog5-ep", "paired", VampPrior),
        ("mog5-ep", "converted", LearnedMixture),
    ],
)
def test_a_mixture_tells_of_itself_in_the_game(tiny, cell, cooperation, kind):
    """With the encoder paired or free; a VampPrior has no bounds, a mixture none unless it sides with the decoder."""
    training = tiny(cell, options={"encoder_cooperation": cooperation})
    training.model.encoder.body[-1].weight.data *= 20  # else all components answer alike
    training.advance(END, log_every=END - 1)
    prior, means, step = training.model.prior, training.history.rows[-1][2], training._encoder_step
    assert type(prior) is kind
    assert (getattr(prior, "low", None) is not None) is ("ip" in cell)
    mixture = step.target if kind is VampPrior else prior(None)
    assert means["prior_logvar_max"] == [mixture.logvars.max().item()]
    assert means["prior_logvar_min"] == [mixture.logvars.min().item()]
    noise = torch.randn(5, 16, 2, generator=torch.Generator().manual_seed(END))
    parts = naive.Mixture(mixture.means, mixture.logvars, mixture.log_weights)
    share = naive.mean_responsibilities(*step.posterior, parts, noise)
    entropy = -(share * (share + 1e-8).log()).sum().item() / math.log(5)
    assert means["responsibility_entropy"] == pytest.approx([entropy], rel=1e-4)
    assert entropy < 0.98


def test_with_the_cauchy_schwarz_divergence_nobody_asks_for_a_kl(tiny, monkeypatch):
    """Neither by the blocks nor by a GPU's kernels, which know no other divergence."""

    def refuse(*_: Tensor) -> Tensor:
        raise ZeroDivisionError

    monkeypatch.setattr(distributions, "mixture_cross_entropy", refuse)
    assert run_to(tiny("mog3-cs"), END).records()[0]["status"] == "ok"
    with pytest.raises(ZeroDivisionError):
        run_to(tiny("mog3"), END)


def test_only_cells_in_closed_form_go_without_monte_carlo():
    assert rules(a_run()).monte_carlo_samples == 100
    assert rules(a_run("sg-dt-closed")).monte_carlo_samples == 0


def choices() -> list[tuple[str, Any]]:
    """Every option of the protocol with each of its values."""
    return [
        (name, value)
        for role in PRESETS["text"]
        for name, field in type(role[1]).model_fields.items()
        for value in (get_args(field.annotation) or (True, False))
    ]


@pytest.mark.parametrize(("option", "value"), choices())
def test_any_single_option_can_be_overridden(option, value):
    def flat(protocol: Protocol) -> dict[str, Any]:
        return {name: value for part in protocol.model_dump().values() for name, value in part.items()}

    for preset, protocol in PRESETS.items():
        assert flat(resolve(preset, {option: value})) == flat(protocol) | {option: value}


# Cells


@pytest.mark.parametrize(
    ("name", "attributes", "warmup", "label"),
    [
        ("vae-sg", (False, "sg", 1, False, False, False, False), "sg", "VAE SG"),
        ("sg", (True, "sg", 1, False, False, False, False), "sg", "SG"),
        ("sg-dt-closed", (True, "sg", 1, False, False, True, True), "sg", "SG (D&T, closed KL)"),
        ("mog64", (True, "mog", 64, False, False, False, False), "mog64", "MoG(64)"),
        ("mog64-lc-ip", (True, "mog", 64, True, True, False, False), "mog64-lc", "MoG(64)+LC+IP"),
        ("vae-mog10-lc", (False, "mog", 10, True, False, False, False), "mog10-lc", "VAE MoG(10)+LC"),
        ("mog1-ip", (True, "mog", 1, False, True, False, False), "mog1", "MoG(1)+IP"),
    ],
)
def test_a_cells_name_says_all_about_it(name, attributes, warmup, label):
    cell = Cell.parse(name)
    assert (
        cell.adversarial,
        cell.family.name,
        cell.size,
        cell.learnable_contributions,
        cell.intro_prior,
        cell.published_betas,
        cell.closed_form_kl,
    ) == attributes
    assert (cell.name, cell.warmup, cell.label) == (name, warmup, label)


@pytest.mark.parametrize(
    ("name", "who", "warmup", "label"),
    [
        ("mog64-lc-ep", (False, True, False), "mog64-lc-ep", "MoG(64)+LC (EP)"),
        ("mog3-cs", (False, False, True), "mog3-cs", "MoG(3) (CS)"),
        ("mog3-ip-dt-cs", (True, False, True), "mog3-cs", "MoG(3)+IP (D&T, CS)"),
        ("vae-mog3-cs", (False, False, True), "mog3-cs", "VAE MoG(3) (CS)"),
        ("flow-ep", (False, True, False), "flow-ep", "Flow (EP)"),
    ],
)
def test_cells_that_the_paper_does_not_have(name, who, warmup, label):
    cell = Cell.parse(name)
    assert (cell.intro_prior, cell.prior_encoder, cell.cauchy_schwarz) == who
    assert cell.clipped == (cell.intro_prior and cell.family.clipped)
    assert (cell.warmup, cell.label) == (warmup, label)
    assert Cell.parse(cell.warmup).warmup == warmup


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "unknown cell"),
        ("mog", "unknown cell"),
        ("mog64-ip-lc", "unknown cell"),
        ("mog0", "unknown cell"),
        ("mog064", "unknown cell"),
        ("mog٦٤", "unknown cell"),
        ("sg64", "unknown cell"),
        ("flow-lc", "no contributions"),
        ("flow-ip-unclipped", "nothing of the prior flow is ever clipped"),
        ("flow-closed", "no closed form"),
        ("mog1-lc", "at least 2"),
        ("sg-ip", "nothing to learn"),
        ("sg-lc", "nothing to learn"),
        ("vae-mog64-ip", "no game"),
        ("vae-sg-dt", "hyperparameters"),
        ("mog64-closed", "no closed form"),
        ("mog64-ip-ep", "sides with the decoder or with the encoder"),
        ("vae-mog64-ep", "no game"),
        ("sg-ep", "nothing to learn"),
        ("mog64-ep-unclipped", "unknown cell"),
        ("mog64-closed-cs", "unknown cell"),
        ("flow-cs", "for mixtures"),
        ("sg-cs", "for mixtures"),
    ],
)
def test_contradictory_cells_are_refused(name, reason):
    with pytest.raises(UserError, match=f"here: .*{reason}"):
        Cell.parse(name, where="here")
