"""Image runs: the 2D half's losses and loop around convolutions with BatchNorm, whose batches affect their samples."""

from __future__ import annotations

import pytest
import torch
from runs import a_member, image_run
from torch import Tensor

from introprior.errors import UserError
from introprior.experiment.run import ImageRun, ImageTraining, Run
from introprior.game.model import IntroVAE
from introprior.game.priors.mixture import VampPrior
from introprior.training import images
from introprior.training.loop import rules

CPU = torch.device("cpu")
EPOCH = 12  # iterations, of 1,501 digits in batches of 128
SMALL = {"iterations": 5, "warmup_iterations": 3, "mixture_warmup_iterations": 1, "monte_carlo_samples": 4}
SMALL |= {"latent_dim": 4, "widths": (2, 4), "batch_size": 128}


def a_run(cell: str, *, seeds: tuple[int, ...] = (0,), protocol: str = "authors", **training) -> ImageRun:
    return image_run(cell, [a_member(seed, 1.0, 1.0, 128.0) for seed in seeds], protocol=protocol, **SMALL | training)


@pytest.mark.parametrize("cell", ["sg", "mog10", "mog10-lc-ip"])
def test_a_run_goes_through_its_phases_and_stays_finite(digits, cell):
    training = images.begin(a_run(cell, r_entropy=float(cell != "sg")), CPU, digits)
    kinds = []
    for _ in range(5):
        training.step()
        kinds.append(type(training.model.prior).__name__)
    assert training.records()[0]["status"] == "ok"
    if cell != "sg":
        assert kinds == ["VampPrior", "VampPrior", "LearnedMixture", "LearnedMixture", "LearnedMixture"]
        assert (training.model.prior.low is not None) == cell.endswith("-ip")


def test_the_loss_scale_is_one_over_the_pixels():
    assert rules(a_run("sg")).scale == 1 / 784
    assert Run.from_dict(a_run("sg").as_dict()) == a_run("sg")


def test_the_papers_epochs_are_counted_in_iterations():
    options = ImageTraining()
    assert (options.iterations, options.warmup_iterations, options.mixture_warmup_iterations) == (103_180, 9_380, 2_345)


def test_a_run_begins_with_its_seed_alone(digits):
    def first_numbers(seed: int) -> tuple[Tensor, Tensor]:
        torch.rand(seed)  # whatever was drawn before
        model = images.begin(a_run("mog10", seeds=(seed,)), CPU, digits).model
        return model.encoder.head.weight, model.prior.pseudo_inputs

    for one, other, different in zip(first_numbers(3), first_numbers(3), first_numbers(4), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, different)


def test_pseudo_inputs_start_as_images_and_freeze_at_the_bounds(digits):
    training = images.begin(a_run("mog10"), CPU, digits)
    prior = training.model.prior
    assert isinstance(prior, VampPrior)
    before = prior.pseudo_inputs.detach().clone()
    training.step()
    black = before == 0
    assert 0.2 < black.float().mean() < 0.9
    assert torch.equal(prior.pseudo_inputs[black], before[black])
    assert not torch.equal(prior.pseudo_inputs[~black], before[~black])


def test_an_epoch_shows_every_image_once(digits):
    training = images.begin(a_run("sg"), CPU, digits)
    batches = [training.batch(i, training.streams)[0] for i in range(EPOCH)]
    assert [len(batch) for batch in batches] == [128] * 11 + [93]
    seen = torch.cat(batches).flatten(1).mean(1).sort().values
    everything = torch.cat([training.batch(EPOCH + i, training.streams)[0] for i in range(EPOCH)])
    torch.testing.assert_close(seen, everything.flatten(1).mean(1).sort().values)
    assert not torch.equal(batches[0], everything[:128])


@pytest.mark.parametrize(
    ("cell", "changes", "message"),
    [
        ("sg", {"seeds": (0, 1)}, "image runs have one member each"),
        ("sg", {"shape": (3, 32, 32)}, "images of shape [1, 28, 28], but training.shape is [3, 32, 32]"),
        ("mog1600", {}, "1600 components, but only 1501 training images"),
    ],
)
def test_what_does_not_fit_is_refused(digits, cell, changes, message):
    with pytest.raises(UserError) as caught:
        images.begin(a_run(cell, **changes), CPU, digits)
    assert message in str(caught.value)


def test_bfloat16_is_the_networks_alone(digits):
    """The same run twice: losses agree to bfloat16's three digits, everything that comes out is float32."""

    def losses(precision: str) -> tuple[list[float], IntroVAE]:
        training = images.begin(a_run("mog5-lc-ip", precision=precision, r_entropy=1.0, batch_size=64), CPU, digits)
        found = [training.step() for _ in range(4)]
        return [float(found[0]["vae_loss"]), float(found[3]["encoder_loss"])], training.model

    exact, _ = losses("float32")
    coarse, model = losses("bf16")
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.05)
    posterior = model.encode(torch.rand(1, 4, 1, 28, 28))
    tensors = [*posterior, model.decode(posterior.mean), *model.parameters(), model.distribution().means]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encoder(torch.rand(1, 4, 1, 28, 28))[0].dtype == torch.bfloat16  # what the float32 above came from


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("float32", False), ("bf16", True)])
def test_precision_says_whether_convolutions_may_use_tf32(digits, precision, allowed, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not allowed)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    images.begin(a_run("sg", precision=precision), CPU, digits)
    assert torch.backends.cudnn.allow_tf32 is allowed
    assert torch.backends.cudnn.deterministic
