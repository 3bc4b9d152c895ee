"""The jobs that Snakemake resolved, told by itself: written when a run or a dry run starts, for all who look at results.

``results/<experiment>/jobs.json`` holds the configuration and every job of the targets that were asked for so far.
Reading it needs no Snakemake, and paths are relative to the project's folder, so a copied folder is as good.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from introprior.errors import UserError, unknown
from introprior.operations import files, provenance

FORMAT = 1
NAME, PLANNED = "jobs.json", ".planned.json"
"""What a run writes; what a dry run does, so that trying out a configuration changes nothing of what is known of a run."""


@dataclass(frozen=True, eq=False)
class Job:
    """One job of the workflow.

    Attributes:
        rule: its name.
        wildcards: the rule's, by name.
        outputs: files that it writes; none for targets such as ``all``.
        inputs: files that it reads and other jobs write.
        log: the file of its messages, if it has one.
        benchmark: the file of its time and memory, where they are measured.
        gpu: whether it uses a GPU if there is one.
        options: what it tells its command; None where that is nothing but names of files.
    """

    rule: str
    wildcards: dict[str, str]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    log: str | None
    benchmark: str | None
    gpu: bool
    options: dict[str, Any] | None

    @property
    def record(self) -> Path:
        """Its record, see :mod:`introprior.operations.provenance`."""
        return provenance.path_of(self.outputs[0])

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from others."""
        return self.outputs or (self.rule,)


@dataclass(frozen=True)
class Dag:
    """The jobs of a configuration, each after those that it depends on.

    Attributes:
        experiment: its name.
        configuration: all keys, see :class:`introprior.experiment.config.Configuration`.
        identity: of the configuration and of the code that resolved the jobs.
        jobs: of all targets that were asked for.
    """

    experiment: str
    configuration: dict[str, Any]
    identity: str
    jobs: tuple[Job, ...]

    def of(self, targets: Iterable[str]) -> list[Job]:
        """The jobs that make some targets, by the names of their rules.

        Raises:
            UserError: a target that these jobs do not have.
        """
        known = {job.rule for job in self.jobs if not job.wildcards}
        wanted: set[str] = set()
        for target in targets:
            if target not in known:
                raise unknown("target", target, sorted(known), "plan")
            wanted.add(target)
        files_, needed = set[str](), []
        for job in reversed(self.jobs):
            if (job.rule in wanted and not job.wildcards) or not files_.isdisjoint(job.outputs):
                files_.update(job.inputs)
                needed.append(job)
        return needed[::-1]


# ---- Writing, inside Snakemake ----


def tell(workflow: Any, configuration: Mapping[str, Any], identity: str, results: str) -> None:
    """Have Snakemake write its jobs once it has resolved them, in a run or a dry run.

    Args:
        workflow: Snakemake's.
        configuration: as plain values.
        identity: of it.
        results: the experiment's folder.
    """
    from snakemake.logging import logger
    from snakemake_interface_logger_plugins.common import LogEvent

    class Resolved(logging.Filter):
        """Sees the message that the jobs are known, and lets all messages pass."""

        def filter(self, record: logging.LogRecord) -> bool:
            if getattr(record, "event", None) == LogEvent.RUN_INFO:
                logger.removeFilter(self)
                name = PLANNED if workflow.dryrun else NAME
                found = Dag(Path(results).name, dict(configuration), _identity(identity), _jobs(workflow.dag))
                write(Path(results) / name, found)
            return True

    logger.addFilter(Resolved())


def _jobs(dag: Any) -> tuple[Job, ...]:
    """Snakemake's jobs, in the order of their dependencies."""
    made = {str(path) for job in dag.jobs for path in job.output}
    jobs = []
    for job in _sorted(dag):
        options = job.params.get("options") if job.rule.name not in ("all",) else None
        jobs.append(
            Job(
                rule=job.rule.name,
                wildcards={name: str(value) for name, value in (job.wildcards_dict or {}).items()},
                outputs=tuple(map(str, job.output)),
                inputs=tuple(dict.fromkeys(str(path) for path in job.input if str(path) in made)),
                log=next(map(str, job.log), None),
                benchmark=str(job.benchmark) if job.benchmark else None,
                gpu=bool(job.rule.resources.get("gpu")),
                options=json.loads(options) if options else None,
            )
        )
    return tuple(jobs)


