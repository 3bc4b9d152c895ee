"""The configuration: one truth, from which files are made; mistakes take one line; options come out right."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from introprior import paper
from introprior.data.catalogue import DATASETS
from introprior.data.images.catalogue import DATASETS as IMAGE_DATASETS
from introprior.errors import UserError
from introprior.experiment import families, jobs
from introprior.experiment.cells import TABLE1_CELLS, Cell
from introprior.experiment.config import Configuration, load, read_yaml
from introprior.experiment.config.__main__ import files
from introprior.experiment.config.images import DIMENSIONS
from introprior.experiment.protocol import PRESETS
from introprior.experiment.run import DensityTraining, ImageRun, ImageTraining, Member
from introprior.metrics.registry import DISTANCES
from introprior.operations import gpus
from introprior.reporting.tables import captions
from tests import commands

ROOT = Path(__file__).resolve().parents[1]
PAPER = Configuration()
PLAIN = PAPER.model_dump(mode="json")
SCHEMA = Draft202012Validator(Configuration.model_json_schema())
CASES = yaml.safe_load((ROOT / "tests/cases.yaml").read_text())
OTHERS = sorted(path for path in ROOT.glob("config/*.yaml") if path.name != "config.yaml")


def nested(path, value):
    """A configuration of one key."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def changed(path, value):
    """The paper's configuration but for one key."""
    return load(nested(path, value))


def leaves(section, path=""):
    """All keys that are no sections, with their values."""
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


# ---- Files that are made from the models ----


def test_generated_files_are_up_to_date():
    stale = [path.name for path, content in files(ROOT / "config").items() if path.read_text() != content]
    assert not stale, f"{stale} are stale: run `make config`"


def test_config_yaml_is_the_paper_and_says_every_key():
    written = read_yaml([ROOT / "config/config.yaml"])
    assert load(written) == load({}) == PAPER
    assert dict(leaves(written)).keys() - {"protocol_overrides"} == {
        key for key, _ in leaves(PLAIN) if not key.startswith("protocol_overrides.")
    }
    listed = re.findall(r"^\| `(.+?)` \|", (ROOT / "config/README.md").read_text(), re.MULTILINE)
    assert {re.sub(r"(by_dataset)\.[^.]+", r"\1.<dataset>", key) for key, _ in leaves(PLAIN)} <= set(listed)


