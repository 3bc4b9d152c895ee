"""The commands of the 2D half: search, and train and evaluate for its datasets."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from introprior.commands import options as told
from introprior.commands import running
from introprior.commands.choices import Hyperparameters
from introprior.commands.running import Facts
from introprior.data.catalogue import check_size, dataset
from introprior.errors import UserError
from introprior.evaluation import density as evaluation
from introprior.evaluation import search as searching
from introprior.experiment import jobs
from introprior.experiment.run import DensityRun
from introprior.operations import files
from introprior.operations.devices import borrowed
from introprior.training import checkpoints
from introprior.training.density import begin
from introprior.training.loop import Training


def search(given: argparse.Namespace) -> Facts | None:
    """Train the settings of a slice of the grid, and score each."""
    options = told.read(given, jobs.Search)
    files.check_writable(given.output)
    run = run_of(options, told.members(options.cell, [options.seed], options.betas))
    check_size(run.dataset, options.samples, "--options: samples")
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
    """Train all seeds of a cell as one ensemble."""
    options = told.read(given, jobs.Train)
    files.check_writable(given.output, given.history)
    betas: tuple[float | None, ...]
    if given.hyperparameters is not None:
        content = files.read_json(given.hyperparameters)
        chosen = Hyperparameters.read(content, str(given.hyperparameters))
        ours = {"dataset": options.dataset, "cell": options.cell}
        running.belongs(given.hyperparameters, "--hyperparameters", content, ours)
        betas = chosen.beta_rec, chosen.beta_kl, chosen.beta_neg
    elif options.betas is not None:
        betas = options.betas
    else:
        raise UserError("--hyperparameters or --betas is required; see introprior train --help")
    run = run_of(options, told.members(options.cell, options.seeds, [betas]))
    with running.session(given, run, partial(begin, run), given.output, given.history) as session:
        if session is None:
            return None
        session.advance(run.training.iterations)
        session.save(given.output, model=checkpoints.model_state(session.training.model))
        write_history(given.history, session.training)
    return session.facts()


def write_history(path: Path, training: Training) -> None:
    """The history of an ensemble, with its seeds."""
    run = training.run
    named = {"dataset": run.dataset, "cell": run.cell.name}
    rows = [{**named, "seed": run.members[row.pop("member")].seed, **row} for row in training.history.tidy()]
    files.write_csv(path, rows, ("dataset", "cell", "iteration", "seed", "quantity", "value"))


def evaluate(given: argparse.Namespace) -> Facts:
    """Measure a trained ensemble."""
    options = told.read(given, jobs.Evaluate)
    files.check_writable(given.metrics, given.panels)
    with borrowed(given.device) as device:
        ensemble = evaluation.Ensemble.read(given.model, device)
        run = ensemble.run
        theirs = {"dataset": run.dataset, "cell": run.cell.name}
        running.belongs(given.model, "--model", theirs, {key: getattr(options, key) for key in theirs})
        for key in ("samples", "data_points", "panel_points"):
            check_size(run.dataset, getattr(options, key), f"--options: {key}")
        panels = evaluation.panels(ensemble, options, device)
        rows = evaluation.measure(ensemble, options, device)
    with files.written(given.panels) as temporary:
        np.savez_compressed(temporary, **panels)
    columns = ("dataset", "cell", "seed", "metric", "value", "status", "detail")
    files.write_csv(given.metrics, rows, columns)
    return running.facts(run, device)


def run_of(options: jobs.Search | jobs.Train, members: list[Any]) -> DensityRun:
    """The run that the options of a job describe."""
    dataset(options.dataset, "--dataset")
    check_size(options.dataset, options.training.batch_size, "--options: training.batch_size")
    named = {key: getattr(options, key) for key in ("dataset", "cell", "training", "protocol")}
    return DensityRun.read(named | {"members": members}, "--options")
