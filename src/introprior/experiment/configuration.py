"""The configuration of the workflow: checked when it is read, then resolved into the options of each job.

Light on purpose: the workflow reads its configuration at every start, and once more for some of its jobs, so importing
this module brings neither torch nor pandas.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introprior.errors import UserError, unknown
from introprior.experiment import image_configuration, protocols
from introprior.experiment.cells import TABLE4_SETTINGS, parse

if TYPE_CHECKING:
    from jsonschema import ValidationError

DATASETS = {"8Gaussian": 1, "2Spirals": 2, "Checkerboard": 1, "Rings": 4}
"""Known datasets, and the number that the sizes of their samples must be a multiple of.

Kept equal (by a test) to what `introprior.data.density` registers, which cannot be asked without importing torch.
"""

TABLE3_CELL = "sg"
"""The cell whose hyperparameters Table 3 shows."""

Config = Mapping[str, Any]
Betas = list[float | None]
"""One setting: beta_rec, beta_kl, beta_neg; the last is None for a VAE, which has no fakes."""

_TAKEN = {"data": "the prepared datasets", "reference": "the committed outcomes"}
_PUBLISHED = {"table3": "grid_search_optimum", "daniel-tamar": "daniel_tamar_2021"}
_REAL_OPTIONS = ("learning_rate", "alpha", "gamma", "gamma_r", "clip_steepness", "r_entropy")
_NOT_DENSITY = ("spread", *image_configuration.PROTOCOL)
"""Options of the protocol of concern to tables or images only: they must not outdate a training in 2D."""
_WHERE = ("device", "jobs_per_gpu", "gpu_memory_mb", "max_runtime", "checkpoint_seconds")
"""Keys that say how to compute, not what."""


# ---- Checking ----


def validate(config: Config, schema: str | Path) -> None:
    """Check a whole configuration: against the JSON schema, and then what a schema cannot say.

    Raises:
        UserError: the first thing that is wrong: the path of the key, what is wrong with it, what is allowed.
    """
    from jsonschema import Draft202012Validator, validators  # not needed by the jobs themselves

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)  # 2.0 is none
    validator = validators.extend(Draft202012Validator, type_checker=types)(_read(schema))
    errors = sorted(validator.iter_errors(config), key=lambda error: [str(key) for key in error.path])
    if errors:
        raise _explained(errors[0])
    for path, value in _leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(path, f"must be finite, is {value}")
    _check_names(config)
    _check_training(config["density"]["training"])
    _check_sizes(config)
    _check_search(config["density"]["search"])
    image_configuration.check(config)
    shown, seeds = config["figure3"]["seed"], config["density"]["seeds"]
    if shown not in seeds:
        raise _wrong(["figure3", "seed"], f"{shown} is not trained; choose one of density.seeds: {_listed(seeds)}")


def defaults(schema: str | Path) -> dict[str, Any]:
    """The configuration that the schema gives as defaults: the paper's."""

    def of(rules: Mapping[str, Any]) -> Any:
        return rules["default"] if "default" in rules else {key: of(part) for key, part in rules["properties"].items()}

    return of(_read(schema))


def reference(schema: str | Path) -> str:
    """All keys with their defaults and descriptions, as the Markdown table of ``config/README.md``."""
    lines = ["| key | default | |", "| --- | --- | --- |"]

    def add(path: tuple[str, ...], rules: Mapping[str, Any]) -> None:
        for key, part in rules.get("properties", {}).items():
            default = f"`{_shown(part['default'], none='null')}`" if "default" in part else ""
            choices = f" One of `{'`, `'.join(map(_shown, part['enum']))}`." if "enum" in part else ""
            lines.append(f"| `{_dotted([*path, key])}` | {default} | {part['description']}{choices} |")
            add((*path, key), part)

    add((), _read(schema))
    return "\n".join(lines) + "\n"


def check_devices(device: str, asked: int | None, present: int, jobs_per_gpu: int = 1) -> None:
    """Check that the device exists and that no more GPUs are to be used than there are.

    Args:
        device: the configured device.
        asked: how many GPUs Snakemake may use at a time, ``--resources gpu=<asked>``; None: not limited.
        present: how many GPUs there are. The default profile asks for one, which may be absent.
        jobs_per_gpu: how many jobs may share one; Snakemake counts jobs.

    Raises:
        UserError: the device or some GPUs are missing.
    """
    if device == "cpu":
        return
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        if number >= present:
            raise _wrong(["device"], f"{device} is not there, {_gpus(present)} visible; use auto or cpu")
    if asked is not None and asked > max(present * jobs_per_gpu, 1):
        shared = f", {jobs_per_gpu} jobs each" if jobs_per_gpu > 1 else ""
        remedy = (
            f"ask for gpu={present * jobs_per_gpu} at most{shared}" if present else "leave it out to run on the CPU"
        )
        raise UserError(f"--resources gpu={asked}: {_gpus(present)} visible on this machine; {remedy}")


