"""The jobs that a configuration comes to, found without Snakemake, so that looking at them takes no time.

What the rules of the workflow say is said here a second time, as far as a look from outside needs it; a test holds both
equal. Paths, runs and options are the rules' own. As light as `introprior.experiment.configuration`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from introprior.errors import UserError, unknown
from introprior.experiment import configuration
from introprior.experiment import image_configuration as images
from introprior.experiment.cells import TABLE4_SETTINGS, parse
from introprior.experiment.paths import NAMED, Paths

Config = Mapping[str, Any]

ON_GPU = frozenset(
    [
        "search",
        "train",
        "evaluate",
        "classifier",
        "reference",
        "warmup",
        "game",
        "warmup_distances",
        "distances",
        "evaluate_images",
        "clipping_study",
        "clipping_distances",
        "encoder_study",
    ]
)
"""Rules whose jobs use a GPU if there is one."""

BENCHMARKED = (ON_GPU | {"probe"}) - {"warmup_distances"}
"""Rules whose jobs leave a file of their time and memory."""

TRAININGS = ("search", "train", "warmup", "game", "clipping_study")
"""Rules whose jobs go on where they stopped."""

TARGETS = ("all", "density", "images", "tables", "figures")
"""What can be asked for beside a single table or figure."""

_RUN = ("dataset", "cell", "r_entropy", "seed")
_RESOLVERS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "search": (configuration.search_options, ("dataset", "cell", "slice")),
    "train": (configuration.train_options, ("dataset", "cell")),
    "evaluate": (configuration.evaluate_options, ("dataset", "cell")),
    "classifier": (images.classifier_options, ("dataset",)),
    "reference": (images.reference_options, ("dataset", "features")),
    "warmup": (images.warmup_options, ("dataset", "family", "seed")),
    "game": (images.game_options, _RUN),
    "warmup_distances": (images.distances_options, ("dataset", "family", "seed")),
    "distances": (images.distances_options, _RUN),
    "evaluate_images": (images.evaluate_options, _RUN),
    "probe": (images.probe_options, _RUN),
    "clipping_study": (images.clipping_options, _RUN),
    "clipping_distances": (images.distances_options, _RUN),
    "encoder_study": (images.study_options, ("dataset",)),
}


def resolve(paths: Iterable[str | Path] = (), folder: str | Path = ".") -> dict[str, Any]:
    """The whole configuration, as ``snakemake --configfile`` makes it of the same files, checked.

    Args:
        paths: files that are laid over the project's config/config.yaml, one after another.
        folder: of the project.

    Raises:
        UserError: a file that is absent or no configuration, or whatever is wrong with the whole.
    """
    folder = Path(folder)
    schema, base = folder / "workflow/schemas/config.schema.yaml", folder / "config/config.yaml"
    if not (schema.exists() and base.exists()):
        raise UserError(f"{base}: not found; run this in the folder of the project, where snakemake is run")
    config: dict[str, Any] = {}
    for path in (base, *paths):
        _lay_over(config, _read(Path(path)))
    configuration.validate(config, schema)
    return config


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold the keys of a configuration, see config/README.md")
    return content


def _lay_over(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Sections are merged key by key, all else is replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _lay_over(config[key], value)
        else:
            config[key] = value


@dataclass(frozen=True, eq=False)
class Job:
    """One job of the workflow.

    Attributes:
        rule: its name.
        wildcards: the rule's, by name.
        outputs: files that it writes, relative to the project's folder.
        inputs: files that it reads and other jobs write.
        log: the file of its messages.
        benchmark: the file of its time and memory; None where they are not measured.
        gpu: whether it uses a GPU if there is one.
    """

    rule: str
    wildcards: dict[str, str]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    log: str
    benchmark: str | None
    gpu: bool
    _config: Config = field(repr=False)

    @cached_property
    def options(self) -> dict[str, Any] | None:
        """What it tells its command; None where that is nothing but names of files."""
        return options(self._config, self.rule, self.wildcards)


def options(config: Config, rule: str, wildcards: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the jobs of a rule tell their command, its ``--options``; None for rules that have none.

    Args:
        config: the whole configuration.
        rule: its name.
        wildcards: the rule's.

    Raises:
        UserError: wildcards that name nothing.
    """
    if rule not in _RESOLVERS:
        return None
    resolver, names = _RESOLVERS[rule]
    values = dict(wildcards.items())
    return json.loads(resolver(config, *(values[name] for name in names)))


