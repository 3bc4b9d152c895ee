"""What jobs are told: the options of each command as a model, and what the configuration makes of a rule's wildcards.

A rule hands its options on as JSON (:func:`as_json`), a command reads them once. All that a result depends on is among
them, and nothing else: Snakemake compares the text to tell whether a result is outdated. Resolvers take the whole
configuration and the rule's wildcards by name; of what is unknown or impossible they say so with a UserError, for
results are asked for by their paths, too.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from introprior.data import catalogue
from introprior.data.images import catalogue as image_catalogue
from introprior.data.images import folders
from introprior.errors import UserError
from introprior.experiment import fields
from introprior.experiment.cells import Cell
from introprior.experiment.config import Configuration, image_cell
from introprior.experiment.config.density import Cuts, DensityEvaluation, beta_neg
from introprior.experiment.config.images import OfDataset, text
from introprior.experiment.fields import Model, shown, wrong
from introprior.experiment.protocol import EvaluationProtocol, TrainingProtocol
from introprior.experiment.run import DensityTraining, ImageTraining, OwnPoints, Points

OfInception = Literal["fid_authors", "fid"]
OfClassifier = Literal["fd_classifier"]
Features = Literal[OfInception, OfClassifier]

FEATURES: dict[str, tuple[Features, ...]] = {"inception": get_args(OfInception), "classifier": get_args(OfClassifier)}
"""The distances that each kind of features gives."""

PAPER = Configuration()
BETAS = ("beta_rec", "beta_kl", "beta_neg")


def _betas(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
    if not 2 <= len(values) <= 3 or None in values[:2]:
        raise wrong("", f"must be beta_rec, beta_kl and, but for a VAE, beta_neg, are {shown(values)}")
    return values


Betas = Annotated[fields.Listed[fields.Positive | None], AfterValidator(_betas)]
"""beta_rec, beta_kl, beta_neg; the last is None, or left out, for a VAE, which has no fakes."""

# ---- The options of each command; defaults are as in the paper ----


Datasets = Annotated[fields.Some[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""One by its name, or a list."""


class _OfCell(Model):
    cell: fields.Cell
    protocol: TrainingProtocol = TrainingProtocol()


class Search(_OfCell):
    """Options of ``introprior search``: one slice of a cell's grid."""

    dataset: str
    points: OwnPoints = Field(default_factory=dict)
    training: DensityTraining = DensityTraining()
    seed: fields.Seed = PAPER.density.search.seed
    betas: fields.OneOrMore[Betas]
    samples: fields.Count = PAPER.density.search.samples
    halving: Cuts | None = None


class Train(_OfCell):
    """Options of ``introprior train`` in 2D: all seeds of a cell, on one dataset or several."""

    dataset: Datasets
    points: OwnPoints = Field(default_factory=dict)
    training: DensityTraining = DensityTraining()
    seeds: fields.Some[fields.Seed] = PAPER.density.seeds
    betas: Betas | None = None


class Evaluate(DensityEvaluation):
    """Options of ``introprior evaluate`` in 2D; what is named is only compared with the models."""

    points: OwnPoints = Field(default_factory=dict)
    dataset: Datasets | None = None
    cell: str | None = None
    panel_grid: fields.Grid = PAPER.figure3.grid
    panel_points: fields.Size = PAPER.figure3.points
    panel_seed: fields.Seed | None = None


class TrainImages(_OfCell):
    """Options of ``introprior warmup`` and, on images, ``introprior train``: one run."""

    dataset: str
    training: ImageTraining
    seeds: fields.Some[fields.Seed] = PAPER.images.seeds[:1]
    betas: Betas | None = None
    iterations_per_epoch: fields.Count | None = None
    snapshots: fields.Listed[fields.Natural] | None = None


class Classifier(Model):
    """Options of ``introprior classifier``."""

    epochs: fields.Epochs = PAPER.images.evaluation.classifier_epochs
    seed: fields.Seed = 0


