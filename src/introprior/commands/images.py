"""The commands of the image half: from data and weights to probes; and train and evaluate for its datasets."""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introprior.commands import options as told
from introprior.commands import running
from introprior.commands.running import Facts
from introprior.data import images as data
from introprior.errors import UserError
from introprior.experiment import jobs
from introprior.experiment.config.images import ImageSchedule
from introprior.experiment.run import ImageRun, ImageTraining
from introprior.operations import files, provenance
from introprior.operations.progress import Progress
from introprior.reporting import read

if TYPE_CHECKING:
    import torch

    from introprior.evaluation.images import Extractor, Snapshots
    from introprior.metrics.frechet import Statistics
    from introprior.training.loop import Training


def prepare(given: argparse.Namespace) -> Facts:
    """Find or download a dataset, and convert it."""
    manifest = data.prepare(
        given.dataset, given.output, source=given.source, offline=given.offline, verify=not given.no_verify
    )
    splits = ", ".join(f"{split['count']:,} {name}" for name, split in manifest["splits"].items())
    print(f"{given.output}: {manifest['title']}, {splits}; {manifest['origin']}")
    return {}


def weights(given: argparse.Namespace) -> Facts:
    """Put Inception's weights where the workflow expects them."""
    files.check_writable(given.output)
    from introprior.metrics import inception

    path = inception.weights(given.source)
    inception.check(path)
    with files.written(given.output) as temporary:
        shutil.copyfile(path, temporary)
    return {}


def classifier(given: argparse.Namespace) -> Facts:
    """Train the classifier behind fd_classifier."""
    options = told.read(given, jobs.Classifier)
    files.check_writable(given.output)
    from introprior.data.images.splits import load
    from introprior.metrics import classifier
    from introprior.operations.devices import borrowed

    train, test = load(given.data, "train"), load(given.data, "test")
    with borrowed(given.device) as device:
        trained = classifier.train_classifier(
            train.images,
            train.labels,
            test=(test.images, test.labels),
            epochs=options.epochs,
            seed=options.seed,
            device=device,
        )
        classifier.save(given.output, trained)
    print(f"{given.output}: test accuracy {trained.test_accuracy:.3f}")
    return {"device": running.device_name(device), "seeds": [options.seed]}


def reference(given: argparse.Namespace) -> Facts:
    """Take the training set's feature statistics."""
    options = told.read(given, jobs.Reference)
    files.check_writable(given.output)
    from tqdm import tqdm

    from introprior.data.images.splits import load
    from introprior.evaluation import images as evaluation
    from introprior.operations.devices import borrowed

    train, name = load(given.data, "train"), options.features
    with borrowed(given.device) as device:
        extractor = _extractor(given, [name], device)
        batches = evaluation.real_batches(train, options.samples, options.batch_size)
        total = math.ceil(options.samples / options.batch_size)
        extractor.gather(tqdm(batches, total=total, desc=f"{name} of the training set"))[name].save(given.output)
    return {"device": running.device_name(device)}


def warmup(given: argparse.Namespace) -> Facts | None:
    """Train what the runs of a prior family share."""
    files.check_writable(given.output)
    return _train(given, None)


def train(given: argparse.Namespace) -> Facts | None:
    """Train one run, from its warm-up or from the beginning."""
    files.check_writable(given.output, given.history)
    if given.hyperparameters is not None:
        raise UserError("--hyperparameters: of no use for images; give --betas beta_rec beta_kl beta_neg")
    return _train(given, given.warmup)


