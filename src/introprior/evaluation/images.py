"""Evaluation of image runs, from their snapshots: distances of what they generate and reconstruct to the training set,
codes for the probes, responsibilities, and what the figures show.

The protocol has two halves. Distances are taken as the model was trained, every batch normalised by its own statistics
(``sampling_batchnorm: batch``), or with running statistics. Codes and responsibilities are always taken in evaluation
mode, after one pass over the training set that estimates the running statistics anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from introprior.data.images.splits import Epochs, ImageSplit, to_unit
from introprior.errors import UserError
from introprior.experiment.jobs import Distances, EvaluateImages
from introprior.experiment.run import ImageRun, Run
from introprior.game.distributions import Distribution, Posterior
from introprior.game.model import IntroVAE
from introprior.metrics import classifier as classifiers
from introprior.metrics import inception
from introprior.metrics.frechet import Gathering, Statistics, check_count, frechet_distance
from introprior.metrics.outcome import outcome
from introprior.metrics.responsibilities import normalised_entropy
from introprior.training import checkpoints
from introprior.training.images import networks

DISTANCE_COLUMNS = ("dataset", "cell", "r_entropy", "seed", "epoch", "metric", "value", "status", "detail")
METRIC_COLUMNS = ("dataset", "cell", "r_entropy", "seed", "metric", "value", "status", "detail")
_FORGOTTEN = math.ceil(math.log(0.01) / math.log(0.9))
"""Batches after which less than 1 % of a running statistic is left, at BatchNorm's momentum of 0.1: 44."""

_CHUNK = 512  # images encoded or decoded at once where the batch does not matter


@dataclass
class Snapshots:
    """A run's models at some epochs, as read from the file that ``introprior warmup`` or ``train`` wrote.

    Attributes:
        run: what was trained.
        record: status (ok or diverged) and detail of the run.
        states: by the number of epochs behind them.
    """

    run: ImageRun
    record: dict[str, Any]
    states: dict[int, dict[str, Any]]

    @classmethod
    def read(cls, path: Path, device: torch.device | str = "cpu") -> Snapshots:
        """Read a file.

        Raises:
            UserError: missing, damaged, or something else than snapshots of an image run.
        """
        content = checkpoints.load(path, device)
        if "snapshots" not in content:
            raise UserError(f"{path}: holds no snapshots; give what `introprior warmup` or `train` wrote for images")
        with checkpoints.understood(path, "snapshots of a run on images"):
            run = Run.from_dict(content["run"])
            record = {name: str(content["records"][0][name]) for name in ("status", "detail")}
            if not isinstance(run, ImageRun) or not all(isinstance(epoch, int) for epoch in content["snapshots"]):
                raise ValueError("of another run than it says")
            return cls(run, record, content["snapshots"])

    def model(self, epoch: int, device: torch.device | str) -> IntroVAE:
        """The model after ``epoch`` epochs, in evaluation mode, its parameters frozen.

        Raises:
            UserError: there is no such snapshot.
        """
        if epoch not in self.states:
            raise UserError(f"{self.run.dataset}/{self.run.cell.name}: no snapshot after {epoch} epochs; train anew")
        with checkpoints.understood(Path(f"{self.run.dataset}/{self.run.cell.name}"), f"a model after {epoch} epochs"):
            return checkpoints.restored(networks(self.run), self.states[epoch], device).requires_grad_(False)

    @property
    def named(self) -> dict[str, Any]:
        """What names the run: dataset, cell, r_entropy, seed."""
        run = self.run
        named = {"dataset": run.dataset, "cell": run.cell.name, "r_entropy": run.training.r_entropy}
        return {**named, "seed": run.members[0].seed}

    def describe(self) -> dict[str, Any]:
        """The columns that name the run in result files."""
        return self.named | {"r_entropy": f"{self.run.training.r_entropy:g}"}


# Features


