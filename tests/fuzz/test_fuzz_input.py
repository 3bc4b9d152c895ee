"""Wrong input by the thousand: whatever is written into configurations and on command lines ends in one line.

Everything is drawn from fixed seeds and runs in this process. A configuration is mutated as values and as text, and is
read by the one reader; where it is taken, no job may refuse what it makes of it. A command line is mutated up to where
the device is chosen, which never succeeds here: nothing is trained. A failure tells its seed; the same seed repeats it.
"""

from __future__ import annotations

import copy
import datetime
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from introprior import cli
from introprior.data import images
from introprior.errors import UserError
from introprior.experiment import jobs
from introprior.experiment.config import Configuration, load, read_yaml
from introprior.experiment.config.images import text
from introprior.experiment.paths import Paths
from introprior.reporting.tables import captions
from tests.commands import MAKERS, lines
from tests.fuzz.endless import limited
from tests.test_configuration import PLAIN, keys

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("config/*.yaml"))
VALUES, TEXTS, COMMANDS = 4000, 1000, 1500
"""How many configurations are tried, as values and as text, and how many command lines."""

WORDS = (
    "x ٣ mog٦٤ mog064 -1 -- - nan inf 1e400 1e-3 true null {} [] a=b = training=1 seeds=[] ~ ~nobody/x $HOME ${HOME %s"
)
WORDS += " {x} * a/b ../x β \u202e mog64 sg all Rings MNIST 0 1.5"
LONG = ["9" * 5000, "mog" + "9" * 5000, "x" * 300, "x" * 5000, "[" * 3000, '{"a":' * 3000, "a" * 300 + "/b"]
ODD_TEXTS = ["", " ", "nl\n", "\x1b[31m", "\udcff", "\u2028", *WORDS.split(" "), *LONG]
ODD_NUMBERS = [True, 0, -0.0, -1, 1, 2, 3, 2.5, 1e-300, 1e300, math.nan, math.inf, 10**6, 10**9, 10**12, 10**400]
ODD_LISTS = [[], [[]], [None], [1, 1], [0, 1, 2], list(range(3000)), {}, {"a": 1}, {1: 2}, {None: None}]
ODD = [None, datetime.date(1, 1, 1), *ODD_TEXTS, *ODD_NUMBERS, *ODD_LISTS]


def attempt(act: Callable[[], Configuration]) -> bool:
    """Whether a configuration is taken; if not, one line says why."""
    with limited():
        try:
            config = act()
        except UserError as error:
            said = str(error)
            assert said.isprintable()
            assert len(said) < 1000
            return False
        resolve(config)
        return True


def resolve(config: Configuration) -> None:
    """All that the workflow makes of a configuration; what jobs are told, they take."""
    Paths(config.experiment)
    captions.density_settings(config, ("seeds", "training", "search", "evaluation"))
    captions.image_settings(config, config.images.datasets)
    told = []
    for cell in config.density_cells:
        named = {"dataset": config.density.datasets[-1], "cell": cell}
        told += [(jobs.Train, jobs.train(config, **named)), (jobs.Evaluate, jobs.evaluate(config, **named))]
        if config.density.search.searches(cell):
            told.append((jobs.Search, jobs.search(config, **named, slice=len(jobs.slices(config, cell)) - 1)))
        else:
            jobs.hyperparameters(config, **named)
    dataset, seed = config.images.datasets[-1], config.images.seeds[-1]
    for cell in config.image_cells:
        run = {"dataset": dataset, "cell": cell, "r_entropy": text(config.r_entropies(cell)[-1]), "seed": seed}
        told += [(jobs.TrainImages, jobs.game(config, **run)), (jobs.Probe, jobs.probe(config, **run))]
        told.append((jobs.EvaluateImages, jobs.evaluate_images(config, **run)))
        warmup = jobs.warmup(config, dataset, jobs.family(cell), seed)
        warmup["training"]["iterations"] = warmup["training"]["warmup_iterations"] + 1  # which the command fills in
        told.append((jobs.TrainImages, warmup))
    told += [(jobs.TrainImages, jobs.clipping(config, **run)) for run in config.figure2_runs]
    told += [(jobs.Classifier, jobs.classifier(config, dataset)), (jobs.Overfit, jobs.overfit(config, dataset))]
    for model, options in told:
        model.read({key: value for key, value in json.loads(jobs.as_json(options)).items() if value is not None}, "job")


