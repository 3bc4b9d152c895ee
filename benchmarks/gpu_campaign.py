"""Everything that the first minutes on a GPU are to bring, most valuable first, in one process.

    python benchmarks/gpu_campaign.py --out OUT --deadline 560      on the card; nothing is begun that would miss it
    python benchmarks/gpu_campaign.py --out OUT --tables            tables and Figure 3 of what came home, anywhere
    make rehearse                                                   the same at tiny sizes on a CPU

It needs torch, Triton, NumPy, pandas, tqdm, pydantic, PyYAML and pytest, but no Snakemake. Stages:

    environment   versions, and the card's ceilings: copies, and matrix products of the networks' own shape
    tests         pytest -m gpu: kernels against float64, replays against iterations, a run cut and resumed
    throughput    milliseconds an iteration, as replays and call by call, beside the naive script's
    cells         the cells of Tables 4 and 1 at full scale, each with all datasets and seeds as one ensemble, with
                  Table 3's hyperparameters: as many at once, on streams of the card, as are measured to end in time;
                  then evaluated
    images        milliseconds an iteration with Fashion-MNIST's networks

A stage that fails is told of and passed over. Each writes a line to OUT/campaign.jsonl as soon as it ends; the results,
laid out as the workflow lays them out and without models, are packed into OUT/results.tar.gz after every cell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from baseline import Script, plane_networks

from introprior import cli
from introprior.commands.density import run_of
from introprior.commands.running import device_name, trained, write_history
from introprior.experiment import jobs
from introprior.experiment.cells import TABLE1_CELLS, TABLE4_SETTINGS
from introprior.experiment.config import Configuration, load
from introprior.experiment.paths import Paths
from introprior.experiment.run import DensityRun, DensityTraining, ImageRun, ImageTraining, Member
from introprior.operations import files, provenance
from introprior.training import checkpoints, density, images
from introprior.training.loop import Training

DATASETS = ("8Gaussian", "2Spirals", "Checkerboard", "Rings")
TABLE4_CELLS = ("sg-dt", *(cell for cell in TABLE4_SETTINGS.values() if cell != "sg-dt"))
Part = tuple[tuple[str, ...], str]
"""A cell on some datasets, one ensemble."""
CELLS = tuple(dict.fromkeys((*TABLE4_CELLS, "mog64-lc-ip", "mog64-lc", *TABLE1_CELLS)))
"""Table 4 first: its weights are published for what it shows, so that each number can be judged."""

TINY = {
    "training": {"iterations": 40, "warmup_iterations": 12, "mixture_warmup_iterations": 4, "milestones": [20],
                 "batch_size": 16, "monte_carlo_samples": 4, "hidden_width": 16},
    "evaluation": {"samples": 400, "grid": 16, "data_points": 64, "monte_carlo_samples": 4},
}  # fmt: skip
EVALUATION = 0.06
"""Of a training's time, what its evaluation is expected to take."""

Stage = Callable[[], "dict[str, Any] | None"]


