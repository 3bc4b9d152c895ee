"""The command ``introprior``: the heavy steps of the workflow, each of which also runs, and resumes, by itself."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from introprior import __version__
from introprior.commands import density, planning, results
from introprior.commands import options as told
from introprior.errors import UserError
from introprior.experiment import cells, jobs
from introprior.experiment.fields import Model
from introprior.experiment.protocol import PRESETS
from introprior.operations import progress, provenance

CHECKPOINT_SECONDS = "INTROPRIOR_CHECKPOINT_SECONDS"

DESCRIPTION = """\
Train and evaluate Soft-IntroVAE with the prior as a third player.

The workflow calls these commands; by hand they do the same:

  introprior train --dataset 8Gaussian --cell mog64-lc-ip --seeds 0 1 --betas 0.2 0.3 0.9 \\
      --set training.iterations=3000 --output ensemble.pt --history history.csv
  introprior evaluate --model ensemble.pt --metrics metrics.csv --panels panels.npz

and on images, with one run per seed:

  introprior prepare --dataset FMNIST --output data/FMNIST
  introprior train --dataset FMNIST --cell mog100-ip --seeds 0 --betas 1 1 256 --data data/FMNIST \\
      --output snapshots.pt --history history.csv

What is not given is as in the paper (protocol `authors`; on images the networks, batches and latent
dimensions of Fashion-MNIST: for others see config/config.yaml). A command that was interrupted goes on
where it stopped when it is started again with the same options and --state.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for what the user can mend, 128 + n after signal n."""
    options = _parser().parse_args(arguments)
    try:
        with _terminable():
            _run(options)
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


def _run(given: argparse.Namespace) -> None:
    """Run a command, and record what it made of what."""
    if not given.writes:
        given.command(given)
        return
    if hasattr(given, "options"):
        given.stated = told.stated(given)
    record = provenance.Record(given.name, told.recorded(given), _paths(given, given.reads))
    written = _paths(given, given.writes)
    with progress.told(written[0]) if provenance.CONFIGURATION in os.environ else nullcontext():
        facts = given.command(given)
    if facts is not None:
        record.write(written, **facts)


def _paths(given: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """The files that options of these names mean; of a folder with a prepared dataset, its manifest or all of them."""
    paths: list[Path] = []
    for name in names:
        value = getattr(given, name, None)
        if name == "folder" or (name == "data" and value is not None):
            from introprior.data.images import FILES

            paths += [given.output / file for file in FILES] if name == "folder" else [given.data / FILES[0]]
        elif value is not None:
            paths += value if isinstance(value, list) else [value]
    return paths


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise what SIGINT does, so that nothing half-written stays. In the main thread only."""

    def stop(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it for SIGHUP
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line; by default it recites all options first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="introprior", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"introprior {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(
        function: Any, name: str, text: str, reads: Sequence[str] = (), writes: Sequence[str] = ("output",)
    ) -> argparse.ArgumentParser:
        part = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        part.set_defaults(command=function, reads=reads, writes=writes)
        return part

    search = command(
        density.search, "search", "train the settings of a grid as one ensemble and score each by histogram KL"
    )
    _add_run(search, jobs.Search)
    search.add_argument("--output", type=Path, required=True, help="CSV with one row per setting")

    select = command(density.select, "select", "choose the searched setting with the lowest KL", reads=["slices"])
    among = select.add_mutually_exclusive_group(required=True)
    among.add_argument("--slices", type=Path, nargs="+", help="what `introprior search` wrote")
    among.add_argument("--published", metavar="JSON", help="nothing to choose: beta_rec, beta_kl, beta_neg, source")
    select.add_argument("--dataset", required=True, help="named in the output")
    select.add_argument("--cell", required=True, help="named in the output")
    select.add_argument("--output", type=Path, required=True, help="JSON with the chosen hyperparameters")

    prepare = command(
        _images("prepare"),
        "prepare",
        "find or download an image dataset, check it, and convert it once",
        writes=["folder"],
    )
    prepare.add_argument("--dataset", required=True, help="MNIST, FMNIST, CIFAR-10, or a stand-in: digits, photos")
    prepare.add_argument("--output", type=Path, required=True, help="folder for the converted files")
    prepare.add_argument(
        "--source", type=Path, help="torchvision's root, only read; without it Debian's package, or a download"
    )
    prepare.add_argument("--offline", action="store_true", help="download nothing")
    prepare.add_argument("--no-verify", action="store_true", help="also take other idx files than the published ones")

    inception = command(_images("weights"), "weights", "find or download the Inception weights of FID, and check them")
    inception.add_argument("--source", type=Path, help="local copy (default: PyTorch's cache, else a download into it)")
    inception.add_argument("--output", type=Path, required=True, help="where to put them")

    classifier = command(
        _images("classifier"), "classifier", "train the small classifier behind fd_classifier", reads=["data"]
    )
    _add_data(classifier)
    _add_options(classifier, jobs.Classifier)
    classifier.add_argument("--output", type=Path, required=True, help="checkpoint of the classifier")

    reference = command(
        _images("reference"),
        "reference",
        "take the feature statistics of a training set, once",
        reads=["data", "weights", "classifier"],
    )
    _add_data(reference)
    _add_options(reference, jobs.Reference)
    _add_features(reference)
    reference.add_argument("--output", type=Path, required=True, help="NPZ of mean and covariance")

    warmup = command(
        _images("warmup"), "warmup", "train the warm-up on images that runs of one prior family share", reads=["data"]
    )
    _add_run(warmup, jobs.TrainImages)
    _add_data(warmup)
    warmup.add_argument("--betas", type=float, nargs="+", metavar="BETA", help="beta_rec beta_kl (default: 1 1)")
    warmup.add_argument("--seeds", type=int, nargs="+", help="one seed (default: 0)")
    warmup.add_argument("--output", type=Path, required=True, help="checkpoint of the warm-up's end")

    train = command(
        _train,
        "train",
        "train all seeds of a 2D cell as one ensemble, or one run on images",
        reads=["hyperparameters", "data", "warmup"],
        writes=["output", "history"],
    )
    _add_run(train, jobs.Train, jobs.TrainImages)
    weights = train.add_mutually_exclusive_group()
    weights.add_argument("--hyperparameters", type=Path, help="JSON with beta_rec, beta_kl and beta_neg (2D)")
    weights.add_argument(
        "--betas", type=float, nargs="+", metavar="BETA", help="beta_rec beta_kl beta_neg (a VAE takes the first two)"
    )
    train.add_argument("--seeds", type=int, nargs="+", help="one member each (default: 0 1 2 3 4; on images one, 0)")
    train.add_argument("--output", type=Path, required=True, help="checkpoint: the ensemble, on images the snapshots")
    train.add_argument("--history", type=Path, required=True, help="CSV of losses over the iterations")
    images = train.add_argument_group("images")
    _add_data(images, required=False)
    images.add_argument("--warmup", type=Path, help="what `introprior warmup` wrote (default: train it, too)")

    distances = command(
        _images("distances"),
        "distances",
        "measure what an image run generates at each snapshot",
        reads=["model", "data", "reference", "weights", "classifier", "earlier"],
    )
    distances.add_argument("--model", type=Path, required=True, help="what `introprior warmup` or `train` wrote")
    _add_data(distances)
    _add_options(distances, jobs.Distances)
    _add_features(distances, references=True)
    distances.add_argument("--earlier", type=Path, help="CSV with the distances of the warm-up's snapshots, taken over")
    distances.add_argument("--output", type=Path, required=True, help="CSV with one row per epoch and metric")

    evaluate = command(
        _evaluate,
        "evaluate",
        "measure a trained ensemble or image run, and draw what figures show of it",
        reads=["model", "data", "reference", "weights", "classifier", "distances"],
        writes=["metrics", "panels", "codes"],
    )
    evaluate.add_argument("--model", type=Path, required=True, help="what `introprior train` wrote")
    _add_options(evaluate, jobs.Evaluate, jobs.EvaluateImages)
    evaluate.add_argument("--metrics", type=Path, required=True, help="tidy CSV, one row per seed and metric")
    evaluate.add_argument("--panels", type=Path, required=True, help="NPZ with the arrays that figures show")
    images = evaluate.add_argument_group("images")
    _add_data(images, required=False)
    _add_features(images, references=True, required=False)
    images.add_argument("--distances", type=Path, help="what `introprior distances` wrote")
    images.add_argument("--codes", type=Path, help="NPZ for the sampled codes of both splits")

    probe = command(
        _images("probe"),
        "probe",
        "read labels off a run's codes with linear SVMs and nearest neighbours",
        reads=["codes"],
    )
    probe.add_argument("--codes", type=Path, required=True, help="what `introprior evaluate` wrote")
    _add_options(probe, jobs.Probe, device=False)
    probe.add_argument("--output", type=Path, required=True, help="CSV with one row per accuracy")

    choose = command(
        _images("choose"),
        "choose",
        "choose each cell's r_entropy by the mean of a metric over seeds",
        reads=["metrics"],
    )
    choose.add_argument("--metrics", type=Path, nargs="+", required=True, help="what `introprior evaluate` wrote")
    choose.add_argument("--dataset", required=True, help="whose runs to look at")
    choose.add_argument("--metric", required=True, help="for example fid_authors_gen")
    choose.add_argument("--output", type=Path, required=True, help="JSON with the choices")

    overfit = command(
        _images("overfit"),
        "overfit",
        "overfit the encoder of a trained image run (Figure S2)",
        reads=["model", "distances", "data"],
    )
    overfit.add_argument("--model", type=Path, required=True, help="what `introprior train` wrote")
    overfit.add_argument("--distances", type=Path, required=True, help="of the run; they choose the snapshot")
    _add_data(overfit)
    _add_options(overfit, jobs.Overfit)
    overfit.add_argument("--output", type=Path, required=True, help="NPZ with curves and images")

    planning.add_parsers(command)
    results.add_parser(command)
    return parser