def gpus_present() -> int:
    """Number of visible NVIDIA GPUs, found without torch: CUDA_VISIBLE_DEVICES, else those of the driver."""
    visible, simulated = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("INTROPRIOR_SIMULATED_GPUS")
    if visible is None and simulated:
        return int(simulated) if simulated.isdecimal() else 0
    if visible is None:
        return sum(1 for _ in Path("/proc/driver/nvidia/gpus").glob("*"))
    names = [name.strip() for name in visible.split(",")]
    hidden = (i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles"))  # CUDA stops at the first such
    return next(hidden, len(names))


@functools.cache
def _read(schema: str | Path) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    return yaml.load(Path(schema).read_text(), loader)


def _wrong(path: Iterable[str | int], problem: str) -> UserError:
    """The error for the key at ``path``."""
    return UserError(f"configuration: {_dotted(path)}: {problem}")


def _dotted(path: Iterable[str | int]) -> str:
    """A path as people write it, e.g. ``density.seeds[2]``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def _explained(error: ValidationError) -> UserError:
    """A violation of the schema in the words of someone who writes YAML."""
    path, value, limit = list(error.absolute_path), error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            stranger = next(key for key in value if key not in known)
            return unknown("key", stranger, known, "configuration" + (f": {_dotted(path)}" if path else ""))
        case "required":
            missing = next(key for key in limit if key not in value)
            return _wrong([*path, missing], "is missing; copy it from the config/config.yaml of the project")
        case "type":
            names = " or ".join(_TYPES[name] for name in ([limit] if isinstance(limit, str) else limit))
            problem = f"must be {names}, is {'the text ' * isinstance(value, str)}{_shown(value)}"
            if isinstance(value, str) and limit == "number":
                problem += "; write numbers without quotes, and with a point before the exponent: 1.0e-8"
            return _wrong(path, problem)
        case "enum":
            return _wrong(path, f"must be one of {_listed(limit)}; is {_shown(value)}")
        case "const":
            return _wrong(path, f"must be {_shown(limit)}, is {_shown(value)}")
        case "minItems" if limit == 1:
            return _wrong(path, "must not be empty")
        case "minItems" | "maxItems":
            return _wrong(path, f"must have {limit} values, has {len(value)}")
        case "uniqueItems":
            twice = next(item for i, item in enumerate(value) if item in value[:i])
            return _wrong(path, f"{_shown(twice)} is there more than once; keep it once")
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            return _wrong(path, f"must be {_BOUNDS[error.validator]} {limit}, is {value}")
    return _wrong(path, f"{_shown(value)} will not do; {error.schema.get('description', error.message)}")


_TYPES = {
    "object": "a section of keys",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _shown(value: object, none: str = "empty") -> str:
    """A value as YAML would have it, shortened; ``none`` for None."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()
    text = none if value is None else text
    return text if len(text) <= 80 else text[:77] + "..."


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(_shown, values))


