"""The commands of the 2D half: search, select, and train and evaluate for its datasets."""

from __future__ import annotations

import argparse
import time
from typing import Any

from pydantic import ConfigDict

from introprior.commands import options as told
from introprior.commands import running
from introprior.commands.running import Facts
from introprior.data.catalogue import check_size, dataset
from introprior.errors import UserError
from introprior.evaluation import selection
from introprior.experiment import cells, jobs
from introprior.experiment.fields import Model, Positive
from introprior.experiment.run import DensityRun
from introprior.operations import files, provenance
from introprior.operations.progress import Progress
from introprior.reporting import read


class Hyperparameters(Model):
    """What ``hyperparameters.json`` holds beside the story of its choice."""

    model_config = ConfigDict(extra="ignore")

    beta_rec: Positive
    beta_kl: Positive
    beta_neg: Positive | None

    @property
    def betas(self) -> tuple[float | None, ...]:
        """All three."""
        return self.beta_rec, self.beta_kl, self.beta_neg


def search(given: argparse.Namespace) -> Facts:
    """Train the settings of a slice of the grid, and score each."""
    options = told.read(given, jobs.Search)
    files.check_writable(given.output)
    from introprior.evaluation import search
    from introprior.operations.devices import borrowed
    from introprior.training import density

    run = _run(options, told.members(options.cell, [options.seed], options.betas))
    check_size(run.dataset, options.samples, "--options: samples")
    with running.claimed(run, given.state, "search"), borrowed(given.device) as device:
        training = density.begin(run, device)
        state, resumed = running.resumed(training, given.state, "search")
        progress = Progress(given.output, running.label(run), run.training.iterations)
        rungs = search.rungs(options.halving, run.training.iterations, training.game_start)
        for end in [*rungs, run.training.iterations]:
            # At `end` itself a rung is still to be judged: that is where a signal may have stopped the run.
            if training.iteration > end or not training.watch.alive():
                continue
            training.advance(
                end,
                state=state,
                checkpoint_seconds=given.checkpoint_seconds,
                log_every=running.log_every(run),
                label=running.label(run),
                progress=progress,
            )
            if options.halving and end < run.training.iterations and training.watch.alive():
                search.drop_losers(training, options.halving.keep, options.samples)
        rows = search.finished(training, options.samples) + training.notes.get("dropped", [])
        named = {"dataset": run.dataset, "cell": run.cell.name}
        rows = [{**named, **row} for row in search.in_order(rows, run.members)]
        files.write_csv(given.output, rows, (*named, *search.COLUMNS))
        running.finish(state, progress)
    return running.facts(run, device) | {"iterations": training.iteration, "resumed": resumed}


def select(given: argparse.Namespace) -> Facts:
    """Choose among the settings that searches tried, or take over published ones."""
    dataset(given.dataset, "--dataset")
    cells.parse(given.cell, "--cell")
    named = {"dataset": given.dataset, "cell": given.cell}
    if given.slices:
        tried = read.slices(given.slices)
        chosen = {"source": "search", **selection.choose(tried, given.dataset, given.cell)}
    else:
        chosen = told.parsed(given.published, "--published")
        Hyperparameters.read(chosen, "--published")
    files.write_json(given.output, named | chosen)
    return {}


def train(given: argparse.Namespace) -> Facts | None:
    """Train all seeds of a cell as one ensemble."""
    options = told.read(given, jobs.Train)
    files.check_writable(given.output, given.history)
    if options.betas is None and given.hyperparameters is None:
        raise UserError("--hyperparameters or --betas is required; see introprior train --help")
    from introprior.operations.devices import borrowed
    from introprior.training import checkpoints, density

    betas = options.betas
    if given.hyperparameters is not None:
        content = files.read_json(given.hyperparameters)
        betas = Hyperparameters.read(content, str(given.hyperparameters)).betas
    assert betas is not None
    run = _run(options, told.members(options.cell, options.seeds, [betas]))
    started = time.time()
    with running.claimed(run, given.state, "train") as waited, borrowed(given.device) as device:
        if waited and running.finished_meanwhile(run, given.output, given.history):
            return None
        training = density.begin(run, device)
        state, resumed = running.resumed(training, given.state, "train")
        progress = Progress(given.output, running.label(run), run.training.iterations)
        training.advance(
            run.training.iterations,
            state=state,
            checkpoint_seconds=given.checkpoint_seconds,
            log_every=running.log_every(run),
            label=running.label(run),
            progress=progress,
        )
        checkpoints.save(
            given.output,
            {
                "run": run.as_dict(),
                "records": training.records(),
                "model": checkpoints.model_state(training.model),
                "provenance": provenance.origin(running.device_name(device), started),
            },
        )
        named = {"dataset": run.dataset, "cell": run.cell.name}
        rows = [{**named, "seed": run.members[row.pop("member")].seed, **row} for row in training.history.tidy()]
        files.write_csv(given.history, rows, ("dataset", "cell", "iteration", "seed", "quantity", "value"))
        running.finish(state, progress)
    running.tell_divergence(run, training.records())
    return running.facts(run, device, training, resumed)


def evaluate(given: argparse.Namespace) -> Facts:
    """Measure a trained ensemble."""
    options = told.read(given, jobs.Evaluate)
    files.check_writable(given.metrics, given.panels)
    import numpy as np

    from introprior.evaluation import density
    from introprior.operations.devices import borrowed

    with borrowed(given.device) as device:
        ensemble = density.Ensemble.read(given.model, device)
        run = ensemble.run
        for key, trained in (("dataset", run.dataset), ("cell", run.cell.name)):
            if getattr(options, key) not in (None, trained):
                raise UserError(
                    f"{given.model}: trained for the {key} {trained}, not {getattr(options, key)}; give another --model"
                )
        for key in ("samples", "data_points", "panel_points"):
            check_size(run.dataset, getattr(options, key), f"--options: {key}")
        panels = density.panels(ensemble, options, device)
        rows = density.measure(ensemble, options, device)
    with files.written(given.panels) as temporary:
        np.savez_compressed(temporary, **panels)
    columns = ("dataset", "cell", "seed", "metric", "value", "status", "detail")
    files.write_csv(given.metrics, rows, columns)
    return running.facts(run, device)


def _run(options: jobs.Search | jobs.Train, members: list[Any]) -> DensityRun:
    dataset(options.dataset, "--dataset")
    check_size(options.dataset, options.training.batch_size, "--options: training.batch_size")
    return DensityRun.read(
        {
            "dataset": options.dataset,
            "cell": options.cell,
            "members": members,
            "training": options.training,
            "protocol": options.protocol,
        },
        "--options",
    )
