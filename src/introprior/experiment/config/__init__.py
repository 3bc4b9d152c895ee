"""The configuration: one truth, from which the JSON schema, the key table of config/README.md and config.yaml are made.

``python -m introprior.experiment.config`` writes these three anew (``make config``). Light on purpose: the workflow
reads its configuration at every start, so importing this package brings neither torch, numpy nor pandas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from introprior.data.images.catalogue import DATASETS as IMAGE_DATASETS
from introprior.errors import UserError
from introprior.experiment import cells, families
from introprior.experiment.config.density import Density, check_size
from introprior.experiment.config.images import Images, check_weight, text
from introprior.experiment.config.shown import Figure2, Figure3, Figure4, FigureS2, Latents, Tables
from introprior.experiment.fields import (
    Count,
    Listed,
    Model,
    Natural,
    Weight,
    listed,
    option,
    wrong,
)
from introprior.experiment.protocol import Overrides, Protocol, resolve

__all__ = ["TABLE3_CELL", "Configuration", "load", "read_yaml", "text"]

TABLE3_CELL = "sg"
"""The cell whose hyperparameters Table 3 shows."""

_TAKEN = {"data": "the prepared datasets", "reference": "the committed outcomes"}
_PLACES = {"device", "jobs_per_gpu", "gpu_memory_mb", "max_runtime", "checkpoint_seconds"}
"""Keys that say how to compute, not what."""


class Configuration(Model):
    """Every key that config/config.yaml and the files laid over it may have; others are refused."""

    experiment: Annotated[str, Field(max_length=100, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\z")] = option(
        "paper", "Name of the folder under results/ that everything is written to."
    )
    priors: Listed[str] = option(
        (), "Python files, beside the configuration, that add families of priors; see docs/add-a-prior.md."
    )
    protocol: Literal["authors", "text"] = option(
        "authors", "Preset for what the paper's text and the authors' code do differently; see docs/fidelity.md."
    )
    protocol_overrides: Overrides = option(  # type: ignore[valid-type]
        Overrides(), "Single options of the protocol that replace those of the preset; see docs/fidelity.md."
    )
    device: Annotated[str, Field(pattern=r"\A(auto|cpu|cuda(:[0-9]{1,4})?)\z")] = option(
        "auto", "Where to train and evaluate; auto, cpu, cuda or cuda:N. It never outdates a result."
    )
    jobs_per_gpu: Annotated[Count, Field(le=64)] = option(
        1, "Jobs that may share a GPU; with 2, two GPUs take --resources gpu=4. Their memory has to suffice."
    )
    gpu_memory_mb: Natural = option(
        4000, "Memory, in MB, that must be free on a GPU before a job takes it; with 0, any will do."
    )
    max_runtime: Annotated[int, Field(ge=10, le=10**6)] = option(
        2880,
        "Longest time to ask a cluster for, in minutes; a training that it cuts goes on when retried.",
    )
    checkpoint_seconds: Weight = option(
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

    # ---- What one section says of another ----

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.experiment in _TAKEN:
            problem = f"results/{self.experiment} holds {_TAKEN[self.experiment]}; choose another name"
            raise wrong("experiment", problem)
        self._check_figure3()
        self._check_image_cells()
        self._check_image_figures()
        return self

    def _check_figure3(self) -> None:
        check_size("figure3.points", self.figure3.points, self.density.datasets)
        if self.figure3.seed not in self.density.seeds:
            problem = f"{self.figure3.seed} is not trained; choose one of density.seeds: {listed(self.density.seeds)}"
            raise wrong("figure3.seed", problem)

    def _check_image_cells(self) -> None:
        for table in ("table2", "table5"):
            for i, name in enumerate(getattr(self.tables, table)):
                _check_image_cell(f"tables.{table}[{i}]", name)
        for dataset in self.images.datasets:
            count = IMAGE_DATASETS[dataset].train
            places = [
                (f"tables.{table}", cell) for table in ("table2", "table5") for cell in getattr(self.tables, table)
            ]
            if self.figure2.dataset == dataset:
                places.append(("figure2.cell", self.figure2.cell))
            for where, cell in places:
                if cells.parse(cell).size > count:
                    raise wrong(where, f"{cell} has more components than {dataset} has training images, {count}")

    def _check_image_figures(self) -> None:
        images, trained = self.images, "tables.table2 and table5"
        for i, name in enumerate(self.latents.cells):
            _among(f"latents.cells[{i}]", name, self.image_cells, trained)
        _check_image_cell("figure2.cell", self.figure2.cell)
        if not cells.parse(self.figure2.cell).clipped:
            problem = f"{self.figure2.cell} has nothing to clip; choose one with -ip, whose prior learns in the game"
            raise wrong("figure2.cell", problem)
        _among("figureS2.cell", self.figureS2.cell, self.image_cells, trained)
        for i, weight in enumerate(self.figure4.r_entropy):
            _among(f"figure4.r_entropy[{i}]", weight, images.r_entropy, "images.r_entropy")
        check_weight("figure2.r_entropy", self.figure2.r_entropy)
        tried = self.r_entropies(self.figureS2.cell)
        _among("figureS2.r_entropy", self.figureS2.r_entropy, tried, f"those of {self.figureS2.cell}")
        for path in ("figure2", "figureS2"):
            _among(f"{path}.dataset", getattr(self, path).dataset, images.datasets, "images.datasets")
        for path in ("latents", "figureS2"):
            _among(f"{path}.seed", getattr(self, path).seed, images.seeds, "images.seeds")
        warmup = images.training.warmup_epochs
        if self.figure2.epochs <= warmup:
            problem = f"must be above images.training.warmup_epochs, {warmup}, is {self.figure2.epochs}"
            raise wrong("figure2.epochs", problem)
        if self.figure2.every > self.figure2.epochs:
            raise wrong("figure2.every", f"must be at most epochs, {self.figure2.epochs}, is {self.figure2.every}")

    # ---- What it comes to ----

    @property
    def resolved_protocol(self) -> Protocol:
        """The preset with its overrides."""
        return resolve(self.protocol, self.protocol_overrides.model_dump(exclude_none=True))  # type: ignore[attr-defined]

    @property
    def density_cells(self) -> list[str]:
        """All 2D cells that the tables and the figure show, each once."""
        shown = [*self.tables.table1, TABLE3_CELL, *cells.TABLE4_SETTINGS.values(), *self.figure3.cells]
        return list(dict.fromkeys(shown))

    @property
    def image_cells(self) -> list[str]:
        """All cells trained on images, each once: those of Tables 2 and 5."""
        return list(dict.fromkeys([*self.tables.table2, *self.tables.table5]))

    @property
    def figure2_cells(self) -> list[str]:
        """The two cells of Figure 2, clipped and not."""
        return [self.figure2.cell, f"{self.figure2.cell}-unclipped"]

    def r_entropies(self, cell: str) -> tuple[float, ...]:
        """The weights of the responsibility entropy that are tried for a cell; 0 where its prior has no components."""
        return self.images.r_entropy if cells.parse(cell).family.components else (0.0,)

    def runs(
        self,
        of: Iterable[str],
        *,
        datasets: Iterable[str] | None = None,
        r_entropy: Iterable[float] | None = None,
        seeds: Iterable[int] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The wildcards of the runs on images of some cells: dataset, cell, r_entropy, seed.

        Args:
            of: the cells.
            datasets, r_entropy, seeds: some instead of all.
        """
        of, seeds = list(of), list(self.images.seeds if seeds is None else seeds)
        weights = None if r_entropy is None else list(r_entropy)
        for dataset in self.images.datasets if datasets is None else datasets:
            for cell in of:
                for weight in self.r_entropies(cell) if weights is None else weights:
                    for seed in seeds:
                        yield {"dataset": dataset, "cell": cell, "r_entropy": text(weight), "seed": seed}

    @property
    def identity(self) -> str:
        """SHA-256 of all that results depend on, wherever they are computed; names the configuration in records."""
        what = self.model_dump(mode="json", exclude=_PLACES)
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _among(path: str, value: object, known: Iterable[object], where: str) -> None:
    known = list(known)
    if value not in known:
        problem = f"{_number(value)} is not trained; choose one of {where}: {', '.join(map(_number, known))}"
        raise wrong(path, problem)