class Reference(Model):
    """Options of ``introprior reference``."""

    features: Features = "fid_authors"
    samples: fields.Count = PAPER.images.evaluation.samples
    batch_size: fields.Count = PAPER.images.by_dataset["FMNIST"].batch_size


class _OfRun(Model):
    """A run on images, with whose name that of a model or of codes is compared, if it is given."""

    dataset: str | None = None
    cell: str | None = None
    r_entropy: fields.Weight | None = None
    seed: fields.Seed | None = None


class Distances(_OfRun):
    """Options of ``introprior distances``; ``batch_size`` is only compared with the model, too."""

    features: fields.Some[Features] = FEATURES["inception"]
    samples: fields.Count = PAPER.images.evaluation.samples
    sampling: Literal["batch", "running"] = EvaluationProtocol().sampling_batchnorm
    allow_few: bool = PAPER.images.evaluation.allow_few
    batch_size: fields.Count | None = None


class EvaluateImages(Distances):
    """Options of ``introprior evaluate`` on images; the first of the features chooses."""

    checkpoint: Literal["best", "last"] = EvaluationProtocol().checkpoint
    monte_carlo_samples: fields.Count = PAPER.images.evaluation.monte_carlo_samples
    grid_images: fields.Count = PAPER.images.evaluation.grid_images
    latent_points: fields.Count = PAPER.images.evaluation.latent_points
    train_images: fields.AllOrCount = PAPER.images.probes.train_images


class Probe(_OfRun):
    """Options of ``introprior probe``."""

    svm_iterations: fields.FewAndMany = PAPER.images.probes.svm_iterations
    neighbours: fields.FewAndMany = PAPER.images.probes.neighbours


class Overfit(_OfRun):
    """Options of ``introprior overfit``: the weights come with the model, beside 1 only beta_neg is told."""

    iterations: fields.Count = PAPER.figureS2.iterations
    beta_neg: fields.Positive = PAPER.images.by_dataset["FMNIST"].beta_neg
    checkpoint: Literal["best", "last"] = EvaluationProtocol().checkpoint


# ---- Resolving: two dimensions ----


def as_json(options: Model | Mapping[str, Any]) -> str:
    """Options as JSON, the same text for the same options."""
    plain = options.model_dump(mode="json") if isinstance(options, Model) else options
    return json.dumps(plain, sort_keys=True, allow_nan=False)


def _picked(model: type[Model], *sections: Model, **said: Any) -> dict[str, Any]:
    """Options of a model: what is said, and of the sections what the model knows."""
    found = {key: getattr(each, key) for each in sections for key in type(each).model_fields}
    return {key: value for key, value in (found | said).items() if key in model.model_fields}


def searched(config: Configuration) -> str:
    """A regular expression for the names of the cells whose grid is searched; wildcards of the workflow need one."""
    search = config.density.search
    if not search.enabled:
        return "(?!)"  # none
    return "(?![^/]*-dt)[^/]+" if search.cells == "all" else "|".join(map(re.escape, search.cells))


def grid(config: Configuration, cell: str) -> list[list[list[float | None]]]:
    """The settings to search for a cell, in groups that differ only in beta_neg."""
    search = config.density.search
    if not Cell.parse(cell, "results").adversarial:
        return [[[rec, kl, None]] for rec in search.vae.beta_rec for kl in search.vae.beta_kl]
    return [
        [[rec, kl, beta_neg(kl, multiple)] for multiple in search.beta_neg_multiples]
        for rec in search.beta_rec
        for kl in search.beta_kl
    ]


def slices(config: Configuration, cell: str) -> list[list[list[float | None]]]:
    """The settings to search for a cell, cut into jobs of at most ``members_per_job`` (at least one group each).

    Groups stay whole, since the settings that differ only in beta_neg share their warm-up inside a job.
    """
    jobs: list[list[list[float | None]]] = []
    for group in grid(config, cell):
        if jobs and len(jobs[-1]) + len(group) <= config.density.search.members_per_job:
            jobs[-1].extend(group)
        else:
            jobs.append(list(group))
    return jobs


