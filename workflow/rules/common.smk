# What all rules share: the checked configuration, where files go, which sources a job depends on. No rules here.
import os
import re
import sys
from pathlib import Path
from shlex import quote

from snakemake.logging import logger

import introprior
from introprior.errors import UserError
from introprior.experiment import configuration, image_configuration
from introprior.experiment.cells import TABLE4_SETTINGS
from introprior.experiment.paths import NAMED, Paths
from introprior.experiment.sources import closure
from introprior.operations import costs, files
from introprior.reporting.tables import captions

SCHEMA = workflow.source_path("../schemas/config.schema.yaml")


def checked(function, *arguments):
    """What the function returns; its UserError ends Snakemake with one line, where other exceptions bring a traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        logger.error(f"introprior: {error}")
        sys.exit(1)


checked(configuration.validate, config, SCHEMA)

# ---- Device ----
# Only this machine's GPUs can be counted; with another executor the jobs run elsewhere.
LOCAL = workflow.resource_settings.nodes is None
GPUS = configuration.gpus_present()
if LOCAL and workflow.is_main_process:
    asked = workflow.global_resources.get("gpu")
    checked(configuration.check_devices, config["device"], asked and asked.value, GPUS, config["jobs_per_gpu"])
GPU = 0 if config["device"] == "cpu" or (config["device"] == "auto" and LOCAL and not GPUS) else 1
os.environ.update(
    # Not an option of the jobs, so that no result is outdated by where it was computed.
    INTROPRIOR_DEVICE=config["device"],
    INTROPRIOR_JOBS_PER_GPU=str(config["jobs_per_gpu"]),
    INTROPRIOR_GPU_MEMORY_MB=str(config["gpu_memory_mb"]),
    INTROPRIOR_CHECKPOINT_SECONDS=str(config["checkpoint_seconds"]),
    INTROPRIOR_CONFIGURATION=configuration.identity(config),
    # The command `introprior` of the environment that Snakemake runs in, activated or not.
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
)

ENVIRONMENT = "../../envs/introprior.yaml"

# ---- Paths ----
PATHS = Paths(config["experiment"])
RESULTS, TABLES, FIGURES = PATHS.results, PATHS.tables, PATHS.figures
LOGS, BENCHMARKS, STATE = PATHS.logs, PATHS.benchmarks, PATHS.state

# Two dimensions.
SLICE, HYPERPARAMETERS, ENSEMBLE = PATHS.slice, PATHS.hyperparameters, PATHS.ensemble
CELL_HISTORY, CELL_METRICS, CELL_PANELS = PATHS.cell_history, PATHS.cell_metrics, PATHS.cell_panels

# Images.
DATA, INCEPTION, CLASSIFIER, REFERENCE = PATHS.data, PATHS.inception, PATHS.classifier, PATHS.reference
CHOSEN, CHOSEN_TABLE2, STUDY = PATHS.chosen, PATHS.chosen_table2, PATHS.study
WARMUP, RUN, CLIPPING = PATHS.warmup, PATHS.run, PATHS.clipping


wildcard_constraints:
    dataset="[^/]+",
    cell="(?!warmups/)[^/]+",
    family="[^/]+",
    features="|".join(name for names in image_configuration.FEATURES.values() for name in names),
    r_entropy="[^/]+",
    seed="[0-9]+",


# ---- What is shown ----
DENSITY_DATASETS = config["density"]["datasets"]
TABLE1_CELLS = config["tables"]["table1"]
TABLE3_CELLS = [configuration.TABLE3_CELL]
TABLE4_CELLS = list(TABLE4_SETTINGS.values())

IMAGE_DATASETS = config["images"]["datasets"]
IMAGE_CELLS = image_configuration.cells(config)
MIXTURES = [cell for cell in IMAGE_CELLS if image_configuration.family(cell) != "sg"]
FIGURE2 = config["figure2"]
FIGURE2_CELLS = [FIGURE2["cell"] + suffix for suffix in ("", "-unclipped")]
FIGURE_S2 = config["figureS2"]
LATENTS = config["latents"]

DENSITY_TABLES = (1, 3, 4)
IMAGE_TABLES = (2, 5)
SEARCHES = [cell for cell in TABLE3_CELLS if re.fullmatch(configuration.searched(config), cell)]
DENSITY_FIGURES = ["figure3", *(f"search-{cell}" for cell in SEARCHES)]
IMAGE_FIGURES = ["figure2", *["figure4"] * bool(MIXTURES), "figure5", "figure6", "figureS2", "figureS3"]
IMAGE_FIGURES += [f"samples-{dataset}" for dataset in IMAGE_DATASETS]

# The distance that chooses checkpoints and r_entropy.
PRIMARY = image_configuration.features(config)[0]


def each(path, cells):
    """The path for all datasets in 2D and the given cells."""
    return expand(path, dataset=DENSITY_DATASETS, cell=cells)


def slices(wildcards, **others):
    """The slices of a cell's grid."""
    count = len(checked(configuration.slices, config, wildcards.cell))
    return expand(SLICE, **{**dict(wildcards.items()), **others}, slice=range(count))


def runs(path, cells, **some):
    """The path for all runs of the given cells on images, or only some datasets, r_entropy, seeds."""
    return [path.format(**run) for run in image_configuration.runs(config, cells, **some)]


