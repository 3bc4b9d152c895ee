"""The encoder study: its loss and loop against the equations, what it leaves alone, and what it is to show."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import STEEPNESS, a_member, image_run
from torch import Tensor

from introprior.data.images import prepare
from introprior.data.images.splits import load, to_unit
from introprior.evaluation import encoder_study
from introprior.evaluation.encoder_study import KINDS, one_per_class, study
from introprior.experiment.run import ImageRun
from introprior.game.losses import Betas
from introprior.game.model import IntroVAE
from introprior.game.priors.mixture import LearnedMixture, VampPrior
from introprior.game.randomness import MemberStreams
from introprior.training import images, loop
from tests import naive
from tests.commands import refused

CPU = torch.device("cpu")
SIZES = {"iterations": 61, "warmup_iterations": 60, "mixture_warmup_iterations": 10, "monte_carlo_samples": 5}
SIZES |= {"latent_dim": 4, "widths": (2, 4), "batch_size": 32, "learning_rate": 2e-3, "shape": (1, 16, 16)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits16")
    prepare("digits16", folder)
    return folder


@pytest.fixture(scope="module")
def ten(data) -> Tensor:
    split = load(data, "test")
    return one_per_class(split.images, split.labels)


def begun(data: Path, cell: str, steps: int = 0) -> tuple[IntroVAE, ImageRun]:
    run = image_run(cell, [a_member(0, 1.0, 0.5, 128.0)], "digits16", **SIZES, r_entropy=10.0 if steps else 0.0)
    training = images.begin(run, CPU, data)
    for _ in range(steps):
        training.step()
    return training.model, run


@pytest.fixture(scope="module")
def trained(data) -> tuple[IntroVAE, ImageRun]:
    """A small VAE after a short warm-up, with a free mixture of three components."""
    return begun(data, "mog3", steps=60)


def studied(model: IntroVAE, run: ImageRun, ten: Tensor, **changes: Any) -> dict[str, np.ndarray]:
    return study(model, run, ten, **{"iterations": 2, "beta_negs": [1.0], "device": CPU, "points": 2} | changes)


def terms(model: IntroVAE, x: Tensor, mixture: naive.Mixture, streams: MemberStreams, draws: int) -> naive.Kind:
    """Error and KL ``[1]`` of one image ``[C, H, W]``; its noise is drawn before that of the KL."""
    mean, logvar = (part[0] for part in model.encoder(x[None, None]))
    output = model.decoder((mean + (logvar / 2).exp() * streams.normal(1, 4)[0]).unsqueeze(0))[0]
    kl = naive.kl_monte_carlo(mean, logvar, mixture, streams.normal(draws, 1, 4)[0])
    return naive.squared_error(x.unsqueeze(0), output), kl


@pytest.mark.usefixtures("float64")
def test_the_loss_is_that_of_the_equations(trained):
    model, run = copy.deepcopy(trained[0]).double(), trained[1]
    script, mixture = copy.deepcopy(model), model.distribution().detach()
    real, fake = torch.rand(2, 1, 16, 16)
    rules = dataclasses.replace(loop.rules(run), scale=1 / 256)
    ours = encoder_study.loss(
        model, real[None, None], fake[None, None], mixture, MemberStreams([3], CPU), Betas(1.0, 0.5, 8.0), rules
    )
    streams, single = MemberStreams([3], CPU), naive.Mixture(*(t[0] for t in vars(mixture).values()))
    kinds = [terms(script, x, single, streams, 5) for x in (real, fake)]
    expected = naive.encoder_loss(kinds[0], kinds[1:], (1.0, 0.5, 8.0), 1 / 256, 2.0)
    torch.testing.assert_close(ours, expected.unsqueeze(0), rtol=1e-10, atol=0)
    for each in (ours, expected):
        each.mean().backward()
    theirs = dict(script.encoder.named_parameters())
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.usefixtures("float64")
def test_an_iteration_is_that_of_a_plain_script(trained, ten):
    """One iteration of each configuration, with torch's Adam and batches of one; then each image alone."""
    model, run = copy.deepcopy(trained[0]).double(), trained[1]
    ours = studied(model, run, ten, iterations=1, beta_negs=[8.0], seed=3)
    pixels = to_unit(ten).double()
    mixture = naive.Mixture(*(t[0] for t in vars(model.distribution().detach()).values()))
    for c, (real, fake) in enumerate(((range(10), range(10)), ([0], range(10)), (range(10), [0]))):
        script, streams = copy.deepcopy(model), MemberStreams([3], CPU)
        adam = torch.optim.Adam(script.encoder.parameters(), 2e-3)
        drawn = [pixels[list(kind)[streams.integers(len(kind), 1).item()]] for kind in (real, fake)]
        kinds = [terms(script, x, mixture, streams, 5) for x in drawn]
        naive.encoder_loss(kinds[0], kinds[1:], (1.0, 0.5, 8.0), 1 / 256, 2.0).mean().backward()
        adam.step()
        streams = MemberStreams([4], CPU)
        with torch.no_grad():
            alone = [terms(script, x, mixture, streams, 5) for x in pixels]
        for k, chosen in enumerate((real, fake)):
            for name, part in (("rec", 0), ("kl", 1)):
                mean = np.mean([alone[i][part].item() for i in chosen])
                assert ours[name][0, c, k, 1] == pytest.approx(mean, rel=1e-6)
    assert not np.allclose(ours["rec"][..., 0], ours["rec"][..., 1], rtol=1e-4)  # the iteration mattered
    np.testing.assert_allclose(ours["nelbo"], ours["rec"] + ours["kl"], rtol=1e-6)


