# What all rules share: the checked configuration, where files go, which sources a job depends on. No rules here.
import os
import re
import sys
from functools import cache
from pathlib import Path
from shlex import quote

from snakemake.logging import logger

import introprior
from introprior.data.images import DATASETS
from introprior.errors import UserError
from introprior.experiment.cells import TABLE4_SETTINGS, Cell
from introprior.experiment import jobs
from introprior.experiment.config import TABLE3_CELL, Configuration, load, read_yaml, text
from introprior.experiment.paths import NAMED, Paths
from introprior.experiment.sources import closure
from introprior.metrics.registry import of_kind
from introprior.operations import costs, dag, gpus
from introprior.reporting.page import claimed
from introprior.reporting.page import shown as shown_runs
from introprior.reporting.tables import captions


def stop(problem):
    """End Snakemake with one line, where exceptions bring a traceback."""
    logger.error(f"introprior: {problem}")
    sys.exit(1)


def checked(function, *arguments, **named):
    """What the function returns; its UserError ends Snakemake."""
    try:
        return function(*arguments, **named)
    except UserError as error:
        stop(error)


if workflow.modifier.path_modifier.replace_prefix("src") != "src":
    stop("module: prefix would move the sources, too; name the folder below results by the key experiment instead")
SCRIPTS = Path(workflow.snakefile).parents[1] / "scripts"
USED, OWN = Path(introprior.__file__).parent, Path(workflow.snakefile).parents[2] / "src" / "introprior"
if OWN.is_dir() and not OWN.samefile(USED):
    stop(f"the rules are those of {OWN.parents[1]}, the package that of {USED}; activate the .venv of that project")
if workflow.is_main_process:
    checked(read_yaml, workflow.configfiles)  # Snakemake has read them, but not noticed a key that stands twice
CONFIG = checked(load, config, workflow.configfiles)
config.update(CONFIG.model_dump(mode="json"))  # with the defaults, for the captions of the report

# ---- Device ----
# Only this machine's GPUs can be counted; with another executor the jobs run elsewhere.
LOCAL = workflow.resource_settings.nodes is None
GPUS = gpus.present()
if LOCAL and workflow.is_main_process:
    asked = workflow.global_resources.get("gpu")
    checked(gpus.check, CONFIG.device, asked and asked.value, GPUS, CONFIG.jobs_per_gpu)
GPU = 0 if CONFIG.device == "cpu" or (CONFIG.device == "auto" and LOCAL and not GPUS) else 1
os.environ.update(
    # Not an option of the jobs, so that no result is outdated by where it was computed.
    INTROPRIOR_DEVICE=CONFIG.device,
    INTROPRIOR_JOBS_PER_GPU=str(CONFIG.jobs_per_gpu),
    INTROPRIOR_GPU_MEMORY_MB=str(CONFIG.gpu_memory_mb),
    INTROPRIOR_CHECKPOINT_SECONDS=str(CONFIG.checkpoint_seconds),
    INTROPRIOR_CONFIGURATION=CONFIG.identity,
    # The command `introprior` of the environment that Snakemake runs in, activated or not.
    PATH=os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ.get("PATH", os.defpath)]),
)
sys.executable = checked(dag.callable_as, sys.executable)

ENVIRONMENT = "../../envs/introprior.yaml"

# ---- Paths ----
PATHS = Paths(CONFIG.experiment)
if workflow.is_main_process:
    dag.tell(workflow, CONFIG, PATHS.results, rules)


wildcard_constraints:
    dataset="[^/]+",
    cell="(?!warmups/)[^/]+",
    family="[^/]+",
    features="|".join(name for names in jobs.FEATURES.values() for name in names),
    r_entropy="[^/]+",
    seed="[0-9]+",


# ---- What is shown ----
DENSITY_DATASETS, IMAGE_DATASETS = list(CONFIG.density.datasets), list(CONFIG.images.datasets)

IMAGE_CELLS = CONFIG.image_cells
MIXTURES = [cell for cell in IMAGE_CELLS if Cell.parse(cell).family.components]
LATENTS = {"cells": list(CONFIG.latents.cells), "seeds": [CONFIG.latents.seed]}

