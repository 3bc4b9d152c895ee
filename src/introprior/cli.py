"""The command ``introprior``: the heavy steps of the workflow, each of which also runs, and resumes, by itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from introprior import __version__, cells, files, protocols, selection
from introprior.configuration import DATASETS
from introprior.errors import UserError, unknown

if TYPE_CHECKING:  # torch takes seconds to import: only the commands that compute do it
    import torch

    from introprior.training.loop import Training
    from introprior.training.options import Member, Run

DESCRIPTION = """\
Train and evaluate Soft-IntroVAE with the prior as a third player.

The workflow calls these commands; by hand they do the same:

  introprior train --dataset 8Gaussian --cell mog64-lc-ip --seeds 0 1 --betas 0.2 0.3 0.9 \\
      --set training.iterations=3000 --output ensemble.pt --history history.csv
  introprior evaluate --model ensemble.pt --metrics metrics.csv --panels panels.npz

What is not given is as in the paper (protocol `authors`). A command that was interrupted goes on
where it stopped when it is started again with the same options and --state.
"""

EVALUATION: dict[str, Any] = {
    "samples": 5000,
    "grid": 1024,
    "data_points": 12800,
    "monte_carlo_samples": 100,
    "panel_grid": 200,
    "panel_points": 2000,
}

_RUN_KEYS: dict[str, type] = {"dataset": str, "cell": str, "training": dict, "protocol": dict}
SEARCH_KEYS = {**_RUN_KEYS, "seed": int, "betas": list, "samples": int, "halving": dict}
TRAIN_KEYS = {**_RUN_KEYS, "seeds": list}
EVALUATE_KEYS = {"dataset": str, "cell": str, **dict.fromkeys(EVALUATION, int), "panel_seed": int}
"""What the options of each command may hold."""

_TYPES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
    tuple: "a list of whole numbers",
    dict: "a section of keys",
}
_LARGEST_SEED = 2**32 - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for what the user can mend, 128 + n after signal n."""
    options = _parser().parse_args(arguments)
    try:
        with _terminable():
            options.command(options)
    except UserError as error:
        print(f"introprior {options.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"introprior {options.name}: interrupted; run the same command again", file=sys.stderr)
        return 128 + int((interruption.args or (signal.SIGINT,))[0])
    except Exception as error:
        number = getattr(error, "signal_number", None)
        if number is None:
            raise
        print(f"introprior {options.name}: {error}", file=sys.stderr)
        return 128 + number
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise what SIGINT does, so that nothing half-written is left behind. In the main thread only."""

    def stop(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line; by default it recites all options first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="introprior", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"introprior {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(function: Any, name: str, text: str) -> argparse.ArgumentParser:
        part = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        part.set_defaults(command=function)
        return part

    search = command(_search, "search", "train the settings of a grid as one ensemble and score each by histogram KL")
    _add_run(search)
    search.add_argument("--output", type=Path, required=True, help="CSV with one row per setting")

    select = command(_select, "select", "choose the searched setting with the lowest KL")
    select.add_argument("--slices", type=Path, nargs="+", required=True, help="what `introprior search` wrote")
    select.add_argument("--dataset", required=True, help="named in the output")
    select.add_argument("--cell", required=True, help="named in the output")
    select.add_argument("--output", type=Path, required=True, help="JSON with the chosen hyperparameters")

    train = command(_train, "train", "train all seeds of one cell as one ensemble")
    _add_run(train)
    weights = train.add_mutually_exclusive_group(required=True)
    weights.add_argument("--hyperparameters", type=Path, help="JSON with beta_rec, beta_kl and beta_neg")
    weights.add_argument(
        "--betas", type=float, nargs="+", metavar="BETA", help="beta_rec beta_kl beta_neg (a VAE takes the first two)"
    )
    train.add_argument("--seeds", type=int, nargs="+", help="one member each (default: 0 1 2 3 4)")
    train.add_argument("--output", type=Path, required=True, help="checkpoint of the trained ensemble")
    train.add_argument("--history", type=Path, required=True, help="CSV of losses over the iterations")

    evaluate = command(_evaluate, "evaluate", "measure a trained ensemble, and draw what Figure 3 shows of it")
    evaluate.add_argument("--model", type=Path, required=True, help="what `introprior train` wrote")
    _add_options(evaluate, ", ".join(EVALUATE_KEYS))
    evaluate.add_argument("--metrics", type=Path, required=True, help="tidy CSV, one row per seed and metric")
    evaluate.add_argument("--panels", type=Path, required=True, help="NPZ with the arrays of one seed's panels")
    return parser


def _add_options(parser: argparse.ArgumentParser, keys: str) -> None:
    parser.add_argument(
        "--options", default="{}", metavar="JSON", help=f"options as JSON text or the name of a file: {keys}"
    )
    parser.add_argument(
        "--device",
        default=os.environ.get("INTROPRIOR_DEVICE", "auto"),
        help="auto, cpu, cuda or cuda:N (default: the environment's INTROPRIOR_DEVICE, else auto)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_options(
        parser, "dataset, cell, training, protocol, and seeds (train) or seed, betas, samples, halving (search)"
    )
    parser.add_argument("--dataset", help="8Gaussian, 2Spirals, Checkerboard or Rings; goes before --options")
    parser.add_argument("--cell", help=f"for example {', '.join(cells.TABLE1_CELLS)}; goes before --options")
    parser.add_argument(
        "--protocol",
        choices=list(protocols.PRESETS),
        default="authors",
        help="what the options' protocol changes single options of (default: authors)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one option, e.g. training.iterations=3000; repeatable",
    )
    parser.add_argument("--state", type=Path, help="folder for the resume state (default: none is kept)")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=300.0, help="how often it is written (default: 300)"
    )


def _options(given: argparse.Namespace, known: Mapping[str, type]) -> dict[str, Any]:
    """The options of a command: the JSON's, and over them the single flags'; null is as good as not given."""
    text = given.options
    if not text.lstrip().startswith("{"):
        options = files.read_json(text)
        if not isinstance(options, dict):
            raise UserError(f"{text}: must be {_TYPES[dict]}, is {options!r}")
    else:
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"--options: not valid JSON ({error})") from error
    for assignment in getattr(given, "set", []):
        path, equals, value = assignment.partition("=")
        *sections, key = path.split(".")
        if not equals:
            raise UserError(f"--set {assignment}: expected KEY=VALUE, for example training.iterations=3000")
        place = options
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {assignment}: {section} has no keys of its own")
        try:
            place[key] = json.loads(value)
        except json.JSONDecodeError:
            place[key] = value
    for flag in ("dataset", "cell", "seeds"):
        if getattr(given, flag, None) is not None:
            options[flag] = getattr(given, flag)
    for key in options:
        if key not in known:
            raise unknown("key", key, known, "--options")
    options = {key: value for key, value in options.items() if value is not None}
    _check_types(options, known, "--options: ")
    return options


def _check_types(values: Mapping[str, Any], known: Mapping[str, type], where: str) -> None:
    """Refuse values that are not of their key's type; whole numbers may stand for real ones."""
    for key, value in values.items():
        wanted = known.get(key, type(value))
        if wanted is float:
            right = _is_number(value)
        elif wanted is tuple:
            right = isinstance(value, list) and all(type(item) is int for item in value)
        else:
            right = type(value) is wanted
        if not right:
            raise UserError(f"{where}{key}: must be {_TYPES[wanted]}, is {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _run(
    given: argparse.Namespace, options: dict[str, Any], settings: Sequence[tuple[Any, Any]], where: object = "betas"
) -> Run:
    """The ensemble that the options describe, with one member for each (seed, betas); ``where`` these come from."""
    from introprior.training.options import Run, TrainingOptions

    for key in ("dataset", "cell"):
        if key not in options:
            raise UserError(f"--{key} is missing; give it, or have it in --options")
    _check_dataset(options["dataset"])
    cell, training = cells.parse(options["cell"], "--cell"), options.get("training", {})
    _check_types(
        training, {field.name: type(field.default) for field in dataclasses.fields(TrainingOptions)}, "training."
    )
    return Run(
        options["dataset"],
        cell,
        tuple(_member(cell, seed, betas, where) for seed, betas in settings),
        TrainingOptions.from_dict(training),
        protocols.resolve(given.protocol, options.get("protocol", {})),
    )


def _check_dataset(name: str) -> None:
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS, "--dataset")


