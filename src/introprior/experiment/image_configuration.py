"""The image half of the configuration: what the schema cannot say about it, and the options of its jobs.

`introprior.experiment.configuration` calls the checks when it has read a configuration; the rules ask for the options.
As light as that module: neither torch, pandas nor numpy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from introprior.data.images import DATASETS, ImageDataset
from introprior.data.images import dataset as image_dataset
from introprior.errors import UserError
from introprior.experiment import protocols
from introprior.experiment.cells import Cell, parse

Config = Mapping[str, Any]


FEATURES = {"inception": ("fid_authors", "fid"), "classifier": ("fd_classifier",)}
"""The distances that each kind of features gives."""

DIMENSIONS = {"inception": 2048, "classifier": 64}
"""The length of the features, kept equal (by a test) to those of the networks."""

PROTOCOL = ("image_streams", "checkpoint", "fid", "sampling_batchnorm", "entropy")
"""Options of the protocol that bear on images alone."""

_WARMUP = ("conversion", "conversion_logits", "conversion_resets_optimizers", "component_variance", "image_streams")
_NOT_TRAINING = {"spread", "checkpoint", "fid", "sampling_batchnorm", "entropy", "learning_rate_decay"}
_REAL_OPTIONS = ("learning_rate", "alpha", "gamma", "gamma_r", "clip_steepness")
_GAME_OPTIONS = ("alpha", "gamma", "gamma_r")
_SHOWN = {"weights", "allow_few", "grid_images", "latent_points"}
"""Of the evaluation, what bears on no number in a table."""


# ---- Checking ----


def check(config: Config) -> None:
    """Check what the schema cannot say; called when the configuration fits the schema.

    Raises:
        UserError: the first thing that is wrong.
    """
    images = config["images"]
    for name in images["by_dataset"]:
        image_dataset(name, "configuration: images.by_dataset")
    for i, name in enumerate(images["datasets"]):
        _known(name, images, f"configuration: images.datasets[{i}]")
    _check_epochs(images["training"], images["evaluation"])
    _check_cells(config)
    _check_r_entropy(config)
    _check_shown(config)
    for name in images["datasets"]:
        _check_dataset(config, name)
    _check_probes(images)


def _wrong(path: str, problem: str) -> UserError:
    return UserError(f"configuration: {path}: {problem}")


def _known(name: str, images: Config, where: str) -> ImageDataset:
    entry = image_dataset(name, where)
    if name not in images["by_dataset"]:
        raise UserError(f"{where}: {name} has no section; give it one in images.by_dataset")
    return entry


def _rising(path: str, values: Sequence[float]) -> None:
    if list(values) != sorted(values):
        raise _wrong(path, f"must rise, are {_listed(values)}")


def _check_epochs(training: Config, evaluation: Config) -> None:
    epochs, warmup, mixture = (training[key] for key in ("epochs", "warmup_epochs", "mixture_warmup_epochs"))
    if warmup >= epochs:
        raise _wrong("images.training.warmup_epochs", f"must be below epochs, {epochs}, is {warmup}")
    if mixture > warmup:
        problem = f"must be at most warmup_epochs, {warmup}, is {mixture}"
        raise _wrong("images.training.mixture_warmup_epochs", problem)
    evaluated = evaluation["epochs"]
    _rising("images.evaluation.epochs", evaluated)
    if evaluated[-1] > epochs:
        problem = f"must be at most images.training.epochs, {epochs}, is {evaluated[-1]}"
        raise _wrong(f"images.evaluation.epochs[{len(evaluated) - 1}]", problem)
    if evaluated[-1] < warmup:
        raise _wrong("images.evaluation.epochs", f"all are within the warm-up; add one from {warmup} on")


def _check_cells(config: Config) -> None:
    for path in ("tables.table2", "tables.table5"):
        section, table = path.split(".")
        for i, name in enumerate(config[section][table]):
            _image_cell(name, f"configuration: {path}[{i}]", clipped=True)
    trained = cells(config)
    for i, name in enumerate(config["latents"]["cells"]):
        _among("latents.cells", i, name, trained, "tables.table2 and table5")
    study = config["figure2"]["cell"]
    cell = _image_cell(study, "configuration: figure2.cell", clipped=True)
    if not cell.intro_prior:
        raise _wrong(
            "figure2.cell", f"{study} has nothing to clip; choose one with -ip, whose prior learns in the game"
        )
    _among("figureS2.cell", None, config["figureS2"]["cell"], trained, "tables.table2 and table5")


def _image_cell(name: str, where: str, clipped: bool = False) -> Cell:
    """The cell of an image run: a game with the betas of its dataset and the KL by sampling.

    Args:
        name: its name.
        where: the place to blame.
        clipped: refuse ``-unclipped``, which only the two runs of Figure 2 know.

    Raises:
        UserError: no cell, or none for images.
    """
    cell = parse(name, where)
    bad = None
    if not cell.adversarial:
        bad = "vae-"
    elif cell.published_betas:
        bad = "-dt"
    elif cell.closed_form_kl:
        bad = "-closed"
    elif clipped and cell.intro_prior and not cell.clipped:
        raise UserError(f"{where}: {name}: -unclipped is for Figure 2, which adds it to figure2.cell; drop it")
    if bad:
        raise UserError(f"{where}: {name}: image runs have no {bad}; drop it")
    return cell


def _among(path: str, index: int | None, value: object, known: Iterable[object], where: str) -> None:
    known = list(known)
    if value not in known:
        place = path if index is None else f"{path}[{index}]"
        raise _wrong(place, f"{value} is not trained; choose one of {where}: {_listed(known)}")


def _check_r_entropy(config: Config) -> None:
    weights = config["images"]["r_entropy"]
    names = [text(value) for value in weights]
    for i, (value, name) in enumerate(zip(weights, names, strict=True)):
        if float(name) != value:
            raise _wrong(f"images.r_entropy[{i}]", f"{value} has more than six digits, too many for a path; try {name}")
    for i, value in enumerate(config["figure4"]["r_entropy"]):
        _among("figure4.r_entropy", i, value, weights, "images.r_entropy")
    value = config["figure2"]["r_entropy"]
    if float(text(value)) != value:
        raise _wrong("figure2.r_entropy", f"{value} has more than six digits, too many for a path; try {text(value)}")
    study = config["figureS2"]
    _among(
        "figureS2.r_entropy", None, study["r_entropy"], r_entropies(config, study["cell"]), f"those of {study['cell']}"
    )


def _check_shown(config: Config) -> None:
    images, figure2 = config["images"], config["figure2"]
    for path in ("figure2", "figureS2"):
        _among(f"{path}.dataset", None, config[path]["dataset"], images["datasets"], "images.datasets")
    for path in ("latents", "figureS2"):
        _among(f"{path}.seed", None, config[path]["seed"], images["seeds"], "images.seeds")
    warmup = images["training"]["warmup_epochs"]
    if figure2["epochs"] <= warmup:
        problem = f"must be above images.training.warmup_epochs, {warmup}, is {figure2['epochs']}"
        raise _wrong("figure2.epochs", problem)
    if figure2["every"] > figure2["epochs"]:
        raise _wrong("figure2.every", f"must be at most epochs, {figure2['epochs']}, is {figure2['every']}")


def _check_dataset(config: Config, name: str) -> None:
    images, facts = config["images"], DATASETS[name]
    section, path = images["by_dataset"][name], f"images.by_dataset.{name}"
    halvings = len(section["widths"])
    if any(side % 2**halvings for side in facts.shape[1:]):
        size = f"{facts.shape[1]}x{facts.shape[2]}"
        problem = f"{halvings} widths halve {size} images more often than they can be; use fewer"
        raise _wrong(f"{path}.widths", problem)
    if section["batch_size"] > facts.train:
        raise _wrong(
            f"{path}.batch_size", f"must be at most the {facts.train} training images, is {section['batch_size']}"
        )
    figure2 = config["figure2"]
    places = [(f"tables.{table}", cell) for table in ("table2", "table5") for cell in config["tables"][table]]
    for where, cell in [*places, *([("figure2.cell", figure2["cell"])] if figure2["dataset"] == name else [])]:
        if parse(cell).size > facts.train:
            raise _wrong(where, f"{cell} has more components than {name} has training images, {facts.train}")
    evaluation = images["evaluation"]
    for key, most, reason in (
        ("samples", facts.train, "the training images"),
        ("latent_points", facts.test, "the test images"),
        ("grid_images", 2 * facts.test, "twice the test images"),  # half of them are reconstructions
    ):
        if evaluation[key] > most:
            problem = f"must be at most {most}, {reason} of {name}, is {evaluation[key]}"
            raise _wrong(f"images.evaluation.{key}", problem)


def _check_probes(images: Config) -> None:
    evaluation, probes = images["evaluation"], images["probes"]
    samples, kind = evaluation["samples"], evaluation["features"]
    if samples < DIMENSIONS[kind] and not evaluation["allow_few"]:
        problem = f"must be at least {DIMENSIONS[kind]}, the dimensions of {kind} features, is {samples}"
        raise _wrong("images.evaluation.samples", f"{problem}; take more, or set allow_few: true")
    for key in ("svm_iterations", "neighbours"):
        _rising(f"images.probes.{key}", probes[key])
    for name in images["datasets"]:
        available, asked = DATASETS[name].train, probes["train_images"]
        if asked != "all" and asked > available:
            problem = f"must be at most {available} (training images of {name}), is {asked}; take fewer, or all"
            raise _wrong("images.probes.train_images", problem)
        count = available if asked == "all" else asked
        if probes["neighbours"][-1] > count:
            problem = (
                f"must be at most {count}, the codes that there are to search for {name}, is {probes['neighbours'][-1]}"
            )
            raise _wrong("images.probes.neighbours[1]", problem)


# ---- What there is ----


def cells(config: Config) -> list[str]:
    """All cells trained on images, each once: those of Tables 2 and 5."""
    return list(dict.fromkeys([*config["tables"]["table2"], *config["tables"]["table5"]]))


def r_entropies(config: Config, cell: str) -> list[float]:
    """The weights of the responsibility entropy that are tried for a cell; 0 where its prior has no components."""
    return config["images"]["r_entropy"] if parse(cell).family.components else [0]


def text(r_entropy: float) -> str:
    """A weight as in paths."""
    return f"{r_entropy:g}"


def runs(
    config: Config,
    cells: Iterable[str],
    *,
    datasets: Iterable[str] | None = None,
    r_entropy: Iterable[float] | None = None,
    seeds: Iterable[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """The wildcards of the runs of some cells: dataset, cell, r_entropy, seed.

    Args:
        config: the whole configuration.
        cells: which cells.
        datasets, r_entropy, seeds: some instead of all.
    """
    images = config["images"]
    cells, seeds = list(cells), list(images["seeds"] if seeds is None else seeds)
    for dataset in images["datasets"] if datasets is None else datasets:
        for cell in cells:
            for weight in r_entropies(config, cell) if r_entropy is None else r_entropy:
                for seed in seeds:
                    yield {"dataset": dataset, "cell": cell, "r_entropy": text(weight), "seed": seed}


def features(config: Config) -> list[str]:
    """The distances that are computed, the one that chooses checkpoints and r_entropy first."""
    names = FEATURES[config["images"]["evaluation"]["features"]]
    return sorted(names, key=lambda name: name == "fid_authors", reverse=_protocol(config).fid == "training-mode")


def family(cell: str) -> str:
    """The prior family of an image cell, which shares its warm-ups.

    Raises:
        UserError: no cell, or none for images.
    """
    return _image_cell(cell, "results").warmup


def entropy(config: Config) -> str:
    """The metric in the row of the responsibilities' entropy."""
    return "entropy_" + _protocol(config).entropy.replace("-", "_")