def _gpus(count: int) -> str:
    return {0: "no GPU is", 1: "1 GPU is"}.get(count, f"{count} GPUs are")


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """All values that are no sections or lists, each with its path."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield path, value
    else:
        for key, part in inner:
            yield from _leaves(part, (*path, key))


def _check_names(config: Config) -> None:
    if config["experiment"] in _TAKEN:
        raise _wrong(
            ["experiment"], f"results/{config['experiment']} holds {_TAKEN[config['experiment']]}; choose another name"
        )
    protocols.resolve(config["protocol"], config["protocol_overrides"], "configuration: protocol")
    for i, name in enumerate(config["density"]["datasets"]):
        if name not in DATASETS:
            raise unknown("dataset", name, DATASETS, f"configuration: density.datasets[{i}]")
    for path, names in (
        ("tables.table1", config["tables"]["table1"]),
        ("figure3.cells", config["figure3"]["cells"]),
        ("density.search.cells", config["density"]["search"]["cells"]),
    ):
        for i, name in enumerate([] if names == "all" else names):
            cell = parse(name, f"configuration: {path}[{i}]")
            if path == "density.search.cells" and cell.published_betas:
                raise UserError(
                    f"configuration: {path}[{i}]: {name} is defined by published values; take it off the list"
                )


def _check_training(training: Config) -> None:
    def path(key: str) -> list[str]:
        return ["density", "training", key]

    iterations, warmup = training["iterations"], training["warmup_iterations"]
    if warmup >= iterations:
        raise _wrong(path("warmup_iterations"), f"must be below iterations, {iterations}, is {warmup}")
    mixture = training["mixture_warmup_iterations"]
    if mixture > warmup:
        raise _wrong(path("mixture_warmup_iterations"), f"must be at most warmup_iterations, {warmup}, is {mixture}")
    if training["milestones"] != sorted(training["milestones"]):
        raise _wrong(path("milestones"), f"must rise, are {_listed(training['milestones'])}")


def _check_sizes(config: Config) -> None:
    density = config["density"]
    for path, size in (
        ("density.training.batch_size", density["training"]["batch_size"]),
        ("density.search.samples", density["search"]["samples"]),
        ("density.evaluation.samples", density["evaluation"]["samples"]),
        ("density.evaluation.data_points", density["evaluation"]["data_points"]),
        ("figure3.points", config["figure3"]["points"]),
    ):
        for name in density["datasets"]:
            multiple = DATASETS[name]
            if size % multiple:
                near = -(-size // multiple) * multiple
                raise UserError(
                    f"configuration: {path}: must be a multiple of {multiple} for {name}, is {size}; try {near}"
                )


def _check_search(search: Config) -> None:
    cuts = search["halving"]["at"]
    if cuts != sorted(cuts):
        raise _wrong(["density", "search", "halving", "at"], f"must rise, are {_listed(cuts)}")
    for kl in search["beta_kl"]:
        rounded = [_beta_neg(kl, multiple) for multiple in search["beta_neg_multiples"]]
        if 0 in rounded or len(set(rounded)) < len(rounded):
            problem = f"times beta_kl {kl}, rounded to three decimals: {_listed(rounded)}; use larger or fewer values"
            raise _wrong(["density", "search", "beta_neg_multiples"], problem)


# ---- Resolving ----


def cells(config: Config) -> list[str]:
    """All cells that the tables and the figure show, each once."""
    shown = [*config["tables"]["table1"], TABLE3_CELL, *TABLE4_SETTINGS.values(), *config["figure3"]["cells"]]
    return list(dict.fromkeys(shown))


def searched(config: Config) -> str:
    """A regular expression for the names of the cells whose grid is searched; wildcards of the workflow need one."""
    search = config["density"]["search"]
    if not search["enabled"]:
        return "(?!)"  # none
    return "(?![^/]*-dt)[^/]+" if search["cells"] == "all" else "|".join(search["cells"])


def grid(config: Config, cell: str) -> list[list[Betas]]:
    """The settings to search for a cell, in groups that differ only in beta_neg."""
    search = config["density"]["search"]
    if not parse(cell).adversarial:
        vae = search["vae"]
        return [[[float(rec), float(kl), None]] for rec in vae["beta_rec"] for kl in vae["beta_kl"]]
    multiples = search["beta_neg_multiples"]
    return [
        [[float(rec), float(kl), _beta_neg(kl, multiple)] for multiple in multiples]
        for rec in search["beta_rec"]
        for kl in search["beta_kl"]
    ]


def _beta_neg(beta_kl: float, multiple: float) -> float:
    return round(float(multiple * beta_kl), 3)


def slices(config: Config, cell: str) -> list[list[Betas]]:
    """The settings to search for a cell, cut into jobs of at most ``members_per_job`` (at least one group each).

    Groups stay whole, since the settings that differ only in beta_neg share their warm-up inside a job.
    """
    most = config["density"]["search"]["members_per_job"]
    jobs: list[list[Betas]] = []
    for group in grid(config, cell):
        if jobs and len(jobs[-1]) + len(group) <= most:
            jobs[-1].extend(group)
        else:
            jobs.append(list(group))
    return jobs


def search_options(config: Config, dataset: str, cell: str, number: int | str) -> str:
    """Options of ``introprior search`` for one slice of a cell's grid, as JSON.

    Raises:
        UserError: no such dataset, cell or slice.
    """
    search = config["density"]["search"]
    halving = search["halving"]
    jobs = slices(config, cell)
    if int(number) >= len(jobs):
        raise UserError(f"results: the grid of {cell} has no slice {number}, its last is {len(jobs) - 1}")
    return _json(
        **_run_options(config, dataset, cell),
        seed=search["seed"],
        betas=jobs[int(number)],
        samples=search["samples"],
        halving={"keep": halving["keep"], "at": halving["at"]} if halving["enabled"] else None,
    )


def hyperparameters(config: Config, dataset: str, cell: str) -> str:
    """The content of ``hyperparameters.json`` for a cell that is not searched: published values.

    The paper prints S-IntroVAE's with the standard Gaussian prior only (Table 3); mixtures take the same. A VAE has
    weights of its own, which stand in the authors' code, credited to Daniel and Tamar (protocol note 2.7).

    Raises:
        UserError: nothing is published for this dataset.
    """
    known = parse(cell)
    betas: dict[str, float | None]
    if known.adversarial:
        source = "daniel-tamar" if known.published_betas else config["density"]["search"]["published"]
        rows = _paper("table3.csv", dataset)
        betas = {row["hyperparameter"]: float(row[_PUBLISHED[source]]) for row in rows}
    else:
        source = "vae"
        rows = _paper("vae.csv", dataset)
        betas = {name: float(row[name]) for row in rows for name in ("beta_rec", "beta_kl")} | {"beta_neg": None}
    if not rows:
        raise UserError(f"{dataset}, {cell}: no published hyperparameters; let density.search.cells include this cell")
    return _json(dataset=dataset, cell=cell, **betas, source=source, settings=None, diverged=None, KL=None)


def _paper(name: str, dataset: str) -> list[dict[str, str]]:
    """The rows of a dataset in a file of published numbers; introprior.paper itself would bring pandas."""
    text = (resources.files("introprior") / "paper" / name).read_text()
    return [row for row in csv.DictReader(text.splitlines()) if row["dataset"] == dataset]


def train_options(config: Config, dataset: str, cell: str) -> str:
    """Options of ``introprior train``, as JSON."""
    return _json(**_run_options(config, dataset, cell), seeds=config["density"]["seeds"])


def evaluate_options(config: Config, dataset: str, cell: str) -> str:
    """Options of ``introprior evaluate``, as JSON."""
    figure = config["figure3"]
    panel = {"panel_grid": figure["grid"], "panel_points": figure["points"], "panel_seed": figure["seed"]}
    return _json(dataset=dataset, cell=cell, **config["density"]["evaluation"], **panel)


def spread(config: Config) -> str:
    """What follows the plus-minus sign in the tables: ``std`` or ``sem``."""
    return protocols.resolve(config["protocol"], config["protocol_overrides"]).spread


def identity(config: Config) -> str:
    """SHA-256 of all that results depend on, wherever they are computed; names the configuration in records."""
    what = {key: value for key, value in config.items() if key not in _WHERE}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def comparable(config: Config, keys: Iterable[str]) -> dict[str, Any]:
    """What bears on the numbers in a table, to be compared with the paper's.

    Args:
        config: the whole configuration.
        keys: what of the density section does; the protocol always does, but for what concerns images alone.
    """
    overrides = {key: value for key, value in config["protocol_overrides"].items() if key not in _NOT_DENSITY}
    chosen = {"protocol": config["protocol"], **overrides, **{key: config["density"][key] for key in keys}}
    if "search" in chosen and not chosen["search"]["halving"]["enabled"]:
        chosen["search"] = {key: value for key, value in chosen["search"].items() if key != "halving"}
    return chosen


def _run_options(config: Config, dataset: str, cell: str) -> dict[str, Any]:
    """What a run depends on, apart from its seed and betas.

    Raises:
        UserError: there is no such dataset or cell; the workflow is asked for results by their paths, too.
    """
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS, "results")
    parse(cell, "results")
    resolved = protocols.resolve(config["protocol"], config["protocol_overrides"]).as_dict()
    protocol = {key: value for key, value in resolved.items() if key not in _NOT_DENSITY}
    training = {
        key: float(value) if key in _REAL_OPTIONS else value for key, value in config["density"]["training"].items()
    }
    return {"dataset": dataset, "cell": cell, "protocol": protocol, "training": training}


def _json(**options: Any) -> str:
    """The same text for the same options: Snakemake compares it to tell whether a result is outdated."""
    return json.dumps(options, sort_keys=True, allow_nan=False)