def _member(cell: cells.Cell, seed: Any, betas: Any, where: object) -> Member:
    """One member; a VAE has no use for beta_neg."""
    from introprior.training.options import Member

    if type(seed) is not int or not 0 <= seed <= _LARGEST_SEED:
        raise UserError(f"seeds: must be whole numbers from 0 to {_LARGEST_SEED}; {seed!r} is none")
    weights = (*betas, None)[:3] if isinstance(betas, list | tuple) and len(betas) in (2, 3) else ()
    if not weights or not all(map(_is_number, weights if weights[2] is not None else weights[:2])):
        raise UserError(f"{where}: must be the numbers beta_rec, beta_kl and, unless for a VAE, beta_neg; is {betas!r}")
    try:
        return Member(seed, *(weights if cell.adversarial else weights[:2]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _begin(run: Run, given: argparse.Namespace, device: torch.device, kind: str) -> tuple[Training, Path | None, str]:
    """The training as it stands, its state file, and its label: from the start, or from where it was interrupted."""
    from introprior.training import checkpoints, density

    training = density.begin(run, device)
    label = f"{run.dataset} {run.cell.name}"
    state = given.state / f"{kind}-{run.key}.pt" if given.state else None
    if state is not None:
        files.check_writable(state)
    if state is not None and state.exists():
        training.restore(checkpoints.load(state, device), state)
        print(f"{label}: going on from iteration {training.iteration} of {state}", file=sys.stderr)
    return training, state, label


def _search(given: argparse.Namespace) -> None:
    options = _options(given, SEARCH_KEYS)
    files.check_writable(given.output)
    from introprior import search
    from introprior.devices import borrowed

    if not options.get("betas"):
        raise UserError("betas: no setting to search; give at least one [beta_rec, beta_kl, beta_neg]")
    run = _run(given, options, [(options.get("seed", 0), betas) for betas in options["betas"]])
    samples, halving = options.get("samples", EVALUATION["samples"]), options.get("halving")
    _check_size(run.dataset, samples, "samples")
    with borrowed(given.device) as device:
        training, state, label = _begin(run, given, device, "search")
        for end in [*search.rungs(halving, run.training.iterations, training.game_start), run.training.iterations]:
            # At `end` itself a rung is still to be judged: that is where a signal may have stopped the run.
            if training.iteration > end or not training.watch.alive():
                continue
            training.advance(
                end, state=state, checkpoint_seconds=given.checkpoint_seconds, log_every=_log_every(run), label=label
            )
            if halving and end < run.training.iterations and training.watch.alive():
                search.drop_losers(training, halving["keep"], samples)
        rows = search.finished(training, samples) + training.notes.get("dropped", [])
    files.write_csv(given.output, search.in_order(rows, run.members), search.COLUMNS)
    _finish(state)


def _select(given: argparse.Namespace) -> None:
    _check_dataset(given.dataset)
    cells.parse(given.cell, "--cell")
    chosen = selection.choose(selection.read_slices(given.slices))
    files.write_json(given.output, {"dataset": given.dataset, "cell": given.cell, "source": "search", **chosen})


def _train(given: argparse.Namespace) -> None:
    options = _options(given, TRAIN_KEYS)
    files.check_writable(given.output, given.history)
    from introprior.devices import borrowed
    from introprior.training import checkpoints

    betas = given.betas or _read_betas(given.hyperparameters)
    settings = [(seed, betas) for seed in options.get("seeds", [0, 1, 2, 3, 4])]
    run = _run(given, options, settings, given.hyperparameters or "--betas")
    started = time.time()
    with borrowed(given.device) as device:
        training, state, label = _begin(run, given, device, "train")
        training.advance(
            run.training.iterations,
            state=state,
            checkpoint_seconds=given.checkpoint_seconds,
            log_every=_log_every(run),
            label=label,
        )
        checkpoints.save(
            given.output,
            {
                "run": run.as_dict(),
                "records": training.records(),
                "model": checkpoints.model_state(training.model),
                "provenance": _provenance(device, started),
            },
        )
    rows = [{"seed": run.members[row.pop("member")].seed, **row} for row in training.history.tidy()]
    files.write_csv(given.history, rows, ("iteration", "seed", "quantity", "value"))
    _finish(state)
    for member, record in zip(run.members, training.records(), strict=True):
        if record["status"] != "ok":
            print(f"{label}, seed {member.seed}: diverged, {record['detail']}", file=sys.stderr)


def _evaluate(given: argparse.Namespace) -> None:
    options = EVALUATION | _options(given, EVALUATE_KEYS)
    for key in EVALUATION:
        least = 2 if key in ("grid", "panel_grid") else 1
        if options[key] < least:
            raise UserError(f"--options: {key}: must be at least {least}, is {options[key]}")
    files.check_writable(given.metrics, given.panels)
    import numpy as np

    from introprior.devices import borrowed
    from introprior.evaluation import density

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


def _read_betas(path: Path) -> list[Any]:
    content = files.read_json(path)
    try:
        return [content["beta_rec"], content["beta_kl"], content["beta_neg"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: beta_rec, beta_kl and beta_neg are not all there; delete it and run again") from error


def _check_size(dataset: str, size: int, key: str) -> None:
    from introprior.data.density import check_size

    check_size(dataset, size, f"--options: {key}")


def _log_every(run: Run) -> int:
    return max(1, run.training.iterations // 300)


def _provenance(device: torch.device, started: float) -> dict[str, Any]:
    """Where an outcome comes from."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "introprior": __version__,
        "torch": str(torch.__version__),
        "device": name,
        "seconds": round(time.time() - started, 1),
    }


def _finish(state: Path | None) -> None:
    """The results are written: what was kept for going on is not needed any more."""
    if state is not None:
        state.unlink(missing_ok=True)
