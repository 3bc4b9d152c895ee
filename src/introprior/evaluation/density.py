"""Evaluation of trained 2D ensembles: what they generate, what energy they give to every point, and the metrics of it.

Protocol of the authors' code: on the final model, with a random stream of its own; all betas 1; the reconstruction is
that of the posterior's mean; the same Monte Carlo noise for every point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from introprior.data import catalogue
from introprior.data import density as data
from introprior.errors import UserError
from introprior.experiment.jobs import Evaluate
from introprior.experiment.run import DensityRun, Member, Run
from introprior.game.distributions import Posterior, Samples
from introprior.game.divergences import kl_monte_carlo
from introprior.game.losses import reconstruction_error
from introprior.game.model import IntroVAE
from introprior.game.randomness import MemberStreams, streams_of
from introprior.metrics import density as metrics
from introprior.metrics.outcome import outcome
from introprior.training import checkpoints
from introprior.training.density import networks

Functions = Mapping[str, Callable[..., float]]
"""By the names of their metrics."""

_POINTS = {"cpu": 1024, "cuda": 8192}  # points of the plane at once; on a CPU, of all members together


@dataclass
class Ensemble:
    """A trained ensemble as read from its file: model, run, and one record per member (status, detail)."""

    model: IntroVAE
    run: DensityRun
    records: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path, device: torch.device) -> Ensemble:
        """Read what ``introprior train`` wrote."""
        content = checkpoints.load(path, device)
        if "snapshots" in content:
            raise UserError(f"{path}: snapshots of an image run; evaluating them takes --data, see --help")
        if "records" not in content:
            raise UserError(f"{path}: not a trained ensemble; give the ensemble.pt that `introprior train` wrote")
        with checkpoints.understood(path, "a trained ensemble"):
            run = Run.from_dict(content["run"])
            records = [{name: str(record[name]) for name in ("status", "detail")} for record in content["records"]]
            if not isinstance(run, DensityRun) or len(records) != len(run.members):
                raise ValueError("of another run than it says")
            model = checkpoints.restored(networks(run), content["model"], device)
            return cls(model.requires_grad_(False), run, records)


def streams_for(members: Sequence[Member], shift: int, device: torch.device) -> MemberStreams:
    """Streams to look at members with: their seeds, shifted so that the training draws from others."""
    return streams_of([m.seed + shift for m in members], device, datasets=[m.dataset for m in members])


def generate(model: IntroVAE, streams: MemberStreams, count: int) -> Tensor:
    """Decoded prior samples, ``[E, count, 2]``."""
    prior = model.distribution()
    return model.decode(prior.sample_with(streams.normal(count, model.latent_dim), streams.uniform(count)))


def negative_elbo(model: IntroVAE, x: Tensor, noise: Tensor) -> Tensor:
    """KL + reconstruction error of points under every member, both betas 1.

    Args:
        x: ``[N, 2]``, the same points for all members, or ``[E, N, 2]``.
        noise: ``[E, T, D]``, the same for all points.

    Returns:
        ``[E, N]``.
    """
    prior = model.distribution()
    parts = []
    at_once = _POINTS["cuda"] if x.is_cuda else max(256, _POINTS["cpu"] // noise.shape[0])
    for part in x.split(at_once, -2):
        points = part.expand(noise.shape[0], *part.shape[-2:])
        posterior = model.encode(points)
        # The authors' code clamps inside the density only; the samples' spread of 4e-18 is lost in float32 either way.
        q = Posterior(posterior.mean, posterior.logvar.clamp(min=-80))
        spread = noise.unsqueeze(2).expand(-1, -1, points.shape[1], -1)
        rec = reconstruction_error(points, model.decode(posterior.mean))
        parts.append(kl_monte_carlo(q, prior, Samples(spread)) + rec)
    return torch.cat(parts, -1)


def plane(limit: float, side: int, device: torch.device) -> Tensor:
    """A square grid over [-limit, limit]^2, ``[side * side, 2]``; rows of ascending y, in each ascending x."""
    axis = torch.linspace(-limit, limit, side, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2)


def sample_metrics(
    functions: Functions, dataset: str, model: IntroVAE, streams: MemberStreams, samples: int
) -> dict[str, list[float]]:
    """Metrics of real and generated points, of every member; the KL has points of its own, the others share some."""
    limit, values = catalogue.dataset(dataset).limit, {}

    def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
        real = streams.draw(data.of_size(samples))
        return list(zip(real.cpu().numpy(), generate(model, streams, samples).cpu().numpy(), strict=True))

    for own in (True, False):
        points = pairs()
        for name in (name for name in functions if (name == "KL") is own):
            values[name] = [functions[name](*pair, limit) for pair in points]
    return values


@torch.no_grad()
def measure(
    ensemble: Ensemble, options: Evaluate, device: torch.device, of_energies: Functions, of_samples: Functions
) -> list[dict[str, Any]]:
    """Every metric of every member, and the floors of those of samples.

    Args:
        of_energies, of_samples: functions of the metrics of either kind, see :mod:`introprior.metrics.registry`, which
            is not imported here, lest a title outdates what was measured.

    Returns:
        tidy rows: dataset, cell, seed, metric, value (None where diverged), status, detail.
    """
    run, model = ensemble.run, ensemble.model
    limit = catalogue.dataset(run.dataset).limit
    streams = streams_for(run.members, run.training.iterations - 1, device)
    values = sample_metrics(of_samples, run.dataset, model, streams, options.samples)
    noise = streams.normal(options.monte_carlo_samples, model.latent_dim)
    grid = negative_elbo(model, plane(limit, options.grid, device), noise).cpu().numpy()
    real = streams.draw(data.of_size(options.data_points))
    energies = negative_elbo(model, real, noise).cpu().numpy()
    for name, function in of_energies.items():
        values[name] = [function(*pair) for pair in zip(grid, energies, strict=True)]
    floors = metrics.floors(of_samples, run.dataset, options.samples, limit, repeats=20, seed=0)
    rows = []
    for e, (member, record) in enumerate(zip(run.members, ensemble.records, strict=True)):
        common = {"dataset": run.dataset, "cell": run.cell.name, "seed": member.seed}
        for metric in (*of_energies, *of_samples):
            seldom = ", as where no generated point lies in the window" * (metric in of_samples)
            why = f"{metric} is not finite{seldom}"
            rows.append({**common, "metric": metric, **outcome(values[metric][e], record, why)})
        for name, value in floors.items():
            rows.append({**common, "metric": name, **outcome(value if np.isfinite(value) else None)})
    return rows


@torch.no_grad()
def panels(ensemble: Ensemble, options: Evaluate, device: torch.device) -> dict[str, Any]:
    """Figure 3 of the member of ``panel_seed``, or the first: data, samples, density exp(ELBO), latent space, prior.

    Raises:
        UserError: no member has that seed.
    """
    run, model = ensemble.run, ensemble.model
    seeds = [member.seed for member in run.members]
    seed = seeds[0] if options.panel_seed is None else options.panel_seed
    if seed not in seeds:
        raise UserError(f"figure3.seed: {seed} is not among the trained seeds {seeds}; choose one of them")
    e = seeds.index(seed)
    streams = streams_for(run.members, run.training.iterations, device)
    limit, side, points = catalogue.dataset(run.dataset).limit, options.panel_grid, options.panel_points
    real = streams.draw(data.of_size(points))
    noise = streams.normal(options.monte_carlo_samples, model.latent_dim)
    energy = negative_elbo(model, plane(limit, side, device), noise)[e].double()
    density = torch.softmax(-energy, 0) / (2 * limit / (side - 1)) ** 2
    latent = model.encode(real).mean[e]
    prior = model.distribution().member(e)
    mixture = prior.components()
    reach = [latent.abs().flatten()]
    if mixture is None:
        means, weights = latent.new_empty(0, latent.shape[-1]), latent.new_empty(0)
        generator = torch.Generator(device).manual_seed(run.members[e].seed)
        reach.append(prior.sample(points, latent.shape[-1], generator).abs().flatten())
    else:
        means, weights = mixture.means, mixture.log_weights.exp()
        reach.append((means.abs() + 2.5 * torch.exp(0.5 * mixture.logvars)).flatten())
    latent_limit = float(torch.cat(reach).nan_to_num(1.0).max())
    latent_density = prior.log_prob(plane(latent_limit, side, device)).exp()
    arrays = {
        "data": real[e],
        "samples": generate(model, streams, points)[e],
        "density": density.reshape(side, side),
        "latent": latent,
        "latent_density": latent_density.reshape(side, side),
        "prior_means": means,
        "prior_weights": weights,
    }
    return {
        **{name: value.cpu().numpy().astype(np.float32) for name, value in arrays.items()},
        "limit": limit,
        "latent_limit": latent_limit,
        "cell": run.cell.name,
        "dataset": run.dataset,
        "seed": seed,
        **{name: ensemble.records[e][name] for name in ("status", "detail")},
    }
