"""What jobs cost before any has run: time by built-in rates, time limits and memory to ask a cluster for.

A rough model with few constants. The work of a job is counted in multiply-adds of its networks, numbers that it writes
on the way (activations, pairs of sample and component) and operations one after another; a device does so many of each
a second. The CPU's rates are fitted to measurements, the GPU's are estimates. As light as
`introprior.experiment.configuration`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from introprior.data.images import DATASETS
from introprior.experiment import cells, planning

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Device:
    """Where a job runs.

    Attributes:
        name: for people.
        multiply_adds: of matrix products, a second.
        convolved: of convolutions, a second.
        numbers: written and read again, a second.
        operation: seconds that each of them takes at least.
        overlaps: whether operations are issued while others compute, so that only the longer of the two counts.
        start: seconds before a job computes: imports, the device's context, reading and writing.
    """

    name: str
    multiply_adds: float
    convolved: float
    numbers: float
    operation: float
    overlaps: bool
    start: float


GPU = Device(
    name="NVIDIA A100 (40 GB), estimated",
    # No GPU was measured. Peaks of the data sheet: 9.7e12 float32 multiply-adds a second, 78e12 in TF32, 1.55e12 bytes.
    multiply_adds=0.4 * 9.7e12,  # batched products of 256 x 256 matrices, float32
    convolved=0.2 * 78e12,  # narrow convolutions (64 to 256 channels), TF32, deterministic algorithms
    numbers=0.6 * 1.55e12 / 8,  # each is written and read once, 4 bytes both times
    operation=8e-6,  # eager PyTorch with autograd issues about 120,000 a second
    overlaps=True,
    start=20.0,
)
CPU = Device(
    name="one CPU core (AMD EPYC)",
    # Fitted to 24 iterations, warm-up and game, 2D and images, from the demo's sizes to the paper's: within a third.
    multiply_adds=44e9,
    convolved=45e9,
    numbers=1.6e9,
    operation=14e-6,
    overlaps=False,
    start=4.0,
)

_GAME_PASSES = 26  # of a batch through a network in an iteration of the game: forward, and backward twice at most
_WARMUP_PASSES = 6
_GAME_DIVERGENCES, _WARMUP_DIVERGENCES = 6, 1
_OWN_OPERATIONS = 400  # of an iteration beside its networks: losses, divergences, streams, Adam
_TOUCHES = 8  # numbers written per pair of sample and component, forward and backward
_INCEPTION = 5.7e9  # multiply-adds of an image
_INCEPTION_NUMBERS = 100e6
_INCEPTION_ALIVE = 4e6  # of them at a time
_FILLED = 16  # fewer channels make a convolution hardly faster
_PASS_OPERATIONS = 2.5  # per layer: itself, its normalisation, its activation

# Seconds of jobs that no configuration makes long, on any device.
_SHORT = {
    "prepare": 60.0,
    "inception": 60.0,
    "published": 0.1,
    "figure6": 600.0,
    "tables_pdf": 20.0,
}
_DEFAULT_SHORT = 10.0  # tables, figures, choices


class Work(NamedTuple):
    """What there is to do; times a number, so often."""

    multiply_adds: float = 0.0
    convolved: float = 0.0
    numbers: float = 0.0
    operations: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: tuple[Any, ...]) -> Work:
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: Any) -> Work:
        return Work(*(times * a for a in self))

    def on(self, device: Device) -> float:
        """Seconds."""
        computing = (
            self.multiply_adds / device.multiply_adds
            + self.convolved / device.convolved
            + self.numbers / device.numbers
        )
        issuing = self.operations * device.operation
        return self.seconds + (max(computing, issuing) if device.overlaps else computing + issuing)


# ---- What is asked for ----


def seconds(config: Config, rule: str, wildcards: Mapping[str, Any], device: str = "gpu") -> float:
    """Estimated duration of a job by the built-in rates, in seconds.

    Args:
        config: the whole configuration.
        rule: its name.
        wildcards: the rule's.
        device: ``gpu`` or ``cpu``; jobs that use no GPU take as long on either.

    Raises:
        UserError: wildcards that name nothing.
    """
    place = GPU if device == "gpu" and rule in planning.ON_GPU else CPU
    return (place.start if rule in _WORK else 0.0) + work(config, rule, wildcards).on(place)


def runtime(config: Config, rule: str, wildcards: Mapping[str, Any]) -> int:
    """Minutes to ask a cluster for: three times the estimate, at least 10, at most ``max_runtime``.

    A longer training is cut by the limit, checkpointed before it, and goes on where it stopped when it is retried.
    """
    device = "cpu" if config["device"] == "cpu" else "gpu"
    minutes = 10 + math.ceil(3 * seconds(config, rule, wildcards, device) / 60)
    return min(minutes, config["max_runtime"])


def mem_mb(config: Config, rule: str, wildcards: Mapping[str, Any]) -> int:
    """Resident memory to ask a cluster for, in MB: twice what is counted here, whichever device the job gets."""
    if rule not in _WORK:
        return {"published": 100, "prepare": 4000, "inception": 2000, "figure6": 4000}.get(rule, 2000)
    named = {name: str(value) for name, value in wildcards.items()}
    counted = _BASE + _data(named) + _working(config, rule, named)
    floor = 4000 if rule in planning.ON_GPU and config["device"] != "cpu" else 1000
    return max(floor, 500 * math.ceil(2 * counted / 500e6))


def work(config: Config, rule: str, wildcards: Mapping[str, Any]) -> Work:
    """What a job has to do."""
    if rule not in _WORK:
        return Work(seconds=_SHORT.get(rule, _DEFAULT_SHORT))
    wildcards = dict(wildcards.items())
    options = planning.options(config, rule, wildcards)
    return _WORK[rule](config, wildcards, options)


# ---- Networks ----


class Network(NamedTuple):
    """Encoder or decoder, the mean of both.

    Attributes:
        work: of a forward pass of one sample.
        layers: one after another.
        parameters: numbers.
    """

    work: Work
    layers: int
    parameters: float

    def passes(self, samples: float, times: float = 1) -> Work:
        """``times`` passes, each of ``samples``."""
        operations = times * self.layers * _PASS_OPERATIONS if samples else 0.0
        return (self.work * (samples * times))._replace(operations=operations)


def _mlp(width: int, layers: int, latent_dim: int) -> Network:
    sizes = [2, *[width] * layers, 2 * latent_dim]
    products = sum(a * b for a, b in itertools.pairwise(sizes))
    return Network(Work(multiply_adds=products, numbers=2 * sum(sizes)), len(sizes) - 1, products + sum(sizes[1:]))


def _convolutions(shape: Sequence[int], widths: Sequence[int], latent_dim: int) -> Network:
    channels, area = shape[0], math.prod(shape[1:])
    coarsest = area // 4 ** len(widths)
    # Residual blocks of encoder and decoder: pixels, channels before and after.
    blocks = [(coarsest, widths[-1], widths[-1])] * 2 + [(area, widths[0], widths[0])]
    for halvings, (wide, narrow) in enumerate(itertools.pairwise(widths), 1):
        blocks += [(area // 4**halvings, wide, narrow), (area // 4**halvings, narrow, wide)]
    weights = 2 * 25 * channels * widths[0]  # the encoder's first and the decoder's last convolution
    products, numbers = area * weights, 3 * area * widths[0]
    for pixels, inputs, outputs in blocks:
        weights += _residual(inputs, outputs)
        products += pixels * _residual(max(inputs, _FILLED), max(outputs, _FILLED))
        numbers += 7 * pixels * outputs
    heads = 3 * coarsest * widths[-1] * latent_dim  # to the latent space and back
    work = Work(convolved=(products + heads) / 2, numbers=numbers / 2)
    return Network(work, 2 + 2 * len(blocks) // 2, (weights + heads) / 2)


def _residual(inputs: int, outputs: int) -> int:
    """Weights of a residual block: two 3x3 convolutions, and a 1x1 one where the widths differ."""
    return 9 * outputs * (inputs + outputs) + inputs * outputs * (inputs != outputs)


def _image_network(config: Config, dataset: str) -> Network:
    section = config["images"]["by_dataset"][dataset]
    return _convolutions(DATASETS[dataset].shape, section["widths"], section["latent_dim"])


# ---- Training ----


def _pairs(count: float, dim: int) -> Work:
    """Pairs of sample and component."""
    return Work(multiply_adds=4 * count * dim, numbers=_TOUCHES * count)


def _iterations(network: Network, cell: cells.Cell, training: Config, members: float, warmup: bool) -> Work:
    """One iteration of an ensemble."""
    batch = training["batch_size"]
    passes, divergences = (_WARMUP_PASSES, _WARMUP_DIVERGENCES) if warmup else (_GAME_PASSES, _GAME_DIVERGENCES)
    found = network.passes(batch * members, passes)
    if warmup and cell.size > 1:
        found += network.passes(cell.size * members, 3)  # the pseudo-inputs, encoded
    if cell.size > 1:
        samples = batch * training["monte_carlo_samples"] * members * divergences
        found += _pairs(samples * cell.size, training["latent_dim"])
    return found + Work(operations=_OWN_OPERATIONS)


def _plane_training(options: Config, members: int, warmups: int) -> Work:
    training, cell = options["training"], cells.parse(options["cell"])
    network = _mlp(training["hidden_width"], training["hidden_layers"], training["latent_dim"])
    warmup = training["warmup_iterations"] if cell.adversarial else training["iterations"]
    return _iterations(network, cell, training, warmups, True) * warmup + _iterations(
        network, cell, training, members, False
    ) * (training["iterations"] - warmup)


def _search(config: Config, wildcards: Config, options: Config) -> Work:
    betas = options["betas"]
    return _plane_training(options, len(betas), len({tuple(setting[:2]) for setting in betas}))


def _train(config: Config, wildcards: Config, options: Config) -> Work:
    return _plane_training(options, len(options["seeds"]), len(options["seeds"]))


def _image_training(config: Config, wildcards: Config, options: Config) -> Work:
    training, cell = options["training"], cells.parse(options["cell"])
    network = _image_network(config, wildcards["dataset"])
    if "iterations" not in training:
        return _iterations(network, cell, training, 1, True) * training["warmup_iterations"]
    return _iterations(network, cell, training, 1, False) * (training["iterations"] - training["warmup_iterations"])


# ---- Evaluation ----


def _evaluate(config: Config, wildcards: Config, options: Config) -> Work:
    training, members = config["density"]["training"], len(config["density"]["seeds"])
    cell, dim = cells.parse(wildcards["cell"]), training["latent_dim"]
    network = _mlp(training["hidden_width"], training["hidden_layers"], dim)
    points = options["grid"] ** 2 + options["data_points"] + options["panel_grid"] ** 2
    samples = points * members
    found = network.passes(samples, 2)._replace(operations=50 * math.ceil(samples / 1024))
    pairs = _pairs(samples * options["monte_carlo_samples"] * cell.size, dim)
    return found + pairs * 0.5 + Work(seconds=2.0)


def _features(config: Config, dataset: str, images: float, batch: int) -> Work:
    """Features of images, and their distance."""
    facts = DATASETS[dataset]
    if config["images"]["evaluation"]["features"] == "inception":
        return Work(
            convolved=_INCEPTION * images,
            numbers=_INCEPTION_NUMBERS * images,
            operations=300 * images / batch,
            seconds=30.0,
        )
    return _classified(facts.shape, images)._replace(operations=30 * images / batch)


def _classified(shape: Sequence[int], images: float) -> Work:
    area = shape[1] * shape[2]
    return Work(convolved=(9 * 16 * shape[0] + 2 * 9 * 16 * 32 / 4) * area * images, numbers=100 * area * images)


def _classifier(config: Config, wildcards: Config, options: Config) -> Work:
    facts = DATASETS[wildcards["dataset"]]
    images = options["epochs"] * facts.train
    return (_classified(facts.shape, 1) * (3 * images))._replace(operations=100 * images / 128)


def _reference(config: Config, wildcards: Config, options: Config) -> Work:
    return _features(config, wildcards["dataset"], options["samples"], options["batch_size"])


def _snapshots(config: Config, rule: str) -> int:
    """Models whose distance a job takes."""
    images = config["images"]
    warmup, epochs = images["training"]["warmup_epochs"], images["evaluation"]["epochs"]
    if rule == "clipping":
        figure = config["figure2"]
        return sum(epoch >= warmup for epoch in range(0, figure["epochs"] + 1, figure["every"]))
    if rule == "warmup":
        return sum(epoch < warmup for epoch in epochs)
    return sum(epoch >= warmup for epoch in epochs)


def _distances(kind: str) -> Any:
    def of(config: Config, wildcards: Config, options: Config) -> Work:
        images, dataset = options["samples"], wildcards["dataset"]
        made = _image_network(config, dataset).passes(images)
        made = made._replace(operations=50 * images / options["batch_size"])
        compared = _features(config, dataset, images, options["batch_size"]) * len(options["features"])
        return (made + compared) * _snapshots(config, kind)

    return of


def _evaluate_images(config: Config, wildcards: Config, options: Config) -> Work:
    dataset, samples = wildcards["dataset"], options["samples"]
    facts, network = DATASETS[dataset], _image_network(config, wildcards["dataset"])
    count = facts.train if options["train_images"] == "all" else options["train_images"]
    found = network.passes(2 * samples + 2 * facts.train + count + facts.test)
    found = found._replace(operations=100 * (samples + facts.train) / options["batch_size"])
    pairs = facts.test * options["monte_carlo_samples"] * cells.parse(wildcards["cell"]).size
    found += _pairs(pairs, config["images"]["by_dataset"][dataset]["latent_dim"]) * 0.5
    return found + _features(config, dataset, samples, options["batch_size"]) * len(options["features"])


def _probe(config: Config, wildcards: Config, options: Config) -> Work:
    dataset, asked = wildcards["dataset"], config["images"]["probes"]["train_images"]
    facts, dim = DATASETS[dataset], config["images"]["by_dataset"][dataset]["latent_dim"]
    count = facts.train if asked == "all" else asked
    # libsvm: a row of the kernel matrix an iteration, of the two classes at a time, 45 pairs of classes, one core.
    rows = sum(options["svm_iterations"]) * 45 * count / 5
    # Every support vector (nearly all codes) against every test code; and the neighbours' distances.
    compared = 2 * count * facts.test * 2
    return Work(seconds=(rows + compared) * dim * 1.0e-9)


def _study(config: Config, wildcards: Config, options: Config) -> Work:
    network = _image_network(config, wildcards["dataset"])
    return (network.passes(1, 14) + Work(operations=_OWN_OPERATIONS)) * (6 * options["iterations"])


_WORK: dict[str, Any] = {
    "search": _search,
    "train": _train,
    "evaluate": _evaluate,
    "classifier": _classifier,
    "reference": _reference,
    "warmup": _image_training,
    "game": _image_training,
    "clipping_study": _image_training,
    "warmup_distances": _distances("warmup"),
    "distances": _distances("game"),
    "clipping_distances": _distances("clipping"),
    "evaluate_images": _evaluate_images,
    "probe": _probe,
    "encoder_study": _study,
}

SCALED = frozenset(_WORK)
"""Rules whose jobs take as long as the configuration makes them; those of the others are always short."""

# ---- Disk and memory ----


def disk(config: Config, rule: str, wildcards: Mapping[str, Any]) -> float:
    """Bytes of what a job leaves."""
    named = {name: str(value) for name, value in wildcards.items()}
    evaluation = config["images"]["evaluation"]
    inception = evaluation["features"] == "inception"
    facts = DATASETS.get(named.get("dataset", ""))
    if rule == "train":
        training, members = config["density"]["training"], len(config["density"]["seeds"])
        network = _mlp(training["hidden_width"], training["hidden_layers"], training["latent_dim"])
        return members * (2 * 4 * network.parameters + 100e3)
    if rule in ("warmup", "game", "clipping_study"):
        models = _snapshots(config, {"clipping_study": "clipping"}.get(rule, rule)) + (3 if rule == "warmup" else 0)
        return models * 2 * 4 * _image_network(config, named["dataset"]).parameters + 200e3
    if rule == "prepare" and facts:
        return (facts.train + facts.test) * math.prod(facts.shape)
    if rule == "reference":
        return 8.0 * 2048**2 if inception else 40e3
    if rule == "evaluate_images" and facts:
        codes = facts.train + facts.test + evaluation["latent_points"]
        dim = config["images"]["by_dataset"][named["dataset"]]["latent_dim"]
        return 4.0 * codes * dim + 2 * evaluation["grid_images"] * math.prod(facts.shape)
    return {"inception": 96e6, "evaluate": 600e3, "classifier": 200e3, "encoder_study": 1e6}.get(rule, 20e3)


_BASE = 600e6  # Python, torch and what it imports


def _data(wildcards: Mapping[str, Any]) -> float:
    """Bytes of an image dataset, kept as they are."""
    facts = DATASETS.get(wildcards.get("dataset", ""))
    return (facts.train + facts.test) * math.prod(facts.shape) if facts else 0.0


def _working(config: Config, rule: str, wildcards: Mapping[str, Any]) -> float:
    """Bytes of parameters, activations and features at the widest point of a job, on a CPU."""
    dataset = wildcards["dataset"]
    if rule == "probe":  # copies of the codes in float64, and libsvm's cache
        return 40.0 * DATASETS[dataset].train * config["images"]["by_dataset"][dataset]["latent_dim"] + 400e6
    if rule in ("search", "train", "evaluate"):
        training, components = config["density"]["training"], cells.parse(wildcards["cell"]).size
        options = planning.options(config, rule, wildcards) or {}
        members = len(options.get("betas", config["density"]["seeds"]))
        network = _mlp(training["hidden_width"], training["hidden_layers"], training["latent_dim"])
        samples = training["batch_size"] * (3 * network.work.numbers + training["monte_carlo_samples"] * components)
        return 4 * members * (8 * network.parameters + samples)
    batch = config["images"]["by_dataset"][dataset]["batch_size"]
    activations = 6 * batch * _image_network(config, dataset).work.numbers
    if config["images"]["evaluation"]["features"] == "inception" and rule not in planning.TRAININGS:
        activations = max(activations, batch * _INCEPTION_ALIVE)
    return 4 * activations