def _images(name: str) -> Any:
    """A command of the image half, whose module is imported when it is called: it brings numpy."""

    def run(given: argparse.Namespace) -> Any:
        from introprior.commands import images

        return getattr(images, name)(given)

    return run


def _train(given: argparse.Namespace) -> Any:
    """By the dataset: images name theirs, and bring the folder that holds it."""
    from introprior.data.images import DATASETS

    on_images = given.data is not None or str(given.stated.get("dataset")) in DATASETS
    return (_images("train") if on_images else density.train)(given)


def _evaluate(given: argparse.Namespace) -> Any:
    """By the kind of model, of which only images need data."""
    return (density.evaluate if given.data is None else _images("evaluate"))(given)


_Part = argparse.ArgumentParser | argparse._ArgumentGroup


def _add_options(parser: _Part, *models: type[Model], device: bool = True) -> None:
    keys = "; on images ".join(", ".join(model.model_fields) for model in models)
    parser.add_argument(
        "--options", default="{}", metavar="JSON", help=f"options as JSON text or the name of a file: {keys}"
    )
    if device:
        parser.add_argument(
            "--device",
            default=os.environ.get("INTROPRIOR_DEVICE", "auto"),
            help="auto, cpu, cuda or cuda:N (default: the environment's INTROPRIOR_DEVICE, else auto)",
        )


