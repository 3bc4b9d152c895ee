"""The command ``introprior``: the heavy steps of the workflow, each of which also runs, and resumes, by itself."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from introprior import __version__
from introprior.commands import arguments
from introprior.errors import UserError, cut, one_line, out_of_memory, plain
from introprior.experiment import jobs
from introprior.experiment.cells import TABLE1_CELLS
from introprior.experiment.fields import Model, expanded
from introprior.experiment.protocol import PRESETS
from introprior.operations import files, progress, provenance, signals

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for what the user can mend, 128 + n after signal n."""
    name, options = "introprior", argparse.Namespace()
    try:
        with signals.handled((signal.SIGTERM, signal.SIGHUP), _stop):
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # β, on a terminal that has none
            options = _parser().parse_args(argv)
            name = f"introprior {options.name}"
            _run(options)
            sys.stdout.flush()
    except UserError as error:
        print(f"{name}: {plain(arguments.blamed(options, str(error)))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries again as it ends, and complains
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as interruption:
        print(f"{name}: interrupted; run the same command again", file=sys.stderr)
        return 128 + int((interruption.args or (signal.SIGINT,))[0])
    except Exception as error:
        said, code = _foreseen(error)
        if not code:
            raise
        print(f"{name}: {plain(said)}", file=sys.stderr)
        return code
    return 0


def _foreseen(error: Exception) -> tuple[str, int]:
    """What is said of errors that the program did not look for but the user can mend, and the exit code; else 0."""
    if out_of_memory(error):
        return f"out of memory ({cut(one_line(error), 200)}); take smaller numbers, or fewer at a time", 2
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{cut(str(error.filename), 500)}: cannot be used ({error.strerror})"
        return f"{said}; correct the path, or make it accessible", 2
    number = getattr(error, "signal_number", None)
    return str(error), 128 + number if number else 0


def _run(given: argparse.Namespace) -> None:
    """Run a command, and record what it made of what."""
    arguments.check_flags(given)
    if hasattr(given, "threads"):
        _limit_threads(given.threads)
    if not given.writes:
        _command(given)(given)
        return
    if hasattr(given, "options"):
        given.stated = arguments.stated(given)
    read = _paths(given, given.reads) + arguments.points(given)
    written = _paths(given, given.writes)
    files.check_apart([*written, provenance.path_of(written[0])], read)
    given.seen = {path: files.seen(path) for path in written}
    record = provenance.Record(given.name, arguments.recorded(given), read)
    with progress.at_work(written[0]) if provenance.CONFIGURATION in os.environ else nullcontext():
        facts = _command(given)(given)
    if facts is not None:
        several = getattr(given, given.writes[0], None)
        record.write(written, beside=several if isinstance(several, list) else (), **facts)


def _command(given: argparse.Namespace) -> Callable[[argparse.Namespace], Any]:
    """The function to call. Of `train` and `evaluate` there are two: images name theirs, and bring their data."""
    room, _, name = given.function.rpartition(".")
    if not room:
        from introprior.data.images import DATASETS

        named = name == "train" and str(given.stated.get("dataset")) in DATASETS
        room = "images" if named or given.data is not None else "density"
    return getattr(import_module(f"introprior.commands.{room}"), name)


def _limit_threads(count: int) -> None:
    """Let libraries compute with so many threads, those that are not loaded yet by what they look for when they are.

    By themselves they take all cores, and the small tensors of a run are the slower for it, the more others compute.
    """
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


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


def _stop(number: int) -> NoReturn:
    """What SIGINT raises, so that nothing half-written stays."""
    raise KeyboardInterrupt(number)


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line; by default it recites all options first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {plain(message)}; see {self.prog} --help\n")


Row = tuple[str, Sequence[type[Model]], Sequence[str], str]

COMMANDS: dict[str, Row] = {
    "search": ("density.search", [jobs.Search], ["output"], """\
train the settings of a grid as one ensemble and score each by histogram KL
--options RUN
--output!  CSV with one row per setting"""),
    "select": ("choices.select", [], ["output"], """\
choose the searched setting with the lowest KL
--slices|  what `introprior search` wrote
--published|  nothing to choose: beta_rec, beta_kl, beta_neg, source
--dataset!  named in the output
--cell!  named in the output
--output!  JSON with the chosen hyperparameters"""),
    "prepare": ("images.prepare", [], ["folder"], """\
find or download an image dataset, check it, and convert it once
--dataset!  MNIST, FMNIST, CIFAR-10, a stand-in: digits, digits16, photos; or a name for --pictures
--output!  folder for the converted files
--pictures  of your own: a folder, an .npz or an .npy file (docs/your-own-data.md)
--size  their height and width, to be
--channels  1 (grey) or 3 (default: 3)
--source  torchvision's root, only read; without it Debian's package, or a download
--offline  download nothing
--no-verify  also take other idx files than the published ones"""),
    "weights": ("images.weights", [], ["output"], """\
find or download the Inception weights of FID, and check them
--source  local copy (default: PyTorch's cache, else a download into it)
--output!  where to put them"""),
    "classifier": ("images.classifier", [jobs.Classifier], ["output"], """\
train the small classifier behind fd_classifier
--data! --options --device --threads
--output!  checkpoint of the classifier"""),
    "reference": ("images.reference", [jobs.Reference], ["output"], """\
take the feature statistics of a training set, once
--data! --options --device --threads --weights --classifier
--output!  NPZ of mean and covariance"""),
    "warmup": ("images.warmup", [jobs.TrainImages], ["output"], """\
train the warm-up on images that runs of one prior family share
--options RUN --data!
--betas  beta_rec beta_kl (default: 1 1)
--seeds  one seed (default: 0)
--output!  checkpoint of the warm-up's end"""),
    "train": ("train", [jobs.Train, jobs.TrainImages], ["output", "history"], """\
train all seeds of a 2D cell as one ensemble, on one dataset or several, or one run on images
--options RUN
--hyperparameters|  JSON with beta_rec, beta_kl and beta_neg (2D), a file for each dataset
--betas|  beta_rec beta_kl beta_neg (a VAE takes the first two)
--seeds  one member each (default: 0 1 2 3 4; on images one, 0)
--output!  checkpoint: the ensemble, on images the snapshots; a file for each dataset
--history!  CSV of losses over the iterations; a file for each dataset
images: --data
--warmup  what `introprior warmup` wrote (default: train it, too)"""),
    "distances": ("images.distances", [jobs.Distances], ["output"], """\
measure what an image run generates at each snapshot
--model!  what `introprior warmup` or `train` wrote
--data! --options --device --threads --reference! --weights --classifier
--earlier  CSV with the distances of the warm-up's snapshots, taken over
--output!  CSV with one row per epoch and metric"""),
    "evaluate": ("evaluate", [jobs.Evaluate, jobs.EvaluateImages], ["metrics", "panels", "codes"], """\
measure trained ensembles or an image run, and draw what figures show of them
--model! --options --device --threads
--metrics!  tidy CSV, one row per seed and metric; a file for each model
--panels!  NPZ with the arrays that figures show; a file for each model
images: --data --reference --weights --classifier
--distances  what `introprior distances` wrote
--codes  NPZ for the sampled codes of both splits"""),
    "probe": ("images.probe", [jobs.Probe], ["output"], """\
read labels off a run's codes with linear SVMs and nearest neighbours
--codes!  what `introprior evaluate` wrote
--options
--output!  CSV with one row per accuracy"""),
    "choose": ("choices.choose", [], ["output"], """\
choose each cell's r_entropy by the mean of a metric over seeds
--metrics!  what `introprior evaluate` wrote
--dataset!  whose runs to look at
--metric!  for example fid_authors_gen
--output!  JSON with the choices"""),
    "overfit": ("images.overfit", [jobs.Overfit], ["output"], """\
overfit the encoder of a trained image run (Figure S2)
--model!
--distances!  of the run; they choose the snapshot
--data! --options --device --threads
--output!  NPZ with curves and images"""),
    "theory": ("theory.theory", [], ["output", "play"], """\
try out the theory on random small games, and play one (docs/theory.md)
--games  about how many (default: 2000)
--output!  CSV with what there is to gain at each game's optimum
--play!  CSV of how play goes"""),
    "plan": ("planning.plan", [], [], """\
tell what a configuration will cost before it runs: jobs, time, disk
targets  what to make, as for snakemake: all, density, images, tables, figures, table1, a file (default: all)
--configfile  laid over config/config.yaml one after another, as by snakemake
--gpus  GPUs at a time (default: 1; 0 with device: cpu)
--cores  CPU cores (default: this machine's)
--json  as JSON"""),
    "status": ("planning.status_", [], [], """\
tell how far a run is, cell by cell and seed by seed
results  results/<experiment> (default: the last started)
--all  every run in a line of its own
--watch  again and again, so often, until interrupted
--json  as JSON, with every run and job"""),
    "summary": ("results.summary", [], [], """\
print what came out, in ten lines: the histogram KL in 2D, nearest neighbours on images, where to look
results  folder of an experiment, for example results/demo"""),
    "collect": ("results.collect", [], [], """\
write all metrics of all runs into one tidy CSV
results  folder of an experiment, for example results/paper
--output!  the CSV"""),
    "claims": ("results.claims", [], [], """\
print what the paper says in words, and whether its own numbers support it
results  folder of an experiment, whose numbers are tested, too (default: none)"""),
    "page": ("results.page", [], [], """\
make the results page, index.html, of what an experiment has so far
results  folder of an experiment, for example results/paper"""),
    "verify": ("planning.verify", [], [], """\
check that a results tree is complete, unaltered and up to date
results  folder of an experiment, for example results/paper, or a copy of it
--partial  results that were not made yet are no problem
--json  say it as JSON"""),
}  # fmt: skip
"""What each command calls, the options that it is told, the files that it writes, and what it does; then its arguments
and their help: ``!`` after one that has to be given, ``|`` after those of which one has to or may be."""

SHARED = """\
--data  folder that `introprior prepare` wrote
--reference  the training set's statistics, one file per kind of features, named after it
--weights  of Inception, for fid_authors and fid
--classifier  what `introprior classifier` wrote, for fd_classifier
--model  what `introprior train` wrote
--device  auto, cpu, cuda or cuda:N (default: the environment's INTROPRIOR_DEVICE, else auto)
--threads  CPU cores to compute on (default: the environment's OMP_NUM_THREADS, else 1)
--dataset  8Gaussian, 2Spirals, Checkerboard, Rings; MNIST, FMNIST, CIFAR-10, digits, digits16, photos
--protocol  what the options' protocol changes single options of (default: authors)
--set  one option, e.g. training.iterations=3000; repeatable
--state  folder for the resume state (default: none is kept)
--checkpoint-seconds  how often it is written (default: the environment's INTROPRIOR_CHECKPOINT_SECONDS, else 300)"""
SHARED_HELP = dict(line.split("  ") for line in SHARED.splitlines())
SHARED_HELP["--cell"] = f"for example {', '.join(TABLE1_CELLS)}"
RUN = "--device --threads --dataset --cell --protocol --set --state --checkpoint-seconds"


def _expanded(text: str) -> Path:
    """A path as a shell would read it, though it was quoted, as configurations are."""
    return Path(expanded(text))


FILES, INTEGER, YES = {"type": Path, "nargs": "+"}, {"type": int, "metavar": "N"}, {"action": "store_true"}
TEXT: dict[str, Any] = {}
KINDS: dict[str, dict[str, Any]] = {
    "--options": {"default": "{}", "metavar": "JSON"},
    "--protocol": {"choices": list(PRESETS)},
    "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE"},
    "--checkpoint-seconds": {"type": float},
    "--channels": {"type": int, "choices": (1, 3), "default": 3},
    "--betas": {"type": float, "nargs": "+", "metavar": "BETA"},
    "--seeds": {"type": int, "nargs": "+"},
    "--published": {"metavar": "JSON"},
    "--pictures": {"type": _expanded},
    "targets": {"nargs": "*", "metavar": "TARGET"},
    **{name: {"type": Path, "nargs": "?"} for name in ("status results", "claims results")},
    "--configfile": FILES | {"default": [], "metavar": "FILE"},
    "--watch": {"type": float, "metavar": "SECONDS"},
    **dict.fromkeys(("--gpus", "--cores", "--threads", "--size"), INTEGER),
    "--games": INTEGER | {"default": 2000},
    **dict.fromkeys(("--dataset", "--cell", "--metric", "--device"), TEXT),
    **dict.fromkeys(("--slices", "--reference", "choose --metrics"), FILES),
    **dict.fromkeys(("train --output", "train --history", "train --hyperparameters"), FILES),
    **dict.fromkeys(("evaluate --model", "evaluate --metrics", "evaluate --panels"), FILES),
    "train --dataset": {"nargs": "+"},
    **dict.fromkeys(("--offline", "--no-verify", "--json", "--all", "--partial"), YES),
}
"""What arguments are that are not a single file."""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="introprior", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"introprior {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    environment = {
        "--device": os.environ.get("INTROPRIOR_DEVICE", "auto"),
        "--checkpoint-seconds": os.environ.get(CHECKPOINT_SECONDS, "300"),
        "--threads": os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or "1",  # a list: of nested ones
    }
    for name, (function, models, writes, described) in COMMANDS.items():
        text, *lines = described.replace("RUN", RUN).splitlines()
        part = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        either = part.add_mutually_exclusive_group(required=name == "select") if "|  " in described else part
        keys = "; on images ".join(", ".join(model.model_fields) for model in models)
        known = SHARED_HELP | {"--options": f"options as JSON text or the name of a file: {keys}"}
        place: argparse._ActionsContainer = part
        reads = []
        for line in lines:
            words, _, own = line.partition("  ")
            for word in words.split():
                if word == "images:":
                    place = part.add_argument_group("images")
                    continue
                flag, mark = word.rstrip("!|"), word[-1]
                kind = {"help": own or known[flag]} | KINDS.get(f"{name} {flag}", KINDS.get(flag, {"type": Path}))
                kind |= {"default": environment[flag]} if flag in environment else {}
                kind |= {"required": True} if mark == "!" else {}
                action = (either if mark == "|" else place).add_argument(flag, **kind)
                if action.type in (Path, _expanded) and action.dest not in (*writes, "output", "source", "state"):
                    reads.append(action.dest)
        part.set_defaults(function=function, reads=reads, writes=writes)
    return parser