def jobs(config: Config, targets: Sequence[str] = ("all",), folder: str | Path | None = None) -> list[Job]:
    """All jobs that it takes to make the targets from nothing, each after those that it depends on.

    Args:
        config: the whole configuration.
        targets: of :data:`TARGETS`, or rules that make one table or figure, as Snakemake takes them.
        folder: of the experiment's results, where that is not results/<experiment>; the data lie beside it.

    Raises:
        UserError: an unknown target.
    """
    plan = _Plan(config)
    known = {*TARGETS, *(job.rule for job in plan.jobs if not job.wildcards)}
    for target in targets:
        if target not in known:
            raise unknown("target", target, sorted(known), "plan")
    wanted = {path for target in targets for path in plan.target(target)}
    needed = []
    for job in reversed(plan.jobs):
        if not wanted.isdisjoint(job.outputs):
            wanted.update(job.inputs)
            needed.append(job)
    needed.reverse()
    return needed if folder is None else [_moved(job, plan.paths.results, Path(folder)) for job in needed]


def _moved(job: Job, usual: str, folder: Path) -> Job:
    """The same job in another folder."""

    def place(path: str) -> str:
        inside = path.removeprefix(f"{usual}/")
        return str(folder / inside if inside != path else folder.parent / path.removeprefix("results/"))

    return dataclasses.replace(
        job,
        outputs=tuple(map(place, job.outputs)),
        inputs=tuple(map(place, job.inputs)),
        log=place(job.log),
        benchmark=job.benchmark and place(job.benchmark),
    )