def _train(given: argparse.Namespace, shared: Path | None) -> Facts | None:
    from introprior.data.images.splits import load
    from introprior.operations.devices import borrowed
    from introprior.training import checkpoints, images

    only_warmup = given.name == "warmup"
    if given.data is None:
        raise UserError("--data is missing; give the folder that `introprior prepare` wrote")
    stated = given.stated
    if stated.get("dataset") is None:
        raise UserError("--dataset: is missing; give it")
    data.dataset(str(stated["dataset"]), "--dataset")
    count = len(load(given.data, "train").images)
    options = told.read(given, jobs.TrainImages, _filled_in(stated, count, only_warmup))
    betas = options.betas
    if betas is None:
        raise UserError("--betas is missing; give beta_rec beta_kl beta_neg (1 1 256 in the paper, MNIST 1 1 128)")
    run = ImageRun.read(
        {
            "dataset": options.dataset,
            "cell": options.cell,
            "members": told.members(options.cell, options.seeds, [betas]),
            "training": options.training,
            "protocol": options.protocol,
        },
        "--options",
    )
    per_epoch = math.ceil(count / run.training.batch_size)
    if options.iterations_per_epoch not in (None, per_epoch):
        raise UserError(
            f"{given.data}: has {per_epoch} batches of {run.training.batch_size}, not the "
            f"{options.iterations_per_epoch} that were planned; is this the whole {run.dataset}?"
        )
    started, histories = time.time(), [] if only_warmup else [given.history]
    with running.claimed(run, given.state, given.name) as waited, borrowed(given.device) as device:
        if waited and running.finished_meanwhile(run, given.output, *histories):
            return None
        training = images.begin(run, device, given.data)
        end = training.game_start if only_warmup else run.training.iterations
        epochs = _snapshot_epochs(options.snapshots, end // per_epoch)
        state, resumed = running.resumed(training, given.state, given.name)
        progress = Progress(given.output, running.label(run), end)
        if shared is not None and training.iteration == 0:
            content = checkpoints.load(shared, device)
            if "state" not in content:
                raise UserError(f"{shared}: not a warm-up; give what `introprior warmup` wrote")
            training.adopt(content["state"], shared)
            training.notes["snapshots"] = content["snapshots"]
        _advance(given, training, state, progress, end, epochs, per_epoch)
        _write(given, training, started, per_epoch)
        running.finish(state, progress)
    running.tell_divergence(run, training.records())
    return running.facts(run, device, training, resumed)


def _write(given: argparse.Namespace, training: Training, started: float, per_epoch: int) -> None:
    """The snapshots, with the whole state if this is a warm-up, and otherwise the history."""
    from introprior.training import checkpoints

    content = {
        "run": training.run.as_dict(),
        "records": training.records(),
        "snapshots": training.notes["snapshots"],
        "provenance": provenance.origin(running.device_name(training.device), started),
    }
    only_warmup = given.name == "warmup"
    if only_warmup:
        training.notes = {}
        content["state"] = training.state()
    checkpoints.save(given.output, content)
    if not only_warmup:
        seeds = [member.seed for member in training.run.members]
        run = training.run
        named = {"dataset": run.dataset, "cell": run.cell.name, "r_entropy": f"{run.training.r_entropy:g}"}
        rows = [
            {**named, "seed": seeds[row.pop("member")], "epoch": round(row["iteration"] / per_epoch, 4), **row}
            for row in training.history.tidy()
        ]
        files.write_csv(given.history, rows, (*named, "iteration", "epoch", "seed", "quantity", "value"))


def _filled_in(stated: dict[str, Any], images: int, only_warmup: bool) -> dict[str, Any]:
    """The options with what is not told of the training: the dataset's shape, and the paper's epochs in iterations.

    What is wrong with those that are told, their model says.
    """
    usual = ImageSchedule()
    if only_warmup:  # what the game would be does not matter: it is not played
        betas = stated.get("betas") or [usual.beta_rec, usual.beta_kl]
        stated = {**stated, "betas": [*betas[:2], 1.0] if isinstance(betas, list) and len(betas) > 1 else betas}
    training = stated.get("training") or {}
    if not isinstance(training, dict):
        return stated
    batch = training.get("batch_size")
    if type(batch) is not int or batch < 1:
        batch = ImageTraining.model_fields["batch_size"].default
    per_epoch = -(-images // batch)
    training = {
        "shape": list(data.DATASETS[stated["dataset"]].shape),
        "iterations": usual.epochs * per_epoch,
        "warmup_iterations": usual.warmup_epochs * per_epoch,
        "mixture_warmup_iterations": usual.mixture_warmup_epochs * per_epoch,
        **training,
    }
    if only_warmup and type(training["warmup_iterations"]) is int:
        training["iterations"] = max(training["warmup_iterations"], 0) + 1
    return {**stated, "training": training}


def _snapshot_epochs(wanted: Sequence[int] | None, end: int) -> list[int]:
    """The epochs to keep the model of, rising; by default the last."""
    if wanted is None:
        return [end]
    if not all(epoch <= end for epoch in wanted):
        raise UserError(f"--options: snapshots: must be whole numbers from 0 to {end}, are {list(wanted)}")
    return sorted(set(wanted))


def _advance(
    given: argparse.Namespace,
    training: Training,
    state: Path | None,
    progress: Progress,
    end: int,
    epochs: list[int],
    per_epoch: int,
) -> None:
    """Train up to iteration ``end``, keeping the model at the given epochs for as long as its losses are finite."""
    import copy

    from introprior.training import checkpoints

    kept: dict[int, Any] = training.notes.setdefault("snapshots", {})
    for epoch, until in [*((epoch, epoch * per_epoch) for epoch in epochs), (None, end)]:
        if until > training.iteration and training.watch.alive():
            training.advance(
                until,
                state=state,
                checkpoint_seconds=given.checkpoint_seconds,
                log_every=running.log_every(training.run),
                label=running.label(training.run),
                progress=progress,
            )
        if epoch is not None and epoch not in kept and training.iteration == until and training.watch.alive():
            kept[epoch] = copy.deepcopy(checkpoints.model_state(training.model))


def distances(given: argparse.Namespace) -> Facts:
    """Measure what a run generates at each of its snapshots."""
    options = told.read(given, jobs.Distances)
    files.check_writable(given.output)
    from introprior.data.images.splits import load
    from introprior.evaluation import images as evaluation
    from introprior.operations.devices import borrowed

    known = read.distances([given.earlier]) if given.earlier else []
    with borrowed(given.device) as device:
        snapshots = evaluation.Snapshots.read(given.model, device)
        _check_run(given.model, snapshots, options)
        extractor = _extractor(given, options.features, device)
        references = _references(given.reference, options.features)
        train = load(given.data, "train")
        skip = {row["epoch"] for row in known}
        rows = evaluation.distances(snapshots, train, references, extractor, options, device, skip)
    # What was measured of a shared warm-up is this run's, too.
    for row in known:
        row |= snapshots.describe() | {"value": row["value"] if row["status"] == "ok" else None}
    rows = known + rows
    files.write_csv(given.output, rows, evaluation.DISTANCE_COLUMNS)
    return running.facts(snapshots.run, device)


def evaluate(given: argparse.Namespace) -> Facts:
    """Measure a run at the checkpoint that its distances choose."""
    options = told.read(given, jobs.EvaluateImages)
    for flag in ("distances", "codes", "reference"):
        if getattr(given, flag) is None:
            raise UserError(f"--{flag} is missing; images need it, see introprior evaluate --help")
    files.check_writable(given.metrics, given.codes, given.panels)
    import numpy as np

    from introprior.data.images.splits import load
    from introprior.evaluation import images as evaluation
    from introprior.operations.devices import borrowed

    with borrowed(given.device) as device:
        snapshots = evaluation.Snapshots.read(given.model, device)
        _check_run(given.model, snapshots, options)
        rows, codes, panels = evaluation.evaluate(
            snapshots,
            read.distances([given.distances]),
            load(given.data, "train"),
            load(given.data, "test"),
            _references(given.reference, options.features),
            _extractor(given, options.features, device),
            options,
            device,
        )
    for path, arrays in ((given.codes, codes), (given.panels, panels)):
        with files.written(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
    files.write_csv(given.metrics, rows, evaluation.METRIC_COLUMNS)
    return running.facts(snapshots.run, device)


def probe(given: argparse.Namespace) -> Facts:
    """Read labels off a run's codes with simple classifiers."""
    options = told.read(given, jobs.Probe)
    files.check_writable(given.output)
    from introprior.evaluation import probes

    rows = probes.probe(read.codes(given.codes), options.svm_iterations, options.neighbours)
    names = ("dataset", "cell", "r_entropy", "seed")
    described = {name: getattr(options, name) for name in names}
    files.write_csv(given.output, [{**described, **row} for row in rows], (*names, *probes.COLUMNS))
    return {"seeds": [options.seed]}


def choose(given: argparse.Namespace) -> Facts:
    """Choose the r_entropy of each cell."""
    from introprior.evaluation import selection

    measured = read.metrics(given.metrics)
    files.write_json(given.output, selection.choose_r_entropy(measured, given.dataset, given.metric))
    return {}


def overfit(given: argparse.Namespace) -> Facts:
    """Overfit the encoder of a trained run, its decoder and prior fixed (Figure S2)."""
    options = told.read(given, jobs.Overfit)
    files.check_writable(given.output)
    import numpy as np

    from introprior.data.images.splits import load
    from introprior.evaluation import encoder_study
    from introprior.evaluation import images as evaluation
    from introprior.operations.devices import borrowed

    with borrowed(given.device) as device:
        snapshots = evaluation.Snapshots.read(given.model, device)
        _check_run(given.model, snapshots, options)
        known = read.distances([given.distances])
        metric = known[0]["metric"] if known else "distance"  # the first kind of features decides, as in `evaluate`
        epoch = evaluation.choose_checkpoint(known, metric, options.checkpoint)
        train = load(given.data, "train")
        arrays = encoder_study.study(
            snapshots.model(epoch, device),
            snapshots.run,
            encoder_study.one_per_class(train.images, train.labels),
            iterations=options.iterations,
            beta_negs=(1.0, options.beta_neg),
            device=device,
            label=f"{snapshots.run.dataset} {snapshots.run.cell.name}: encoder alone",
        )
    described: dict[str, Any] = {**snapshots.describe(), "title": train.manifest["title"], "epoch": epoch}
    with files.written(given.output) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **(described | arrays))
    return running.facts(snapshots.run, device)


def _extractor(given: argparse.Namespace, names: Sequence[str], device: torch.device) -> Extractor:
    from introprior.evaluation.images import Extractor
    from introprior.metrics import classifier, inception

    return Extractor(
        names,
        inception.load(given.weights, device) if given.weights else None,
        classifier.load(given.classifier, device) if given.classifier else None,
    )


def _references(paths: list[Path], names: Sequence[str]) -> dict[str, Statistics]:
    """Statistics by the kind of features, which their files are named after."""
    from introprior.metrics.frechet import Statistics

    found = {path.stem: path for path in paths}
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"--reference: no {missing[0]}.npz among the files; give the training set's statistics of it")
    return {name: Statistics.load(found[name]) for name in names}


def _check_run(path: Path, snapshots: Snapshots, options: jobs.Distances | jobs.Overfit) -> None:
    """The file has to be of the run that is named, if one is."""
    run = snapshots.run
    trained = {"dataset": run.dataset, "cell": run.cell.name, "batch_size": run.training.batch_size}
    for key, value in trained.items():
        if (asked := getattr(options, key, None)) not in (None, value):
            raise UserError(f"{path}: trained with {key} {value}, not {asked}; give another --model")
