"""Every file of a finished results tree, damaged at random with fixed seeds, before all commands that read it.

A command ends well or says in one line what is wrong, whatever it finds: no traceback, nothing that takes for ever, no
other exit code, nothing that steers a terminal.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from introprior import cli
from introprior.experiment.config import load
from introprior.experiment.paths import Paths
from introprior.operations import dag, progress, provenance
from introprior.reporting.figures import draw
from introprior.reporting.figures.style import save
from introprior.reporting.page import build, claimed, shown
from introprior.reporting.tables import comparison
from introprior.reporting.tables.sheets import Request
from tests import commands
from tests import test_image_commands as images
from tests.fuzz.endless import SECONDS, Endless, limited

SEEDS = (0,)
TIMES = {".csv": 4, ".json": 6, ".pt": 3, ".npz": 3}
"""How often a file of a kind is damaged in each of the ways that there are for it, on average."""

PAGES = 0.05
"""How often the page is drawn, which takes seconds, of a damaged file that it may show."""
COUNTED = ("jobs.json", "metrics.csv", "probes.csv", "r_entropy.json")
"""What summary and claims are made of."""

CELLS = ("sg", "mog4-lc-ip")
CONFIGURATION = {
    "experiment": "fuzzed",
    "device": "cpu",
    "density": {"datasets": ["Checkerboard"], "seeds": [0, 1]},
    "images": {
        "datasets": [images.DATASET],
        "seeds": [0],
        "r_entropy": [10],
        "evaluation": {"samples": 200, "features": "classifier", "latent_points": 50, "grid_images": 6},
        "probes": {"train_images": 100},
    },
    "tables": {"table1": list(CELLS), "table5": ["mog4-lc-ip"]},
    "figure2": {"dataset": images.DATASET},
    "figure3": {"cells": list(CELLS)},
    "figure4": {"r_entropy": [10]},
    "latents": {"cells": ["mog4-lc-ip"]},
    "figureS2": {"dataset": images.DATASET, "cell": "mog4-lc-ip", "r_entropy": 10},
    "page": {"tables": [1, 5], "figures": ["figure3"]},
}
RUN = {"dataset": images.DATASET, "cell": "mog4-lc-ip", "r_entropy": "10", "seed": "0"}
WARMUP = {"dataset": images.DATASET, "family": "mog4-lc", "seed": "0"}
PROBES = {"svm_iterations": [10, 20], "neighbours": [1, 9]}


# ---- The tree ----


class Tree:
    """The results of a small experiment in both halves, and the commands that read them."""

    def __init__(self, root: Path):
        self.paths, self.jobs = Paths("fuzzed", str(root)), list[dict[str, Any]]()
        self.results, self.data = Path(self.paths.results), Path(self.paths.data.format(dataset=images.DATASET))
        self.config = load(CONFIGURATION)

    def job(self, rule: str, wildcards: dict[str, str], inputs: list[str], outputs: list[str], *words: object) -> None:
        """Run a command as a job of the workflow, and note it."""
        commands.do(*words)
        name = f"{rule}-{'-'.join(wildcards.values())}"
        log, benchmark = (Path(f"{folder}/{name}") for folder in (self.paths.logs, self.paths.benchmarks))
        for path, said in ((log, "a line\r 50%|\n"), (benchmark, "s\th:m:s\tmax_rss\n1.5\t0:00:01\t600.1\n")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(said)
        named = {"rule": rule, "wildcards": wildcards, "outputs": outputs, "inputs": inputs, "gpu": False}
        options = provenance.read(provenance.path_of(outputs[0]))["options"]
        self.jobs.append(named | {"log": str(log), "benchmark": str(benchmark), "options": options})

    def density(self) -> None:
        """Hyperparameters, trainings, evaluations."""
        for cell in CELLS:
            names = {"dataset": commands.DATASET, "cell": cell}
            folder = Path(self.paths.cell.format(**names))
            chosen, model = str(folder / "hyperparameters.json"), str(folder / "ensemble.pt")
            outputs = [model, str(folder / "history.csv")]
            if cell == "sg":
                piece = folder / "search"
                betas = commands.GRID[:2]
                self.job("search", names | {"slice": "0"}, [], [f"{piece}/slice.csv"],
                         *commands.searching(piece, betas=betas, samples=200))  # fmt: skip
                self.job("select", names, [f"{piece}/slice.csv"], [chosen],
                         *commands.selecting(folder, slices=(piece / "slice.csv",)))  # fmt: skip
            else:
                betas = dict(zip(commands.NAMES, commands.BETAS, strict=True))
                told = json.dumps(betas | {"source": "own", "settings": None, "diverged": None, "KL": None})
                self.job("published", names, [], [chosen], "select", "--dataset", commands.DATASET, "--cell", cell,
                         "--published", told, "--output", chosen)  # fmt: skip
            self.job("train", names, [chosen], outputs,
                     *commands.training(folder, "--hyperparameters", chosen, betas=None, cell=cell))  # fmt: skip
            measured = [str(folder / "metrics.csv"), str(folder / "panels.npz")]
            self.job("evaluate", names, [model], measured, *commands.evaluating(folder))

    def images(self) -> None:
        """One run, from the data to its probes."""
        names = {"dataset": images.DATASET}
        commands.do("prepare", "--dataset", images.DATASET, "--output", self.data)
        commands.shorten(self.data, images.TRAIN, images.TEST)
        record = provenance.path_of(self.data / "manifest.json")
        content = json.loads(record.read_text())
        for name, made in content["outputs"].items():
            path = self.data / name
            made |= {"sha256": provenance.checksum(path), "bytes": path.stat().st_size}
        record.write_text(json.dumps(content))
        folder, warm = Path(self.paths.run.format(**RUN)), Path(self.paths.warmup.format(**WARMUP))
        classifier = self.paths.classifier.format(**names)
        reference = self.paths.reference.format(**names, features="fd_classifier")
        data, world = str(self.data / "manifest.json"), self.results / "world"
        self.job("classifier", names, [data], [classifier],
                 "classifier", "--data", self.data, "--options", '{"epochs": 1}', "--output", classifier)  # fmt: skip
        self.job("reference", names | {"features": "fd_classifier"}, [data, classifier], [reference],
                 *("reference", "--data", self.data, "--classifier", classifier, "--output", reference),
                 *("--options", '{"features": "fd_classifier", "samples": 200}'))  # fmt: skip
        world.mkdir()
        for path in (Path(classifier), Path(reference)):
            (world / path.name).symlink_to(path)
        (world / "data").symlink_to(self.data)
        self.job("warmup", WARMUP, [data], [str(warm / "warmup.pt")], *images.warming(warm, self.data, "mog4-lc"))
        outputs = [str(folder / name) for name in ("snapshots.pt", "history.csv")]
        training = images.GAME | {"r_entropy": 10.0}
        self.job("game", RUN, [str(warm / "warmup.pt")], outputs, *images.playing(
            folder, self.data, RUN["cell"], "--warmup", warm / "warmup.pt", training=training))  # fmt: skip
        self.job("distances", RUN, outputs[:1], [str(folder / "distances.csv")], *images.looking(
            "distances", world, folder / "snapshots.pt"), "--output", folder / "distances.csv")  # fmt: skip
        measured = [str(folder / name) for name in ("metrics.csv", "panels.npz", "codes.npz")]
        self.job("evaluate_images", RUN, outputs[:1], measured,
                 *images.evaluating(folder, world, folder / "snapshots.pt"))  # fmt: skip
        self.job("probe", RUN, measured[2:], [str(folder / "probes.csv")], "probe", "--codes", measured[2],
                 "--options", json.dumps(PROBES), "--output", folder / "probes.csv")  # fmt: skip
        chosen = self.paths.chosen.format(**names)
        self.job("choose_r_entropy", names, measured[:1], [chosen], "choose", "--metrics", measured[0],
                 "--dataset", images.DATASET, "--metric", "fd_classifier_gen", "--output", chosen)  # fmt: skip

    def finish(self) -> None:
        """Tables, a figure, the page, and a training that is under way."""
        one, five = self.tables()
        comparison.write(*one)
        comparison.write(*five)
        self.figure()
        names = {"dataset": commands.DATASET, "cell": "sg-dt"}
        folder = Path(self.paths.cell.format(**names))
        told = self.jobs[2] | {"wildcards": names, "outputs": [str(folder / "ensemble.pt")], "log": None}
        self.jobs.append(told)
        folder.mkdir(parents=True)
        progress.Progress(folder / "ensemble.pt", "sg-dt", 100).tell(20, 1.5, 2, 2)
        jobs = json.loads(json.dumps(self.jobs).replace(f"{self.results.parent}/", "results/"))
        content = {"experiment": "fuzzed", "configuration": self.config.model_dump(mode="json"), "identity": "x-y"}
        (self.results / dag.NAME).write_text(dag.sealed(content | {"jobs": jobs}))
        commands.do("page", self.results)

    def tables(self) -> list[tuple[str, Request, str, list[str], list[str]]]:
        """What tables are made of."""
        metrics, chosen, _ = claimed(self.config, self.paths)
        made = [path for path in metrics if Path(path).exists()]
        shown = {"svm_iterations": PROBES["svm_iterations"], "neighbours": PROBES["neighbours"]}
        one = Request([commands.DATASET], CELLS, [0, 1])
        five = Request([images.DATASET], [RUN["cell"]], [0], primary="fd_classifier", **shown)
        of_images = [path for path in made if "images" in path]
        return [
            ("1", one, self.paths.tables, [path for path in made if path not in of_images], []),
            ("5", five, self.paths.tables, of_images, chosen),
        ]

    def numbers(self) -> None:
        """What the page says, without its pictures."""
        folder = Path(self.paths.tables)
        build.facts(self.results, pd.DataFrame(map(build.fate, shown(self.config, self.paths))))
        build.verdicts(self.config, folder)
        build.claimed(Path(self.paths.claims))
        for number in self.config.page.tables:
            build.table(self.config, number, folder)

    def figure(self) -> None:
        """Figure 3."""
        panels = [self.paths.cell_panels.format(dataset=commands.DATASET, cell=cell) for cell in CELLS]
        figure = draw("figure3", {"density_panels": panels}, datasets=[commands.DATASET], cells=list(CELLS))
        save(figure, [f"{self.paths.figures}/figure3.png"], dpi=40)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """All results are made by the commands that make them."""
    made = Tree(tmp_path_factory.mktemp("results"))
    made.density()
    made.images()
    made.finish()
    return made


# ---- Damage ----

Damage = Callable[[Path, random.Random], None]
ODD: tuple[Any, ...] = (None, True, -1, 0, 1e308, 10**30, "", "x", "\x1b[2Jx", "\0", [], [[]], {}, {"format": 1})


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content) or 1)])


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 10))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def shuffle(path: Path, chance: random.Random) -> None:
    """A part of it stands elsewhere."""
    content = path.read_bytes()
    a, b, c = sorted(chance.randrange(len(content) + 1) for _ in range(3))
    path.write_bytes(content[:a] + content[b:c] + content[a:b] + content[c:])


def replace(path: Path, chance: random.Random) -> None:
    odd = (b"", b"[]", b"{}", b"\xff\xfe\0", b"[" * 100_000, b"9" * 5000, b"\n\n", b"a,b\n1\n")
    path.write_bytes(chance.choice(odd))


def swap(path: Path, chance: random.Random) -> None:
    """Another file of its kind, or of another, is in its place."""
    others = sorted(other for other in path.parents[1].rglob("*.*") if other.is_file() and other != path)
    alike = [other for other in others if other.suffix == path.suffix]
    if others:
        path.write_bytes(chance.choice(alike or others).read_bytes())


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()
    if chance.random() < 0.5:
        path.mkdir()


def alter(value: Any, chance: random.Random) -> Any:
    """A value in which something, anywhere, is missing or another."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        rest = {name: each for name, each in value.items() if name != key}
        return rest if chance.random() < 0.2 else {**value, key: alter(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        return [*value[:at], *([] if chance.random() < 0.2 else [alter(value[at], chance)]), *value[at + 1 :]]
    return chance.choice(ODD)


def alter_json(path: Path, chance: random.Random) -> None:
    path.write_text(json.dumps(alter(json.loads(path.read_text()), chance)))


def alter_csv(path: Path, chance: random.Random) -> None:
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    row = chance.choice([rows[0], *rows[1:] * chance.randrange(2)])
    odd = ("", "nan", "inf", "-1", "x", "1e999", "9" * 5000, "x" * 200_000, "\x1b[31m", '"', "a\nb", "sg", "KL", "²")
    row[chance.randrange(len(row))] = chance.choice(odd)
    if chance.random() < 0.2:
        rows.append(row)
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def alter_pt(path: Path, chance: random.Random) -> None:
    torch.save(alter(torch.load(path, weights_only=True), chance), path)


def alter_npz(path: Path, chance: random.Random) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    name = chance.choice(sorted(arrays))
    value = arrays.pop(name)
    odd = (np.zeros(0), np.zeros((2, 3, 4)), np.full(value.shape, np.nan), np.full(value.shape, "x"), value[..., None])
    if (at := chance.randrange(-2, len(odd))) >= 0:
        arrays[name] = odd[at]
    np.savez(path, **arrays)


ALTER: dict[str, Damage] = {".json": alter_json, ".csv": alter_csv, ".pt": alter_pt, ".npz": alter_npz}
ANY: tuple[Damage, ...] = (cut, flip, shuffle, replace, swap, remove)


@contextlib.contextmanager
def damaged(path: Path, damage: Damage, chance: random.Random) -> Iterator[bool]:
    """While inside, the file is not as it was; whether it is another at all."""
    before = path.read_bytes()
    try:
        damage(path, chance)
        yield not path.is_file() or path.read_bytes() != before
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(before)


# ---- Looking ----


def readers(tree: Tree, path: Path, folder: Path, chance: random.Random) -> Iterator[tuple[str, Callable[[], int]]]:
    """Those who read a file, by name: commands, and what makes tables and figures."""

    def command(*words: object) -> tuple[str, Callable[[], int]]:
        return str(words[0]), lambda: cli.main([str(word) for word in words])

    def made(name: str, make: Callable[[], object]) -> tuple[str, Callable[[], int]]:
        return name, lambda: 0 if make() is None else 1

    results = tree.results
    yield command("verify", results, "--partial")  # a training is under way
    yield command("status", results, "--all")
    if path.name in COUNTED:
        yield command("summary", results)
        yield command("claims", results)
    beside, out = path.parent, folder / "out"
    shared = ["--metrics", out / "m.csv", "--panels", out / "p.npz", "--device", "cpu"]
    match path.name:
        case "ensemble.pt":
            yield command("evaluate", "--model", path, "--options", json.dumps(commands.EVALUATION), *shared)
        case "snapshots.pt" | "distances.csv" | "classifier.pt" | "fd_classifier.npz" | "manifest.json":
            run = Path(tree.paths.run.format(**RUN))
            yield command(*images.evaluating(out, tree.results / "world", run / "snapshots.pt")[:-6],
                          "--distances", run / "distances.csv", "--codes", out / "c.npz", *shared)  # fmt: skip
        case "warmup.pt":
            yield command(*images.playing(out, tree.data, RUN["cell"], "--warmup", path,
                                          training=images.GAME | {"iterations": 7}))  # fmt: skip
        case "slice.csv":
            yield command(*commands.selecting(out, slices=(path,)))
        case "codes.npz":
            yield command("probe", "--codes", path, "--options", json.dumps(PROBES), "--output", out / "p.csv")
        case "hyperparameters.json":
            yield command(*commands.training(out, "--hyperparameters", path, betas=None, cell=beside.name))
            request = Request([commands.DATASET], [beside.name])
            yield made("table3", lambda: comparison.write("3", request, out, [path]))
    if path.name in ("metrics.csv", "probes.csv", "r_entropy.json"):
        number = int("images" in path.parts)
        yield made("table", lambda: comparison.write(*tree.tables()[number]))
    if path.name == "panels.npz" and "density" in path.parts:
        yield made("figure", tree.figure)
    if path.suffix in (".csv", ".npz", ".json", ".md"):
        yield made("numbers", tree.numbers)
        if chance.random() < PAGES:
            yield command("page", results)


def wrong_with(read: Callable[[], int]) -> str:
    """What a reader should not have done; nothing if all is well."""
    from introprior.errors import UserError

    out, err = io.StringIO(), io.StringIO()
    try:
        with limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = read()
    except UserError as error:
        return "more than a line" if "\n" in str(error) else ""
    except Endless:
        return f"no end after {SECONDS:g} s"
    except BaseException:
        return traceback.format_exc(limit=-3)
    said = [line for line in re.split(r"[\r\n]+", err.getvalue()) if re.match("introprior |Traceback", line)]
    if code not in (0, 2) or len(said) != (code == 2):
        return f"exit code {code}: {said}"
    steering = set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f]", out.getvalue() + err.getvalue())) - {"\r"}
    return f"control characters {steering}" if steering else ""


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_results_are_told_of_in_one_line(tree, tmp_path, seed):
    chance, wrong, tried = random.Random(seed), [], 0
    for root in (tree.results, tree.data):
        for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
            if path.suffix in (".png", ".svg", ".html", ".tex", ".npy") or "page" in path.parts:
                continue  # which nobody reads
            ways = [*ANY, *[ALTER[path.suffix]] * 3] if path.suffix in ALTER else ANY
            for damage in chance.sample(ways, min(TIMES.get(path.suffix, 1), len(ways))):
                with damaged(path, damage, chance) as another:
                    recorded = path.name in {Path(name).name for job in tree.jobs for name in job["outputs"]}
                    for name, read in readers(tree, path, tmp_path, chance):
                        tried += 1
                        if problem := wrong_with(read):
                            wrong.append(f"{path.relative_to(root.parent)}, {damage.__name__}, {name}: {problem}")
                        if name == "verify" and another and recorded and read() == 0:
                            wrong.append(f"{path.relative_to(root.parent)}, {damage.__name__}: verify saw nothing")
                for left in tmp_path.iterdir():
                    shutil.rmtree(left)
    assert not wrong, f"{len(wrong)} of {tried}\n" + "\n".join(wrong)
    assert tried > 300


def test_undamaged_results_are_read_by_all(tree, tmp_path):
    """Else the damaged ones would show nothing."""
    for name in ("metrics.csv", "codes.npz"):
        path = Path(tree.paths.run.format(**RUN)) / name
        found = dict(readers(tree, path, tmp_path, random.Random(1)))
        assert {name: code for name, read in found.items() if (code := read())} == {}