class Extractor:
    """Features of images of one or more kinds (``names``), whose distances are called like them, ``_gen`` or ``_rec``.

    Inception has to be given where one of its :data:`~introprior.metrics.inception.PROTOCOLS` is among them, the
    dataset's classifier where ``fd_classifier`` is.
    """

    def __init__(
        self, names: Sequence[str], network: nn.Module | None = None, classifier: classifiers.Classifier | None = None
    ):
        self.names = tuple(names)
        self._of: dict[str, Callable[[Tensor], Tensor]] = {}
        for name in names:
            protocol = inception.PROTOCOLS.get(name)
            if protocol is None and classifier is not None:
                self._of[name] = partial(classifiers.features, classifier)
            elif protocol is not None and network is not None:
                self._of[name] = partial(inception.features, network, protocol=protocol)
            else:
                flag = "--weights, Inception's" if protocol else "--classifier, the dataset's"
                raise UserError(f"features: {name} needs {flag}")

    def gather(self, batches: Iterable[Tensor]) -> dict[str, Statistics]:
        """Statistics of each kind of features over batches ``[B, C, H, W]``, uint8 or decoded, made once for all."""
        gatherings = {name: Gathering() for name in self.names}
        for batch in batches:
            for name, gathering in gatherings.items():
                gathering.add(self._of[name](batch))
        return {name: gathering.statistics() for name, gathering in gatherings.items()}


