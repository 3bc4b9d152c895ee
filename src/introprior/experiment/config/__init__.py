"""The configuration: one truth, from which the JSON schema, the key table of config/README.md and config.yaml are made.

``python -m introprior.experiment.config`` writes these three anew (``make config``). Light on purpose: the workflow
reads its configuration at every start, so importing this package brings neither torch, numpy nor pandas.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from introprior.data.images.catalogue import DATASETS as IMAGE_DATASETS
from introprior.errors import UserError, cut, one_line
from introprior.experiment import families, fields
from introprior.experiment.cells import TABLE4_SETTINGS, Cell
from introprior.experiment.config.density import Density, check_size
from introprior.experiment.config.images import Images, check_weight, text
from introprior.experiment.config.shown import Figure2, Figure3, Figure4, FigureS2, Latents, Page, Tables
from introprior.experiment.fields import Model, blamed, expanded, option, shown, wrong
from introprior.experiment.protocol import Overrides, Protocol, resolve

__all__ = ["TABLE3_CELL", "Configuration", "load", "read_yaml", "text"]

TABLE3_CELL = "sg"
"""The cell whose hyperparameters Table 3 shows."""

_TAKEN = {"data": "the prepared datasets", "reference": "the committed outcomes"}
_PLACES = {"device", "jobs_per_gpu", "gpu_memory_mb", "gpu_resources", "max_runtime", "checkpoint_seconds"}
"""Keys that say how to compute, not what."""


class Configuration(Model):
    """Every key that config/config.yaml and the files laid over it may have; others are refused."""

    experiment: fields.Name = option("paper", "Name of the folder under results/ that everything is written to.")
    priors: fields.Listed[fields.PathText] = option(
        (), "Python files, beside the configuration, that add families of priors; see docs/add-a-prior.md."
    )
    protocol: Literal["authors", "text"] = option(
        "authors", "Preset for what the paper's text and the authors' code do differently; see docs/fidelity.md."
    )
    protocol_overrides: Overrides = option(
        Overrides(), "Single options of the protocol that replace those of the preset; see docs/fidelity.md."
    )
    device: fields.Device = option(
        "auto", "Where to train and evaluate; auto, cpu, cuda or cuda:N. It never outdates a result."
    )
    jobs_per_gpu: Annotated[fields.Count, Field(le=64)] = option(
        1, "Jobs that may share a GPU; with 2, two GPUs take --resources gpu=4. Their memory has to suffice."
    )
    gpu_memory_mb: fields.Natural = option(
        4000, "Memory, in MB, that must be free on a GPU before a job takes it; with 0, any will do."
    )
    gpu_resources: dict[fields.Resource, int | fields.Text] = option(
        {}, "What jobs on a GPU ask a cluster for besides it, such as a partition; see docs/cluster.md."
    )
    max_runtime: Annotated[int, Field(ge=10, le=10**6)] = option(
        2880,
        "Longest time to ask a cluster for, in minutes; a training that it cuts goes on when retried.",
    )
    checkpoint_seconds: fields.Weight = option(
        300.0,
        "How often a training keeps the state that it goes on from after a crash; a signal makes it do so at once.",
    )
    density: Density = Density()
    images: Images = Images()
    tables: Tables = Tables()
    figure2: Figure2 = Figure2()
    figure3: Figure3 = Figure3()
    figure4: Figure4 = Figure4()
    latents: Latents = Latents()
    figureS2: FigureS2 = FigureS2()
    page: Page = Page()

    # ---- What one section says of another ----

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.experiment in _TAKEN:
            problem = f"results/{self.experiment} holds {_TAKEN[self.experiment]}; choose another name"
            raise wrong("experiment", problem)
        check_size("figure3.points", self.figure3.points, self.density.datasets)
        self._check_image_cells()
        for path, value, known, where in self._choices():
            if value not in known:
                choices = cut(", ".join(text(each) if isinstance(each, float) else str(each) for each in known), 200)
                raise wrong(path, f"{shown(value)} is not trained; choose one of {where}: {choices}")
        check_weight("figure2.r_entropy", self.figure2.r_entropy)
        warmup = self.images.training.warmup_epochs
        if self.figure2.epochs <= warmup:
            problem = f"must be above images.training.warmup_epochs, {warmup}, is {self.figure2.epochs}"
            raise wrong("figure2.epochs", problem)
        if self.figure2.every > self.figure2.epochs:
            raise wrong("figure2.every", f"must be at most epochs, {self.figure2.epochs}, is {self.figure2.every}")
        return self

    def _check_image_cells(self) -> None:
        figure2 = self.figure2.cell
        places = [
            (f"tables.{table}[{i}]", name)
            for table in ("table2", "table5")
            for i, name in enumerate(getattr(self.tables, table))
        ]
        for path, name in [*places, ("figure2.cell", figure2)]:
            with blamed(path):
                image_cell(name, "", clipped=True)
            for dataset in self.images.datasets if path != "figure2.cell" else [self.figure2.dataset]:
                count = IMAGE_DATASETS[dataset].train if dataset in IMAGE_DATASETS else math.inf
                if Cell.parse(name).size > count:
                    raise wrong(path, f"{name} has more components than {dataset} has training images, {count}")
        if not Cell.parse(figure2).clipped:
            problem = f"{figure2} has nothing to clip; choose one with -ip, whose prior learns in the game"
            raise wrong("figure2.cell", problem)

    def _choices(self) -> Iterator[tuple[str, object, Sequence[object], str]]:
        """Keys that name one of what other keys list: path, value, and what is listed where."""
        images, trained, study = self.images, "tables.table2 and table5", self.figureS2
        yield "figure3.seed", self.figure3.seed, self.density.seeds, "density.seeds"
        for i, name in enumerate(self.latents.cells):
            yield f"latents.cells[{i}]", name, self.image_cells, trained
        yield "figureS2.cell", study.cell, self.image_cells, trained
        for i, weight in enumerate(self.figure4.r_entropy):
            yield f"figure4.r_entropy[{i}]", weight, images.r_entropy, "images.r_entropy"
        yield "figureS2.r_entropy", study.r_entropy, self.r_entropies(study.cell), f"those of {study.cell}"
        for path in ("figure2", "figureS2"):
            yield f"{path}.dataset", getattr(self, path).dataset, images.datasets, "images.datasets"
        for path in ("latents", "figureS2"):
            yield f"{path}.seed", getattr(self, path).seed, images.seeds, "images.seeds"

    # ---- What it comes to ----

    @property
    def resolved_protocol(self) -> Protocol:
        """The preset with its overrides."""
        return resolve(self.protocol, self.protocol_overrides.model_dump(exclude_none=True))

    @property
    def density_cells(self) -> list[str]:
        """All 2D cells that the tables and the figure show, each once."""
        shown = [*self.tables.table1, TABLE3_CELL, *TABLE4_SETTINGS.values(), *self.figure3.cells]
        return list(dict.fromkeys(shown))

    @property
    def image_cells(self) -> list[str]:
        """All cells trained on images, each once: those of Tables 2 and 5."""
        return list(dict.fromkeys([*self.tables.table2, *self.tables.table5]))

    def r_entropies(self, cell: str) -> tuple[float, ...]:
        """The weights of the responsibility entropy that are tried for a cell; 0 where its prior has no components."""
        return self.images.r_entropy if Cell.parse(cell).family.components else (0.0,)

    def runs(
        self,
        of: Iterable[str],
        *,
        datasets: Sequence[str] | None = None,
        r_entropy: Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The wildcards of the runs on images of some cells, on all or some datasets, with all or some weights, seeds.

        Each is dataset, cell, r_entropy, seed.
        """
        for dataset, cell in product(datasets or self.images.datasets, of):
            for weight, seed in product(r_entropy or self.r_entropies(cell), seeds or self.images.seeds):
                yield {"dataset": dataset, "cell": cell, "r_entropy": text(weight), "seed": seed}

    @property
    def figure2_runs(self) -> Iterator[dict[str, Any]]:
        """The two runs of Figure 2, clipped and not."""
        one = self.figure2
        cells_of = (one.cell, f"{one.cell}-unclipped")
        return self.runs(cells_of, datasets=[one.dataset], r_entropy=[one.r_entropy], seeds=[one.seed])

    @property
    def identity(self) -> str:
        """SHA-256 of all that results depend on, wherever they are computed; names the configuration in records."""
        what = self.model_dump(mode="json", exclude=_PLACES)
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def image_cell(name: str, where: str, clipped: bool = False) -> Cell:
    """The cell of an image run: a game with the betas of its dataset and the KL by sampling.

    ``where`` is the place to blame; ``clipped`` refuses ``-unclipped``, which only the two runs of Figure 2 know.

    Raises:
        UserError: no cell, or none for images.
    """
    cell = Cell.parse(name, where)
    parts = {"vae-": not cell.adversarial, "-dt": cell.published_betas, "-closed": cell.closed_form_kl}
    for part in (part for part, there in parts.items() if there):
        raise UserError(f"{where}: {name}: image runs have no {part}; drop it")
    if clipped and cell.name.endswith("-unclipped"):
        raise UserError(f"{where}: {name}: -unclipped is for Figure 2, which adds it to figure2.cell; drop it")
    return cell