class _Plan:
    """Every job of a configuration, in the order of the rules."""

    def __init__(self, config: Config) -> None:
        self.config, self.paths = config, Paths(config["experiment"])
        self.jobs: list[Job] = []
        self._made: set[str] = set()
        self._density()
        self._images()
        self._tables()
        self._figures()

    def target(self, name: str) -> list[str]:
        """The files that a target asks for."""
        by_rule = {
            kind: [path for job in self.jobs if re.match(rule, job.rule) for path in job.outputs]
            for kind, rule in {
                "tables": "table",
                "figures": "figure|samples|search_figure",
                "density": "evaluate$|table[134]$|figure3|search_figure",
                "images": "evaluate_images|probe|table[25]$|figure(?!3)|samples",
            }.items()
        }
        by_rule["all"] = by_rule["tables"] + by_rule["figures"]
        return by_rule.get(name) or [path for job in self.jobs if job.rule == name for path in job.outputs]

    def _add(
        self,
        rule: str,
        outputs: str | Iterable[str],
        log: str,
        inputs: Iterable[str] = (),
        **wildcards: Any,
    ) -> None:
        """A job, its log below the folder of logs; its benchmark has the same name below its own."""
        known = {name: str(value) for name, value in wildcards.items()}
        made = tuple(path.format(**known) for path in ([outputs] if isinstance(outputs, str) else outputs))
        if made[0] in self._made:  # shared, e.g. a warm-up
            return
        self._made.update(made)
        read = tuple(dict.fromkeys(path.format(**known) for path in inputs))
        name = log.format(**known)
        self.jobs.append(
            Job(
                rule=rule,
                wildcards=known,
                outputs=made,
                inputs=read,
                log=f"{self.paths.logs}/{name}.log",
                benchmark=f"{self.paths.benchmarks}/{name}.tsv" if rule in BENCHMARKED else None,
                gpu=rule in ON_GPU,
                _config=self.config,
            )
        )

    # Two dimensions

    def _density(self) -> None:
        for dataset in self.config["density"]["datasets"]:
            for cell in configuration.cells(self.config):
                self._cell(dataset=dataset, cell=cell)

    def _cell(self, **names: str) -> None:
        paths, folder = self.paths, "density/{dataset}/{cell}"
        slices = self._slices(**names)
        for number in range(len(slices)):
            self._add("search", paths.slice, f"{folder}/search-{{slice}}", **names, slice=number)
        self._add(
            "select" if slices else "published", paths.hyperparameters, f"{folder}/hyperparameters", slices, **names
        )
        trained = paths.ensemble, paths.cell_history
        self._add("train", trained, f"{folder}/train", [paths.hyperparameters], **names)
        self._add("evaluate", (paths.cell_metrics, paths.cell_panels), f"{folder}/evaluate", [paths.ensemble], **names)

    def _slices(self, dataset: str, cell: str) -> list[str]:
        """Files of the slices of a cell's grid, none where it is not searched."""
        if not re.fullmatch(configuration.searched(self.config), cell):
            return []
        count = len(configuration.slices(self.config, cell))
        return [self.paths.slice.format(dataset=dataset, cell=cell, slice=number) for number in range(count)]

    # Images

    def _images(self) -> None:
        config, paths = self.config, self.paths
        evaluation = config["images"]["evaluation"]
        features = sorted(images.features(config))
        extractor = paths.classifier if evaluation["features"] == "classifier" else paths.inception
        references = [paths.reference.replace("{features}", name) for name in features]
        train, test = (
            [f"{paths.data}/{split}-{kind}.npy" for kind in ("images", "labels")] for split in ("train", "test")
        )
        manifest = f"{paths.data}/manifest.json"
        learnt = [manifest, *train]
        measured = [*learnt, *references, extractor]

        def run(folder: str, game: str, distances: str, wildcards: Mapping[str, Any], logs: str) -> None:
            family = {"dataset": wildcards["dataset"], "family": images.family(wildcards["cell"])}
            warmup = paths.warmup.format(**family, seed=wildcards["seed"])
            place = "images/{dataset}/warmups/{family}/seed{seed}"
            family["seed"] = wildcards["seed"]
            self._add("warmup", f"{paths.warmup}/warmup.pt", f"{place}/warmup", learnt, **family)
            started = [*measured, f"{paths.warmup}/warmup.pt"]
            self._add("warmup_distances", f"{paths.warmup}/distances.csv", f"{place}/distances", started, **family)
            snapshots = f"{folder}/snapshots.pt"
            trained = snapshots, f"{folder}/history.csv"
            self._add(game, trained, f"{logs}/{NAMED}/train", [*learnt, f"{warmup}/warmup.pt"], **wildcards)
            needed = [*measured, snapshots, f"{warmup}/distances.csv"]
            self._add(distances, f"{folder}/distances.csv", f"{logs}/{NAMED}/distances", needed, **wildcards)

        for dataset in config["images"]["datasets"]:
            self._add("prepare", [*learnt, *test], "data/{dataset}", dataset=dataset)
            if evaluation["features"] == "classifier":
                self._add("classifier", extractor, "images/{dataset}/classifier", [*learnt, *test], dataset=dataset)
            else:
                self._add("inception", extractor, "data/inception")
            for name in features:
                self._add(
                    "reference",
                    paths.reference,
                    "images/{dataset}/reference-{features}",
                    [*learnt, extractor],
                    dataset=dataset,
                    features=name,
                )
        for wildcards in images.runs(config, images.cells(config)):
            run(paths.run, "game", "distances", wildcards, "images")
            known = [*measured, *test, *(f"{paths.run}/{name}" for name in ("snapshots.pt", "distances.csv"))]
            told = [f"{paths.run}/{name}" for name in ("metrics.csv", "codes.npz", "panels.npz")]
            self._add("evaluate_images", told, f"images/{NAMED}/evaluate", known, **wildcards)
            self._add("probe", f"{paths.run}/probes.csv", f"images/{NAMED}/probes", [told[1]], **wildcards)
        for wildcards in self._clipped():
            run(paths.clipping, "clipping_study", "clipping_distances", wildcards, "clipping")
        for dataset in config["images"]["datasets"]:
            for rule, output, cells in (
                ("choose_r_entropy", paths.chosen, images.cells(config)),
                ("choose_r_entropy_table2", paths.chosen_table2, config["tables"]["table2"]),
            ):
                suffix = rule.removeprefix("choose_r_entropy").replace("_", "-")
                metrics = self._runs("metrics.csv", cells, datasets=[dataset])
                self._add(rule, output, f"images/{{dataset}}/r_entropy{suffix}", metrics, dataset=dataset)
        study = config["figureS2"]
        begun = {**study, "r_entropy": images.text(study["r_entropy"])}
        model = [f"{paths.run}/{name}".format(**begun) for name in ("snapshots.pt", "distances.csv")]
        self._add("encoder_study", paths.study, "encoder/{dataset}", [*learnt, *model], dataset=study["dataset"])

    def _runs(self, name: str, cells: Iterable[str], **some: Any) -> list[str]:
        """A file of every run on images, or of some."""
        return [f"{self.paths.run}/{name}".format(**run) for run in images.runs(self.config, cells, **some)]

    def _clipped(self) -> list[dict[str, Any]]:
        """The two runs of Figure 2."""
        figure = self.config["figure2"]
        cells = [figure["cell"] + suffix for suffix in ("", "-unclipped")]
        some = {"datasets": [figure["dataset"]], "r_entropy": [figure["r_entropy"]], "seeds": [figure["seed"]]}
        return list(images.runs(self.config, cells, **some))

    # What is shown

    def _each(self, path: str, cells: Iterable[str]) -> list[str]:
        """A file of every dataset in 2D and the given cells."""
        return [path.format(dataset=name, cell=cell) for name in self.config["density"]["datasets"] for cell in cells]

    def _chosen(self, path: str) -> list[str]:
        return [path.format(dataset=dataset) for dataset in self.config["images"]["datasets"]]

    def _tables(self) -> None:
        config, paths = self.config, self.paths
        metrics, searched = paths.cell_metrics, [configuration.TABLE3_CELL]

        def told(number: int) -> list[str]:
            cells = config["tables"][f"table{number}"]
            return [*self._runs("metrics.csv", cells), *self._runs("probes.csv", cells)]

        results = {
            1: self._each(metrics, config["tables"]["table1"]),
            2: [*told(2), *self._chosen(paths.chosen_table2)],
            3: self._each(paths.hyperparameters, searched),
            4: self._each(metrics, TABLE4_SETTINGS.values()),
            5: [*told(5), *self._chosen(paths.chosen)],
        }
        latex = []
        for number, inputs in results.items():
            made = [
                f"{paths.tables}/table{number}{kind}.{suffix}"
                for kind in ("", "_vs_paper")
                for suffix in ("csv", "md", "tex")
            ]
            latex += [path for path in made if path.endswith(".tex")]
            self._add(f"table{number}", made, f"tables/table{number}", inputs)
        if shutil.which("pdflatex"):
            self._add("tables_pdf", f"{paths.tables}/tables.pdf", "tables/tables_pdf", latex)

    def _figures(self) -> None:
        config, paths = self.config, self.paths
        mixtures = [cell for cell in images.cells(config) if parse(cell).family.components]
        shown, seed = config["latents"]["cells"], [config["latents"]["seed"]]
        weights = config["figure4"]["r_entropy"]
        latents = [*self._runs("panels.npz", shown, seeds=seed), *self._chosen(paths.chosen)]
        inputs = {
            "figure2": [
                f"{paths.clipping}/{name}".format(**run)
                for name in ("history.csv", "distances.csv")
                for run in self._clipped()
            ],
            "figure3": self._each(paths.cell_panels, config["figure3"]["cells"]),
            "figure4": [
                path
                for name in ("history.csv", "distances.csv")
                for path in self._runs(name, mixtures, r_entropy=weights)
            ],
            "figure5": latents,
            "figure6": latents,
            "figureS2": [paths.study.format(dataset=config["figureS2"]["dataset"])],
            "figureS3": [],
        }
        for name, needed in inputs.items():
            if name != "figure4" or mixtures:
                self._figure(name, name, needed)
        for dataset in config["images"]["datasets"]:
            needed = [*self._runs("panels.npz", shown, seeds=seed, datasets=[dataset]), paths.chosen]
            self._figure("samples", "samples-{dataset}", needed, dataset=dataset)
        datasets, cell = config["density"]["datasets"], configuration.TABLE3_CELL
        if slices := [path for dataset in datasets for path in self._slices(dataset, cell)]:
            needed = [*slices, *self._each(paths.hyperparameters, [cell])]
            self._figure("search_figure", "search-{cell}", needed, cell=cell)

    def _figure(self, rule: str, name: str, inputs: Iterable[str], **wildcards: str) -> None:
        made = [f"{self.paths.figures}/{name}.{suffix}" for suffix in ("pdf", "png")]
        self._add(rule, made, f"figures/{name}", inputs, **wildcards)