def unverified(config: Config, dataset: str) -> str:
    """Where files come from that need not be the published ones: another place outdates what was made of them."""
    _known(dataset, config["images"], "results")
    return "" if config["images"]["verify"] else config["images"]["source"] or ""


# ---- Options of the jobs ----


def classifier_options(config: Config, dataset: str) -> str:
    """Options of ``introprior classifier``, as JSON. One classifier serves all runs, whatever their seeds."""
    _known(dataset, config["images"], "results")
    return _json(epochs=config["images"]["evaluation"]["classifier_epochs"], seed=0)


def reference_options(config: Config, dataset: str, kind: str) -> str:
    """Options of ``introprior reference``, as JSON: the kind of features, how many images, in batches of which size."""
    return _json(features=kind, samples=config["images"]["evaluation"]["samples"], batch_size=_batch(config, dataset))


def warmup_options(config: Config, dataset: str, prior: str, seed: int | str) -> str:
    """Options of ``introprior warmup``, as JSON; nothing of the game is among them."""
    if _image_cell(prior, "results").warmup != prior:
        raise UserError(f"results: {prior} is no prior family; {parse(prior).warmup} is")
    training = _training(config, dataset)
    for key in ("iterations", *_GAME_OPTIONS):
        del training[key]
    protocol, images = _protocol(config).as_dict(), config["images"]
    warmup = images["training"]["warmup_epochs"]
    return _json(
        **_common(config, dataset, prior, seed),
        protocol={key: protocol[key] for key in _WARMUP},
        training=training,
        betas=_betas(config, dataset)[:2],
        snapshots=[epoch for epoch in images["evaluation"]["epochs"] if epoch < warmup],
    )