def test_the_schema_refuses_unknown_keys_and_describes_the_known():
    schema = json.loads((ROOT / "config/config.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == 21
    for section in sections:
        assert section["additionalProperties"] is False
        for key, part in section["properties"].items():
            about = part.get("description") or schema["$defs"][part["$ref"].rpartition("/")[2]]["description"]
            assert about.endswith("."), key


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_the_other_files_are_valid_and_hold_only_what_differs(path):
    changes = read_yaml([path])
    Draft202012Validator(json.loads((ROOT / "config/config.schema.json").read_text())).validate(changes)
    assert load(changes) == load(read_yaml([ROOT / "config/config.yaml", path]))
    usual = dict(leaves(PLAIN))
    for part in ("training", "evaluation", "report"):
        usual |= leaves({"protocol_overrides": getattr(PRESETS["authors"], part).dump()})
    assert [key for key, value in leaves(changes) if usual.get(key) == value] == []  # own weights have no default


def test_demo_shows_everything():
    demo = load(read_yaml([ROOT / "config/demo-all.yaml"]))
    for part in ("image_cells", "density_cells", "latents"):
        assert getattr(demo, part) == getattr(PAPER, part)
    assert demo.density.datasets == PAPER.density.datasets
    assert sum(map(len, jobs.slices(demo, "sg"))) == 4


def test_facts_that_stand_twice_are_equal():
    sections = PAPER.images.by_dataset
    assert set(sections) == set(IMAGE_DATASETS)
    for name, entry in IMAGE_DATASETS.items():
        assert sections[name] == sections[entry.stand_in_for or name]
    inception = pytest.importorskip("introprior.metrics.inception")
    classifier = pytest.importorskip("introprior.metrics.classifier")
    assert {"inception": inception.DIMENSIONS, "classifier": classifier.DIMENSIONS} == DIMENSIONS
    assert set(jobs.FEATURES["inception"]) == set(inception.PROTOCOLS)
    assert [name for names in jobs.FEATURES.values() for name in names] == list(DISTANCES)


# ---- Mistakes ----


def refused(values, *files):
    """What is said of a configuration that will not do, in one line."""
    with pytest.raises(UserError) as caught:
        load(values, files)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 500
    return said


@pytest.mark.parametrize(
    ("path", "value", "said"), [(p, *case) for p, cases in CASES["configuration"].items() for case in cases]
)
def test_a_mistake_is_told_in_one_line(path, value, said):
    path, _, place = path.partition(" => ")
    place = place or (path.rpartition(".")[0] if "unknown key" in said else path)
    message = refused(nested(path, value))
    where = f"configuration: {place}" if place else "configuration"
    assert message.startswith(where + (said[:3] if said[0] == "[" else ": "))
    assert said in message


SG = {"dataset": "8Gaussian", "cell": "sg"}
OPTIONS = {
    "density.training.": lambda options: jobs.Train(**SG, training=options),
    "density.search.halving.": lambda options: jobs.Search(**SG, betas=[[1, 1, 1]], halving=options),
    "density.evaluation.": lambda options: jobs.Evaluate(**options),
}
"""Sections that commands are told of, too, and what reads them there."""


@pytest.mark.parametrize("section", OPTIONS)
def test_commands_refuse_what_the_configuration_refuses(section):
    """But for what depends on the dataset, which they check with the dataset."""
    told = {path: cases for path, cases in CASES["configuration"].items() if path.startswith(section)}
    values = [(path, value) for path, cases in told.items() for value, said in cases if "; try" not in said]
    assert values
    for path, value in values:
        with pytest.raises(ValidationError):
            OPTIONS[section]({path.removeprefix(section): value})


WRONG = [
    *(None, True, -1, 2.5, math.nan, math.inf, 10**30, 10**400, "", "x", "1e-8", "٣", "x" * 10**5, "\n", "\ud800"),
    *([], [[]], [None], [{}], [True], ["x", "x"], [1, 1], [math.nan], [10**400], {}, {"a": 1}, {"x" * 10**5: 1}),
    *({1: 2}, {None: 1}, {"int": 1}, {"x[0]": 1}, {"a-b\n": 1}, {"x"}, b"x", datetime.date(2024, 1, 1)),
]
ENDLESS: list[object] = []
ENDLESS.append({"itself": ENDLESS})


def keys(section, path=""):
    """All keys, sections too."""
    for key, value in section.items():
        yield f"{path}{key}"
        yield from keys(value, f"{path}{key}.") if isinstance(value, dict) else ()


def misfit(values):
    """Whether the schema refuses them; its patterns of keys know text alone."""
    try:
        return not SCHEMA.is_valid(values)
    except TypeError:
        return True


def test_every_wrong_kind_of_value_at_every_key_is_told_in_one_line():
    """What the schema refuses is told with its path; what is refused although it is of the right kind, in one line."""
    fine = 0
    for path in keys(PLAIN):
        for value in [*WRONG, ENDLESS]:
            values = nested(path, value)
            wrong = value is ENDLESS or value in (math.inf, 10**400) or value != value or misfit(values)
            try:
                load(values)
            except UserError as error:
                said = str(error)
                assert said.startswith(f"configuration: {path}" if wrong else "configuration: "), (path, said)
                assert said.isprintable(), (path, said)
                assert len(said) < 500, (path, said)
            else:
                fine += 1
                assert not wrong, (path, value)
    assert 0 < fine < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("density: [", "not valid YAML (while parsing"),
        ("a: 2024-13-45", "not valid YAML (month must be in 1..12"),
        (f"a: {'9' * 5000}", "not valid YAML (Exceeds the limit"),
        ("a: " + "[" * 500, "not valid YAML (maximum recursion"),
        ("- 1", "must hold the keys of a configuration, see config/README.md"),
        ("", "must hold the keys of a configuration"),
        ("[" * 10**4, "not valid YAML"),
        ("images: {source: /données}".encode("latin-1"), "not UTF-8 (at byte 22); save it in that encoding"),
        ("density: {}".encode("utf-16"), "not UTF-8 (at byte 0)"),
        ("figure3: &it {cells: *it}", "not valid YAML (found unconstructable recursive node"),
        ("priors: &it [*it]", "not valid YAML (found unconstructable recursive node"),
        ("device: cpu\npriors: []\ndevice: auto", "the key 'device' is there twice, in lines 1 and 3; keep one of"),
        ("density:\n  seeds: [0]\n  seeds: [1]", "the key 'seeds' is there twice, in lines 2 and 3"),
        ('{"a": 1, "b": {"a": 1, "a": 2}}', "the key 'a' is there twice; keep one of them"),
        ('{"a": 1, ' + '"[": ' * 3, "not valid YAML"),
        (None, "cannot read (No such file or directory)"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, said):
    path = tmp_path / "my.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    commands.refused(lambda: read_yaml([path]), f"{path}: {said}")


def test_a_configuration_may_be_json_and_yaml_may_merge(tmp_path):
    """As for Snakemake; in YAML a number needs a point before its exponent, in JSON not."""
    (tmp_path / "a.json").write_text('\ufeff{"density": {"training": {"learning_rate": 1e-3}}}', encoding="utf-8")
    assert load(read_yaml([tmp_path / "a.json"])).density.training.learning_rate == 1e-3
    (tmp_path / "c.yaml").write_text("images: {training: &it {epochs: 99}}\nfigure2: {<<: *it, every: 9, epochs: 100}")
    assert read_yaml([tmp_path / "c.yaml"])["figure2"] == {"epochs": 100, "every": 9}


def test_paths_may_name_home_and_variables(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("NOTHING", raising=False)
    paths = {"~/sets": "/home/ada/sets", "$DATA/a": "/data/a", "${DATA}": "/data", "$NOTHING": "$NOTHING"}
    for path, meant in paths.items():
        assert changed("images.source", path).images.source == meant
        assert changed("images.evaluation.weights", path).images.evaluation.weights == meant
    assert "/home/ada/my_prior.py" in refused({"priors": ["~/my_prior"]})
    monkeypatch.setenv("DATA", "")
    said = refused(nested("images.source", "$DATA"))
    assert "images.source: is an empty path, since '$DATA' is; give the variable a value" in said


def test_only_the_datasets_in_use_constrain_the_numbers():

    def in_2d(dataset, size):
        return {"density": {"datasets": [dataset], "training": {"batch_size": size}}}

    def on(*datasets, **images):
        alone = {"figure2": {"dataset": "MNIST"}, "figureS2": {"dataset": "MNIST"}}
        return {"images": {"datasets": list(datasets), **images}, **alone}

    load(in_2d("2Spirals", 510))
    load(in_2d("8Gaussian", 511))
    assert "multiple of 2 for 2Spirals, is 511; try 512" in refused(in_2d("2Spirals", 511))
    load(on("MNIST", evaluation={"samples": 60000}))
    load(on("MNIST", by_dataset={"photos": {"batch_size": 4501}}))
    assert "at most 1501, the training images of digits, is 50000" in refused(on("MNIST", "digits"))


def test_few_samples_are_allowed_on_request():
    changed("images.evaluation", {"samples": 100, "allow_few": True})
    few = {"features": "classifier", "samples": 63}
    assert "at least 64, the dimensions of classifier features, is 63" in refused(nested("images.evaluation", few))


def test_an_added_image_dataset_needs_a_section(monkeypatch):
    monkeypatch.setitem(IMAGE_DATASETS, "KMNIST", dataclasses.replace(IMAGE_DATASETS["MNIST"], name="KMNIST"))
    page = (ROOT / "docs/add-an-image-dataset.md").read_text()
    added = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1])
    for job in (jobs.pictures, jobs.unverified, jobs.classifier):
        commands.refused(lambda job=job: job(PAPER, "KMNIST"), "results: KMNIST has no section; give it one in images.")
    ours, theirs = (captions.image_settings(config, ["KMNIST"]) for config in (load(added), PAPER))
    assert "(KMNIST)" in captions.scale_sentence("kmnist", ours, theirs)
    del added["images"]["by_dataset"]["KMNIST"]["widths"]
    assert refused(added) == "configuration: images.by_dataset.KMNIST.widths: is missing; give it"
    del added["images"]["by_dataset"]["KMNIST"]
    assert "images.datasets[0]: KMNIST has no section; give it one in images.by_dataset" in refused(added)


# ---- Families of priors that a configuration adds ----


@pytest.fixture
def added(monkeypatch):
    """What a configuration adds is gone afterwards."""
    known, ran = dict(families.FAMILIES), dict(families._FILES)
    monkeypatch.setenv(families.PRIORS, "")
    yield
    for registry, before in ((families.FAMILIES, known), (families._FILES, ran)):
        registry.clear()
        registry.update(before)


MINE = """\
from introprior.experiment.families import Family, register

class Mine:
    family = "mine"

register(Family("mine", f"{__name__}:Mine", "Mine", learns=False))
"""


def test_a_configuration_adds_a_prior_from_a_file_beside_it(tmp_path, added):
    (tmp_path / "my_prior.py").write_text(MINE)
    values = {"priors": ["my_prior"], "tables": {"table1": ["sg", "mine", "vae-mine"]}}
    config = load(values, [ROOT / "config/config.yaml", tmp_path / "my.yaml"])
    assert config == load(values, [tmp_path / "my.yaml"])  # the file runs once
    assert config == load(config.model_dump(mode="json"))  # as who finds it in jobs.json does
    assert Cell.parse("mine").family.file == str(tmp_path / "my_prior.py")
    # Processes that this one starts know it, too, or say what is wrong.
    code = "from introprior.experiment.cells import Cell; print(Cell.parse('mine').label)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Mine\n")
    (tmp_path / "my_prior.py").write_text("import nothing_of_this_name\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = "introprior: INTROPRIOR_PRIORS: my_prior.py: ModuleNotFoundError: No module named 'nothing_of_this_name'\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "correct the name, or put the file there"),
        ("1 / 0", "my_prior.py: ZeroDivisionError: division by zero"),
        ("a = (", "my_prior.py: SyntaxError: '(' was never closed"),
        ("import sys; sys.exit('enough')", "my_prior.py: SystemExit: enough"),
        (MINE.replace('"mine"', '"mog"'), "my_prior.py: there is a family mog already; give yours another name"),
        (MINE.replace('"mine"', '"vae"'), "'vae' cannot be a family's name; use small letters, and not vae"),
        (MINE.replace('"mine"', '"mine2"'), "'mine2' cannot be a family's name"),
        (MINE.replace("    family =", "    name ="), "is of no family 'mine'; set its attribute family to that"),
        (MINE.replace(":Mine", ":Yours"), "my_prior.py: AttributeError: module"),
    ],
)
def test_files_that_add_no_prior(tmp_path, added, text, said):
    if text is not None:
        (tmp_path / "my_prior.py").write_text(text)
    before = dict(families.FAMILIES)
    message = refused({"priors": ["my_prior"]}, tmp_path / "my.yaml")
    assert message.startswith("configuration: priors: ")
    assert said in message
    assert before == families.FAMILIES
    assert os.environ[families.PRIORS] == ""