def prepared(*splits):
    """Files of a prepared dataset: its manifest, and the given splits."""
    return [
        f"{DATA}/manifest.json",
        *(f"{DATA}/{split}-{kind}.npy" for split in splits for kind in ("images", "labels")),
    ]


def given(flag, path):
    """A flag and a path of the configuration, written into a command so that another path outdates nothing."""
    return f" {flag} {quote(path)}".replace("{", "{{").replace("}", "}}") if path else ""


def stand_in(dataset):
    """Whether a dataset is made here, not published."""
    return dataset in image_configuration.DATASETS and image_configuration.DATASETS[dataset].stand_in


def extractor(wildcards):
    """The network behind some features."""
    return CLASSIFIER if wildcards.features in image_configuration.FEATURES["classifier"] else INCEPTION


def warmup_of(name):
    """A file of the warm-up that a run starts from."""
    return lambda wildcards: f"{WARMUP}/{name}".format(
        dataset=wildcards.dataset, family=checked(image_configuration.family, wildcards.cell), seed=wildcards.seed
    )


def studied(name):
    """A file of the run that the encoder study begins with."""
    return lambda wildcards: f"{RUN}/{name}".format(
        dataset=wildcards.dataset,
        cell=FIGURE_S2["cell"],
        r_entropy=image_configuration.text(FIGURE_S2["r_entropy"]),
        seed=FIGURE_S2["seed"],
    )


def clipped(name):
    """A file of each of the two runs of Figure 2."""
    dataset, r_entropy, seed = ([FIGURE2[key]] for key in ("dataset", "r_entropy", "seed"))
    return runs(f"{CLIPPING}/{name}", FIGURE2_CELLS, datasets=dataset, r_entropy=r_entropy, seeds=seed)


def data_folder(wildcards, input):
    """The folder of a job's prepared dataset."""
    return os.path.dirname(input.data[0])


def scaled(rule):
    """What a job of a rule asks a cluster for, memory and minutes, by what the configuration makes it do."""
    return {
        "mem_mb": lambda wildcards: checked(costs.mem_mb, config, rule, wildcards),
        "runtime": lambda wildcards: checked(costs.runtime, config, rule, wildcards),
    }


def options(resolve):
    """What a job is told, as JSON: all that its result depends on, in a form that Snakemake can compare."""
    return lambda wildcards: checked(resolve, config, *wildcards)


# ---- Sources: which change of the code outdates which results ----
def sources(*modules, data=(), script=None, only=False):
    """Files that a job depends on, relative to the working directory.

    Of the package the modules and what they import (or these only), data files of its own, and the job's script.
    """
    package = Path(introprior.__file__).parent
    files = [package / f"{name.replace('.', '/')}.py" for name in modules] if only else closure(*modules)
    files += [package / name for name in data]
    if script:
        files.append(Path(workflow.snakefile).parents[1] / "scripts" / script)
    return [os.path.relpath(path) for path in files]


# ---- Tables and figures ----
def table(number):
    """The files of a table, and of its companion that sets the published values beside ours."""
    return [f"{TABLES}/table{number}{kind}.{suffix}" for kind in ("", "_vs_paper") for suffix in ("csv", "md", "tex")]


def figure(name):
    """The files of a figure."""
    return [f"{FIGURES}/{name}.{suffix}" for suffix in ("pdf", "png")]


def reported(path, caption, result, category):
    """A file that goes into Snakemake's report.

    It has one label: of two whose values alternate the report makes a switch, and fails where a file has no counterpart.
    """
    return report(path, caption=f"../report/{caption}.rst", category=category, labels={"result": result})


def request(number, cells):
    """What a table is asked to show."""
    if number in IMAGE_TABLES:
        section, scale = config["images"], lambda c: image_configuration.comparable(c, IMAGE_DATASETS)
        told = {key: section["probes"][key] for key in ("svm_iterations", "neighbours")}
        told |= {"primary": PRIMARY, "entropy": image_configuration.entropy(config)}
    else:
        keys = ("training", "search") if number == 3 else ("seeds", "training", "search", "evaluation")
        section, scale, told = config["density"], lambda c: configuration.comparable(c, keys), {}
    if number != 3:  # of the hyperparameters there is one run per setting
        told |= {"seeds": section["seeds"], "spread": configuration.spread(config)}
    return {"datasets": section["datasets"], "cells": cells, "scale": scale_sentence(scale), **told}


def scale_sentence(comparable):
    """How what bears on a table's numbers differs from the paper's: a sentence for captions."""
    ours, paper = (comparable(c) for c in (config, configuration.defaults(SCHEMA)))
    return captions.scale_sentence(config["experiment"], ours, paper)


def measured(number, cells):
    """The results that a table shows."""
    if number not in IMAGE_TABLES:
        return {"results": each(HYPERPARAMETERS if number == 3 else CELL_METRICS, cells)}
    choices = expand(CHOSEN_TABLE2 if number == 2 else CHOSEN, dataset=IMAGE_DATASETS)
    return {"results": [*runs(f"{RUN}/metrics.csv", cells), *runs(f"{RUN}/probes.csv", cells)], "chosen": choices}
