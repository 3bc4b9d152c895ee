# What all rules share: the checked configuration, where files go, which sources a job depends on. No rules here.
import os
import sys
from pathlib import Path

from snakemake.logging import logger

import introprior
from introprior import configuration
from introprior.cells import TABLE4_SETTINGS
from introprior.errors import UserError


def stop(error):
    """End Snakemake with one line, without the traceback that every exception would bring."""
    logger.error(f"introprior: {error}")
    sys.exit(1)


def checked(function, *arguments):
    """What the function returns; a UserError ends Snakemake."""
    try:
        return function(*arguments)
    except UserError as error:
        stop(error)


checked(configuration.validate, config, workflow.source_path("../schemas/config.schema.yaml"))

# ---- Device: an environment variable, so that no result depends on where it was computed ----
LOCAL = workflow.resource_settings.nodes is None  # other executors have other machines' GPUs
if LOCAL and workflow.is_main_process:
    asked = workflow.global_resources.get("gpu")
    asked = asked and asked.value
    checked(configuration.check_devices, config["device"], asked, configuration.gpus_present())
GPU = int(config["device"] != "cpu" and not (config["device"] == "auto" and LOCAL and not configuration.gpus_present()))
os.environ["INTROPRIOR_DEVICE"] = config["device"]
# The `introprior` of the environment that runs Snakemake, activated or not.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

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
STATE = f"{RESULTS}/.state"  # of interrupted runs; not declared as output: Snakemake deletes that before it starts again

ENVIRONMENT = "../../envs/introprior.yaml"

# ---- Cells ----
DATASETS = config["density"]["datasets"]
TABLE_CELLS = {
    1: config["tables"]["table1"],
    3: [configuration.TABLE3_CELL],
    4: list(TABLE4_SETTINGS.values()),
}


def each(path, cells):
    """The path for all datasets and the given cells."""
    return expand(path, dataset=DATASETS, cell=cells)


# ---- Sources: what a change of the code outdates ----
# Left out on purpose: cli.py, errors.py, files.py, cells.py and protocols.py (names, checks and defaults; what they resolve to
# is in the options, which Snakemake compares).
_MODEL = ["mixtures.py", "priors.py", "divergences.py", "networks.py", "model.py", "data/density.py"]
_TRAINING = [*_MODEL, "objectives.py", "training/*.py"]
SOURCES = {
    "train": _TRAINING,
    "search": [*_TRAINING, "search.py", "metrics/density.py"],
    "select": ["search.py"],
    "evaluate": [*_MODEL, "evaluation/density.py", "metrics/density.py"],
    "table": ["reporting/tables.py", "paper/*"],
    "figure": ["reporting/figures.py"],
}


def sources(kind):
    """Files of the package that a kind of job depends on, relative to the working directory."""
    package = Path(introprior.__file__).parent
    return sorted({os.path.relpath(path) for pattern in SOURCES[kind] for path in package.glob(pattern)})