@pytest.mark.parametrize("name", ["", ".", "/", "a\nb", "\0", "x" * 5000, "\ud800"])
def test_names_that_are_no_files(added, name):
    assert refused({"priors": [name]}).startswith("configuration: priors: no '")


# ---- Devices ----


def test_devices_that_are_there():
    gpus.check("auto", None, 0, 1)
    gpus.check("auto", 1, 0, 1)  # the default profile asks for one
    gpus.check("auto", 2, 2, 1)
    gpus.check("auto", 4, 2, 2)
    gpus.check("cpu", 3, 0, 1)
    gpus.check("cuda:1", None, 2, 1)


@pytest.mark.parametrize(
    ("device", "asked", "present", "shared", "said"),
    [
        ("auto", 2, 0, 1, "no GPU is visible on this machine; leave it out to run on the CPU"),
        ("auto", 3, 2, 1, "--resources gpu=3: 2 GPUs are visible on this machine; ask for gpu=2 at most"),
        ("auto", 5, 2, 2, "2 GPUs are visible on this machine; ask for gpu=4 at most, 2 jobs each"),
        ("cuda", 1, 0, 1, "configuration: device: cuda is not there, no GPU is visible; use auto or cpu"),
        ("cuda", 2, 1, 1, "1 GPU is visible"),
        ("cuda:2", None, 2, 1, "cuda:2 is not there, 2 GPUs are visible"),
    ],
)
def test_devices_that_are_not_there(device, asked, present, shared, said):
    commands.refused(lambda: gpus.check(device, asked, present, shared), said)