def test_what_p_data_lacks_is_repelled_and_what_it_holds_is_not(trained, ten):
    """The claims of the supplement at beta_neg 1, for an encoder that has yet to learn what decoder and prior know."""
    model, run = copy.deepcopy(trained[0]), trained[1]
    model.encoder = images.networks(run)[0]
    found = studied(model, run, ten, iterations=80, points=3)
    alike, single_real, single_fake = found["nelbo"][0]
    np.testing.assert_array_equal(*alike)  # the same images, the same curve
    (real_before, _, real_after), (fake_before, _, fake_after) = single_real
    assert real_after < 0.5 * real_before
    assert fake_after > 5 * fake_before
    assert fake_after > 3 * alike[1, -1]
    real, fake = single_fake[:, -1]
    assert fake > 3 * real  # p_data holds p_d's only image too, but ten times more rarely


def test_the_model_stays_as_it_was_and_the_study_repeats(trained, ten):
    model, run = trained
    model.eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = studied(model, run, ten, seed=1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    again = studied(model.train(), run, ten, seed=1)  # whichever mode the model came in
    other = studied(model, run, ten, seed=2)
    assert first.keys() == again.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    assert not np.array_equal(first["rec"], other["rec"])


def test_the_arrays_are_what_the_figure_reads(trained, ten):
    found = studied(*trained, ten, beta_negs=[1.0, 8.0], points=9)
    assert found["iterations"].tolist() == [0, 1, 2]
    assert found["beta_neg"].tolist() == [1.0, 8.0]
    for name in ("rec", "kl", "nelbo"):
        assert found[name].shape == (2, 3, 2, 3)
        assert found[name].dtype == np.float32
    sizes = {"real": (10, 1, 10), "fake": (10, 10, 1)}
    for b in range(2):
        for c in range(3):
            for kind in KINDS:
                shown, made = found[f"{kind}_{b}_{c}"], found[f"{kind}_rec_{b}_{c}"]
                np.testing.assert_array_equal(shown, ten[: sizes[kind][c]].numpy())
                assert made.shape == shown.shape
                assert made.dtype == np.uint8
                assert made.std() > 5  # a picture, not a blank


def test_divergence_ends_a_curve(trained, ten):
    model, run = trained
    wild = run.model_copy(update={"training": run.training.model_copy(update={"learning_rate": 1e30})})
    found = studied(model, wild, ten, iterations=4, points=3)
    assert np.isfinite(found["nelbo"][..., 0]).all()
    assert np.isnan(found["nelbo"][..., 1:]).all()
    assert found["real_rec_0_0"].std() > 5  # as last measured


def test_a_vamp_prior_is_taken_as_it_stands(data, ten):
    """It must not follow the encoder that learns: the same numbers as with the mixture that it is at the start."""
    model, run = begun(data, "mog3")
    vamp = studied(model, run, ten, iterations=3)
    assert isinstance(model.prior, VampPrior)
    model.prior = LearnedMixture(*vars(model.distribution().detach()).values(), steepness=STEEPNESS)
    free = studied(model, run, ten, iterations=3)
    np.testing.assert_allclose(vamp["nelbo"], free["nelbo"], rtol=1e-5)


def test_a_standard_gaussian_is_a_prior_too_and_what_diverged_is_refused(data, ten):
    model, run = begun(data, "sg")
    found = studied(model, run, ten)
    assert np.isfinite(found["nelbo"]).all()
    assert (found["kl"] > -0.5).all()
    with torch.no_grad():
        model.encoder.head.weight.fill_(float("nan"))
    refused(lambda: studied(model, run, ten), "the model's losses are not finite")


def test_one_image_of_each_class_is_the_first():
    pictures = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    chosen = one_per_class(pictures, torch.tensor([4, 0, 4, 2, 0, 2]))
    assert chosen.flatten().tolist() == [1, 3, 0]
    assert one_per_class(pictures.repeat(2, 1, 1, 1), torch.zeros(12)).flatten().tolist() == [*range(6), *range(4)]
