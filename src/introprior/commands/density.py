"""The commands of the 2D half: search, and train and evaluate for its datasets."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from introprior.commands import arguments, running
from introprior.commands.choices import Hyperparameters
from introprior.commands.running import Facts
from introprior.data import catalogue, points
from introprior.errors import UserError
from introprior.evaluation import density as evaluation
from introprior.evaluation import search as searching
from introprior.experiment import jobs
from introprior.experiment.run import DensityRun
from introprior.metrics import registry
from introprior.operations import files
from introprior.operations.devices import borrowed
from introprior.training import checkpoints
from introprior.training.density import begin

Betas = Sequence[float | None]
"""beta_rec, beta_kl, and but for a VAE beta_neg."""


def search(given: argparse.Namespace) -> Facts | None:
    """Train the settings of a slice of the grid, and score each."""
    options = arguments.read(given, jobs.Search)
    files.check_writable(given.output)
    run = run_of(options, [options.seed], {options.dataset: options.betas})
    _keep_apart(given, options)
    catalogue.check_size(run.dataset, options.samples, "--options: samples")
    with running.session(given, run, partial(begin, run), given.output) as session:
        if session is None:
            return None
        training, last = session.training, run.training.iterations
        for end in [*searching.rungs(options.halving, last, training.game_start), last]:
            # At `end` itself a rung is still to be judged: that is where a signal may have stopped the run.
            if training.iteration > end or not training.watch.alive():
                continue
            session.advance(end)
            if options.halving and end < last and training.watch.alive():
                searching.drop_losers(training, options.halving.keep, options.samples)
        rows = searching.finished(training, options.samples) + training.notes.get("dropped", [])
        named = {"dataset": run.dataset, "cell": run.cell.name}
        rows = [{**named, **row} for row in searching.in_order(rows, run.members)]
        files.write_csv(given.output, rows, (*named, *searching.COLUMNS))
    return session.course()


def train(given: argparse.Namespace) -> Facts | None:
    """Train all seeds of a cell as one ensemble, on one dataset or several at once."""
    options = arguments.read(given, jobs.Train)
    files.check_writable(*given.output, *given.history)
    for flag in ("output", "history"):
        _one_each(f"--{flag}", getattr(given, flag), options.dataset)
    run = run_of(options, options.seeds, _weights(given, options))
    _keep_apart(given, options)
    with running.session(given, run, partial(begin, run), *given.output, *given.history) as session:
        if session is None:
            return None
        session.advance(run.training.iterations)
        for name, output, history in zip(options.dataset, given.output, given.history, strict=True):
            rows = run.rows(name)
            session.save(output, rows, model=checkpoints.model_state(session.training.model, rows))
            running.write_history(history, session.training, name)
    return session.facts()


def _keep_apart(given: argparse.Namespace, options: jobs.Search | jobs.Train) -> None:
    """A training on points that have changed since must not go on where that on the former ones stopped."""
    if options.points and given.state is not None:
        given.state /= points.fingerprint(own.file for own in options.points.values())[:16]


def _weights(given: argparse.Namespace, options: jobs.Train) -> dict[str, list[Betas]]:
    """The betas of every dataset."""
    if given.hyperparameters is None:
        if options.betas is None:
            raise UserError("--hyperparameters or --betas is required; see introprior train --help")
        return {name: [options.betas] for name in options.dataset}
    _one_each("--hyperparameters", given.hyperparameters, options.dataset)
    found: dict[str, list[Betas]] = {}
    for path, name in zip(given.hyperparameters, options.dataset, strict=True):
        content = files.read_json(path)
        chosen = Hyperparameters.read(content, str(path))
        running.belongs(path, "--hyperparameters", content, {"dataset": name, "cell": options.cell})
        found[name] = [chosen.betas]
    return found


def _one_each(flag: str, paths: Sequence[Path], datasets: Sequence[str]) -> None:
    if len(paths) != len(datasets):
        raise UserError(f"{flag}: {len(paths)} files for {len(datasets)} datasets; give one for each")


def evaluate(given: argparse.Namespace) -> Facts:
    """Measure trained ensembles."""
    options = arguments.read(given, jobs.Evaluate)
    files.check_writable(*given.metrics, *given.panels)
    for flag in ("metrics", "panels"):
        if len(getattr(given, flag)) != len(given.model):
            raise UserError(f"--{flag}: as many files as --model has are needed; give one for each")
    if options.dataset is not None:
        _one_each("--model", given.model, options.dataset)
    wanted = options.dataset or [None] * len(given.model)
    with borrowed(given.device) as device:
        for name, model, metrics, panels in zip(wanted, given.model, given.metrics, given.panels, strict=True):
            run = _evaluate(model, metrics, panels, options, name, device)
    return running.facts(run, device)


def _evaluate(
    path: Path, metrics: Path, panels: Path, options: jobs.Evaluate, dataset: str | None, device: torch.device
) -> DensityRun:
    """Measure one ensemble; the run that it is of."""
    ensemble = evaluation.Ensemble.read(path, device)
    run = ensemble.run
    theirs = {"dataset": run.dataset, "cell": run.cell.name}
    running.belongs(path, "--model", theirs, {"dataset": dataset, "cell": options.cell})
    for key in ("samples", "data_points", "panel_points"):
        catalogue.check_size(run.dataset, getattr(options, key), f"--options: {key}")
    arrays = evaluation.panels(ensemble, options, device)
    rows = evaluation.measure(ensemble, options, device, *map(registry.functions, ("energies", "samples")))
    with files.written(panels) as temporary:
        np.savez_compressed(temporary, **arrays)
    files.write_csv(metrics, rows, ("dataset", "cell", "seed", "metric", "value", "status", "detail"))
    return run


def run_of(
    options: jobs.Search | jobs.Train, seeds: Sequence[int], settings: Mapping[str, Sequence[Betas]]
) -> DensityRun:
    """The run that the options of a job describe: by dataset, every seed with each of some settings."""
    for name in settings:
        catalogue.dataset(name, "--dataset")
        catalogue.check_size(name, options.training.batch_size, "--options: training.batch_size")
    members = [each for name, some in settings.items() for each in arguments.members(name, options.cell, seeds, some)]
    named = {key: getattr(options, key) for key in ("cell", "training", "protocol")}
    return DensityRun.read(named | {"members": members}, "--options")
