"""The configuration: defaults, schema and documentation agree, mistakes take one line, options come out right."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from introprior import configuration, paper, protocols
from introprior.cells import TABLE1_CELLS
from introprior.errors import UserError
from introprior.reporting import captions

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
PAPER = yaml.safe_load((ROOT / "config/config.yaml").read_text())
DEMO = yaml.safe_load((ROOT / "config/demo.yaml").read_text())


def laid_over(base, changes):
    """The configuration with changes merged as Snakemake does: sections key by key, all else as a whole."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        inner = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = laid_over(merged[key], value) if inner else value
    return merged


def changed(path, value):
    """The paper's configuration but for one key."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return laid_over(PAPER, value)


def sections(rules, path=""):
    """All sections of the schema, each with its path."""
    if rules.get("type") == "object":
        yield path, rules
        for key, part in rules["properties"].items():
            yield from sections(part, f"{path}.{key}".lstrip("."))


def leaves(section, path=""):
    for key, value in section.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from leaves(value, here)
        else:
            yield here, value


# ---- Defaults, schema and documentation ----


def test_config_yaml_holds_the_defaults_of_the_schema():
    assert configuration.defaults(SCHEMA) == PAPER
    configuration.validate(PAPER, SCHEMA)


def test_every_section_refuses_unknown_keys_and_describes_the_known():
    found = dict(sections(yaml.safe_load(SCHEMA.read_text())))
    assert {"", "density", "density.search.vae", "density.search.halving", "figure3"} <= set(found)
    for path, rules in found.items():
        assert rules["additionalProperties"] is False, path
        for key, part in rules["properties"].items():
            assert part["description"].endswith("."), f"{path}.{key}"
        if path != "protocol_overrides":
            assert set(rules["required"]) == set(rules["properties"]), path


def test_readme_lists_every_key():
    reference = configuration.reference(SCHEMA)
    assert all(f"| `{key}` |" in reference for key, _ in leaves(PAPER))
    assert reference in (ROOT / "config/README.md").read_text(), f"config/README.md should end with\n\n{reference}"


def test_schema_knows_the_protocols():
    properties = yaml.safe_load(SCHEMA.read_text())["properties"]
    assert properties["protocol"]["enum"] == list(protocols.PRESETS)
    options = {key: tuple(part["enum"]) for key, part in properties["protocol_overrides"]["properties"].items()}
    assert options == protocols.CHOICES


def test_demo_holds_only_what_differs():
    merged = laid_over(PAPER, DEMO)
    configuration.validate(merged, SCHEMA)
    usual = dict(leaves(PAPER))
    for key, value in leaves(DEMO):
        assert key in usual, f"{key} is not in config.yaml"
        assert value != usual[key], f"{key} does not differ"
    assert configuration.cells(merged) == configuration.cells(PAPER)
    assert merged["density"]["datasets"] == PAPER["density"]["datasets"]
    assert sum(map(len, configuration.slices(merged, "sg"))) == 4


def test_datasets_are_those_of_the_data_module():
    data = pytest.importorskip("introprior.data.density")
    assert {name: dataset.multiple for name, dataset in data.DATASETS.items()} == configuration.DATASETS


def test_training_options_are_those_of_the_training_module():
    options = pytest.importorskip("introprior.training.options")
    resolved = json.loads(configuration.train_options(PAPER, "Rings", "sg"))["training"]
    assert options.TrainingOptions.from_dict(resolved) == options.TrainingOptions()
    integers = [key for key, value in resolved.items() if type(value) is int]
    assert integers == [key for key in sorted(resolved) if type(getattr(options.TrainingOptions(), key)) is int]


def test_importing_is_cheap():
    code = "import sys, introprior.configuration; print(*{'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- Mistakes ----

MISTAKES = [
    ("experiment", "a/b", "experiment", "a/b"),
    ("experimant", "x", "configuration", "unknown key 'experimant'; did you mean 'experiment'?"),
    ("protocol", "author", "protocol", "one of authors, text; is author"),
    ("protocol_overrides.spred", "sem", "protocol_overrides", "unknown key 'spred'; did you mean 'spread'?"),
    ("protocol_overrides.spread", "var", "protocol_overrides.spread", "one of std, sem"),
    ("device", "gpu", "device", "cuda:N"),
    ("density.sedes", [1], "density", "unknown key 'sedes'; did you mean 'seeds'?"),
    ("density.training.iteration", 10, "density.training", "did you mean 'iterations'?"),
    ("density.search.vae.beta_neg", [1], "density.search.vae", "unknown key 'beta_neg'"),
    ("density.search.halving.rungs", 3, "density.search.halving", "unknown key 'rungs'"),
    ("density.evaluation.gird", 3, "density.evaluation", "did you mean 'grid'?"),
    ("tables.table2", ["sg"], "tables", "unknown key 'table2'; did you mean 'table1'?"),
    ("figure3.colour", 1, "figure3", "unknown key 'colour'"),
    ("density.datasets", ["Rings", "rings"], "density.datasets[1]", "did you mean 'Rings'?"),
    ("density.datasets", [], "density.datasets", "must not be empty"),
    ("density.datasets", ["Rings", "Rings"], "density.datasets", "Rings is there more than once"),
    ("density.seeds", [], "density.seeds", "must not be empty"),
    ("density.seeds", [0, 1, 0], "density.seeds", "0 is there more than once"),
    ("density.seeds", [0, -1], "density.seeds[1]", "at least 0, is -1"),
    ("density.seeds", 3, "density.seeds", "must be a list, is 3"),
    ("density.seeds", None, "density.seeds", "must be a list, is empty"),
    ("density.seeds", [0, 1.0], "density.seeds[1]", "whole number, is 1.0"),
    ("density.training", [], "density.training", "a section of keys"),
    ("density.training.iterations", 0, "density.training.iterations", "at least 1, is 0"),
    ("density.training.iterations", True, "density.training.iterations", "whole number, is true"),
    ("density.training.batch_size", 510, "density.training.batch_size", "multiple of 4 for Rings, is 510; try 512"),
    ("density.training.monte_carlo_samples", 0, "density.training.monte_carlo_samples", "at least 1, is 0"),
    ("density.training.warmup_iterations", 30000, "density.training.warmup_iterations", "below iterations, 30000"),
    ("density.training.mixture_warmup_iterations", 2001, "density.training.mixture_warmup_iterations", "at most"),
    ("density.training.milestones", [15000, 10000], "density.training.milestones", "must rise"),
    ("density.training.learning_rate", 0, "density.training.learning_rate", "above 0, is 0"),
    ("density.training.gamma_r", "1e-8", "density.training.gamma_r", "the text 1e-8; write numbers without quotes"),
    ("density.training.gamma", float("nan"), "density.training.gamma", "must be finite"),
    ("density.training.latent_dim", 3, "density.training.latent_dim", "must be 2, is 3"),
    ("density.search.enabled", "yes", "density.search.enabled", "true or false, is the text 'yes'"),
    ("density.search.cells", "some", "density.search.cells", "all or a list"),
    ("density.search.cells", ["sg", "sgg"], "density.search.cells[1]", "unknown cell 'sgg'"),
    ("density.search.cells", ["sg-dt"], "density.search.cells[0]", "defined by published values"),
    ("density.search.published", "table4", "density.search.published", "one of table3, daniel-tamar"),
    ("density.search.beta_rec", [0.2, 0], "density.search.beta_rec[1]", "above 0, is 0"),
    ("density.search.beta_kl", [-0.2], "density.search.beta_kl[0]", "above 0, is -0.2"),
    ("density.search.beta_kl", [0.0001], "density.search.beta_neg_multiples", "rounded to three decimals"),
    ("density.search.beta_neg_multiples", [1, 1.001], "density.search.beta_neg_multiples", "rounded"),
    ("density.search.beta_neg_multiples", [], "density.search.beta_neg_multiples", "must not be empty"),
    ("density.search.vae.beta_kl", [0], "density.search.vae.beta_kl[0]", "above 0"),
    ("density.search.members_per_job", 0, "density.search.members_per_job", "at least 1"),
    ("density.search.halving.keep", 1, "density.search.halving.keep", "below 1, is 1"),
    ("density.search.halving.at", [0.5, 0.25], "density.search.halving.at", "must rise"),
    ("density.search.samples", 5001, "density.search.samples", "multiple of 2 for 2Spirals"),
    ("density.evaluation.samples", 0, "density.evaluation.samples", "at least 1"),
    ("density.evaluation.data_points", 9, "density.evaluation.data_points", "try 10"),
    ("tables.table1", [], "tables.table1", "must not be empty"),
    ("tables.table1", ["sg", "mog0"], "tables.table1[1]", "at least 1 component"),
    ("tables.table1", ["mog-64"], "tables.table1[0]", "unknown cell 'mog-64'"),
    ("tables.table1", ["sg-ip"], "tables.table1[0]", "nothing to learn"),
    ("figure3.cells", ["vae-mog64-ip"], "figure3.cells[0]", "plays no game"),
    ("figure3.seed", 7, "figure3.seed", "7 is not trained; choose one of density.seeds: 0, 1, 2, 3, 4"),
    ("figure3.points", 501, "figure3.points", "try 502"),
]


@pytest.mark.parametrize(("path", "value", "place", "said"), MISTAKES, ids=[f"{m[0]}={m[1]}" for m in MISTAKES])
def test_a_mistake_is_told_in_one_line(path, value, place, said):
    with pytest.raises(UserError) as caught:
        configuration.validate(changed(path, value), SCHEMA)
    message = str(caught.value)
    assert message.startswith(place if place == "configuration" else f"configuration: {place}: ")
    assert said in message
    assert "\n" not in message


def test_a_missing_key_is_named():
    config = copy.deepcopy(PAPER)
    del config["density"]["training"]["alpha"]
    with pytest.raises(UserError, match=r"^configuration: density\.training\.alpha: is missing"):
        configuration.validate(config, SCHEMA)


def test_only_the_datasets_in_use_constrain_the_batch():
    for datasets, size, good in ((["2Spirals"], 510, True), (["2Spirals"], 511, False), (["8Gaussian"], 511, True)):
        config = changed("density", {"datasets": datasets, "training": {"batch_size": size}})
        if good:
            configuration.validate(config, SCHEMA)
        else:
            with pytest.raises(UserError, match="multiple of 2 for 2Spirals, is 511; try 512"):
                configuration.validate(config, SCHEMA)


# ---- Devices ----


@pytest.mark.parametrize(
    ("device", "asked", "present", "said"),
    [
        ("auto", None, 0, None),
        ("auto", 1, 0, None),  # the default profile asks for one
        ("auto", 2, 0, "no GPU is visible on this machine; leave it out to run on the CPU"),
        ("auto", 2, 2, None),
        ("auto", 3, 2, "--resources gpu=3: 2 GPUs are visible on this machine; ask for gpu=2 at most"),
        ("cpu", 3, 0, None),
        ("cuda", 1, 0, "configuration: device: cuda is not there, no GPU is visible; use auto or cpu"),
        ("cuda", 2, 1, "1 GPU is visible"),
        ("cuda:1", None, 2, None),
        ("cuda:2", None, 2, "cuda:2 is not there, 2 GPUs are visible"),
    ],
)
def test_devices_that_are_not_there(device, asked, present, said):
    if said is None:
        configuration.check_devices(device, asked, present)
    else:
        with pytest.raises(UserError) as caught:
            configuration.check_devices(device, asked, present)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-7a, GPU-9b", 2), ("NoDevFiles", 0)]
)
def test_visible_gpus_are_counted_as_cuda_does(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert configuration.gpus_present() == count


# ---- Resolution ----


def test_the_cells_of_the_paper():
    assert configuration.cells(PAPER) == [*TABLE1_CELLS, "sg-dt-closed", "sg-dt"]


@pytest.mark.parametrize("cell", ["sg", "mog64", "mog64-ip", "mog64-lc", "mog64-lc-ip"])
def test_the_grid_of_a_game_has_210_settings(cell):
    settings = [tuple(s) for part in configuration.slices(PAPER, cell) for s in part]
    assert len(settings) == len(set(settings)) == 210
    assert {round(neg / kl, 2) for _, kl, neg in settings} == {1, 2, 3, 4, 5}
    assert (0.2, 0.3, 0.9) in settings  # the published optimum of 8Gaussian, which is 3 x 0.3 rounded
    published = {tuple(paper.hyperparameters(name, "table3").values()) for name in configuration.DATASETS}
    assert published <= set(settings)


def test_the_grid_of_a_vae_has_81_settings():
    (settings,) = configuration.slices(PAPER, "vae-sg")
    assert len({tuple(s) for s in settings}) == 81
    assert {neg for _, _, neg in settings} == {None}


@pytest.mark.parametrize("most", [1, 5, 7, 12, 105, 1000])
def test_slices_keep_together_what_shares_a_warmup(most):
    config = changed("density.search.members_per_job", most)
    slices = configuration.slices(config, "sg")
    owners = Counter((rec, kl) for part in slices for rec, kl in {(rec, kl) for rec, kl, _ in part})
    assert len(owners) == 42
    assert set(owners.values()) == {1}
    assert all(len(part) <= max(most, 5) for part in slices)
    assert [s for part in slices for s in part] == [s for group in configuration.grid(PAPER, "sg") for s in group]


def test_a_longer_grid_leaves_full_slices_as_they_were():
    longer = changed("density.search.beta_rec", [*PAPER["density"]["search"]["beta_rec"], 2.0])
    assert configuration.slices(longer, "sg")[:2] == configuration.slices(PAPER, "sg")


def test_search_options():
    options = json.loads(configuration.search_options(PAPER, "Rings", "mog64", 1))
    assert set(options) == {"dataset", "cell", "protocol", "training", "seed", "betas", "samples", "halving"}
    assert (options["dataset"], options["cell"], options["seed"], options["samples"]) == ("Rings", "mog64", 0, 5000)
    assert options["betas"] == configuration.slices(PAPER, "mog64")[1]
    assert options["halving"] is None
    halved = changed("density.search.halving.enabled", True)
    assert json.loads(configuration.search_options(halved, "Rings", "sg", 0))["halving"] == {
        "keep": 0.5,
        "at": [0.25, 0.5],
    }
    with pytest.raises(UserError, match="no slice 2, its last is 1"):
        configuration.search_options(PAPER, "Rings", "sg", 2)


def test_train_and_evaluate_options():
    options = json.loads(configuration.train_options(PAPER, "8Gaussian", "sg"))
    assert set(options) == {"dataset", "cell", "protocol", "training", "seeds"}
    assert options["training"] == PAPER["density"]["training"]
    assert protocols.resolve("authors", options["protocol"]) == protocols.Protocol()
    assert json.loads(configuration.evaluate_options(PAPER, "8Gaussian", "sg")) == {
        "dataset": "8Gaussian",
        "cell": "sg",
        "samples": 5000,
        "grid": 1024,
        "data_points": 12800,
        "monte_carlo_samples": 100,
        "panel_grid": 200,
        "panel_points": 2000,
        "panel_seed": 0,
    }
    text = json.loads(configuration.train_options(changed("protocol", "text"), "Rings", "sg"))["protocol"]
    assert protocols.resolve("authors", text) == protocols.PRESETS["text"]


def test_what_outdates_what():
    def options(config):
        return (
            configuration.search_options(config, "Rings", "sg", 0),
            configuration.train_options(config, "Rings", "sg"),
            configuration.evaluate_options(config, "Rings", "sg"),
        )

    def differ(path, value):
        return [old != new for old, new in zip(options(PAPER), options(changed(path, value)), strict=True)]

    assert differ("protocol_overrides.spread", "sem") == [False, False, False]
    assert differ("device", "cpu") == [False, False, False]
    assert differ("experiment", "x") == [False, False, False]
    assert differ("density.training.alpha", 2) == [False, False, False]  # 2 and 2.0 are one number
    assert differ("density.seeds", [0, 1]) == [False, True, False]
    assert differ("density.search.seed", 1) == [True, False, False]
    assert differ("density.evaluation.grid", 512) == [False, False, True]
    assert differ("density.training.iterations", 40000) == [True, True, False]
    assert differ("protocol_overrides.loss_scale", "none") == [True, True, False]


def test_unknown_names_in_result_paths_are_refused():
    with pytest.raises(UserError, match="results: unknown dataset 'Ring'; did you mean 'Rings'"):
        configuration.train_options(PAPER, "Ring", "sg")
    with pytest.raises(UserError, match="results: unknown cell 'gs'"):
        configuration.train_options(PAPER, "Rings", "gs")


@pytest.mark.parametrize("dataset", list(configuration.DATASETS))
@pytest.mark.parametrize(
    ("cell", "published", "source"),
    [
        ("sg", "table3", "table3"),
        ("mog64-lc-ip", "daniel-tamar", "daniel-tamar"),
        ("sg-dt", "table3", "daniel-tamar"),
        ("sg-dt-closed", "table3", "daniel-tamar"),
        ("vae-sg", "table3", "table3"),
    ],
)
def test_published_hyperparameters(dataset, cell, published, source):
    config = changed("density.search.published", published)
    found = json.loads(configuration.hyperparameters(config, dataset, cell))
    wanted = paper.hyperparameters(dataset, source)
    if cell == "vae-sg":
        wanted["beta_neg"] = None
    nothing = dict.fromkeys(("settings", "diverged", "KL"))
    assert found == {"dataset": dataset, "cell": cell, "source": source, **wanted, **nothing}


def test_nothing_published_for_a_new_dataset():
    with pytest.raises(UserError, match=r"^Moons, sg: no published hyperparameters"):
        configuration.hyperparameters(PAPER, "Moons", "sg")


@pytest.mark.parametrize(
    ("path", "value", "differs"),
    [
        ("device", "cpu", False),
        ("density.datasets", ["Rings"], False),
        ("density.search.members_per_job", 10, False),
        ("density.search.halving.keep", 0.25, False),
        ("density.search.halving.enabled", True, True),
        ("density.search.enabled", False, True),
        ("density.seeds", [0, 1], True),
        ("density.training.iterations", 400000, True),
        ("density.evaluation.grid", 96, True),
        ("protocol", "text", True),
        ("protocol_overrides.loss_scale", "none", True),
        ("protocol_overrides.spread", "sem", False),  # the caption says it elsewhere
    ],
)
def test_captions_say_what_differs_from_the_paper(path, value, differs):
    keys = ("seeds", "training", "search", "evaluation")
    usual = configuration.comparable(configuration.defaults(SCHEMA), keys)
    said = captions.scale_sentence("trial", configuration.comparable(changed(path, value), keys), usual)
    assert (said != captions.PAPER_SCALE) is differs


@pytest.mark.parametrize(
    ("changes", "searched"),
    [
        ({}, {"sg", "mog64-lc-ip", "vae-sg", "mog10"}),
        ({"cells": ["sg", "mog64"]}, {"sg", "mog64"}),
        ({"enabled": False}, set()),
    ],
)
def test_which_cells_are_searched(changes, searched):
    pattern = configuration.searched(changed("density", {"search": changes}))
    cells = ["sg", "mog64", "mog64-lc-ip", "vae-sg", "mog10", "sg-dt", "sg-dt-closed"]
    found = {cell for cell in cells if re.fullmatch(f"(?:{pattern})", cell)}
    assert found == (searched | {"mog64"} if not changes else searched)
