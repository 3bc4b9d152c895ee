"""The configuration: defaults, schema and documentation agree, mistakes take one line, options come out right."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from introprior import paper
from introprior.data.images import DATASETS
from introprior.errors import UserError
from introprior.experiment import configuration, image_configuration, protocols
from introprior.experiment.cells import TABLE1_CELLS
from introprior.reporting.tables import captions

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
SECTION = {"batch_size": 128, "latent_dim": 32, "widths": [64, 128], "beta_neg": 256}
PAPER = yaml.safe_load((ROOT / "config/config.yaml").read_text())
DEMO = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
IMAGE_JOBS = {
    "warmup": (image_configuration.warmup_options, ("mog10-lc", "0")),
    "game": (image_configuration.game_options, ("mog10-lc-ip", "10", "0")),
    "clipping": (image_configuration.clipping_options, ("mog10-lc-ip-unclipped", "10", "0")),
    "classifier": (image_configuration.classifier_options, ()),
    "reference": (image_configuration.reference_options, ("fid",)),
    "distances": (image_configuration.distances_options, ("mog10-lc-ip", "10", "0")),
    "evaluate": (image_configuration.evaluate_options, ("mog10-lc-ip", "10", "0")),
    "probe": (image_configuration.probe_options, ("mog10-lc-ip", "10", "0")),
    "overfit": (image_configuration.study_options, ()),
}
"""The options of each kind of image job, and an example of what else it is named by beside the dataset."""


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
    assert {"images.by_dataset.CIFAR-10", "images.evaluation", "images.probes", "latents", "figureS2"} <= set(found)
    for path, rules in found.items():
        if path != "images.by_dataset":  # whose keys are names of datasets, checked in Python
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


@pytest.mark.parametrize("name", ["demo", "preview", "fmnist-small"])
def test_the_other_files_hold_only_what_differs(name):
    changes = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    configuration.validate(laid_over(PAPER, changes), SCHEMA)
    usual = dict(leaves(PAPER))
    for key, value in leaves(changes):
        section, _, option = key.partition(".")
        if section == "protocol_overrides":
            assert value != getattr(protocols.PRESETS["authors"], option), f"{key} does not differ"
            continue
        assert key in usual, f"{key} is not in config.yaml"
        assert value != usual[key], f"{key} does not differ"


def test_demo_shows_everything():
    merged = laid_over(PAPER, DEMO)
    assert image_configuration.cells(merged) == image_configuration.cells(PAPER)
    assert merged["latents"] == PAPER["latents"]
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


def test_stand_ins_are_trained_like_what_they_stand_in_for():
    sections = PAPER["images"]["by_dataset"]
    assert set(sections) == set(DATASETS)
    for name, entry in DATASETS.items():
        assert sections[name] == sections[entry.stand_in_for or name]


def test_dimensions_are_those_of_the_features():
    inception = pytest.importorskip("introprior.metrics.inception")
    classifier = pytest.importorskip("introprior.metrics.classifier")
    dimensions = {"inception": inception.DIMENSIONS, "classifier": classifier.DIMENSIONS}
    assert dimensions == image_configuration.DIMENSIONS
    assert set(image_configuration.FEATURES["inception"]) == set(inception.PROTOCOLS)


def test_image_training_options_are_those_of_the_training_module():
    options = pytest.importorskip("introprior.training.options")
    resolved = json.loads(image_configuration.game_options(PAPER, "FMNIST", "mog10", "0", "0"))["training"]
    assert options.ImageTrainingOptions.from_dict(resolved) == options.ImageTrainingOptions()
    integers = [key for key, value in resolved.items() if type(value) is int]
    assert integers == [key for key in sorted(resolved) if type(getattr(options.ImageTrainingOptions(), key)) is int]


def test_a_warmup_is_told_all_that_it_depends_on():
    """What the training module compares of runs that share one, options must tell or leave alone in both."""
    options = pytest.importorskip("introprior.training.options")
    config = laid_over(
        PAPER, {"protocol": "text", "images": {"training": {"clip_steepness": 5.0, "learning_rate": 0.001}}}
    )

    def run(told, betas):
        member = options.Member(told["seeds"][0], *betas)
        training = options.ImageTrainingOptions.from_dict({"iterations": 10**6, **told["training"]})
        protocol = protocols.resolve("authors", told["protocol"])
        return options.Run(told["dataset"], options.cells.parse(told["cell"]), (member,), training, protocol)

    warmup = json.loads(image_configuration.warmup_options(config, "CIFAR-10", "mog10-lc", "1"))
    game = json.loads(image_configuration.game_options(config, "CIFAR-10", "mog10-lc-ip", "100", "1"))
    assert run(warmup, [*warmup["betas"], 1.0]).warmup == run(game, game["betas"]).warmup


def test_importing_is_cheap():
    code = "import sys, introprior.experiment.configuration; print(*{'torch', 'pandas', 'numpy'} & set(sys.modules))"
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
    ("jobs_per_gpu", 0, "jobs_per_gpu", "at least 1, is 0"),
    ("gpu_memory_mb", -1, "gpu_memory_mb", "at least 0, is -1"),
    ("density.sedes", [1], "density", "unknown key 'sedes'; did you mean 'seeds'?"),
    ("density.training.iteration", 10, "density.training", "did you mean 'iterations'?"),
    ("density.search.vae.beta_neg", [1], "density.search.vae", "unknown key 'beta_neg'"),
    ("density.search.halving.rungs", 3, "density.search.halving", "unknown key 'rungs'"),
    ("density.evaluation.gird", 3, "density.evaluation", "did you mean 'grid'?"),
    ("tables.table3", ["sg"], "tables", "unknown key 'table3'; did you mean 'table5'?"),
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
    ("experiment", "data", "experiment", "results/data holds the prepared datasets; choose another name"),
    ("protocol_overrides.entropy", "mean", "protocol_overrides.entropy", "one of per-batch, pooled"),
    ("images.sedes", [1], "images", "unknown key 'sedes'; did you mean 'seeds'?"),
    ("images.training.iterations", 10, "images.training", "unknown key 'iterations'"),
    ("images.by_dataset.MNITS", SECTION, "images.by_dataset", "unknown image dataset 'MNITS'; did you mean 'MNIST'?"),
    ("images.by_dataset.MNIST.width", [4], "images.by_dataset.MNIST", "did you mean 'widths'?"),
    ("images.by_dataset.MNIST.beta_neg", 0, "images.by_dataset.MNIST.beta_neg", "above 0, is 0"),
    ("images.evaluation.fid", True, "images.evaluation", "unknown key 'fid'"),
    ("images.probes.k", 5, "images.probes", "unknown key 'k'"),
    ("figure4.cells", ["sg"], "figure4", "unknown key 'cells'"),
    ("latents.seeds", [0], "latents", "did you mean 'seed'?"),
    ("figureS2.iteration", 3, "figureS2", "did you mean 'iterations'?"),
    (
        "images.datasets",
        ["MNIST", "MNITS"],
        "images.datasets[1]",
        "unknown image dataset 'MNITS'; did you mean 'MNIST'?",
    ),
    ("images.datasets", [], "images.datasets", "must not be empty"),
    ("images.seeds", [0, 0], "images.seeds", "0 is there more than once"),
    ("images.r_entropy", [0, -1], "images.r_entropy[1]", "at least 0, is -1"),
    ("images.r_entropy", [0, 10, 1.23456789], "images.r_entropy[2]", "more than six digits"),
    ("images.source", 3, "images.source", "must be text or null, is 3"),
    ("images.verify", "no", "images.verify", "true or false"),
    ("images.training.warmup_epochs", 220, "images.training.warmup_epochs", "below epochs, 220, is 220"),
    ("images.training.mixture_warmup_epochs", 21, "images.training.mixture_warmup_epochs", "at most warmup_epochs, 20"),
    ("images.training.epochs", 200, "images.evaluation.epochs[5]", "at most images.training.epochs, 200, is 219"),
    ("images.evaluation.epochs", [0, 200, 80], "images.evaluation.epochs", "must rise"),
    ("images.evaluation.epochs", [0, 10], "images.evaluation.epochs", "within the warm-up; add one from 20 on"),
    ("images.evaluation.features", "fid", "images.evaluation.features", "one of inception, classifier"),
    (
        "images.evaluation.samples",
        2000,
        "images.evaluation.samples",
        "at least 2048, the dimensions of inception features",
    ),
    (
        "images.evaluation.samples",
        60000,
        "images.evaluation.samples",
        "50000, the training images of CIFAR-10, is 60000",
    ),
    ("images.evaluation.latent_points", 10001, "images.evaluation.latent_points", "10000, the test images of MNIST"),
    ("images.evaluation.grid_images", 20001, "images.evaluation.grid_images", "20000, twice the test images of MNIST"),
    ("images.probes.svm_iterations", [2000], "images.probes.svm_iterations", "must have 2 values, has 1"),
    ("images.probes.svm_iterations", [10000, 2000], "images.probes.svm_iterations", "must rise"),
    ("images.probes.neighbours", [5, 10, 100], "images.probes.neighbours", "must have 2 values, has 3"),
    ("images.probes.neighbours", [5, 50001], "images.probes.neighbours[1]", "at most 50000"),
    ("images.probes.train_images", 99, "images.probes.neighbours[1]", "at most 99, the codes that there are"),
    ("images.probes.train_images", 50001, "images.probes.train_images", "50000 (training images of CIFAR-10)"),
    ("images.probes.train_images", "most", "images.probes.train_images", "all or a number"),
    ("images.by_dataset.FMNIST.widths", [4, 8, 16], "images.by_dataset.FMNIST.widths", "halve 28x28 images"),
    (
        "images.by_dataset.MNIST.batch_size",
        60001,
        "images.by_dataset.MNIST.batch_size",
        "60000 training images, is 60001",
    ),
    ("tables.table2", ["sg", "vae-sg"], "tables.table2[1]", "image runs have no vae-; drop it"),
    ("tables.table5", ["sg-dt"], "tables.table5[0]", "image runs have no -dt"),
    ("tables.table5", ["sg-closed"], "tables.table5[0]", "image runs have no -closed"),
    ("tables.table2", ["mog10-ip-unclipped"], "tables.table2[0]", "-unclipped is for Figure 2"),
    ("tables.table2", ["sg", "mog70000"], "tables.table2", "more components than MNIST has training images, 60000"),
    (
        "figure2.dataset",
        "digits",
        "figure2.dataset",
        "digits is not trained; choose one of images.datasets: MNIST, FMNIST",
    ),
    ("figure2.cell", "mog100-lc", "figure2.cell", "nothing to clip; choose one with -ip"),
    ("figure2.cell", "mog10-ip-unclipped", "figure2.cell", "drop it"),
    ("figure2.cell", "mog50001-ip", "figure2.cell", "more components than CIFAR-10 has training images, 50000"),
    ("figure2.r_entropy", 0.1234567, "figure2.r_entropy", "more than six digits"),
    ("figure2.epochs", 20, "figure2.epochs", "above images.training.warmup_epochs, 20, is 20"),
    ("figure2.every", 121, "figure2.every", "at most epochs, 120"),
    (
        "figure4.r_entropy",
        [0, 5],
        "figure4.r_entropy[1]",
        "5 is not trained; choose one of images.r_entropy: 0, 1, 10, 100",
    ),
    (
        "latents.cells",
        ["sg", "mog64"],
        "latents.cells[1]",
        "mog64 is not trained; choose one of tables.table2 and table5",
    ),
    ("latents.seed", 3, "latents.seed", "3 is not trained; choose one of images.seeds: 0, 1, 2"),
    ("figureS2.dataset", "photos", "figureS2.dataset", "choose one of images.datasets"),
    ("figureS2.cell", "mog64", "figureS2.cell", "choose one of tables.table2 and table5: sg, mog100"),
    ("figureS2.cell", "sg", "figureS2.r_entropy", "10 is not trained; choose one of those of sg: 0"),
    ("figureS2.r_entropy", 5, "figureS2.r_entropy", "5 is not trained"),
    ("figureS2.seed", 3, "figureS2.seed", "choose one of images.seeds"),
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


def test_jobs_that_share_gpus_are_counted():
    configuration.check_devices("auto", 4, 2, jobs_per_gpu=2)
    with pytest.raises(UserError, match="2 GPUs are visible on this machine; ask for gpu=4 at most, 2 jobs each"):
        configuration.check_devices("auto", 5, 2, jobs_per_gpu=2)


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
    values = {0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 1.0}
    assert {rec for rec, _, _ in settings} == {kl for _, kl, _ in settings} == values


@pytest.mark.parametrize(
    ("dataset", "rec", "kl"),
    [("8Gaussian", 0.8, 0.05), ("2Spirals", 1.0, 0.05), ("Checkerboard", 0.8, 0.1), ("Rings", 0.8, 0.05)],
)
def test_a_vae_that_is_not_searched_takes_the_weights_of_the_authors_code(dataset, rec, kl):
    for cell in ("vae-sg", "vae-mog64"):
        told = json.loads(configuration.hyperparameters(PAPER, dataset, cell))
        assert (told["beta_rec"], told["beta_kl"], told["beta_neg"], told["source"]) == (rec, kl, None, "vae")
    assert (rec, kl, None) in {tuple(s) for part in configuration.slices(PAPER, "vae-sg") for s in part}


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
    images_alone = {key: protocols.CHOICES[key][0] for key in image_configuration.PROTOCOL}
    assert protocols.resolve("authors", text) == protocols.resolve("text", images_alone)


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


def test_few_samples_are_allowed_on_request():
    few = {"samples": 100, "allow_few": True}
    configuration.validate(changed("images.evaluation", few), SCHEMA)
    with pytest.raises(
        UserError, match=r"at least 64, the dimensions of classifier features, is 63; take more, or set"
    ):
        configuration.validate(changed("images.evaluation", {"features": "classifier", "samples": 63}), SCHEMA)


def test_only_the_image_datasets_in_use_constrain_the_numbers():
    alone = {"images": {"datasets": ["MNIST"]}, "figure2": {"dataset": "MNIST"}, "figureS2": {"dataset": "MNIST"}}
    config = laid_over(PAPER, alone)
    configuration.validate(laid_over(config, {"images": {"evaluation": {"samples": 60000}}}), SCHEMA)
    configuration.validate(laid_over(config, {"images": {"by_dataset": {"photos": {"batch_size": 4501}}}}), SCHEMA)
    with pytest.raises(UserError, match="at most 1501, the training images of digits, is 50000"):
        configuration.validate(laid_over(config, {"images": {"datasets": ["MNIST", "digits"]}}), SCHEMA)


def test_the_runs_of_the_paper():
    cells = image_configuration.cells(PAPER)
    runs = [tuple(run.values()) for run in image_configuration.runs(PAPER, cells)]
    assert len(runs) == len(set(runs)) == 297
    assert len({(dataset, image_configuration.family(cell), seed) for dataset, cell, _, seed in runs}) == 45
    assert {r_entropy for _, cell, r_entropy, _ in runs if cell == "sg"} == {"0"}
    assert {r_entropy for _, cell, r_entropy, _ in runs if cell == "mog10"} == {"0", "1", "10", "100"}


def test_image_options():
    told = {kind: json.loads(resolve(PAPER, "CIFAR-10", *named)) for kind, (resolve, named) in IMAGE_JOBS.items()}
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
    assert told["reference"] == {"features": "fid", "samples": 50000, "batch_size": 32}
    assert told["distances"]["features"] == told["evaluate"]["features"] == ["fid_authors", "fid"]
    assert (told["evaluate"]["checkpoint"], told["evaluate"]["train_images"]) == ("best", "all")
    assert (told["probe"]["r_entropy"], told["probe"]["seed"]) == ("10", 0)
    assert told["overfit"]["beta_neg"] == 256.0
    mnist = json.loads(image_configuration.game_options(PAPER, "MNIST", "sg", "0", "2"))
    assert (mnist["betas"][2], mnist["iterations_per_epoch"], mnist["seeds"]) == (128.0, 469, [2])


def test_image_options_of_the_paper_as_written():
    text = changed("protocol", "text")
    game = json.loads(image_configuration.game_options(text, "MNIST", "mog10-ip", "0", "0"))
    assert game["snapshots"] == [80, 120, 160, 200, 219, 220]
    evaluate = json.loads(image_configuration.evaluate_options(text, "MNIST", "mog10-ip"))
    assert evaluate["features"] == ["fid", "fid_authors"]
    assert (evaluate["checkpoint"], evaluate["sampling"]) == ("last", "running")
    assert image_configuration.entropy(text) == "entropy_pooled"
    assert image_configuration.entropy(PAPER) == "entropy_per_batch"


ALL = set(IMAGE_JOBS)


@pytest.mark.parametrize(
    ("path", "value", "outdated"),
    [
        ("protocol_overrides.spread", "sem", set()),
        ("protocol_overrides.entropy", "pooled", set()),
        ("protocol_overrides.learning_rate_decay", False, set()),
        ("protocol_overrides.checkpoint", "last", {"game", "evaluate", "overfit"}),
        ("protocol_overrides.fid", "evaluation-mode", {"distances", "evaluate"}),
        ("protocol_overrides.sampling_batchnorm", "running", {"distances", "evaluate"}),
        ("protocol_overrides.loss_scale", "none", {"game", "clipping"}),
        ("protocol_overrides.image_streams", "per-seed", {"warmup", "game", "clipping"}),
        ("density.training.alpha", 3.0, set()),
        ("images.seeds", [5], set()),
        ("images.r_entropy", [0, 3], set()),
        ("images.source", "elsewhere", set()),
        ("images.training.alpha", 2, set()),  # 2 and 2.0 are one number
        ("images.training.alpha", 3.0, {"game", "clipping"}),
        ("images.training.epochs", 300, {"game"}),
        ("images.training.warmup_epochs", 10, {"warmup", "game", "clipping"}),
        ("images.by_dataset.MNIST.beta_neg", 1, set()),  # of another dataset
        ("images.by_dataset.CIFAR-10.beta_neg", 1, {"game", "clipping", "overfit"}),
        (
            "images.by_dataset.CIFAR-10.batch_size",
            64,
            {"warmup", "game", "clipping", "reference", "distances", "evaluate"},
        ),
        ("images.evaluation.samples", 10000, {"reference", "distances", "evaluate"}),
        ("images.evaluation.epochs", [0, 80], {"game"}),
        ("images.evaluation.grid_images", 16, {"evaluate"}),
        ("images.evaluation.classifier_epochs", 3, {"classifier"}),
        ("images.probes.neighbours", [1, 2], {"probe"}),
        ("figure2.epochs", 100, {"clipping"}),
        ("figureS2.iterations", 10, {"overfit"}),
    ],
)
def test_what_outdates_what_of_images(path, value, outdated):
    def options(config):
        return {kind: resolve(config, "CIFAR-10", *named) for kind, (resolve, named) in IMAGE_JOBS.items()}

    old, new = options(PAPER), options(changed(path, value))
    assert {kind for kind in ALL if old[kind] != new[kind]} == outdated


def test_only_files_that_are_not_verified_depend_on_their_place():
    config = changed("images.source", "here")
    assert image_configuration.unverified(config, "MNIST") == ""
    assert image_configuration.unverified(laid_over(config, {"images": {"verify": False}}), "MNIST") == "here"


@pytest.mark.parametrize(
    ("resolve", "named", "said"),
    [
        (
            image_configuration.game_options,
            ("FMINST", "sg", "0", "0"),
            "unknown image dataset 'FMINST'; did you mean 'FMNIST'",
        ),
        (image_configuration.game_options, ("MNIST", "gs", "0", "0"), "unknown cell 'gs'"),
        (image_configuration.game_options, ("MNIST", "vae-sg", "0", "0"), "image runs have no vae-"),
        (
            image_configuration.game_options,
            ("MNIST", "sg", "10", "0"),
            "sg has no components that r_entropy could bear on",
        ),
        (image_configuration.game_options, ("MNIST", "mog10", "10.0", "0"), "r10.0 is called r10"),
        (image_configuration.game_options, ("MNIST", "mog10", "ten", "0"), "rten is no weight"),
        (image_configuration.game_options, ("MNIST", "mog10", "nan", "0"), "rnan is no weight"),
        (image_configuration.warmup_options, ("MNIST", "mog10-ip", "0"), "mog10-ip is no prior family; mog10 is"),
        (image_configuration.reference_options, ("Mnist", "fid"), "unknown image dataset 'Mnist'"),
        (image_configuration.unverified, ("Mnist",), "unknown image dataset 'Mnist'"),
    ],
)
def test_unknown_names_in_paths_of_image_results_are_refused(resolve, named, said):
    with pytest.raises(UserError) as caught:
        resolve(PAPER, *named)
    assert str(caught.value).startswith("results: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"images": {"evaluation": {"grid_images": 8, "weights": "w.pth"}, "source": "x"}, "device": "cpu"}, None),
        ({"protocol_overrides": {"spread": "sem", "learning_rate_decay": False}}, None),
        ({"density": {"seeds": [0]}, "images": {"by_dataset": {"digits": {"batch_size": 8}}}}, None),
        ({"images": {"seeds": [0]}}, "1 seed instead of 3"),
        ({"images": {"r_entropy": [0]}}, "r_entropy"),
        ({"images": {"training": {"epochs": 10}}}, "10 epochs instead of 220"),
        ({"images": {"by_dataset": {"MNIST": {"latent_dim": 8}}}}, "latent dimensions"),
        ({"images": {"probes": {"train_images": 100}}}, "100"),
        ({"images": {"datasets": ["digits"]}}, "digits"),
        ({"protocol_overrides": {"checkpoint": "last"}}, "last"),
    ],
)
def test_captions_of_images_say_what_differs_from_the_paper(changes, said):
    config = laid_over(PAPER, changes)
    datasets = config["images"]["datasets"]
    ours, paper_ = (image_configuration.comparable(c, datasets) for c in (config, configuration.defaults(SCHEMA)))
    sentence = captions.scale_sentence("trial", ours, paper_)
    assert (sentence == captions.PAPER_SCALE) is (said is None)
    assert said is None or said in sentence


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
    ],
)
def test_published_hyperparameters(dataset, cell, published, source):
    config = changed("density.search.published", published)
    found = json.loads(configuration.hyperparameters(config, dataset, cell))
    wanted = paper.hyperparameters(dataset, source)
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
        ("protocol_overrides.checkpoint", "last", False),  # of concern to images alone
        ("images.seeds", [0], False),
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


def test_an_added_image_dataset_needs_a_section(monkeypatch):
    monkeypatch.setitem(DATASETS, "KMNIST", dataclasses.replace(DATASETS["MNIST"], name="KMNIST"))
    page = (ROOT / "docs/add-an-image-dataset.md").read_text()
    added = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1])
    config = laid_over(PAPER, added)
    configuration.validate(config, SCHEMA)
    ours, theirs = (image_configuration.comparable(c, ["KMNIST"]) for c in (config, configuration.defaults(SCHEMA)))
    assert "(KMNIST)" in captions.scale_sentence("kmnist", ours, theirs)
    del config["images"]["by_dataset"]["KMNIST"]
    with pytest.raises(
        UserError, match=r"images.datasets\[0\]: KMNIST has no section; give it one in images.by_dataset"
    ):
        configuration.validate(config, SCHEMA)