def test_gpus_that_the_driver_does_not_list_are_asked_for(tmp_path, monkeypatch):
    """On WSL2 there is no /proc/driver/nvidia/gpus."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("INTROPRIOR_SIMULATED_GPUS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    monkeypatch.setattr(gpus, "WSL", tmp_path / "wsl/nvidia-smi")
    assert gpus.present() == 0
    for place in (gpus.WSL, tmp_path / "nvidia-smi"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'; echo '  MIG 1g'; echo 'GPU 1: A (UUID: GPU-2)'")
        place.chmod(0o755)
        assert gpus.present() == 2
        place.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9")
        assert gpus.present() == 0
    gpus.DRIVER.mkdir()
    (gpus.DRIVER / "0000:01:00.0").mkdir()
    assert gpus.present() == 1


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-7a, GPU-9b", 2), ("NoDevFiles", 0)]
)
def test_visible_gpus_are_counted_as_cuda_does(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.present() == count


# ---- Resolution: two dimensions ----


@pytest.mark.parametrize("cell", ["sg", "mog64", "mog64-ip", "mog64-lc", "mog64-lc-ip"])
def test_the_grid_of_a_game_has_210_settings(cell):
    settings = [tuple(s) for part in jobs.slices(PAPER, cell) for s in part]
    assert len(settings) == len(set(settings)) == 210
    assert {round(neg / kl, 2) for _, kl, neg in settings} == {1, 2, 3, 4, 5}
    assert (0.2, 0.3, 0.9) in settings  # the published optimum of 8Gaussian, which is 3 x 0.3 rounded
    assert {tuple(paper.hyperparameters(name, "table3").values()) for name in DATASETS} <= set(settings)


def test_the_grid_of_a_vae_has_81_settings():
    (settings,) = jobs.slices(PAPER, "vae-sg")
    assert len({tuple(s) for s in settings}) == 81
    assert {neg for _, _, neg in settings} == {None}
    values = {0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 1.0}
    assert {rec for rec, _, _ in settings} == {kl for _, kl, _ in settings} == values


def weights(config, dataset, cell):
    """The hyperparameters that are not searched, and where they are from."""
    told = jobs.hyperparameters(config, dataset, cell)
    assert told.items() >= {"dataset": dataset, "cell": cell, "settings": None, "diverged": None, "KL": None}.items()
    return [told[name] for name in ("beta_rec", "beta_kl", "beta_neg", "source")]


@pytest.mark.parametrize(
    ("dataset", "rec", "kl"),
    [("8Gaussian", 0.8, 0.05), ("2Spirals", 1.0, 0.05), ("Checkerboard", 0.8, 0.1), ("Rings", 0.8, 0.05)],
)
def test_a_vae_that_is_not_searched_takes_the_weights_of_the_authors_code(dataset, rec, kl):
    assert weights(PAPER, dataset, "vae-sg") == weights(PAPER, dataset, "vae-mog64") == [rec, kl, None, "vae"]
    assert [rec, kl, None] in jobs.slices(PAPER, "vae-sg")[0]


@pytest.mark.parametrize("dataset", DATASETS)
def test_published_hyperparameters(dataset):
    theirs = changed("density.search.published", "daniel-tamar")
    for config, cell, source in (
        (PAPER, "sg", "table3"),
        (theirs, "mog64-lc-ip", "daniel-tamar"),
        (PAPER, "sg-dt", "daniel-tamar"),
        (PAPER, "sg-dt-closed", "daniel-tamar"),
    ):
        assert weights(config, dataset, cell) == [*paper.hyperparameters(dataset, source).values(), source]


def test_own_hyperparameters_take_the_place_of_published_ones():
    own = {"Rings": {"all": [1, 0.05, 0.15], "sg": [0.2, 0.5, 1]}, "2Spirals": {"sg": [0.4, 0.3, 0.6]}}
    config = load({"density": {"search": {"cells": ["mog64"], "own": own}}})
    assert weights(config, "Rings", "sg") == [0.2, 0.5, 1, "own"]
    assert weights(config, "Rings", "mog64-ip") == [1, 0.05, 0.15, "own"]
    assert weights(config, "Rings", "vae-sg") == [1, 0.05, None, "own"]
    assert weights(config, "2Spirals", "sg") == [0.4, 0.3, 0.6, "own"]
    assert [weights(config, "2Spirals", cell)[-1] for cell in ("mog64-ip", "vae-sg")] == ["table3", "vae"]
    assert [weights(config, dataset, "sg-dt")[-1] for dataset in own] == ["daniel-tamar"] * 2
    changes, usual = (captions.density_settings(c, ["search"]) for c in (config, PAPER))
    assert "the configuration's hyperparameters" in captions.scale_sentence("demo", changes, usual)


@pytest.mark.parametrize("most", [1, 5, 7, 12, 105, 1000])
def test_slices_keep_together_what_shares_a_warmup(most):
    slices = jobs.slices(changed("density.search.members_per_job", most), "sg")
    owners = Counter((rec, kl) for part in slices for rec, kl in {(rec, kl) for rec, kl, _ in part})
    assert len(owners) == 42
    assert set(owners.values()) == {1}
    assert all(len(part) <= max(most, 5) for part in slices)
    assert [s for part in slices for s in part] == [s for group in jobs.grid(PAPER, "sg") for s in group]


@pytest.mark.parametrize(
    ("changes", "searched"),
    [
        ({}, {"sg", "mog64", "mog64-lc-ip", "vae-sg", "mog10"}),
        ({"cells": ["sg", "mog64"]}, {"sg", "mog64"}),
        ({"enabled": False}, set()),
    ],
)
def test_which_cells_are_searched(changes, searched):
    pattern = jobs.searched(changed("density.search", changes))
    known = ["sg", "mog64", "mog64-lc-ip", "vae-sg", "mog10", "sg-dt", "sg-dt-closed"]
    assert {cell for cell in known if re.fullmatch(f"(?:{pattern})", cell)} == searched


# ---- What jobs are told ----

RUN = {"cell": "mog10-lc-ip", "r_entropy": "10", "seed": "0"}
DENSITY = {
    "search": (jobs.search, jobs.Search, {"cell": "sg", "slice": "0"}),
    "train": (jobs.train, jobs.Train, {"cell": "sg"}),
    "evaluate": (jobs.evaluate, jobs.Evaluate, {"cell": "sg"}),
}
IMAGES = {
    "warmup": (jobs.warmup, jobs.TrainImages, {"family": "mog10-lc", "seed": "0"}),
    "game": (jobs.game, jobs.TrainImages, RUN),
    "clipping": (jobs.clipping, jobs.TrainImages, RUN | {"cell": "mog10-lc-ip-unclipped"}),
    "classifier": (jobs.classifier, jobs.Classifier, {}),
    "reference": (jobs.reference, jobs.Reference, {"features": "fid_authors"}),
    "distances": (jobs.distances, jobs.Distances, RUN),
    "evaluate": (jobs.evaluate_images, jobs.EvaluateImages, RUN),
    "probe": (jobs.probe, jobs.Probe, RUN),
    "overfit": (jobs.overfit, jobs.Overfit, {}),
}
"""The jobs of either half: what resolves their options, the options' model, and the wildcards of an example."""