def _add_data(parser: _Part, required: bool = True) -> None:
    parser.add_argument("--data", type=Path, required=required, help="folder that `introprior prepare` wrote")


def _add_features(parser: _Part, references: bool = False, required: bool = True) -> None:
    if references:
        parser.add_argument(
            "--reference", type=Path, nargs="+", required=required,
            help="the training set's statistics, one file per kind of features, named after it",
        )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="of Inception, for fid_authors and fid")
    parser.add_argument("--classifier", type=Path, help="what `introprior classifier` wrote, for fd_classifier")


def _add_run(parser: argparse.ArgumentParser, *models: type[Model]) -> None:
    _add_options(parser, *models)
    parser.add_argument(
        "--dataset", help="8Gaussian, 2Spirals, Checkerboard, Rings; MNIST, FMNIST, CIFAR-10, digits, photos"
    )
    parser.add_argument("--cell", help=f"for example {', '.join(cells.TABLE1_CELLS)}")
    parser.add_argument(
        "--protocol",
        choices=list(PRESETS),
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
        "--checkpoint-seconds",
        type=float,
        default=os.environ.get(CHECKPOINT_SECONDS, 300.0),
        help="how often it is written (default: the environment's INTROPRIOR_CHECKPOINT_SECONDS, else 300)",
    )
