"""The benchmarks' yardstick: a script that computes what the package computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import baseline
from introprior.data import density as data
from introprior.divergences import kl_monte_carlo
from introprior.evaluation.density import negative_elbo
from introprior.mixtures import GaussianMixture
from introprior.randomness import MemberStreams
from introprior.training.adam import Adam
from introprior.training.loop import Training


class EqualStreams(MemberStreams):
    """For every shape always the same numbers, so that two programs that draw in different orders draw the same."""

    def __init__(self) -> None:
        super().__init__([0], torch.device("cpu"))
        self.x = torch.randn(1, 16, 2)

    def draw(self, source: Any) -> Tensor:
        return self.x

    def moments(self, draws: int, *shape: int) -> tuple[Tensor, Tensor]:
        noise = self.normal(draws, *shape)
        return noise.mean(1), noise.square().mean(1)

    def _filled(self, *arguments: Any) -> Tensor:
        self.generators[0].manual_seed(1)
        return super()._filled(*arguments)


class Script(baseline.Script):
    """The baseline on those numbers, at the tiny sizes of the tests."""

    def __init__(self, training: Training, streams: EqualStreams):
        cell, options, rules = training.run.cell, training.run.training, training.rules
        member = training.run.members[0]
        super().__init__(
            cell.components,
            cell.intro_prior,
            cell.learnable_contributions,
            baseline.Settings(
                beta_rec=member.beta_rec,
                beta_kl=member.beta_kl,
                beta_neg=member.beta_neg or 0.0,
                gamma_r=rules.gamma_r,
                samples=options.monte_carlo_samples,
                learning_rate=options.learning_rate,
            ),
            options.hidden_width,
            options.hidden_layers,
            normal=lambda *shape, device: streams.normal(*shape)[0],
        )
        self.uniform = streams.uniform
        theirs = training.model.prior
        mixture = {name: getattr(theirs, name)[0] for name in ("means", "logvars", "logits") if cell.prior == "mog"}
        if cell.intro_prior:
            mixture |= {name: getattr(theirs, name)[0] for name in ("low", "high")}
        networks = [
            [tensor[0] for tensor in net.parameters()] for net in (training.model.encoder, training.model.decoder)
        ]
        self.load(*networks, mixture)

    def choose(self, log_weights: Tensor, n: int) -> Tensor:
        return torch.searchsorted(log_weights.exp().cumsum(0)[:-1].detach(), self.uniform(n)[0], right=True)


@pytest.fixture(params=["sg", "mog8", "mog8-lc-ip"])
def pair(request, tiny, float64, monkeypatch) -> tuple[Training, Script, EqualStreams]:
    """A training just after the game began, with new optimizers, and the script that stands where it stands."""
    draw = data.sample_members
    monkeypatch.setattr(data, "sample_members", lambda *arguments: draw(*arguments).double())
    training = tiny(request.param, options={"gamma_r_terms": "compute"}, gamma_r=0.1, milestones=())
    while training.iteration <= training.game_start:
        training.step()
    training.optimizers = {p: Adam(adam.parameters, adam.learning_rate) for p, adam in training.optimizers.items()}
    training.streams = streams = EqualStreams()
    return training, Script(training, streams), streams


def test_the_baselines_losses_are_the_packages(pair):
    training, script, streams = pair
    for _ in range(3):  # beyond the first iteration the losses agree only if the gradients did
        ours = training.step()
        losses = script.step(streams.x[0])
        assert ours["encoder_loss"].item() == pytest.approx(losses[0], rel=1e-10)
        assert ours["decoder_loss"].item() == pytest.approx(losses[1], rel=1e-10)


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
    torch.testing.assert_close(kl_monte_carlo(mean, logvar, mixture, noise), naive, rtol=1e-10, atol=1e-12)