DENSITY_TABLES = (1, 3, 4)
IMAGE_TABLES = (2, 5)
SEARCHED = jobs.searched(CONFIG)
SEARCHES = [TABLE3_CELL] if re.fullmatch(SEARCHED, TABLE3_CELL) else []
DENSITY_FIGURES = ["figure3", *(f"search-{cell}" for cell in SEARCHES)]
IMAGE_FIGURES = ["figure2", *["figure4"] * bool(MIXTURES), "figure5", "figure6", "figureS2", "figureS3"]
IMAGE_FIGURES += [f"samples-{dataset}" for dataset in IMAGE_DATASETS]

# The distance that chooses checkpoints and r_entropy.
PRIMARY = jobs.features(CONFIG)[0]


def of_cell(path):
    """A file of a 2D cell, or those of all datasets where they share a job; the others take the first one's place."""
    return expand(path, dataset=DENSITY_DATASETS, allow_missing=True) if CONFIG.density.together else path


def first(path):
    """A file of a job on a 2D cell, among those of its dataset, or the first."""
    return path.replace("{dataset}", DENSITY_DATASETS[0]) if CONFIG.density.together else path


def each(path, cells):
    """The path for all datasets in 2D and the given cells."""
    return expand(path, dataset=DENSITY_DATASETS, cell=cells)


def slices(wildcards, **others):
    """The slices of a cell's grid."""
    count = len(checked(jobs.slices, CONFIG, wildcards.cell))
    return expand(PATHS.slice, **{**dict(wildcards.items()), **others}, slice=range(count))


def runs(path, cells, **some):
    """The path for all runs of the given cells on images, or only some datasets, r_entropy, seeds."""
    return [path.format(**run) for run in CONFIG.runs(cells, **some)]


def prepared(*splits):
    """Files of a prepared dataset: its manifest, and the given splits."""
    return [
        f"{PATHS.data}/manifest.json",
        *(f"{PATHS.data}/{split}-{kind}.npy" for split in splits for kind in ("images", "labels")),
    ]


def given(flag, path):
    """A flag and a path of the configuration, written into a command so that another path outdates nothing."""
    return f" {flag} {quote(path)}".replace("{", "{{").replace("}", "}}") if path else ""


def extractor(wildcards):
    """The network behind some features."""
    return PATHS.classifier if wildcards.features in jobs.FEATURES["classifier"] else PATHS.inception


def warmup_of(name):
    """A file of the warm-up that a run starts from."""
    return lambda wildcards: f"{PATHS.warmup}/{name}".format(
        dataset=wildcards.dataset, family=checked(jobs.family, wildcards.cell), seed=wildcards.seed
    )


def studied(name):
    """A file of the run that the encoder study begins with."""
    study = CONFIG.figureS2
    run = {"cell": study.cell, "r_entropy": text(study.r_entropy), "seed": study.seed}
    return lambda wildcards: f"{PATHS.run}/{name}".format(dataset=wildcards.dataset, **run)


def clipped(name):
    """A file of each of the two runs of Figure 2."""
    return [f"{PATHS.clipping}/{name}".format(**run) for run in CONFIG.figure2_runs]


def data_folder(wildcards, input):
    """The folder of a job's prepared dataset."""
    return os.path.dirname(input.data[0])


def asked(rule):
    """What a job of a rule asks a cluster for, more at each attempt."""
    return costs.asked(rule, "gpu" if GPU else "cpu", CONFIG.max_runtime, CONFIG.gpu_resources)


def options(resolve):
    """The options of a job, as JSON: all that its result depends on, in a form that Snakemake can compare."""
    return lambda wildcards: jobs.as_json(checked(resolve, CONFIG, **dict(wildcards.items())))


def computed(*kinds):
    """What computes the metrics of some kinds: unlike its title, another function outdates what was measured."""
    return jobs.as_json({name: [entry.function, entry.setting] for name, entry in of_kind(*kinds).items()})


def measuring(*kinds):
    """The modules that have what computes the metrics of some kinds."""
    return {f"metrics.{entry.function.partition(':')[0]}" for entry in of_kind(*kinds).values()}