def real_batches(split: ImageSplit, samples: int, batch_size: int, *, cut: bool = True) -> Iterator[Tensor]:
    """The first ``samples`` images of a shuffled split, uint8, in batches; the same ones every time.

    Without ``cut`` the last batch is as full as the split allows, beyond ``samples``.

    The authors' code draws its 50,000 of Fashion-MNIST's 60,000 anew for every distance; here all distances share one
    draw, and with it the reference statistics.
    """
    if samples > len(split.images):
        raise UserError(f"samples: {samples} are more than the {len(split.images)} images of the split; take fewer")
    order = torch.from_numpy(np.random.PCG64([0, 0]).random_raw(len(split.images)).argsort(kind="stable"))
    end = samples if cut else -(-samples // batch_size) * batch_size
    for rows in order[:end].split(batch_size):
        yield split.images[rows]


# Models at work


def stream(run: Run, epoch: int, purpose: int, device: torch.device) -> torch.Generator:
    """A random stream for looking at a model, the same whenever and wherever one looks."""
    seed = int(np.random.PCG64([run.stream(run.members[0]), epoch, purpose]).random_raw())
    return torch.Generator(device).manual_seed(seed % 2**63)


def generated(model: IntroVAE, samples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Decoded prior samples in batches ``[B, C, H, W]``, unbounded floats; BatchNorm as the model's mode has it.

    The last batch is decoded whole and then cut, as in the authors' code: a short one would normalise itself.
    """
    with torch.no_grad():
        prior = model.distribution().member(0)
        for start in range(0, samples, batch_size):
            z = prior.sample(batch_size, model.latent_dim, generator)
            yield model.decode(z.unsqueeze(0))[0, : samples - start]


def reconstructed(
    model: IntroVAE, batches: Iterable[Tensor], generator: torch.Generator, samples: int | None = None
) -> Iterator[Tensor]:
    """Reconstructions of uint8 batches, each from one sampled z per image (not the mean).

    With ``samples``, of as many images: the last batch that it takes goes through whole and is then cut.
    """
    with torch.no_grad():
        for batch in batches:
            posterior = model.encode(to_unit(batch.to(generator.device)).unsqueeze(0))
            noise = torch.empty_like(posterior.mean).normal_(generator=generator)
            images = model.decode(posterior.sample(noise))[0]
            if samples is not None:
                images = images[:samples]
                samples -= len(images)
            yield images
            if samples == 0:
                return


@torch.no_grad()
def estimate_running_statistics(
    model: IntroVAE, split: ImageSplit, batch_size: int, generator: torch.Generator
) -> None:
    """One pass over the shuffled training set in training mode, then evaluation mode.

    With BatchNorm's momentum of 0.1 the running statistics become those of the last few dozen batches of real images
    and of their reconstructions, where training had left those of whatever was fed last. Where the set has few batches,
    as many passes follow as bring the share of the old statistics below 1 %; those of the paper are never so small.
    """
    model.train()
    batches = Epochs(split.images, batch_size, generator.device)
    passes = math.ceil(_FORGOTTEN / batches.iterations)
    for iteration in range(passes * batches.iterations):
        posterior = model.encode(batches(iteration, [0]))
        model.decode(posterior.sample(torch.empty_like(posterior.mean).normal_(generator=generator)))
    model.eval()


@torch.no_grad()
def posteriors(model: IntroVAE, images: Tensor, device: torch.device) -> Posterior:
    """Posteriors of uint8 images under a model in evaluation mode, ``[N, D]`` each."""
    parts = [model.encode(to_unit(part.to(device)).unsqueeze(0)) for part in images.split(_CHUNK)]
    return Posterior(torch.cat([q.mean[0] for q in parts]), torch.cat([q.logvar[0] for q in parts]))


def _prepared(model: IntroVAE, run: Run, epoch: int, train: ImageSplit, options: Distances, device: Any) -> None:
    """Bring a model into the mode in which it is to generate."""
    if options.sampling == "running":
        estimate_running_statistics(model, train, run.training.batch_size, stream(run, epoch, 3, device))
    else:
        model.train()


# Distances


def distances(
    snapshots: Snapshots,
    train: ImageSplit,
    references: Mapping[str, Statistics],
    extractor: Extractor,
    options: Distances,
    device: torch.device,
    skip: Iterable[int] = (),
) -> list[dict[str, Any]]:
    """The distance of generated images to the training set at every snapshot of a run but those of epochs to ``skip``.

    ``references`` are statistics of the training set ``train``, by kind of features; those of ``extractor``.

    Returns:
        rows with the columns ``DISTANCE_COLUMNS``.
    """
    run, rows = snapshots.run, []
    _check_counts(references, options)
    epochs = sorted(set(snapshots.states) - set(skip))
    for epoch in tqdm(epochs, desc=f"{run.dataset} {run.cell.name}", unit="snapshot"):
        model = snapshots.model(epoch, device)
        _prepared(model, run, epoch, train, options, device)
        batches = generated(model, options.samples, run.training.batch_size, stream(run, epoch, 0, device))
        for name, value in _compared(extractor.gather(batches), references, options).items():
            rows.append({**snapshots.describe(), "epoch": epoch, "metric": f"{name}_gen", **outcome(value)})
    return rows


def _check_counts(references: Mapping[str, Statistics], options: Distances) -> None:
    if not options.allow_few:
        for statistics in references.values():
            check_count(options.samples, len(statistics.mean))


def _compared(
    found: Mapping[str, Statistics], references: Mapping[str, Statistics], options: Distances
) -> dict[str, float]:
    return {
        name: frechet_distance(statistics, references[name], allow_few=options.allow_few)
        for name, statistics in found.items()
    }


def choose_checkpoint(rows: Iterable[Mapping[str, Any]], metric: str, rule: str) -> int:
    """The epoch whose model is reported.

    Args:
        rows: of :func:`distances`, of one run, with NaN for what diverged.
        metric: what decides, for example ``fid_authors_gen``.
        rule: ``best``, the lowest distance among the evaluated epochs, the earliest where they tie (authors' code);
            ``last``, the latest evaluated epoch.

    Raises:
        UserError: no epoch was evaluated.
    """
    candidates = {row["epoch"]: row["value"] for row in rows if row["metric"] == metric}
    if not candidates:
        raise UserError(f"distances: none called {metric}; delete the file and run again to make it anew")
    if rule == "last":
        return max(candidates)
    return min(candidates, key=lambda epoch: (math.inf if math.isnan(candidates[epoch]) else candidates[epoch], epoch))


# All the rest


@torch.no_grad()
def evaluate(
    snapshots: Snapshots,
    known: Sequence[Mapping[str, Any]],
    train: ImageSplit,
    test: ImageSplit,
    references: Mapping[str, Statistics],
    extractor: Extractor,
    options: EvaluateImages,
    device: torch.device,
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """What is told of one run, at the checkpoint that its distances (``known``) choose by the first kind of features.

    References and extractor are as for :func:`distances`; ``train_images`` of the options (a number, or ``all``) are
    encoded for the probes to learn from.

    Returns:
        rows with the columns ``METRIC_COLUMNS``; the arrays of codes.npz; those of panels.npz.
    """
    run, size = snapshots.run, snapshots.run.training.batch_size
    _check_counts(references, options)
    epoch = choose_checkpoint(known, f"{extractor.names[0]}_gen", options.checkpoint)
    model = snapshots.model(epoch, device)
    _prepared(model, run, epoch, train, options, device)
    real_ones = real_batches(train, options.samples, size, cut=False)
    batches = reconstructed(model, real_ones, stream(run, epoch, 1, device), options.samples)
    compared = _compared(extractor.gather(batches), references, options)
    shown = generated(model, max(size, options.grid_images), size, stream(run, epoch, 0, device))
    samples = torch.cat(list(shown))[: options.grid_images]
    if model.training:
        estimate_running_statistics(model, train, size, stream(run, epoch, 3, device))

    noise = stream(run, epoch, 2, device)
    prior, coded = model.distribution().member(0), posteriors(model, test.images, device)
    entropies = _entropies(prior, coded, size, noise, options.monte_carlo_samples)
    chosen = slice(None if options.train_images == "all" else options.train_images)
    status = {name: snapshots.record[name] for name in ("status", "detail")}
    learned = _codes("train", posteriors(model, train.images[chosen], device), train.labels[chosen], noise)
    codes = {**snapshots.named, **learned, **_codes("test", coded, test.labels, noise), **status}
    real = test.images[: options.grid_images // 2]
    (reconstructions,) = reconstructed(model, [real], noise)
    panels = {
        **snapshots.named,
        "title": train.manifest["title"],
        "epoch": epoch,
        "samples": _bytes(samples),
        "real": real.numpy(),
        "reconstructions": _bytes(reconstructions),
        "z": codes["test"][: options.latent_points].astype(np.float32),
        "labels": codes["test_labels"][: options.latent_points],
        **_components(prior, model.latent_dim),
        "classes": np.array(train.manifest["classes"]),
        **status,
    }
    values = {
        "checkpoint_epoch": float(epoch),
        # The number that chose the epoch is the one that is reported, as in the authors' code.
        **{row["metric"]: row["value"] for row in known if row["epoch"] == epoch},
        **{f"{name}_rec": value for name, value in compared.items()},
        **entropies,
    }
    named, record = snapshots.describe(), snapshots.record
    rows = [{**named, "metric": name, **outcome(value, record)} for name, value in values.items()]
    return rows, codes, panels


def _entropies(
    prior: Distribution, posterior: Posterior, batch_size: int, generator: torch.Generator, samples: int
) -> dict[str, float | None]:
    """Those of the responsibilities, by metric: 0 where one component takes all, None where there are none."""
    mixture = prior.components()
    if mixture is None:
        return dict.fromkeys(("entropy_per_batch", "entropy_pooled"), 0.0 if prior.single else None)
    found = normalised_entropy(
        *posterior, mixture, batch_size=batch_size, generator=generator, monte_carlo_samples=samples
    )
    return {f"entropy_{name}": value for name, value in found._asdict().items()}


def _codes(name: str, posterior: Posterior, labels: Tensor, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Of each image of a split one sampled z, and its label."""
    sampled = posterior.sample(torch.empty_like(posterior.mean).normal_(generator=generator))
    return {name: sampled.cpu().numpy(), f"{name}_labels": labels.numpy()}


def _components(prior: Distribution, dim: int) -> dict[str, np.ndarray]:
    """Those of the prior, for figures; none where it has none."""
    means = logvars = torch.empty(0, dim)
    weights = torch.empty(0)
    if (mixture := prior.components()) is not None:
        means, logvars, weights = mixture.means, mixture.logvars, mixture.log_weights.exp()
    arrays = {"prior_means": means, "prior_logvars": logvars, "prior_weights": weights}
    return {name: array.cpu().numpy() for name, array in arrays.items()}


def _bytes(images: Tensor) -> np.ndarray:
    """Decoded images as uint8; what is not finite is black."""
    return (255 * inception.rounded(images.nan_to_num(0.0))).round().byte().cpu().numpy()