def search(config: Configuration, dataset: str, cell: str, slice: int | str) -> dict[str, Any]:
    """Options of one slice of a cell's grid."""
    chosen, jobs = config.density.search, slices(config, cell)
    if int(slice) >= len(jobs):
        raise UserError(f"results: the grid of {cell} has no slice {slice}, its last is {len(jobs) - 1}")
    halving = _picked(Cuts, chosen.halving) if chosen.halving.enabled else None
    run = _density_run(config, dataset, cell) | _points(config, dataset)
    return {**run, "seed": chosen.seed, "betas": jobs[int(slice)], "samples": chosen.samples, "halving": halving}


def hyperparameters(config: Configuration, dataset: str, cell: str) -> dict[str, Any]:
    """The content of ``hyperparameters.json`` for a cell that is not searched: the configuration's or published values.

    The paper prints S-IntroVAE's with the standard Gaussian prior only (Table 3); mixtures take the same. A VAE has
    weights of its own, which stand in the authors' code, credited to Daniel and Tamar (protocol note 2.7). Cells that
    are defined by published values (``-dt``) take the configuration's only on a dataset that has none.
    """
    known = Cell.parse(cell, "results")
    source, betas = _published(config, dataset, known)
    own = config.density.search.own.get(dataset, {})
    weights = own.get(cell) or own.get("all")
    if weights and not (known.published_betas and betas):
        source, betas = "own", dict(zip(BETAS, weights, strict=True))
        if not known.adversarial:
            betas["beta_neg"] = None
    if not betas:
        raise UserError(f"{dataset}, {cell}: no published hyperparameters; give your own in density.search.own")
    return {"dataset": dataset, "cell": cell, **betas, "source": source, "settings": None, "diverged": None, "KL": None}


def _published(config: Configuration, dataset: str, cell: Cell) -> tuple[str, dict[str, float | None]]:
    """The published weights of a cell, and what they are called; none for a dataset that is not the paper's."""
    if not cell.adversarial:
        rows = _paper("vae.csv", dataset)
        return "vae", {name: float(row[name]) if name in row else None for row in rows for name in BETAS}
    source = "daniel-tamar" if cell.published_betas else config.density.search.published
    column = {"table3": "grid_search_optimum", "daniel-tamar": "daniel_tamar_2021"}[source]
    return source, {row["hyperparameter"]: float(row[column]) for row in _paper("table3.csv", dataset)}


def _paper(name: str, dataset: str) -> list[dict[str, str]]:
    """The rows of a dataset in a file of published numbers; introprior.paper itself would bring pandas."""
    lines = (resources.files("introprior") / "paper" / name).read_text(encoding="utf-8").splitlines()
    return [row for row in csv.DictReader(lines) if row["dataset"] == dataset]


def train(config: Configuration, cell: str, dataset: str | None = None) -> dict[str, Any]:
    """Options of the training of all seeds of a cell, on a dataset or on all of them at once."""
    return {**_density_run(config, dataset, cell), "seeds": config.density.seeds}


def evaluate(config: Configuration, cell: str, dataset: str | None = None) -> dict[str, Any]:
    """Options of the evaluation of a cell, on a dataset or on all."""
    figure = config.figure3
    panel = {"panel_grid": figure.grid, "panel_points": figure.points, "panel_seed": figure.seed}
    named = {"dataset": dataset or config.density.datasets, "cell": cell}
    return {**_picked(Evaluate, config.density.evaluation, **named, **panel), **_points(config, dataset)}


def _density_run(config: Configuration, dataset: str | None, cell: str) -> dict[str, Any]:
    """What a run depends on, apart from its seed and betas."""
    for name in [dataset] if dataset else config.density.datasets:
        catalogue.dataset(name, "results")
    Cell.parse(cell, "results")
    protocol = config.resolved_protocol.training.dump(half="density")
    named = {"dataset": dataset or config.density.datasets, "cell": cell, **_points(config, dataset, window=False)}
    return {**named, "protocol": protocol, "training": config.density.training.dump()}


