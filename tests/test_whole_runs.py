"""Whole short runs beside a naive script: the same parameters after every iteration, in 2D and on images.

Warm-up, conversion, free mixture, clipping, game and decay of the learning rate, all in float64 with the same batches
and noise. What the script must not get away with is tried as well: each departure shows in the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import naive
import pytest
import torch
from runs import a_member, density_run, image_run
from torch import Tensor

from introprior.data import density as points
from introprior.data.images import splits
from introprior.experiment.cells import Cell
from introprior.training import density, images
from introprior.training.loop import Training, betas

CPU = torch.device("cpu")
MEMBERS = (a_member(0, 0.2, 0.3, 0.9), a_member(1, 0.8, 0.5, 1.0))
CONVERSION, GAME, END = 3, 5, 10  # of authors' runs; those by the text convert when the game starts
DECAYS = (7, 9)
SEEN = 1e-7
"""What a departure must change a parameter by, more than a hundred times what rounding does."""

NUMBERS: dict[str, Any] = {"iterations": END, "warmup_iterations": GAME, "mixture_warmup_iterations": GAME - CONVERSION}
NUMBERS |= {"monte_carlo_samples": 5, "learning_rate": 2e-3}


def numbers_for(cell: Cell) -> dict[str, Any]:
    return NUMBERS | {"r_entropy": 3.0 if cell.family.components else 0.0}


@pytest.fixture
def exact(float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data in float64, too, which the package makes in float32."""
    for name in ("sample", "sample_members"):
        draw = getattr(points, name)
        monkeypatch.setattr(points, name, lambda *arguments, draw=draw: draw(*arguments).double())
    for module in (splits, images):
        monkeypatch.setattr(module, "to_unit", lambda values: values.double() / 255)


def in_2d(cell: str, protocol: str, **options: str) -> tuple[Training, list[naive.Model]]:
    known = Cell.parse(cell)
    members = MEMBERS if known.adversarial else tuple(member.warmup for member in MEMBERS)
    sizes = {"batch_size": 16, "hidden_width": 16, "hidden_layers": 2, "milestones": DECAYS}
    training = density.begin(
        density_run(cell, members, protocol=protocol, overrides=options, **sizes, **numbers_for(known)), CPU
    )
    return training, [naive.Model(training.model, e) for e in range(len(members))]


def on_images(cell: str, protocol: str, folder: Path) -> tuple[Training, list[naive.Model]]:
    # At the text's scale of 1 the exponentials of hundreds of pixels would vanish: its weights are small.
    weights = (1.0, 1.0, 2.0) if protocol == "authors" else (1e-3, 1e-3, 2e-3)
    known = Cell.parse(cell)
    sizes = {"batch_size": 6, "latent_dim": 3, "widths": (2, 3), "milestones": DECAYS}
    run = image_run(cell, [a_member(0, *weights)], protocol=protocol, **sizes, **numbers_for(known))
    training = images.begin(run, CPU, folder)
    return training, [naive.ImageModel(training.model)]


def choices_of(training: Training, protocol: str) -> naive.Choices:
    options = training.run.training
    return naive.PROTOCOLS[protocol]._replace(
        scale=1 / options.data_elements if protocol == "authors" else 1.0,
        r_entropy=options.r_entropy,
        closed_form=training.run.cell.closed_form_kl,
    )


def schedule_of(training: Training, protocol: str) -> naive.Schedule:
    cell, authors = training.run.cell, protocol == "authors"
    at = CONVERSION if authors else GAME
    return naive.Schedule(
        conversion=at if training.run.converts else END,
        game=GAME,
        milestones=DECAYS if authors else (),
        learning_rate=NUMBERS["learning_rate"],
        intro_prior=cell.intro_prior,
        prior_encoder=cell.prior_encoder,
        keep_contributions=not authors,
        isotropic=not authors,
        resets=authors,
        clipping=GAME if cell.intro_prior else None,
    )._replace(**({} if cell.adversarial else {"game": END}))


def side_by_side(
    training: Training, copies: list[naive.Model], choices: naive.Choices, schedule: naive.Schedule
) -> Iterator[tuple[int, dict[str, float]]]:
    """Both at the same iteration, and by how much each kind of parameter differs, at most over the members."""
    replays, draw = naive.listen(training.streams), training.batch
    batches: list[Tensor] = []
    training.batch = lambda *arguments: batches.append(draw(*arguments)) or batches[-1]

    def of_member(e: int) -> Iterator[Tensor]:
        for i in range(END):
            yield batches[i][e]

    scripts = [
        naive.train(copy, of_member(e), replays[e], betas(training.run.members[e]), choices, schedule)
        for e, copy in enumerate(copies)
    ]
    for i in range(END):
        training.step()
        assert [next(script) for script in scripts] == [i] * len(copies)
        for replay in replays:  # who departs may have drawn less
            replay.queues.clear()
        yield i, differences(training, copies)