def options(config, dataset):
    """What the example of every kind of job is told."""
    kinds = DENSITY if dataset in DATASETS else IMAGES
    return {kind: resolve(config, dataset=dataset, **named) for kind, (resolve, _, named) in kinds.items()}


@pytest.mark.parametrize(("half", "dataset"), [(DENSITY, "Rings"), (IMAGES, "FMNIST")], ids=["density", "images"])
def test_what_jobs_are_told_is_what_their_commands_do_when_told_nothing(half, dataset):
    """The defaults of the options are the paper's."""
    names = {"dataset", "cell", "r_entropy", "seed", "panel_seed", "batch_size"}  # of the run at hand
    for kind, told in options(PAPER, dataset).items():
        model = half[kind][1]
        needed = {key for key, field in model.model_fields.items() if field.is_required()}
        read = model.read(told, kind)
        usual = model.read({key: told[key] for key in needed}, kind)
        of_run = names | ({"betas", "snapshots", "iterations_per_epoch"} if model is jobs.TrainImages else set())
        assert read.model_dump(exclude=of_run) == usual.model_dump(exclude=of_run), kind
    assert jobs.Train.read(options(PAPER, "Rings")["train"], "").training == DensityTraining()
    assert jobs.TrainImages.read(jobs.game(PAPER, "FMNIST", "mog10", "0", "0"), "").training == ImageTraining()


