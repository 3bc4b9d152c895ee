"""The commands of the 2D half: search, select, and train and evaluate for its datasets."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from introprior.commands import options as told
from introprior.errors import UserError, unknown
from introprior.evaluation import selection
from introprior.experiment import cells
from introprior.experiment.configuration import DATASETS
from introprior.operations import files, provenance
from introprior.operations.progress import Progress
from introprior.reporting import read

Facts = told.Facts

EVALUATION: dict[str, Any] = {
    "samples": 5000,
    "grid": 1024,
    "data_points": 12800,
    "monte_carlo_samples": 100,
    "panel_grid": 200,
    "panel_points": 2000,
}

SEARCH_KEYS = {**told.RUN_KEYS, "seed": int, "betas": list, "samples": int, "halving": dict}
TRAIN_KEYS = {**told.RUN_KEYS, "seeds": list}
EVALUATE_KEYS = {"dataset": str, "cell": str, **dict.fromkeys(EVALUATION, int), "panel_seed": int}
"""What the options of each command may hold."""


def search(given: argparse.Namespace) -> Facts:
    """Train the settings of a slice of the grid, and score each."""
    options = told.read(given, SEARCH_KEYS)
    files.check_writable(given.output)
    from introprior.evaluation import search
    from introprior.operations.devices import borrowed
    from introprior.training import density

    if not options.get("betas"):
        raise UserError("betas: no setting to search; give at least one [beta_rec, beta_kl, beta_neg]")
    _check_dataset(options)
    run = told.run(given, options, [(options.get("seed", 0), betas) for betas in options["betas"]])
    samples, halving = options.get("samples", EVALUATION["samples"]), options.get("halving")
    _check_size(run.dataset, samples, "samples")
    with told.claimed(run, given.state, "search"), borrowed(given.device) as device:
        training = density.begin(run, device)
        state, resumed = told.resumed(training, given.state, "search")
        progress = Progress(given.output, told.label(run), run.training.iterations)
        for end in [*search.rungs(halving, run.training.iterations, training.game_start), run.training.iterations]:
            # At `end` itself a rung is still to be judged: that is where a signal may have stopped the run.
            if training.iteration > end or not training.watch.alive():
                continue
            training.advance(
                end,
                state=state,
                checkpoint_seconds=given.checkpoint_seconds,
                log_every=told.log_every(run),
                label=told.label(run),
                progress=progress,
            )
            if halving and end < run.training.iterations and training.watch.alive():
                search.drop_losers(training, halving["keep"], samples)
        rows = search.finished(training, samples) + training.notes.get("dropped", [])
        named = {"dataset": run.dataset, "cell": run.cell.name}
        rows = [{**named, **row} for row in search.in_order(rows, run.members)]
        files.write_csv(given.output, rows, (*named, *search.COLUMNS))
        told.finish(state, progress)
    return told.facts(run, device) | {"iterations": training.iteration, "resumed": resumed}


def select(given: argparse.Namespace) -> Facts:
    """Choose among the settings that searches tried, or take over published ones."""
    _check_dataset({"dataset": given.dataset})
    cells.parse(given.cell, "--cell")
    named = {"dataset": given.dataset, "cell": given.cell}
    if given.slices:
        tried = read.slices(given.slices)
        chosen = {"source": "search", **selection.choose(tried, given.dataset, given.cell)}
    else:
        try:
            chosen = json.loads(given.published)
        except json.JSONDecodeError as error:
            raise UserError(f"--published: not valid JSON ({error})") from error
        _betas(chosen, "--published")
    files.write_json(given.output, named | chosen)
    return {}


def train(given: argparse.Namespace) -> Facts | None:
    """Train all seeds of a cell as one ensemble."""
    options = told.read(given, TRAIN_KEYS)
    files.check_writable(given.output, given.history)
    if given.betas is None and given.hyperparameters is None:
        raise UserError("--hyperparameters or --betas is required; see introprior train --help")
    from introprior.operations.devices import borrowed
    from introprior.training import checkpoints, density

    _check_dataset(options)
    betas = given.betas or _betas(files.read_json(given.hyperparameters), given.hyperparameters)
    settings = [(seed, betas) for seed in options.get("seeds", [0, 1, 2, 3, 4])]
    run = told.run(given, options, settings, given.hyperparameters or "--betas")
    started = time.time()
    with told.claimed(run, given.state, "train") as waited, borrowed(given.device) as device:
        if waited and told.finished_meanwhile(run, given.output, given.history):
            return None
        training = density.begin(run, device)
        state, resumed = told.resumed(training, given.state, "train")
        progress = Progress(given.output, told.label(run), run.training.iterations)
        training.advance(
            run.training.iterations,
            state=state,
            checkpoint_seconds=given.checkpoint_seconds,
            log_every=told.log_every(run),
            label=told.label(run),
            progress=progress,
        )
        checkpoints.save(
            given.output,
            {
                "run": run.as_dict(),
                "records": training.records(),
                "model": checkpoints.model_state(training.model),
                "provenance": provenance.origin(told.device_name(device), started),
            },
        )
        named = {"dataset": run.dataset, "cell": run.cell.name}
        rows = [{**named, "seed": run.members[row.pop("member")].seed, **row} for row in training.history.tidy()]
        files.write_csv(given.history, rows, ("dataset", "cell", "iteration", "seed", "quantity", "value"))
        told.finish(state, progress)
    told.tell_divergence(run, training.records())
    return told.facts(run, device, training, resumed)


def evaluate(given: argparse.Namespace) -> Facts:
    """Measure a trained ensemble."""
    options = EVALUATION | told.read(given, EVALUATE_KEYS)
    for key in EVALUATION:
        least = 2 if key in ("grid", "panel_grid") else 1
        if options[key] < least:
            raise UserError(f"--options: {key}: must be at least {least}, is {options[key]}")
    files.check_writable(given.metrics, given.panels)
    import numpy as np

    from introprior.evaluation import density
    from introprior.operations.devices import borrowed

    with borrowed(given.device) as device:
        ensemble = density.Ensemble.read(given.model, device)
        run = ensemble.run
        for key, trained in (("dataset", run.dataset), ("cell", run.cell.name)):
            if options.get(key, trained) != trained:
                raise UserError(
                    f"{given.model}: trained for the {key} {trained}, not {options[key]}; give another --model"
                )
        for key in ("samples", "data_points", "panel_points"):
            _check_size(run.dataset, options[key], key)
        options.setdefault("panel_seed", run.members[0].seed)
        panels = density.panels(ensemble, options, device)
        rows = density.measure(ensemble, options, device)
    with files.written(given.panels) as temporary:
        np.savez_compressed(temporary, **panels)
    columns = ("dataset", "cell", "seed", "metric", "value", "status", "detail")
    files.write_csv(given.metrics, rows, columns)
    return told.facts(run, device)


def _check_dataset(options: dict[str, Any]) -> None:
    if "dataset" in options and options["dataset"] not in DATASETS:
        raise unknown("dataset", options["dataset"], DATASETS, "--dataset")


def _betas(content: Any, where: object) -> list[Any]:
    try:
        return [content["beta_rec"], content["beta_kl"], content["beta_neg"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: beta_rec, beta_kl and beta_neg are not all there; delete it and run again"
        ) from error


def _check_size(dataset: str, size: int, key: str) -> None:
    from introprior.data.density import check_size

    check_size(dataset, size, f"--options: {key}")
