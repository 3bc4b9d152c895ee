# What all rules share: the checked configuration, where files go, which sources a job depends on. No rules here.
import os
import sys
from pathlib import Path

from snakemake.logging import logger

import introprior
from introprior import configuration
from introprior.cells import TABLE4_SETTINGS
from introprior.errors import UserError
from introprior.reporting import captions

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
    checked(configuration.check_devices, config["device"], asked and asked.value, GPUS)
GPU = 0 if config["device"] == "cpu" or (config["device"] == "auto" and LOCAL and not GPUS) else 1
os.environ.update(
    # Not an option of the jobs, so that no result is outdated by where it was computed.
    INTROPRIOR_DEVICE=config["device"],
    # The command `introprior` of the environment that Snakemake runs in, activated or not.
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
)

ENVIRONMENT = "../../envs/introprior.yaml"

# ---- Paths ----
RESULTS = f"results/{config['experiment']}"
CELL = f"{RESULTS}/density/{{dataset}}/{{cell}}"
SLICE = f"{CELL}/search/slice-{{slice}}.csv"
HYPERPARAMETERS = f"{CELL}/hyperparameters.json"
MODEL = f"{CELL}/ensemble.pt"
HISTORY = f"{CELL}/history.csv"
METRICS = f"{CELL}/metrics.csv"
PANELS = f"{CELL}/panels.npz"
TABLES = f"{RESULTS}/tables"
FIGURES = f"{RESULTS}/figures"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
# Of interrupted runs. No output: Snakemake deletes outputs before it starts a job again.
STATE = f"{RESULTS}/.state"

# ---- Cells ----
DATASETS = config["density"]["datasets"]
TABLE1_CELLS = config["tables"]["table1"]
TABLE3_CELLS = [configuration.TABLE3_CELL]
TABLE4_CELLS = list(TABLE4_SETTINGS.values())


def each(path, cells):
    """The path for all datasets and the given cells."""
    return expand(path, dataset=DATASETS, cell=cells)


def slices(wildcards, **others):
    """The slices of a cell's grid."""
    count = len(checked(configuration.slices, config, wildcards.cell))
    return expand(SLICE, **{**dict(wildcards.items()), **others}, slice=range(count))


def options(resolve):
    """What a job is told, as JSON: all that its result depends on, in a form that Snakemake can compare."""
    return lambda wildcards: checked(resolve, config, *wildcards)


# ---- Sources: which change of the code outdates which results ----
# Neither names, checks and messages (protocols, errors, files, reporting/job) nor the command line (cli, configuration, devices):
# what they come to is in the options. Whatever else these import must be here too, see tests/test_workflow_dag.py.
_TRAIN = [f"training/{name}.py" for name in ("adam", "checkpoints", "density", "loop", "options", "steps", "watch")]
_TRAIN += ["data/density.py", "divergences.py", "mixtures.py", "model.py", "networks.py", "objectives.py", "priors.py"]
_TRAIN += ["randomness.py"]
_EVALUATE = [*_TRAIN, "evaluation/density.py", "metrics/density.py"]
_TABLE = [f"reporting/{name}.py" for name in ("captions", "comparison", "latex", "layout", "results", "tables")]
_TABLE += ["cells.py", "paper/__init__.py", "paper/table1.csv", "paper/table3.csv", "paper/table4.csv"]
_FIGURE = ["reporting/figures.py", "reporting/results.py", "reporting/style.py", "cells.py", "paper/__init__.py"]
SOURCES = {
    "search": [*_EVALUATE, "search.py"],
    "select": ["selection.py"],
    "train": _TRAIN,
    "evaluate": _EVALUATE,
    "table": _TABLE,
    "pdf": ["reporting/latex.py", "reporting/layout.py"],
    "figure3": _FIGURE,
    "search_figure": [*_FIGURE, "paper/table3.csv"],
}


def sources(kind, script=None):
    """Files that jobs of a kind depend on, relative to the working directory: of the package, and the script if they have one."""
    package = Path(introprior.__file__).parent
    files = [package / name for name in SOURCES[kind]]
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


def reported(files, suffix, caption, result):
    """The files; those with the suffix go into Snakemake's report."""
    place = {"caption": f"../report/{caption}.rst", "category": "Density estimation in 2D"}
    labels = [{"result": result, "file": Path(path).name} for path in files]
    return [
        path if not path.endswith(suffix) else report(path, **place, labels=label) for path, label in zip(files, labels)
    ]


def scale(*keys):
    """How the given keys of the density section differ from the paper's: a sentence for captions."""
    ours, paper = (configuration.comparable(c, keys) for c in (config, configuration.defaults(SCHEMA)))
    return captions.scale_sentence(config["experiment"], ours, paper)