def _number(value: object) -> str:
    return text(value) if isinstance(value, float) else str(value)


def _check_image_cell(path: str, name: str) -> None:
    try:
        image_cell(name, "", clipped=True)
    except UserError as error:
        raise wrong(path, str(error).removeprefix(": ")) from None


def image_cell(name: str, where: str, clipped: bool = False) -> cells.Cell:
    """The cell of an image run: a game with the betas of its dataset and the KL by sampling.

    Args:
        name: its name.
        where: the place to blame.
        clipped: refuse ``-unclipped``, which only the two runs of Figure 2 know.

    Raises:
        UserError: no cell, or none for images.
    """
    cell = cells.parse(name, where)
    for there, part in (
        (not cell.adversarial, "vae-"),
        (cell.published_betas, "-dt"),
        (cell.closed_form_kl, "-closed"),
    ):
        if there:
            raise UserError(f"{where}: {name}: image runs have no {part}; drop it")
    if clipped and cell.intro_prior and cell.family.clipped and not cell.clipped:
        raise UserError(f"{where}: {name}: -unclipped is for Figure 2, which adds it to figure2.cell; drop it")
    return cell


# ---- Reading ----


def load(values: Mapping[str, Any], files: Iterable[str | Path] = ()) -> Configuration:
    """A configuration, checked as a whole; what it does not say is as in the paper.

    Args:
        values: its keys.
        files: where they are from; ``priors`` lie beside one of them.

    The families of priors that it adds are known from then on, in this process and in those that it starts.

    Raises:
        UserError: the first thing that is wrong: the path of the key, what is wrong with it, what is allowed.
    """
    named = values.get("priors")
    if isinstance(named, list | tuple) and all(isinstance(name, str) for name in named):
        folders = [Path(file).parent for file in reversed([*files])]
        families.add(named, "configuration: priors", folders or ["."])
    return Configuration.read(dict(values), "configuration")


def read_yaml(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Configuration files laid over one another as Snakemake does: sections key by key, all else as a whole.

    Raises:
        UserError: a file that is absent or no configuration.
    """
    import yaml

    config: dict[str, Any] = {}
    for path in map(Path, paths):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot read ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: must hold the keys of a configuration, see config/README.md")
        _lay_over(config, content)
    return config


def _lay_over(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _lay_over(config[key], value)
        else:
            config[key] = value