def changed(rng: random.Random, value: Any) -> Any:
    """A value in place of another."""
    kind = rng.randrange(4)
    if kind == 0 and rng.random() < 0.5 and isinstance(value, list):
        return [*value, rng.choice(ODD)]
    if kind == 1 and isinstance(value, list) and value:
        return rng.sample(value, rng.randint(1, len(value)))
    if kind == 2 and isinstance(value, int | float):
        return rng.choice([value + 1, value - 1, value * 2, value / 2, value // 2, -value, value * 10**9, str(value)])
    if kind == 3 and isinstance(value, str):
        place = rng.randint(0, len(value))
        return value[:place] + rng.choice(ODD_TEXTS) + value[place:]
    return copy.deepcopy(rng.choice(ODD))


def test_configurations_as_values() -> None:
    """One or two keys have other values, or other names."""
    known, outcomes = list(keys(PLAIN)), Counter()
    for seed in range(VALUES):
        rng = random.Random(seed)
        values = copy.deepcopy(PLAIN)
        for _ in range(rng.randint(1, 2)):
            section, path = values, rng.choice(known).split(".")
            for key in path[:-1]:
                section = section.get(key) if isinstance(section, dict) else None
            if isinstance(section, dict):
                if rng.random() < 0.1:
                    section[rng.choice(ODD_TEXTS)] = section.pop(path[-1], None)
                else:
                    section[path[-1]] = changed(rng, section.get(path[-1]))
        try:
            outcomes[attempt(lambda: load(values))] += 1  # noqa: B023
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert min(outcomes[True], outcomes[False]) > VALUES / 20, outcomes


def mutilated(rng: random.Random, content: str) -> bytes:
    """The text of a configuration, with some of its lines, tokens or bytes changed."""
    rows = content.splitlines(keepends=True)
    for _ in range(rng.randint(1, 3)):
        place, kind = rng.randrange(len(rows)), rng.randrange(7)
        if kind == 0:  # a key stands twice, perhaps elsewhere
            rows.insert(rng.randrange(len(rows)), rows[place])
        elif kind == 1 and len(rows) > 1:
            del rows[place]
        elif kind == 2:
            key, colon, _ = rows[place].partition(":")
            rows[place] = f"{key}{colon} {rng.choice(ODD_TEXTS)}\n"
        elif kind == 3:
            key, colon, rest = rows[place].partition(":")
            rows[place] = f"{key}{colon} &a{rest}" if rng.random() < 0.5 else f"{key}{colon} *a\n"
        elif kind == 4:
            rows[place] = rng.choice(["\t", "  ", "- ", "? ", "!!python/object:os.system ", "<<: ", "%"]) + rows[place]
        elif kind == 5:
            at = rng.randint(0, len(rows[place]))
            rows[place] = rows[place][:at] + rng.choice("{}[]:,#&*!|>'\"%@`\0\x85\ufeff\U0001f600") + rows[place][at:]
        else:
            rows[place] = (
                rows[place].rstrip("\n") + rng.choice(["0" * 400, "e5", "_000", ": x", " # x", "\r", "'"]) + "\n"
            )
    whole = "".join(rows)
    if rng.random() < 0.1:
        whole = json.dumps(yaml.safe_load(content), default=str)
        place = rng.randrange(len(whole))
        whole = whole[:place] + rng.choice(['"', "{", "}", "1e5", "NaN", ",", " "]) + whole[place + 1 :]
    coding = rng.choice(["utf-8"] * 6 + ["utf-8-sig", "latin-1", "utf-16", "utf-32"])
    return whole.encode(coding, "backslashreplace" if coding == "latin-1" else "surrogatepass")


def test_configurations_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a configuration, as `introprior plan` and the workflow read them."""
    outcomes: Counter[bool] = Counter()
    contents, path = [file.read_text(encoding="utf-8") for file in FILES], tmp_path / "mine.yaml"
    monkeypatch.chdir(tmp_path)

    def read() -> Configuration:
        return load(read_yaml([path]), [path])

    for seed in range(TEXTS):
        rng = random.Random(seed)
        path.write_bytes(mutilated(rng, rng.choice(contents)))
        try:
            outcomes[attempt(read)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}, {path.read_bytes()!r}") from error
    assert min(outcomes[True], outcomes[False]) > TEXTS / 20, outcomes
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40))
    path.write_text(f"a0: &a0 [x]\n{bomb}", encoding="utf-8")
    assert attempt(read) is False


# ---- Command lines ----


def command_lines(folder: Path) -> dict[str, list[object]]:
    """A right line of each command that computes nothing without a device, or is quick."""
    there = folder / "there"
    lines_ = {name: make(folder / "out", "--device", "cpu") for name, make in MAKERS.items() if name != "select"}
    select = ["select", "--dataset", "Rings", "--cell", "sg", "--output", folder / "out/h.json", "--published"]
    on_images = ["--dataset", "digits16", "--cell", "mog4-ip", "--data", there, "--output", folder / "out/s.pt"]
    measured = ["--data", there, "--model", folder / "x.pt", "--reference", folder / "fid.npz"]
    return lines_ | {
        "select": [*select, '{"beta_rec": 1, "beta_kl": 1, "beta_neg": 1}'],
        "prepare": ["prepare", "--dataset", "digits16", "--output", there, "--offline"],
        "weights": ["weights", "--output", folder / "out/w.pth", "--source", there / "manifest.json"],
        "classifier": ["classifier", "--data", there, "--options", "{}", "--output", folder / "out/c.pt"],
        "reference": ["reference", "--data", there, "--options", '{"samples": 9}', "--output", folder / "out/r.npz"],
        "warmup": ["warmup", *on_images, "--betas", 1, 1, "--seeds", 0, "--set", "training.batch_size=32"],
        "game": ["train", *on_images, "--history", folder / "out/h.csv", "--betas", 1, 1, 8, "--warmup", there],
        "distances": ["distances", *measured, "--options", '{"samples": 9}', "--output", folder / "out/d.csv"],
        "probe": ["probe", "--codes", folder / "codes.npz", "--options", "{}", "--output", folder / "out/p.csv"],
        "choose": ["choose", "--metrics", there / "manifest.json", "--dataset", "MNIST", "--metric", "fid_gen"],
        "overfit": ["overfit", *measured[:4], "--distances", there, "--output", folder / "out/o.npz"],
        "plan": ["plan", "all", "--configfile", there / "manifest.json", "--gpus", 1, "--cores", 2, "--json"],
        "status": ["status", folder / "out", "--all", "--json"],
        "summary": ["summary", folder / "out"],
        "claims": ["claims", folder / "nowhere"],
        "page": ["page", folder / "out"],
        "verify": ["verify", folder / "out", "--partial", "--json"],
    }  # fmt: skip


def jumbled(rng: random.Random, line: list[object], flags: list[str]) -> list[str]:
    """A line with some of its words lost, doubled, changed, or with a flag more."""
    words = [str(word) for word in line]
    for _ in range(rng.randint(0, 2)):
        place, kind = rng.randrange(1, len(words)) if len(words) > 1 else 0, rng.randrange(6)
        if kind == 0 and place:
            del words[place]
        elif kind == 1:
            words.insert(place + 1, words[place])
        elif kind == 2 and words[place].startswith("{") and words[place] not in ODD_TEXTS:
            options = json.loads(words[place])
            section = rng.choice([options, *(part for part in options.values() if isinstance(part, dict))])
            key = rng.choice([*section, *ODD_TEXTS[:9]])
            section[key] = changed(rng, section.get(key))
            words[place] = json.dumps(options, default=str)
        elif kind == 3:
            words[place + 1 : place + 1] = [rng.choice(flags), rng.choice(ODD_TEXTS)]
        elif kind == 4:
            place = rng.randint(0, len(words))
            words.insert(place, rng.choice(ODD_TEXTS))
        else:
            words[place] = rng.choice(ODD_TEXTS)
    return words


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They end with 0 or 2, in the latter case with one line."""
    monkeypatch.chdir(tmp_path)
    images.prepare("digits16", tmp_path / "there")
    (tmp_path / "out").mkdir()
    right, outcomes = command_lines(tmp_path), Counter()
    parsers = next(action.choices for action in cli._parser()._actions if action.dest == "name")
    named = {
        name: [flag for action in part._actions[1:] for flag in action.option_strings] or ["--nothing"]
        for name, part in parsers.items()
    }
    for seed in range(COMMANDS):
        rng = random.Random(seed)
        line = right[rng.choice([*right])]
        flags = named[str(line[0])]
        words = jumbled(rng, line, flags) + ["--device", "nowhere"] * ("--device" in flags)
        try:
            with limited():
                code = run(words)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}, {words!r}"[:1500]) from error
        said = capsys.readouterr()
        outcomes[code] += 1
        assert code in (0, 2), (seed, words)
        if code == 2:
            (told,) = lines(said.err)
            assert told.startswith("introprior"), (seed, words, told)
            assert told.isprintable(), (seed, words, told)
        assert "Traceback" not in said.err + said.out, (seed, words)
    assert outcomes[2] > COMMANDS / 2
    assert outcomes[0] > COMMANDS / 30


def run(words: list[str]) -> int:
    try:
        return cli.main(words)
    except SystemExit as end:  # of argparse
        return int(end.code or 0)