def _sorted(dag: Any) -> list[Any]:
    """Each job after those that it depends on."""
    done: dict[Any, None] = {}

    def visit(job: Any) -> None:
        if job not in done:
            for needed in sorted(dag.dependencies[job], key=_place):
                visit(needed)
            done[job] = None

    for job in sorted(dag.jobs, key=_place):
        visit(job)
    return list(done)


def _place(job: Any) -> tuple[str, ...]:
    return (job.rule.name, *map(str, job.output))


def _identity(configuration: str) -> str:
    return f"{configuration}-{provenance.code()[:16]}"


def write(path: Path, found: Dag) -> None:
    """Write jobs, with those that are there already of the same configuration and code."""
    jobs = {job.key: job for job in found.jobs}
    try:
        known = _parsed(path)
    except UserError:
        known = None
    if known is not None and known.identity == found.identity:
        jobs = {job.key: job for job in known.jobs} | jobs
    content = dataclasses.asdict(dataclasses.replace(found, jobs=_in_order(list(jobs.values()))))
    lines = ",\n".join(json.dumps(job, separators=(",", ":")) for job in content.pop("jobs"))
    files.write_text(path, f'{json.dumps({"format": FORMAT, **content})[:-1]}, "jobs": [\n{lines}\n]}}\n')


def _in_order(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Each job after those that make its inputs."""
    makers = {path: job for job in jobs for path in job.outputs}
    done: dict[Job, None] = {}

    def visit(job: Job) -> None:
        if job not in done:
            for path in job.inputs:
                visit(makers[path])
            done[job] = None

    for job in jobs:
        visit(job)
    return tuple(done)


# ---- Reading ----


def read(results: Path) -> Dag:
    """The jobs of a results tree, their paths where the tree lies now.

    Raises:
        UserError: nothing was ever started there, or by another version.
    """
    for name in (NAME, PLANNED):
        if (results / name).exists():
            return _moved(_parsed(results / name), results)
    raise UserError(
        f"{results / NAME}: not found; give a folder that a run of snakemake has made, results/<experiment>"
    )


def fitting(results: Path, identity: str, targets: Sequence[str]) -> Dag | None:
    """The jobs that a run or a dry run of this very configuration, code and targets has told of, if any."""
    for name in (NAME, PLANNED):
        try:
            found = _parsed(results / name)
        except UserError:
            continue
        if found.identity == _identity(identity) and {job.rule for job in found.jobs} >= set(targets):
            return found
    return None


def _parsed(path: Path) -> Dag:
    content = files.read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise UserError(f"{path}: format {version}, this version reads {FORMAT}; look with the version that wrote it")
    try:
        jobs = tuple(
            Job(**{**job, "outputs": tuple(job["outputs"]), "inputs": tuple(job["inputs"])}) for job in content["jobs"]
        )
        return Dag(content["experiment"], content["configuration"], content["identity"], jobs)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); start snakemake, or a dry run of it, again") from error


def _moved(found: Dag, results: Path) -> Dag:
    """The same with paths below ``results``; data that all experiments share lie beside it."""
    usual = f"results/{found.experiment}/"

    def place(path: str) -> str:
        inside = path.removeprefix(usual)
        return str(results / inside if inside != path else results.parent / path.removeprefix("results/"))

    def moved(job: Job) -> Job:
        return dataclasses.replace(
            job,
            outputs=tuple(map(place, job.outputs)),
            inputs=tuple(map(place, job.inputs)),
            log=job.log and place(job.log),
            benchmark=job.benchmark and place(job.benchmark),
        )

    return dataclasses.replace(found, jobs=tuple(map(moved, found.jobs)))