class Campaign:
    """The stages, and the time that is left for them."""

    def __init__(self, out: Path, deadline: float, device: torch.device, tiny: bool):
        self.out, self.deadline, self.device, self.tiny = out, deadline, device, tiny
        self.started = time.monotonic()
        changes = {"density": TINY, "figure3": {"grid": 8, "points": 52}} if tiny else {}
        self.config: Configuration = load({"experiment": "campaign", "device": "auto", **changes})
        self.results = Path(tempfile.mkdtemp(prefix="campaign-"))
        self.paths = Paths("campaign", str(self.results))
        out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds."""
        return self.deadline - (time.monotonic() - self.started)

    def tell(self, stage: str, **facts: Any) -> None:
        """One line, at once."""
        line = json.dumps({"stage": stage, "at": round(time.monotonic() - self.started, 1), **facts}, default=str)
        print(line, flush=True)
        with (self.out / "campaign.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def stage(self, name: str, work: Stage, needs: float = 0.0) -> bool:
        """Do what there is time for; True unless it failed."""
        if self.left() < needs:
            self.tell(name, status="no time", needs=needs)
            return True
        began = time.monotonic()
        try:
            facts = work() or {}
        except Exception:
            seconds = round(time.monotonic() - began, 1)
            self.tell(name, status="failed", seconds=seconds, error=traceback.format_exc()[-2000:])
            return False
        self.tell(name, status="ok", seconds=round(time.monotonic() - began, 1), **facts)
        return True

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, work: Callable[[], Any], times: int) -> float:
        """Of one call, the mean of ``times`` after three."""
        for _ in range(3):
            work()
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return round(1e3 * (time.perf_counter() - began) / times, 4)

    # Stages

    def environment(self) -> dict[str, Any]:
        facts = {"device": device_name(self.device), "libraries": provenance.libraries()}
        side = 256 if self.tiny else 16384
        one = torch.empty(side, side, device=self.device)
        two = torch.empty_like(one)
        facts["copy_GB_s"] = round(2 * one.nbytes / self.milliseconds(lambda: two.copy_(one), 10) / 1e6, 1)
        members, batch, width = (2, 16, 16) if self.tiny else (105, 512, 256)
        x, w = (
            torch.randn(members, batch, width, device=self.device),
            torch.randn(members, width, width, device=self.device),
        )
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            work = 2 * members * batch * width * width
            facts[f"bmm_TFLOPS{'_tf32' * tf32}"] = round(work / self.milliseconds(lambda: torch.bmm(x, w), 30) / 1e9, 2)
        torch.backends.cuda.matmul.allow_tf32 = False
        return facts

    def tests(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        command += [f"tests/test_{name}.py" for name in ("kernels", "counters", "replay")]
        with (self.out / "tests.log").open("w", encoding="utf-8") as log:
            code = subprocess.run(
                command, stdout=log, stderr=log, timeout=max(10.0, self.left() / 4), check=False
            ).returncode
        last = (self.out / "tests.log").read_text(encoding="utf-8").strip().splitlines()[-1:]
        if code not in (0, 5):
            raise RuntimeError(f"pytest: exit code {code}: {last}")
        return {"pytest": last}

    def throughput(self) -> dict[str, Any]:
        rows = {}
        sizes = DensityTraining(
            **{**self.config.density.training.dump(), "warmup_iterations": 8, "mixture_warmup_iterations": 4}
        )
        for cell in ("sg", "mog64-lc-ip"):
            for members in (2,) if self.tiny else (5, 20, 60, 105):
                for way in ("replayed", "eager"):
                    run = DensityRun(cell=cell, members=_members("8Gaussian", range(members)), training=sizes)
                    training = density.begin(run, self.device)
                    training.replay = training.replay if way == "replayed" else None
                    while training.iteration < 16:
                        training.step()
                    ms = self.milliseconds(training.step, 3 if self.tiny else 40)
                    rows[f"{cell} {members} {way}"] = ms
                    self.tell("throughput", cell=cell, members=members, way=way, ms=ms)
            rows[f"{cell} 1 naive"] = self.naive(training)
        return rows

    def naive(self, training: Training) -> float:
        """Milliseconds of an iteration of the straightforward script, which trains one model."""
        sizes = training.run.training
        training.wait()
        script = Script.like(training, plane_networks(sizes.hidden_width, sizes.hidden_layers))
        x = torch.randn(sizes.batch_size, 2, device=self.device)
        return self.milliseconds(lambda: script.step(x), 3 if self.tiny else 20)

    def images(self) -> dict[str, Any]:
        """On scikit-learn's digits, brought to 28x28."""
        from introprior.data.images import prepare

        folder = self.results / "digits"
        prepare("digits", folder)
        small = {"batch_size": 16, "monte_carlo_samples": 2, "widths": (2, 2)} if self.tiny else {}
        rows = {}
        for cell, entropy in (("sg", 0.0), ("mog100-lc-ip", 10.0)):
            sizes = ImageTraining(warmup_iterations=8, mixture_warmup_iterations=4, r_entropy=entropy, **small)
            run = ImageRun(cell=cell, members=_members("digits", [0]), training=sizes)
            training = images.begin(run, self.device, folder)
            while training.iteration < 16:
                training.step()
            rows[cell] = self.milliseconds(training.step, 3 if self.tiny else 30)
        return rows

    # The cells

    def cells(self) -> None:
        """In rounds of as many as end in time."""
        waiting: list[Part] = [(DATASETS, cell) for cell in CELLS]
        while waiting:
            chosen = self.fitting(waiting)
            if not chosen and len(waiting[0][0]) > 1:  # then at least 8Gaussian
                waiting = [((dataset,), cell) for dataset in DATASETS for _, cell in waiting]
                chosen = self.fitting(waiting)
            if not chosen:
                self.tell("cells", status="no time", waiting=waiting)
                return
            waiting = waiting[len(chosen) :]
            if not self.stage(f"cells: {len(chosen)}", partial(self.side_by_side, chosen)):
                raise RuntimeError("cells failed, see above")

    def fitting(self, waiting: Sequence[Part]) -> Sequence[Part]:
        """The first of them that together end in time, by a trial of their games."""
        chosen = waiting[:8]
        iterations = self.config.density.training.iterations
        while chosen:
            trial = [density.begin(_short(self.run(*one)), self.device) for one in chosen]
            for _ in range(16):
                _step(trial)
            expected = iterations * self.milliseconds(partial(_step, trial), 3 if self.tiny else 20) / 1e3
            expected *= 1 + EVALUATION
            room = self.left() - 10
            self.tell("trial", cells=len(chosen), expected=round(expected, 1), room=round(room, 1))
            if expected <= room:
                return chosen
            chosen = chosen[: min(len(chosen) - 1, int(len(chosen) * max(0.0, room) / expected))]
        return chosen

    def run(self, datasets: Sequence[str], cell: str) -> DensityRun:
        """A cell at the configuration's scale, with its published weights."""
        options = jobs.Train.read(self.options(datasets, cell), "--options")
        weights = {dataset: jobs.hyperparameters(self.config, dataset, cell) for dataset in datasets}
        names = ("beta_rec", "beta_kl", "beta_neg")
        return run_of(options, options.seeds, {of: [[known[name] for name in names]] for of, known in weights.items()})

    def options(self, datasets: Sequence[str], cell: str) -> dict[str, Any]:
        return jobs.train(self.config, cell) | {"dataset": [*datasets] if len(datasets) > 1 else datasets[0]}

    def side_by_side(self, chosen: Sequence[Part]) -> dict[str, Any]:
        """Train cells at once and evaluate each; what would not end in time is cut, the last first."""
        runs = [self.run(*one) for one in chosen]
        records = [provenance.Record("train", self.options(*one)) for one in chosen]
        trainings = [density.begin(run, self.device) for run in runs]
        last, every = runs[0].training.iterations, max(1, runs[0].training.iterations // 300)
        began = looked = time.monotonic()
        for iteration in range(1, last + 1):
            values = _step(trainings)
            if iteration % every and iteration < last:
                continue
            for training, now in zip(trainings, values, strict=True):
                training.look(now)
            now_is = time.monotonic()
            to_come = (now_is - looked) / every * (last - iteration) + EVALUATION * (now_is - began)
            looked = now_is
            if len(trainings) > 1 and to_come > self.left() - 5:
                self.tell("cut", cell=_name(trainings.pop().run), iteration=iteration)
        seconds = round(time.monotonic() - began, 1)
        for training, record in zip(trainings, records, strict=False):  # the last may have been cut
            self.evaluated(training, record)
            self.pack()
        return {"cells": [_name(training.run) for training in trainings], "seconds_trained": seconds}

    def evaluated(self, training: Training, record: provenance.Record) -> None:
        """What the workflow's jobs write of a cell, but for the model."""
        run, records, began = training.run, training.records(), time.monotonic()
        kinds = ("hyperparameters", "ensemble", "cell_history", "cell_metrics", "cell_panels")
        place = {
            kind: [Path(getattr(self.paths, kind).format(dataset=name, cell=run.cell.name)) for name in run.datasets]
            for kind in kinds
        }
        for name, weights, ensemble, history in zip(run.datasets, *(place[kind] for kind in kinds[:3]), strict=True):
            ensemble.parent.mkdir(parents=True)
            chosen, rows = jobs.hyperparameters(self.config, name, run.cell.name), run.rows(name)
            files.write_text(weights, json.dumps(chosen, indent=2) + "\n")
            write_history(history, training, name)
            known = {"run": run.of(name).as_dict(), "records": [records[row] for row in rows]}
            checkpoints.save(ensemble, known | {"model": checkpoints.model_state(training.model, rows)})
        record.write([*place["ensemble"], *place["cell_history"]], place["ensemble"], **trained(training))
        options = jobs.evaluate(self.config, run.cell.name) | {"dataset": list(run.datasets)}
        spoken = ["evaluate", "--device", str(self.device), "--options", json.dumps(options)]
        for flag, kind in (("--model", "ensemble"), ("--metrics", "cell_metrics"), ("--panels", "cell_panels")):
            spoken += [flag, *map(str, place[kind])]
        code = cli.main(spoken)
        for ensemble in place["ensemble"]:
            ensemble.unlink()  # eight megabytes a cell
        self.tell("cell", cell=_name(run), code=code, seconds=round(time.monotonic() - began, 1))

    def pack(self) -> None:
        part = self.out / "results.part"
        with tarfile.open(part, "w:gz") as tar:
            tar.add(self.paths.results, "campaign")
        part.replace(self.out / "results.tar.gz")


def tables(out: Path) -> None:
    """Tables 1 and 4 and Figure 3 of the datasets whose cells all came home."""
    from introprior.reporting.figures import draw
    from introprior.reporting.figures.style import save
    from introprior.reporting.tables.comparison import write
    from introprior.reporting.tables.sheets import Request

    with tarfile.open(out / "results.tar.gz") as tar:
        tar.extractall(out, filter="data")
    paths = Paths("campaign", str(out))

    def found(kind: str, cells: Iterable[str]) -> tuple[list[str], list[str]]:
        of = {d: [getattr(paths, kind).format(dataset=d, cell=cell) for cell in cells] for d in DATASETS}
        whole = {dataset: files for dataset, files in of.items() if all(Path(file).exists() for file in files)}
        return list(whole), [file for files in whole.values() for file in files]

    for number, cells in (("4", TABLE4_CELLS), ("1", TABLE1_CELLS)):
        datasets, results = found("cell_metrics", cells)
        print(f"Table {number}: {', '.join(datasets) or 'nothing whole'}")
        if datasets:
            scale = "Table 3's hyperparameters for every prior."
            write(number, Request(datasets, cells, seeds=[*range(5)], scale=scale), Path(paths.tables), results)
    shown = ("sg", "mog64-lc", "mog64-lc-ip")
    datasets, panels = found("cell_panels", shown)
    if datasets:
        place = Path(paths.figures)
        place.mkdir(exist_ok=True)
        save(draw("figure3", {"density_panels": panels}, datasets=datasets, cells=shown), [str(place / "figure3.png")])


def _step(trainings: Sequence[Training]) -> list[dict[str, torch.Tensor]]:
    return [training.step() for training in trainings]


def _short(run: DensityRun) -> DensityRun:
    """The same with its game in a few iterations."""
    sizes = run.training.dump() | {"warmup_iterations": 8, "mixture_warmup_iterations": 4}
    return run.model_copy(update={"training": DensityTraining(**sizes)})


def _members(dataset: str, seeds: Iterable[int]) -> tuple[Member, ...]:
    return tuple(Member(dataset=dataset, seed=seed, beta_rec=0.2, beta_kl=0.3, beta_neg=0.9) for seed in seeds)


def _name(run: DensityRun) -> str:
    return f"{', '.join(run.datasets)}: {run.cell.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what comes home")
    parser.add_argument("--deadline", type=float, default=560.0, help="seconds from now (default: 560)")
    parser.add_argument("--device", default="cuda:0", help="cuda:0 (the default), or cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a rehearsal")
    parser.add_argument("--tables", action="store_true", help="make tables of what is in OUT, and nothing else")
    given = parser.parse_args()
    if given.tables:
        return tables(given.out)
    campaign = Campaign(given.out, given.deadline, torch.device(given.device), given.tiny)
    done = [
        campaign.stage("environment", campaign.environment),
        campaign.stage("tests", campaign.tests, needs=60),
        campaign.stage("throughput", campaign.throughput, needs=60),
        campaign.stage("cells", campaign.cells),
        campaign.stage("images", campaign.images, needs=20),
    ]
    campaign.tell("end", left=round(campaign.left(), 1))
    return sys.exit(not all(done))


if __name__ == "__main__":
    main()
