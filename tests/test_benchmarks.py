"""The benchmarks' yardstick: a script that computes what the package computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runs import a_member, image_run
from torch import Tensor

from benchmarks import baseline
from benchmarks.precision import Units
from introprior.evaluation.density import negative_elbo
from introprior.experiment.cells import Cell
from introprior.game.distributions import GaussianMixture, Posterior, Samples
from introprior.game.divergences import kl_monte_carlo
from introprior.game.model import IntroVAE
from introprior.game.networks import _Chain
from introprior.game.priors import Start
from introprior.game.priors.mixture import LearnedMixture
from introprior.game.randomness import MemberStreams
from introprior.training import images
from introprior.training.adam import Adam
from introprior.training.loop import Training


class EqualStreams(MemberStreams):
    """For every shape always the same numbers, so that two programs that draw in different orders draw the same.

    Two batches at once get those of one twice.
    """

    def __init__(self, batch: int) -> None:
        super().__init__([0], torch.device("cpu"))
        self.x = torch.randn(1, batch, 2)

    def draw(self, source: Any) -> Tensor:
        return self.x

    def moments(self, draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        noise = self.normal(draws, *shape)
        return noise.mean(1), noise.square().mean(1)

    def normal(self, *shape: int) -> Tensor:
        *lead, batch, dim = shape
        if batch == 2 * self.x.shape[1]:
            return torch.cat([self.normal(*lead, batch // 2, dim)] * 2, -2)
        self.generators[0].manual_seed(1)
        return super().normal(*shape)

    def uniform(self, *shape: int) -> Tensor:
        self.generators[0].manual_seed(1)
        return super().uniform(*shape)


class Script(baseline.Script):
    """The baseline on those numbers."""

    streams: EqualStreams

    @classmethod
    def on(cls, training: Training, streams: EqualStreams, networks: baseline.Networks, **arguments: Any) -> Script:
        cls.streams = streams
        normal = lambda *shape, device: streams.normal(*shape)[0]  # noqa: E731
        return cls.like(training, networks, normal=normal, **arguments)

    def choose(self, log_weights: Tensor, n: int) -> Tensor:
        return torch.searchsorted(log_weights.exp().cumsum(0)[:-1].detach(), self.streams.uniform(n)[0], right=True)


def equal_numbers(training: Training, batch: int) -> EqualStreams:
    """Have a training go on with new optimizers, as the script begins, and with streams to share with it."""
    before = training.optimizers.items()
    training.optimizers = {player: Adam(adam.parameters, float(adam.learning_rate)) for player, adam in before}
    training.streams = streams = EqualStreams(batch)
    return streams


@pytest.fixture(params=["sg", "mog8", "mog8-lc-ip"])
def pair(request, tiny, exact) -> tuple[Training, Script, EqualStreams]:
    """A training just after the game began, and the script that stands where it stands."""
    training = tiny(request.param, options={"gamma_r_terms": "compute"}, gamma_r=0.1, milestones=())
    while training.iteration <= training.game_start:
        training.step()
    options = training.run.training
    streams = equal_numbers(training, options.batch_size)
    networks = baseline.plane_networks(options.hidden_width, options.hidden_layers)
    return training, Script.on(training, streams, networks), streams


@pytest.fixture(params=["sg", "mog5", "mog5-lc-ip"])
def image_pair(request, float64) -> tuple[Training, Script, Tensor]:
    """The same on 8x8 images, and the batch that they train with."""
    cell, shape, widths = Cell.parse(request.param), (1, 8, 8), (2, 4)
    r_entropy = 10.0 if cell.family.components else 0.0
    run = image_run(
        request.param, [a_member(0, 1.0, 1.0, 8.0)], overrides={"gamma_r_terms": "compute"},
        iterations=9, warmup_iterations=3, mixture_warmup_iterations=1, monte_carlo_samples=4,
        gamma_r=0.1, r_entropy=r_entropy, latent_dim=3, shape=shape, widths=widths, learning_rate=1e-3,
    )  # fmt: skip
    x = torch.rand(1, 6, *shape)
    start = Start(3, cell.size, cell.learnable_contributions, lambda n: torch.rand(1, n, *shape), [torch.Generator()])
    model = IntroVAE(*images.networks(run), cell.family.load().begin(start)).double()
    training = Training(run, model, lambda *_: x, torch.device("cpu"))
    if cell.family.components:
        means, logvars, logits = torch.randn(1, 5, 3), torch.randn(1, 5, 3) - 1, torch.randn(1, 5)
        lc = cell.learnable_contributions
        k = run.training.clip_steepness
        training.model.prior = LearnedMixture(means, logvars, logits, learnable_contributions=lc, steepness=k)
        training.optimizers["prior"] = Adam(training.model.prior.parameters(), run.training.learning_rate)
    training.iteration = training.game_start
    training.step()
    streams = equal_numbers(training, x.shape[1])
    script = Script.on(training, streams, baseline.image_networks(shape, widths, 3), as_on_images=True)
    return training, script, x


def test_the_baselines_losses_are_the_packages(pair):
    training, script, streams = pair
    for _ in range(3):  # beyond the first iteration the losses agree only if the gradients did
        ours = training.step()
        losses = script.step(streams.x[0])
        assert ours["encoder_loss"].item() == pytest.approx(losses[0], rel=1e-10)
        assert ours["decoder_loss"].item() == pytest.approx(losses[1], rel=1e-10)


def test_the_baselines_losses_on_images_are_the_packages(image_pair):
    training, script, x = image_pair
    for _ in range(3):
        training.step()
        ours = training.watch.last[-2:, 0].tolist()
        assert ours == pytest.approx(script.step(x[0]), rel=1e-9)


def test_the_baselines_negative_elbo_is_the_packages(pair):
    training, script, _ = pair
    points, noise = torch.randn(20, 2), torch.randn(5, 2)
    naive = script.negative_elbo(points, noise, batch=8)
    with torch.no_grad():
        ours = negative_elbo(training.model, points, noise.unsqueeze(0))
    torch.testing.assert_close(ours, naive.unsqueeze(0), rtol=1e-10, atol=1e-12)


def test_the_baselines_kl_is_the_packages(float64):
    mean, logvar, noise = torch.randn(6, 2), torch.randn(6, 2), torch.randn(5, 6, 2)
    mixture = GaussianMixture(torch.randn(4, 2), torch.randn(4, 2), torch.log_softmax(torch.randn(4), 0))
    naive = baseline.kl(mean, logvar, (mixture.means, mixture.logvars, mixture.log_weights), noise)
    torch.testing.assert_close(
        kl_monte_carlo(Posterior(mean, logvar), mixture, Samples(noise)), naive, rtol=1e-10, atol=1e-12
    )


def test_products_without_units_for_bfloat16_are_those_with_them():
    parameters = [torch.randn(2, 8, 3), torch.randn(2, 8), torch.randn(2, 4, 8), torch.randn(2, 4)]
    x = torch.randn(2, 5, 3)

    def gradients(precision: str) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (x, *parameters)]
        y = _Chain.apply(precision, *leaves)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    own = gradients("bf16")
    with Units() as units:
        ours = gradients("bf16")
    assert units.products > 0
    for a, b, c in zip(own, ours, gradients("float32"), strict=True):
        torch.testing.assert_close(b, a, rtol=2**-7, atol=2**-7)
        assert not torch.equal(b, c)