def own_points(config: Configuration, dataset: str | None) -> dict[str, Points]:
    """Those of the configuration's points that a job on a dataset, or on all, draws from."""
    known = config.density.points
    return {name: known[name] for name in ([dataset] if dataset else config.density.datasets) if name in known}


def _points(config: Configuration, dataset: str | None, window: bool = True) -> dict[str, Any]:
    """What a job is told of them, if there are any; to a training their window is nothing."""
    own = own_points(config, dataset)
    left_out = set() if window else {"half_width"}
    return {"points": {name: one.model_dump(exclude=left_out) for name, one in own.items()}} if own else {}


# ---- Resolving: images ----


def features(config: Configuration) -> list[str]:
    """The distances that are computed, the one that chooses checkpoints and r_entropy first."""
    names = FEATURES[config.images.evaluation.features]
    first = config.resolved_protocol.evaluation.fid == "training-mode"
    return sorted(names, key=lambda name: name == "fid_authors", reverse=first)


def named(config: Configuration) -> dict[str, str]:
    """What a configuration's results call ``gen``, ``rec`` and ``entropy``."""
    primary, entropy = features(config)[0], config.resolved_protocol.report.entropy.replace("-", "_")
    return {"gen": f"{primary}_gen", "rec": f"{primary}_rec", "entropy": f"entropy_{entropy}"}


def family(cell: str) -> str:
    """The prior family of an image cell, with size and LC, which shares its warm-ups."""
    return image_cell(cell, "results").warmup


def unverified(config: Configuration, dataset: str) -> str:
    """Where files come from that need not be the published ones: another place outdates what was made of them."""
    if own := _section(config, dataset).folder:
        return folders.fingerprint(own)
    return "" if config.images.verify else config.images.source or ""


def pictures(config: Configuration, dataset: str) -> list[str]:
    """What ``introprior prepare`` is told of somebody's own pictures; nothing of other datasets."""
    own = _section(config, dataset)
    if own.folder is None:
        return []
    return ["--pictures", own.folder, "--size", str(own.size), "--channels", str(own.channels or 3)]


def classifier(config: Configuration, dataset: str) -> dict[str, Any]:
    """Options of the classifier of a dataset; one serves all runs, whatever their seeds."""
    _section(config, dataset)
    return {"epochs": config.images.evaluation.classifier_epochs, "seed": 0}


def reference(config: Configuration, dataset: str, features: str) -> dict[str, Any]:
    """Options of the statistics of a training set: the kind of features, how many images, in batches of which size."""
    return _picked(Reference, config.images.evaluation, _section(config, dataset), features=features)


def warmup(config: Configuration, dataset: str, family: str, seed: int | str) -> dict[str, Any]:
    """Options of a warm-up; nothing of the game is among them."""
    if (known := image_cell(family, "results").warmup) != family:
        raise UserError(f"results: {family} is no prior family; {known} is")
    length = config.images.training.warmup_epochs
    run = _image_run(config, dataset, family, seed, length + 1, stage="warmup")
    snapshots = [epoch for epoch in config.images.evaluation.epochs if epoch < length]
    return {**run, "betas": run["betas"][:2], "snapshots": snapshots}


def game(config: Configuration, dataset: str, cell: str, r_entropy: str, seed: int | str) -> dict[str, Any]:
    """Options of a run."""
    epochs = config.images.training.epochs
    last = {epochs} if config.resolved_protocol.evaluation.checkpoint == "last" else set()
    return _game(config, dataset, cell, r_entropy, seed, epochs, {*config.images.evaluation.epochs, *last})


def clipping(config: Configuration, dataset: str, cell: str, r_entropy: str, seed: int | str) -> dict[str, Any]:
    """Options of a run of Figure 2."""
    epochs = config.figure2.epochs
    return _game(config, dataset, cell, r_entropy, seed, epochs, range(0, epochs + 1, config.figure2.every))


