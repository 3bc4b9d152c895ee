"""The commands of the image half: from data and weights to probes; and train and evaluate for its datasets."""

from __future__ import annotations

import argparse
import copy
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from introprior.commands import arguments, running
from introprior.commands.running import Facts, Session
from introprior.data import images as data
from introprior.data.images import folders
from introprior.data.images.splits import load
from introprior.data.images.store import read_manifest
from introprior.errors import UserError
from introprior.evaluation import encoder_study
from introprior.evaluation import images as evaluation
from introprior.evaluation.images import Extractor, Snapshots
from introprior.experiment import jobs
from introprior.experiment.config.images import ImageSchedule
from introprior.experiment.fields import NAME, shown
from introprior.experiment.run import ImageRun, ImageTraining
from introprior.metrics import classifier as classifiers
from introprior.metrics import inception, registry
from introprior.metrics.frechet import Statistics
from introprior.operations import files
from introprior.operations.devices import borrowed
from introprior.reporting import read
from introprior.training import checkpoints
from introprior.training import images as training


def prepare(given: argparse.Namespace) -> Facts:
    """Find or download a dataset, and convert it."""
    if given.pictures is not None:
        if given.size is None:
            raise UserError("--size is missing; give the height and width to bring the pictures to")
        if not re.match(NAME, given.dataset):
            raise UserError(f"--dataset: {shown(given.dataset)} has more than letters, digits, '.', '_' and '-' in it")
        output = given.output.resolve()
        if given.pictures.resolve() in (output, *output.parents):
            raise UserError(f"--output: {given.output} lies in the folder of the pictures; name one elsewhere")
        data.add(folders.describe(given.dataset, given.pictures, given.size, given.channels))
    manifest = data.prepare(
        given.dataset, given.output, source=given.source, offline=given.offline, verify=not given.no_verify
    )
    splits = ", ".join(f"{split['count']:,} {name}" for name, split in manifest["splits"].items())
    print(f"{given.output}: {manifest['title']}, {splits}; {manifest['origin']}")
    return {}


def weights(given: argparse.Namespace) -> Facts:
    """Put Inception's weights where the workflow expects them."""
    files.check_writable(given.output)
    path = inception.weights(given.source)
    inception.check(path)
    with files.written(given.output) as temporary:
        shutil.copyfile(path, temporary)
    return {}


def classifier(given: argparse.Namespace) -> Facts:
    """Train the classifier behind fd_classifier."""
    options = arguments.read(given, jobs.Classifier)
    files.check_writable(given.output)
    train, test = load(given.data, "train"), load(given.data, "test")
    with borrowed(given.device) as device:
        trained = classifiers.train_classifier(
            train.images,
            train.labels,
            test=(test.images, test.labels),
            epochs=options.epochs,
            seed=options.seed,
            device=device,
        )
        trained.dataset = train.manifest["dataset"]
        classifiers.save(given.output, trained)
    print(f"{given.output}: test accuracy {trained.test_accuracy:.3f}")
    return {"device": running.device_name(device), "seeds": [options.seed]}


def reference(given: argparse.Namespace) -> Facts:
    """Take the training set's feature statistics."""
    options = arguments.read(given, jobs.Reference)
    files.check_writable(given.output)
    train, name = load(given.data, "train"), options.features
    with borrowed(given.device) as device:
        extractor = _extractor(given, [name], device)
        batches = evaluation.real_batches(train, options.samples, options.batch_size)
        total = math.ceil(options.samples / options.batch_size)
        gathered = extractor.gather(tqdm(batches, total=total, desc=f"{name} of the training set"))[name]
        replace(gathered, dataset=train.manifest["dataset"], features=name).save(given.output)
    return {"device": running.device_name(device)}


def warmup(given: argparse.Namespace) -> Facts | None:
    """Train what the runs of a prior family share."""
    files.check_writable(given.output)
    return _train(given, None)


def train(given: argparse.Namespace) -> Facts | None:
    """Train one run, from its warm-up or from the beginning."""
    _single(given, "output", "history")
    files.check_writable(given.output, given.history)
    if given.hyperparameters is not None:
        raise UserError("--hyperparameters: of no use for images; give --betas beta_rec beta_kl beta_neg")
    return _train(given, given.warmup)