def test_density_options():
    told = jobs.search(PAPER, "Rings", "mog64", 1)
    assert (told["dataset"], told["cell"], told["seed"], told["samples"]) == ("Rings", "mog64", 0, 5000)
    assert (told["betas"], told["halving"]) == (jobs.slices(PAPER, "mog64")[1], None)
    halved = jobs.search(changed("density.search.halving.enabled", True), "Rings", "sg", 0)
    assert halved["halving"] == {"keep": 0.5, "at": (0.25, 0.5)}
    told = jobs.train(PAPER, "sg", "8Gaussian")
    assert set(told) == {"dataset", "cell", "protocol", "training", "seeds"}
    assert told["training"] == PLAIN["density"]["training"]
    panel = {"panel_grid": 200, "panel_points": 2000, "panel_seed": 0}
    assert jobs.evaluate(PAPER, "sg", "8Gaussian") == SG | PLAIN["density"]["evaluation"] | panel
    assert jobs.train(PAPER, "sg") == told | {"dataset": tuple(DATASETS)}
    text = jobs.train(changed("protocol", "text"), "sg", "Rings")["protocol"]
    assert text == {key: value for key, value in PRESETS["text"].training.dump().items() if key != "image_streams"}


def test_the_runs_of_the_paper():
    assert PAPER.density_cells == [*TABLE1_CELLS, "sg-dt-closed", "sg-dt"]
    runs = [tuple(run.values()) for run in PAPER.runs(PAPER.image_cells)]
    assert len(runs) == len(set(runs)) == 297
    assert len({(dataset, jobs.family(cell), seed) for dataset, cell, _, seed in runs}) == 45
    assert {r_entropy for _, cell, r_entropy, _ in runs if cell == "sg"} == {"0"}
    assert {r_entropy for _, cell, r_entropy, _ in runs if cell == "mog10"} == {"0", "1", "10", "100"}