def differences(training: Training, copies: list[naive.Model]) -> dict[str, float]:
    found: dict[str, float] = {}

    def compare(kind: str, ours: Tensor, theirs: Tensor) -> None:
        found[kind] = max(found.get(kind, 0.0), float((ours - theirs).detach().abs().max()))

    for e, copy in enumerate(copies):
        alone = isinstance(copy, naive.ImageModel)  # convolutions have no member axis
        for player, theirs in (("encoder", copy.encoder), ("decoder", copy.decoder)):
            for ours, own in zip(getattr(training.model, player).parameters(), theirs, strict=True):
                compare(player, ours if alone else ours[e], own)
        for name, own in copy.prior.items():
            if name not in ("low", "high"):
                compare(f"prior {name}", getattr(training.model.prior, name)[e], own)
        if alone:
            networks = training.model.encoder, training.model.decoder
            buffers = [buffer for network in networks for buffer in network.buffers()]
            for ours, own in zip(buffers, copy.buffers(), strict=True):
                compare("running statistics", ours, own)
    return found


@pytest.mark.parametrize("protocol", naive.PROTOCOLS)
@pytest.mark.parametrize(
    "cell", ["vae-sg", "sg", "sg-dt-closed", "vae-mog5-lc", "mog5", "mog5-lc", "mog5-lc-ip", "mog5-lc-ep"]
)
@pytest.mark.usefixtures("exact")
def test_in_2d(cell: str, protocol: str) -> None:
    """Two members side by side."""
    training, copies = in_2d(cell, protocol)
    for i, found in side_by_side(training, copies, choices_of(training, protocol), schedule_of(training, protocol)):
        assert max(found.values()) < 1e-10, (i, found)


@pytest.mark.usefixtures("exact")
def test_in_2d_with_a_free_mixture_that_sides_with_the_encoder() -> None:
    training, copies = in_2d("mog5-lc-ep", "authors", encoder_cooperation="converted")
    plan = choices_of(training, "authors"), schedule_of(training, "authors")
    found = [found for _, found in side_by_side(training, copies, *plan)]
    assert max(max(each.values()) for each in found) < 1e-10
    assert "prior pseudo_inputs" in found[0]
    assert "prior means" in found[-1]


@pytest.mark.parametrize("protocol", naive.PROTOCOLS)
@pytest.mark.parametrize("cell", ["sg", "mog5-lc", "mog5-lc-ip", "mog5-lc-ep"])
@pytest.mark.usefixtures("exact")
def test_on_images(cell: str, protocol: str, digits: Path) -> None:
    """Running statistics included: every batch goes through alone, in the same order."""
    training, copies = on_images(cell, protocol, digits)
    for i, found in side_by_side(training, copies, choices_of(training, protocol), schedule_of(training, protocol)):
        assert max(found.values()) < 1e-10, (i, found)


# Departures, each with the first iteration that shows it.

Change = Callable[[naive.Choices, naive.Schedule], tuple[naive.Choices, naive.Schedule]]


def of_choices(**changes: Any) -> Change:
    return lambda choices, schedule: (choices._replace(**changes), schedule)


def of_schedule(**changes: Any) -> Change:
    return lambda choices, schedule: (choices, schedule._replace(**changes))


DEPARTURES: dict[str, tuple[Change, int]] = {
    "Adam keeps its moments at the conversion": (of_schedule(resets=False), CONVERSION),
    "contributions keep their values at the conversion": (of_schedule(keep_contributions=True), CONVERSION),
    "one variance per component": (of_schedule(isotropic=True), CONVERSION),
    "no clipping": (of_schedule(clipping=None), GAME),
    "bounds from before the mixture was free": (of_schedule(clipping=CONVERSION), CONVERSION),
    "no decay of the learning rate": (of_schedule(milestones=()), DECAYS[0]),
    "a decay an iteration late": (of_schedule(milestones=(DECAYS[0] + 1, DECAYS[1])), DECAYS[0]),
    "a prior that does not learn in the game": (of_schedule(intro_prior=False), GAME),
    "the plain weight of r_entropy": (of_choices(normalised=False), GAME),
    "no r_entropy": (of_choices(r_entropy=0.0), GAME),
    "losses without scale": (of_choices(scale=1.0), GAME),
    "the whole weight for each kind of fake": (of_choices(gamma=2.0), GAME),
    "the target of a reconstruction's error detached": (of_choices(detached_target=True), GAME),
}


@pytest.mark.parametrize("where", ["2D", "images"])
@pytest.mark.parametrize("departure", DEPARTURES)
@pytest.mark.usefixtures("exact")
def test_a_departure_shows(departure: str, where: str, digits: Path) -> None:
    training, copies = in_2d("mog5-lc-ip", "authors") if where == "2D" else on_images("mog5-lc-ip", "authors", digits)
    change, first = DEPARTURES[departure]
    plan = change(choices_of(training, "authors"), schedule_of(training, "authors"))
    largest = [max(found.values()) for _, found in side_by_side(training, copies, *plan)]
    assert max(largest[:first]) < 1e-10
    assert largest[-1] > SEEN