def distances(config: Configuration, dataset: str, **run: str) -> dict[str, Any]:
    """Options of the distances of a run or warm-up."""
    sampling = config.resolved_protocol.evaluation.sampling_batchnorm
    sections = config.images.evaluation, _section(config, dataset)
    return _picked(Distances, *sections, sampling=sampling, features=features(config), **_named(dataset, **run))


def evaluate_images(config: Configuration, dataset: str, **run: str) -> dict[str, Any]:
    """Options of the evaluation of a run."""
    sections = config.images.evaluation, config.images.probes, config.resolved_protocol.evaluation
    return _picked(EvaluateImages, *sections, **distances(config, dataset, **run))


def probe(config: Configuration, dataset: str, **run: str) -> dict[str, Any]:
    """Options of the probes of a run."""
    return _picked(Probe, config.images.probes, **_named(dataset, **run))


def _named(dataset: str, seed: str, cell: str = "", family: str = "", r_entropy: str = "0") -> dict[str, Any]:
    """A run on images by its wildcards, or a warm-up, whose cell is its family."""
    return {"dataset": dataset, "cell": cell or family, "r_entropy": float(r_entropy), "seed": int(seed)}


def overfit(config: Configuration, dataset: str) -> dict[str, Any]:
    """Options of the encoder study."""
    sections = config.figureS2, config.resolved_protocol.evaluation, _section(config, dataset)
    return _picked(Overfit, *sections, dataset=dataset)


def _section(config: Configuration, dataset: str) -> OfDataset:
    image_catalogue.dataset(dataset, "results")
    if dataset not in config.images.by_dataset:
        raise UserError(f"results: {dataset} has no section; give it one in images.by_dataset")
    return config.images.by_dataset[dataset]


def _image_run(
    config: Configuration, dataset: str, cell: str, seed: int | str, epochs: int, r_entropy: float = 0.0, **stage: str
) -> dict[str, Any]:
    """What a run of so many epochs is told, or its ``stage``, but for the snapshots that it keeps."""
    given, section, facts = config.images.training, _section(config, dataset), image_catalogue.DATASETS[dataset]
    per_epoch = math.ceil(facts.train / section.batch_size)  # the last batch may be short
    counts = {
        "iterations": epochs * per_epoch,
        "warmup_iterations": given.warmup_epochs * per_epoch,
        "mixture_warmup_iterations": given.mixture_warmup_epochs * per_epoch,
    }
    numbers = _picked(ImageTraining, given, section, shape=facts.shape, r_entropy=r_entropy, **counts)
    return {
        "dataset": dataset,
        "cell": cell,
        "seeds": [int(seed)],
        "iterations_per_epoch": per_epoch,
        "protocol": config.resolved_protocol.training.dump(half="images", **stage),
        "training": ImageTraining(**numbers).dump(**stage),
        "betas": [given.beta_rec, given.beta_kl, section.beta_neg],
    }


def _game(
    config: Configuration,
    dataset: str,
    cell: str,
    r_entropy: str,
    seed: int | str,
    epochs: int,
    measured: Iterable[int],
) -> dict[str, Any]:
    weight = _weight(image_cell(cell, "results"), r_entropy)
    snapshots = [epoch for epoch in sorted(measured) if epoch >= config.images.training.warmup_epochs]
    return {**_image_run(config, dataset, cell, seed, epochs, weight), "snapshots": snapshots}


def _weight(cell: Cell, r_entropy: str) -> float:
    """The weight that a path names, which is one only as :func:`text` writes it."""
    try:
        weight = float(r_entropy)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf or text(weight) != r_entropy:
        raise UserError(f"results: r{r_entropy} is no weight of the responsibility entropy; an example is r10")
    if weight and not cell.family.components:
        raise UserError(f"results: {cell.name} has no components that r_entropy could bear on; ask for r0")
    return weight