def test_image_options():
    told = options(PAPER, "CIFAR-10")
    warmup, game = told["warmup"], told["game"]
    assert (warmup["cell"], warmup["betas"], warmup["snapshots"], warmup["seeds"]) == ("mog10-lc", [1.0, 1.0], [0], [0])
    assert not {"iterations", "r_entropy", "alpha", "gamma", "gamma_r"} & set(warmup["training"])
    assert game["betas"] == [1.0, 1.0, 256.0]
    assert game["snapshots"] == [80, 120, 160, 200, 219]
    assert (game["iterations_per_epoch"], game["training"]["iterations"]) == (1563, 220 * 1563)
    assert game["training"]["warmup_iterations"] == warmup["training"]["warmup_iterations"] == 20 * 1563
    assert game["training"]["r_entropy"] == 10.0
    assert told["clipping"]["snapshots"] == [20, 40, 60, 80, 100, 120]
    assert told["clipping"]["training"]["iterations"] == 120 * 1563
    assert told["reference"] == {"features": "fid_authors", "samples": 50000, "batch_size": 32}
    assert told["distances"]["features"] == told["evaluate"]["features"] == ["fid_authors", "fid"]
    assert (told["evaluate"]["checkpoint"], told["evaluate"]["train_images"]) == ("best", "all")
    assert (told["probe"]["r_entropy"], told["probe"]["seed"]) == (10.0, 0)
    assert told["overfit"]["beta_neg"] == 256.0
    mnist = jobs.game(PAPER, "MNIST", "sg", "0", "2")
    assert (mnist["betas"][2], mnist["iterations_per_epoch"], mnist["seeds"]) == (128.0, 469, [2])