def game_options(config: Config, dataset: str, cell: str, r_entropy: str, seed: int | str) -> str:
    """Options of ``introprior train`` for an image run, as JSON.

    Raises:
        UserError: no such dataset or cell, or a weight that the cell cannot have; results are asked for by path, too.
    """
    images = config["images"]
    epochs, warmup = images["training"]["epochs"], images["training"]["warmup_epochs"]
    snapshots = {epoch for epoch in images["evaluation"]["epochs"] if epoch >= warmup}
    if _protocol(config).checkpoint == "last":
        snapshots.add(epochs)
    return _game(config, dataset, cell, r_entropy, seed, epochs, snapshots)


def clipping_options(config: Config, dataset: str, cell: str, r_entropy: str, seed: int | str) -> str:
    """Options of ``introprior train`` for a run of Figure 2, as JSON; errors as :func:`game_options`."""
    figure, warmup = config["figure2"], config["images"]["training"]["warmup_epochs"]
    steps = range(0, figure["epochs"] + 1, figure["every"])
    return _game(config, dataset, cell, r_entropy, seed, figure["epochs"], {e for e in steps if e >= warmup})


def distances_options(config: Config, dataset: str, *_: object) -> str:
    """Options of ``introprior distances``, as JSON."""
    return _json(**_measured(config, dataset), features=features(config))


