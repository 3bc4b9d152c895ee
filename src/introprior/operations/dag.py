"""The jobs that Snakemake resolved, written by itself when a run or a dry run starts, for all who look at results.

``results/<experiment>/jobs.json`` holds the configuration and every job of the targets that were asked for so far.
Reading it needs no Snakemake, and its paths are relative to the project's folder, so a copied folder is as good.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from introprior.errors import UserError, one_line, unknown
from introprior.operations import files, provenance

if TYPE_CHECKING:
    from introprior.experiment.config import Configuration

FORMAT = 1
NAME, PLANNED = "jobs.json", ".planned.json"
"""What a run writes, and what a dry run does: to try a configuration changes nothing of what is known of a run."""


@dataclass(frozen=True, eq=False)
class Job:
    """One job of the workflow.

    Attributes:
        outputs: files that it writes; none for targets such as ``all``.
        inputs: files that it reads and other jobs write, in the rule's order.
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
    def datasets(self) -> list[str]:
        """What it is about, one dataset or several."""
        return [self.wildcards["dataset"]] if "dataset" in self.wildcards else (self.options or {}).get("dataset", [])

    @property
    def record(self) -> Path:
        """Its record, see :mod:`introprior.operations.provenance`."""
        return provenance.path_of(self.outputs[0])


@dataclass(frozen=True)
class Dag:
    """The jobs of an experiment, each after those that it depends on, for all targets that were asked for.

    Its identity is that of the configuration, a hyphen, and that of the code that resolved the jobs.
    """

    experiment: str
    configuration: dict[str, Any]
    identity: str
    jobs: tuple[Job, ...]

    def of(self, targets: Iterable[str]) -> list[Job]:
        """The jobs that make some targets, each the name of a rule or a file.

        Raises:
            UserError: a target that these jobs do not have.
        """
        known = {job.rule for job in self.jobs if not job.wildcards}
        wanted = set(targets)
        for target in sorted(wanted - known - {path for job in self.jobs for path in job.outputs}):
            raise unknown("target", target, sorted(known), "plan")
        needed = []
        for job in reversed(self.jobs):
            if (job.rule in wanted and not job.wildcards) or not wanted.isdisjoint(job.outputs):
                wanted.update(job.inputs)
                needed.append(job)
        return needed[::-1]


# ---- Writing, inside Snakemake ----


def tell(workflow: Any, config: Configuration, results: str, rules: Any) -> None:
    """Have Snakemake write its jobs once it has resolved them, in a run or a dry run; where that fails, it warns.

    ``results`` is the experiment's folder, ``rules`` are Snakemake's of this project by the names that they have here:
    in a module they may be called otherwise, and the rules of others stand beside them.
    """
    from snakemake.common import NOTHING_TO_BE_DONE_MSG
    from snakemake.logging import logger
    from snakemake_interface_logger_plugins.common import LogEvent

    def resolved(record: logging.LogRecord) -> bool:
        """Sees the message that the jobs are known, or all made, and lets every message pass."""
        begun = getattr(record, "event", None) == LogEvent.RUN_INFO
        if begun or record.msg == NOTHING_TO_BE_DONE_MSG:
            logger.removeFilter(resolved)
            path = Path(results) / (PLANNED if workflow.dryrun else NAME)
            try:
                names = {known.rule: name for name, known in vars(rules)["_rules"].items()}
                jobs = _jobs([job for job in workflow.dag.jobs if job.rule in names], names)
                found = Dag(config.experiment, config.model_dump(mode="json"), identity(config), jobs)
                _write(path, found, begun)
            except Exception as error:  # whatever it is, the run is worth more
                warning = "introprior: status and verify will not know the jobs of this run"
                logger.warning(f"{warning} ({one_line(error)})")
            if begun and not workflow.dryrun:
                try:
                    check_dates(path for job in workflow.dag.jobs for path in job.input)
                except UserError as error:
                    logger.error(f"introprior: {error}")
                    sys.exit(1)
        return True

    logger.addFilter(resolved)


def check_dates(inputs: Iterable[str]) -> None:
    """A `UserError` where an input is dated in the future: Snakemake would delete what was made of it, at the end."""
    now = time.time()
    for path in sorted(set(map(str, inputs))):
        with suppress(OSError):
            if (ahead := os.stat(path).st_mtime - now) > 1:
                problem = f"dated {ahead:,.0f} s in the future, so Snakemake would delete what is made from it"
                raise UserError(f"{path}: {problem}; touch it, once this machine's clock is right")