# ---- Sources: which change of the code outdates which results ----
@cache
def package(*modules):
    """Files of some modules of the package and of all that they import, relative to the working directory."""
    return tuple(os.path.relpath(path) for path in closure(*modules))


def sources(*modules, data=(), script=None):
    """Files that a job depends on: of the package the modules and what they import, data of its own; the job's script."""
    others = [USED / name for name in data]
    if script:  # of a checkout by its place, for Snakemake's copies have another in every run
        here = SCRIPTS / script
        others.append(here if here.is_file() else workflow.source_path(f"../scripts/{script}"))
    return [*package(*modules), *map(os.path.relpath, others)]


def preparing(wildcards):
    """The sources that make a dataset: stand-ins are computed, one's own pictures converted, published files as they are."""
    entry = DATASETS.get(wildcards.dataset)
    modules = {"data.images.standins": entry and entry.stand_in_for, "data.images.folders": entry and entry.own}
    return sources("data.images.store", *(name for name, needed in modules.items() if needed))


def points(wildcards):
    """Files with points of the user's own that a job draws from."""
    return [own.file for own in jobs.own_points(CONFIG, wildcards.get("dataset")).values()]


def prior(*modules):
    """Files that a job depends on which knows its cell or family: the modules, and what implements its prior."""

    def of(wildcards):
        cell = checked(Cell.parse, wildcards.get("cell", wildcards.get("family")), "results")
        if cell.family.file:
            return [*sources(*modules), os.path.relpath(cell.family.file)]
        return sources(*modules, cell.family.module.removeprefix("introprior."))

    return of


# ---- Tables and figures ----
def table(number):
    """The files of a table, and of its companion that sets the published values beside ours."""
    names = (f"table{number}", f"table{number}_vs_paper")
    return [f"{PATHS.tables}/{name}.{suffix}" for name in names for suffix in ("csv", "md", "tex")]


def figure(name):
    """The files of a figure."""
    return [f"{PATHS.figures}/{name}.{suffix}" for suffix in ("pdf", "png")]


def curves(runs_of):
    """Histories and distances of runs, which the function lists for a file's name."""
    return {"histories": runs_of("history.csv"), "distances": runs_of("distances.csv")}


def panels(**some):
    """Panels of one seed of the runs whose latent spaces and images are shown, at every r_entropy."""
    return runs(f"{PATHS.run}/panels.npz", **LATENTS, **some)


def reported(path, caption, result, category):
    """A file that goes into Snakemake's report.

    It has one label: of two whose values alternate the report makes a switch, and fails where a file has no counterpart.
    """
    return report(path, caption=f"../report/{caption}.rst", category=category, labels={"result": result})


def request(number, cells):
    """What a table is asked to show."""
    protocol = CONFIG.resolved_protocol.report
    if number in IMAGE_TABLES:
        section, probes = CONFIG.images, CONFIG.images.probes
        more = {"svm_iterations": list(probes.svm_iterations), "neighbours": list(probes.neighbours)}
        more |= {"primary": PRIMARY, "entropy": f"entropy_{protocol.entropy.replace('-', '_')}"}
        scales = [captions.image_settings(c, IMAGE_DATASETS) for c in (CONFIG, Configuration())]
    else:
        keys = ("training", "search") if number == 3 else ("seeds", "training", "search", "evaluation")
        section, more = CONFIG.density, {}
        scales = [captions.density_settings(c, keys) for c in (CONFIG, Configuration())]
    if number != 3:  # of the hyperparameters there is one run per setting
        more |= {"seeds": list(section.seeds), "spread": protocol.spread}
    scale = captions.scale_sentence(CONFIG.experiment, *scales)
    return {"datasets": list(section.datasets), "cells": cells, "scale": scale, **more}


def measured(number, cells):
    """The results that a table shows."""
    if number not in IMAGE_TABLES:
        return {"results": each(PATHS.hyperparameters if number == 3 else PATHS.cell_metrics, cells)}
    choices = expand(PATHS.chosen_table2 if number == 2 else PATHS.chosen, dataset=IMAGE_DATASETS)
    files = [*runs(f"{PATHS.run}/metrics.csv", cells), *runs(f"{PATHS.run}/probes.csv", cells)]
    return {"results": files, "chosen": choices}