def evaluate_options(config: Config, dataset: str, cell: str, *_: object) -> str:
    """Options of ``introprior evaluate`` for an image run, as JSON; the first of the features chooses."""
    evaluation = config["images"]["evaluation"]
    return _json(
        **_measured(config, dataset),
        dataset=dataset,
        cell=cell,
        features=features(config),
        checkpoint=_protocol(config).checkpoint,
        train_images=config["images"]["probes"]["train_images"],
        **{key: evaluation[key] for key in ("monte_carlo_samples", "grid_images", "latent_points")},
    )


def probe_options(config: Config, dataset: str, cell: str, r_entropy: str, seed: int | str) -> str:
    """Options of ``introprior probe``, as JSON; dataset, cell, r_entropy and seed name the rows."""
    probes = config["images"]["probes"]
    return _json(
        dataset=dataset,
        cell=cell,
        r_entropy=r_entropy,
        seed=int(seed),
        svm_iterations=probes["svm_iterations"],
        neighbours=probes["neighbours"],
    )


def study_options(config: Config, dataset: str) -> str:
    """Options of ``introprior overfit``, as JSON: the weights come with the model, beside 1 only beta_neg is told."""
    return _json(
        dataset=dataset,
        iterations=config["figureS2"]["iterations"],
        beta_neg=_betas(config, dataset)[2],
        checkpoint=_protocol(config).checkpoint,
    )