def _single(given: argparse.Namespace, *names: str) -> None:
    """Options that mean a file each, where ensembles have several."""
    for name in names:
        paths = getattr(given, name)
        if len(paths) > 1:
            raise UserError(f"--{name}: image runs are trained and measured one by one; give one file")
        setattr(given, name, paths[0])


def _train(given: argparse.Namespace, shared: Path | None) -> Facts | None:
    only_warmup = given.name == "warmup"
    if given.data is None:
        raise UserError("--data is missing; give the folder that `introprior prepare` wrote")
    if given.stated.get("dataset") is None:
        raise UserError("--dataset: is missing; give it")
    split, name = load(given.data, "train"), given.stated["dataset"]
    if name != split.manifest["dataset"]:  # which may be somebody's own
        data.dataset(str(name), "--dataset")
    running.belongs(given.data, "--data", split.manifest, {"dataset": given.stated["dataset"]})
    if given.state is not None and "source" in split.manifest:  # not to go on with pictures that have changed since
        given.state /= split.manifest["source"][:16]
    options = arguments.read(given, jobs.TrainImages, _filled_in(given.stated, split.images, only_warmup))
    if options.betas is None:
        raise UserError("--betas is missing; give beta_rec beta_kl beta_neg (1 1 256 in the paper, MNIST 1 1 128)")
    named = {key: getattr(options, key) for key in ("cell", "training", "protocol")}
    members = arguments.members(options.dataset, options.cell, options.seeds, [options.betas])
    run = ImageRun.read(named | {"members": members}, "--options")
    per_epoch = math.ceil(len(split.images) / run.training.batch_size)
    if options.iterations_per_epoch not in (None, per_epoch):
        raise UserError(
            f"{given.data}: has {per_epoch} batches of {run.training.batch_size}, not the "
            f"{options.iterations_per_epoch} that were planned; is this the whole {run.dataset}?"
        )
    outputs = [given.output] if only_warmup else [given.output, given.history]
    with running.session(given, run, lambda device: training.begin(run, device, given.data), *outputs) as session:
        if session is None:
            return None
        epochs = _snapshot_epochs(options.snapshots, session.end // per_epoch)
        if shared is not None and session.training.iteration == 0:
            content = checkpoints.load(shared, session.training.device)
            if not content.keys() >= {"state", "snapshots"}:
                raise UserError(f"{shared}: not a warm-up; give what `introprior warmup` wrote")
            session.training.adopt(content["state"], shared)
            session.training.notes["snapshots"] = content["snapshots"]
        kept = _snapshots(session, epochs, per_epoch)
        if only_warmup:
            session.training.notes = {}
            session.save(given.output, snapshots=kept, state=session.training.state())
        else:
            session.save(given.output, snapshots=kept)
            running.write_history(given.history, session.training, run.dataset, per_epoch)
    return session.facts()


def _snapshots(session: Session, epochs: list[int], per_epoch: int) -> dict[int, Any]:
    """Train to the end, keeping the model at the given epochs for as long as its losses are finite."""
    training = session.training
    kept: dict[int, Any] = training.notes.setdefault("snapshots", {})
    for epoch, until in [*((epoch, epoch * per_epoch) for epoch in epochs), (None, session.end)]:
        if until > training.iteration and training.watch.alive():
            session.advance(until)
        if epoch is not None and epoch not in kept and training.iteration == until and training.watch.alive():
            kept[epoch] = copy.deepcopy(checkpoints.model_state(training.model))
    return kept


def _filled_in(stated: dict[str, Any], images: torch.Tensor, only_warmup: bool) -> dict[str, Any]:
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
    per_epoch = -(-len(images) // batch)
    training = {
        "shape": list(images.shape[1:]),
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


def distances(given: argparse.Namespace) -> Facts:
    """Measure what a run generates at each of its snapshots."""
    options = arguments.read(given, jobs.Distances)
    files.check_writable(given.output)
    known = read.distances([given.earlier]) if given.earlier else []
    with borrowed(given.device) as device:
        snapshots = evaluation.Snapshots.read(given.model, device)
        _check_run(given, snapshots, options)
        for row in known:
            shared = snapshots.named | {"cell": snapshots.run.cell.warmup, "r_entropy": None}
            running.belongs(given.earlier, "--earlier", row, shared)
        extractor = _extractor(given, options.features, device)
        references = _references(given.reference, options.features, snapshots.run.dataset)
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
    _single(given, "model", "metrics", "panels")
    options = arguments.read(given, jobs.EvaluateImages)
    for flag in ("distances", "codes", "reference"):
        if getattr(given, flag) is None:
            raise UserError(f"--{flag} is missing; images need it, see introprior evaluate --help")
    files.check_writable(given.metrics, given.codes, given.panels)
    with borrowed(given.device) as device:
        snapshots = evaluation.Snapshots.read(given.model, device)
        _check_run(given, snapshots, options)
        rows, codes, panels = evaluation.evaluate(
            snapshots,
            _distances_of(snapshots, given.distances),
            load(given.data, "train"),
            load(given.data, "test"),
            _references(given.reference, options.features, snapshots.run.dataset),
            _extractor(given, options.features, device),
            options,
            device,
        )
    _write_arrays(given.codes, codes)
    _write_arrays(given.panels, panels)
    files.write_csv(given.metrics, rows, evaluation.METRIC_COLUMNS)
    return running.facts(snapshots.run, device)


def probe(given: argparse.Namespace) -> Facts:
    """Read labels off a run's codes with simple classifiers."""
    options = arguments.read(given, jobs.Probe)
    files.check_writable(given.output)
    from introprior.metrics import probes  # late: it brings scikit-learn and pandas

    codes, names = read.codes(given.codes), ("dataset", "cell", "r_entropy", "seed")
    running.belongs(given.codes, "--codes", codes, {name: getattr(options, name) for name in names})
    described = {name: codes[name] for name in names} | {"r_entropy": f"{codes['r_entropy']:g}"}
    rows = probes.probe(codes, registry.functions("probe", options))
    files.write_csv(given.output, [{**described, **row} for row in rows], (*names, *probes.COLUMNS))
    return {"seeds": [codes["seed"]]}


def overfit(given: argparse.Namespace) -> Facts:
    """Overfit the encoder of a trained run, its decoder and prior fixed (Figure S2)."""
    options = arguments.read(given, jobs.Overfit)
    files.check_writable(given.output)
    with borrowed(given.device) as device:
        snapshots = evaluation.Snapshots.read(given.model, device)
        _check_run(given, snapshots, options)
        known = _distances_of(snapshots, given.distances)
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
    _write_arrays(given.output, described | arrays)
    return running.facts(snapshots.run, device)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with files.written(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _extractor(given: argparse.Namespace, names: Sequence[str], device: torch.device) -> Extractor:
    network = inception.load(given.weights, device) if given.weights else None
    if given.classifier is None:
        return Extractor(names, network)
    classifier = classifiers.load(given.classifier, device)
    running.belongs(given.classifier, "--classifier", {"dataset": classifier.dataset}, read_manifest(given.data))
    return Extractor(names, network, classifier)


def _references(paths: list[Path], names: Sequence[str], dataset: str) -> dict[str, Statistics]:
    """Statistics by the kind of features, which their files are named after."""
    found = {path.stem: path for path in paths}
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"--reference: no {missing[0]}.npz among the files; give the training set's statistics of it")
    references = {name: Statistics.load(found[name]) for name in names}
    for name, statistics in references.items():
        ours = {"dataset": dataset, "features": name}
        running.belongs(found[name], "--reference", {key: getattr(statistics, key) for key in ours}, ours)
    return references


def _distances_of(snapshots: Snapshots, path: Path) -> read.Rows:
    """The distances of a run, which the file has to be of."""
    rows, ours = read.distances([path]), snapshots.named
    for row in rows:
        running.belongs(path, "--distances", row, ours | {"r_entropy": float(f"{ours['r_entropy']:g}")})  # as written
    return rows


def _check_run(given: argparse.Namespace, snapshots: Snapshots, options: jobs.Distances | jobs.Overfit) -> None:
    """The model has to be of the run that is named, if one is, and of the data."""
    theirs = snapshots.named | {"batch_size": snapshots.run.training.batch_size}
    running.belongs(given.model, "--model", theirs, {key: getattr(options, key, None) for key in theirs})
    running.belongs(given.data, "--data", read_manifest(given.data), {"dataset": snapshots.run.dataset})