def callable_as(executable: str) -> str:
    """What to call a Python by, whose folder is in PATH: Snakemake writes that into shell commands without quotes.

    Raises:
        UserError: it cannot be found by its name either.
    """
    if os.pathsep in executable:
        raise UserError(f"{executable}: no folder in PATH may have a colon in its name; rename it, then make env")
    return executable if quote(executable) == executable else Path(executable).name


def identity(config: Configuration) -> str:
    """The same for the same configuration, package and rules."""
    digest = hashlib.sha256(provenance.code().encode())
    for path in sorted(Path("workflow").rglob("*.smk")):
        digest.update(path.read_bytes())
    return f"{config.identity}-{digest.hexdigest()[:16]}"


def _jobs(resolved: Sequence[Any], names: Mapping[Any, str]) -> tuple[Job, ...]:
    """Snakemake's jobs, in the order in which the targets ask for them; names are those of their rules."""
    made = {str(path) for job in resolved for path in job.output}
    jobs = [
        Job(
            rule=names[job.rule],
            wildcards={name: str(value) for name, value in (job.wildcards_dict or {}).items()},
            outputs=tuple(map(str, job.output)),
            inputs=tuple(dict.fromkeys(path for path in map(str, job.input) if path in made)),
            log=next(map(str, job.log), None),
            benchmark=str(job.benchmark) if job.benchmark else None,
            gpu="gpu" in job.rule.resources,
            options=json.loads(job.params.get("options") or "null"),
        )
        for job in resolved
    ]
    return _in_order(sorted(jobs, key=lambda job: (bool(job.outputs), job.outputs, job.rule)))


def _write(path: Path, found: Dag, begun: bool) -> None:
    """Write jobs, with those that are there already of the same configuration and code.

    Unless a run begins, a file that would say the same stays as it is.
    """
    jobs = found.jobs
    with suppress(UserError):
        known = _parsed(path)
        if known.identity == found.identity:
            jobs = known.jobs + jobs
    latest = {job.outputs or job.rule: job for job in jobs}
    text = sealed({**vars(found), "jobs": [vars(job) for job in _in_order(latest.values())]})
    if begun or not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def sealed(content: Mapping[str, Any]) -> str:
    """The text of the file; nothing in it changes without its checksum telling, so that readers can trust the rest."""
    return json.dumps({"format": FORMAT, "sha256": _seal(content), **content}, separators=(",", ":"))


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _in_order(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """Each job after those that make its inputs."""
    jobs = tuple(jobs)
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
            return _parsed(results / name)
    if (results / "configuration.json").exists():
        raise UserError(f"{results}: made by introprior 0.1, which alone reads it; name another folder, or run it anew")
    raise UserError(
        f"{results / NAME}: not found; give a folder that a run of snakemake has made, results/<experiment>"
    )


def fitting(config: Configuration, targets: Sequence[str]) -> list[Job] | None:
    """The jobs of some targets, if a run or a dry run of this very configuration and code has told of them."""
    for name in (NAME, PLANNED):
        with suppress(UserError):
            found = _parsed(Path("results") / config.experiment / name)
            if found.identity == identity(config):
                return found.of(targets)
    return None


def _parsed(path: Path) -> Dag:
    """What was written, with paths below the folder that it lies in; data that all experiments share lie beside it."""
    content = files.read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise UserError(f"{path}: format {version}, this version reads {FORMAT}; look with the version that wrote it")
    del content["format"]
    if content.pop("sha256", None) != _seal(content):
        raise UserError(f"{path}: damaged, or changed by hand; start snakemake, or a dry run of it, again")

    def place(written: str) -> str:
        inside = written.removeprefix(usual)
        return str(path.parent / inside if inside != written else path.parent.parent / written.removeprefix("results/"))

    def placed(job: dict[str, Any]) -> dict[str, Any]:
        lists = {name: tuple(map(place, job[name])) for name in ("outputs", "inputs")}
        return job | lists | {name: job[name] and place(job[name]) for name in ("log", "benchmark")}

    usual = f"results/{content['experiment']}/"
    jobs = tuple(Job(**placed(job)) for job in content["jobs"])
    return Dag(content["experiment"], content["configuration"], content["identity"], jobs)