def comparable(config: Config, datasets: Sequence[str]) -> dict[str, Any]:
    """What bears on the numbers in Tables 2 and 5, to be compared with the paper's.

    Args:
        config: the whole configuration.
        datasets: those that are shown.
    """
    images = config["images"]
    evaluation = {key: value for key, value in images["evaluation"].items() if key not in _SHOWN}
    if evaluation["features"] == "inception":
        del evaluation["classifier_epochs"]
    overrides = config["protocol_overrides"].items()
    return {
        "protocol": config["protocol"],
        **{key: value for key, value in overrides if key not in ("spread", "learning_rate_decay")},
        **{key: images[key] for key in ("seeds", "r_entropy", "training")},
        "evaluation": evaluation,
        "probes": images["probes"],
        "by_dataset": {name: images["by_dataset"][name] for name in datasets if name in images["by_dataset"]},
        "stand_ins": [name for name in datasets if DATASETS[name].stand_in_for and name in images["datasets"]],
    }


# ---- Their parts ----


def _protocol(config: Config) -> protocols.Protocol:
    return protocols.resolve(config["protocol"], config["protocol_overrides"])


def _batch(config: Config, dataset: str) -> int:
    _known(dataset, config["images"], "results")
    return config["images"]["by_dataset"][dataset]["batch_size"]


def _betas(config: Config, dataset: str) -> list[float]:
    """beta_rec, beta_kl, beta_neg."""
    training = config["images"]["training"]
    values = training["beta_rec"], training["beta_kl"], config["images"]["by_dataset"][dataset]["beta_neg"]
    return [float(value) for value in values]


def _common(config: Config, dataset: str, cell: str, seed: int | str) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "cell": cell,
        "seeds": [int(seed)],
        "iterations_per_epoch": _per_epoch(config, dataset),
    }


def _per_epoch(config: Config, dataset: str) -> int:
    """Batches that an epoch has; the last may be short."""
    batch = _batch(config, dataset)
    return math.ceil(DATASETS[dataset].train / batch)


def _training(config: Config, dataset: str, epochs: int = 1) -> dict[str, Any]:
    """The numbers of a run of so many epochs, counted in iterations."""
    given, per_epoch = config["images"]["training"], _per_epoch(config, dataset)
    section = config["images"]["by_dataset"][dataset]
    return {
        "iterations": epochs * per_epoch,
        "warmup_iterations": given["warmup_epochs"] * per_epoch,
        "mixture_warmup_iterations": given["mixture_warmup_epochs"] * per_epoch,
        "batch_size": section["batch_size"],
        "monte_carlo_samples": given["monte_carlo_samples"],
        "latent_dim": section["latent_dim"],
        "milestones": [],
        "shape": list(DATASETS[dataset].shape),
        "widths": section["widths"],
        "precision": given["precision"],
        **{key: float(given[key]) for key in _REAL_OPTIONS},
    }


def _game(
    config: Config, dataset: str, cell: str, r_entropy: str, seed: int | str, epochs: int, snapshots: Iterable[int]
) -> str:
    weight = _weight(_image_cell(cell, "results"), r_entropy)
    protocol = {key: value for key, value in _protocol(config).as_dict().items() if key not in _NOT_TRAINING}
    return _json(
        **_common(config, dataset, cell, seed),
        protocol=protocol,
        training={**_training(config, dataset, epochs), "r_entropy": weight},
        betas=_betas(config, dataset),
        snapshots=sorted(snapshots),
    )


def _weight(cell: Cell, r_entropy: str) -> float:
    """The weight that a path names.

    Raises:
        UserError: it is no number, or written otherwise, or the cell has no components to weigh.
    """
    try:
        weight = float(r_entropy)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"results: r{r_entropy} is no weight of the responsibility entropy; an example is r10")
    if text(weight) != r_entropy:
        raise UserError(f"results: r{r_entropy} is called r{text(weight)}")
    if weight and not cell.family.components:
        raise UserError(f"results: {cell.name} has no components that r_entropy could bear on; ask for r0")
    return weight


def _measured(config: Config, dataset: str) -> dict[str, Any]:
    """How distances are taken."""
    evaluation = config["images"]["evaluation"]
    return {
        "samples": evaluation["samples"],
        "batch_size": _batch(config, dataset),
        "sampling": _protocol(config).sampling_batchnorm,
        "allow_few": evaluation["allow_few"],
    }


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _json(**options: Any) -> str:
    """The same text for the same options: Snakemake compares it to tell whether a result is outdated."""
    return json.dumps(options, sort_keys=True, allow_nan=False)