# ---- Reading ----


def load(values: Mapping[str, Any], files: Iterable[str | Path] = ()) -> Configuration:
    """A configuration, checked as a whole; what it does not say is as in the paper.

    ``priors`` lie beside one of the files that the values are from; the families that they add are known from then on,
    in this process and in those that it starts.

    Raises:
        UserError: the first thing that is wrong: the path of the key, what is wrong with it, what is allowed.
    """
    named = values.get("priors")
    if isinstance(named, list | tuple) and all(isinstance(name, str) for name in named):
        folders = [Path(file).parent for file in reversed([*files])]
        found = families.add(map(expanded, named), "configuration: priors", folders or ["."])
        values = {**values, "priors": found}  # for who reads the configuration without its files
    return Configuration.read(dict(values), "configuration")


def read_yaml(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Configuration files laid over one another as Snakemake does: sections key by key, all else as a whole.

    As for Snakemake, a file is JSON if it can be, else YAML. A key that stands twice is refused: the later would count.

    Raises:
        UserError: a file that is absent or no configuration.
    """
    import yaml

    config: dict[str, Any] = {}
    for path in map(Path, paths):
        try:
            content = _parsed(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UserError(f"{path}: cannot read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 (at byte {error.start}); save it in that encoding") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter: of dates, or too long
            raise UserError(f"{path}: not valid YAML ({cut(one_line(error), 300)})") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: must hold the keys of a configuration, see config/README.md")
        _lay_over(config, content)
    return config


def _parsed(text: str) -> Any:
    """JSON if it can be, else YAML."""
    import yaml

    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        pass

    def section(loader: Any, node: Any) -> Any:
        _once((key.value, key) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        return loader.construct_mapping(node, deep=True)

    # PyYAML's own begin with an empty section or list and fill it later: so it could be made to hold itself.
    Loader: Any = type("Loader", (yaml.SafeLoader,), {})
    Loader.add_constructor("tag:yaml.org,2002:map", section)
    Loader.add_constructor("tag:yaml.org,2002:seq", lambda loader, node: loader.construct_sequence(node, deep=True))
    return yaml.load(text, Loader)


def _once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A section of its keys; a `UserError` where one stands there twice."""
    section: dict[Any, Any] = {}
    for key, value in pairs:
        if key in section:
            lines = [each.start_mark.line + 1 for each in (section[key], value) if hasattr(each, "start_mark")]
            where = ", in lines {} and {}".format(*lines) if lines else ""
            raise UserError(f"the key {shown(key)} is there twice{where}; keep one of them")
        section[key] = value
    return section


def _lay_over(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _lay_over(config[key], value)
        else:
            config[key] = value