def test_image_options_of_the_paper_as_written():
    text = options(changed("protocol", "text"), "MNIST")
    assert text["game"]["snapshots"] == [80, 120, 160, 200, 219, 220]
    assert text["evaluate"]["features"] == ["fid", "fid_authors"]
    assert (text["evaluate"]["checkpoint"], text["evaluate"]["sampling"]) == ("last", "running")


def test_a_warmup_is_told_all_that_it_depends_on():
    """What the training compares of runs that share one, options must tell or leave alone in both."""
    config = load({"protocol": "text", "images": {"training": {"clip_steepness": 5.0, "learning_rate": 0.001}}})

    def run(told, betas):
        member = dict(zip(("beta_rec", "beta_kl", "beta_neg"), betas, strict=True))
        training = {"iterations": 10**6, **told["training"]}
        members = [Member(dataset=told["dataset"], seed=told["seeds"][0], **member)]
        named = {key: told[key] for key in ("cell", "protocol")}
        return ImageRun.read({**named, "members": members, "training": training}, "")

    warmup = jobs.warmup(config, "CIFAR-10", "mog10-lc", "1")
    game = jobs.game(config, "CIFAR-10", "mog10-lc-ip", "100", "1")
    assert run(warmup, [*warmup["betas"], 1.0]).warmup == run(game, game["betas"]).warmup


@pytest.mark.parametrize(
    ("dataset", "path", "value", "outdated"),
    [(name, *case) for name, cases in CASES["outdated"].items() for case in cases],
)
def test_what_outdates_what(dataset, path, value, outdated):
    old, new = (options(config, dataset) for config in (PAPER, changed(path, value)))
    assert {kind for kind in old if jobs.as_json(old[kind]) != jobs.as_json(new[kind])} == set(outdated)


@pytest.mark.parametrize(
    ("job", "named", "said"), [(job, *case) for job, cases in CASES["names"].items() for case in cases]
)
def test_unknown_names_in_paths_of_results_are_refused(job, named, said):
    with pytest.raises(UserError, match=rf"^{re.escape(said)}"):
        getattr(jobs, job)(PAPER, *named)


# ---- What captions say of it ----


@pytest.mark.parametrize(
    ("half", "changes", "said"), [(half, *case) for half, cases in CASES["captions"].items() for case in cases]
)
def test_captions_say_what_differs_from_the_paper(half, changes, said):
    ours = load(changes)
    if half == "density":
        shown = ("seeds", "training", "search", "evaluation")
        both = [captions.density_settings(config, shown) for config in (ours, PAPER)]
    else:
        both = [captions.image_settings(config, ours.images.datasets) for config in (ours, PAPER)]
    sentence = captions.scale_sentence("trial", *both)
    assert (sentence == captions.PAPER_SCALE) is (said is None)
    assert said is None or said in sentence
