"""Where results come from: beside the outputs of every job lies a record of what made them, with their checksums."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

import introprior
from introprior.errors import UserError
from introprior.experiment.fields import Listed, Part
from introprior.operations import files
from introprior.operations.files import checksum

FORMAT = 1
SUFFIX = ".provenance.json"
CONFIGURATION = "INTROPRIOR_CONFIGURATION"
"""Environment variable: the hash of the configuration that a job serves."""

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "pytorch-fid", "matplotlib")
PACKAGE = Path(introprior.__file__).parent


def path_of(output: str | os.PathLike[str]) -> Path:
    """Where the record of a job lies whose first output is ``output``."""
    return Path(f"{os.fspath(output)}{SUFFIX}")


@cache
def code() -> str:
    """SHA-256 of the package's sources, published numbers and claims, whatever their commit."""
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("py", "csv", "yaml") for path in PACKAGE.rglob(f"*.{kind}")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{checksum(path)}\n".encode())
    return digest.hexdigest()


@cache
def commit() -> str | None:
    """The git commit that the package is of, with ``-dirty`` where files differ; None where it is not of a checkout."""

    def git(*words: str) -> str:
        # A checkout may be another user's: what git would protect us from, their code, is running already.
        command = ["git", "-c", "safe.directory=*", "--no-optional-locks", "-C", str(PACKAGE), *words]
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
        return done.stdout.decode(errors="replace").strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def version() -> dict[str, str | None]:
    """Code and commit."""
    return {"code": code(), "commit": commit()}


@cache
def libraries() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def origin(device: str, started: float) -> dict[str, Any]:
    """What made a result, which is complete by now, on a device (``cpu`` or the name of a GPU) since a time (Unix).

    A :class:`Record` was begun before, so that code and commit are those that were there then.
    """
    return {
        "introprior": introprior.__version__,
        **version(),
        "configuration": os.environ.get(CONFIGURATION),
        "libraries": libraries(),
        "device": device,
        "host": socket.gethostname(),
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
    }


class Made(Part):
    """What a record holds of an output."""

    sha256: str
    bytes: Annotated[int, Field(ge=0, lt=2**63)]


class Trained(Part):
    """What a record holds of a member of a training."""

    dataset: str = ""
    seed: int
    status: str
    detail: str


class Content(Part):
    """What a record holds that readers look at."""

    introprior: str
    code: str
    commit: str | None
    configuration: str | None
    libraries: dict[str, str]
    device: str
    started: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    options: dict[str, Any]
    inputs: dict[str, str]
    outputs: Annotated[dict[str, Made], Field(min_length=1)]
    seeds: Listed[int] = ()
    records: Listed[Trained] = ()
    resumed: int = 0


class Record:
    """The record of one job, begun before its work; inputs that are not there are left out: the job will complain."""

    def __init__(self, command: str, options: Mapping[str, Any], inputs: Iterable[str | os.PathLike[str]] = ()):
        self.command, self.options = command, options
        self.inputs = {Path(path): _known_checksum(Path(path)) for path in inputs if Path(path).is_file()}
        self.started = time.time()
        version()  # now: the code may change while the job is at work

    def write(
        self,
        outputs: Sequence[str | os.PathLike[str]],
        beside: Sequence[str | os.PathLike[str]] = (),
        device: str = "cpu",
        **facts: Any,
    ) -> None:
        """Write the record, with what facts there are, beside the first of the outputs, which are complete by now.

        Where a job makes results of several runs, it is written beside a file of each. Devices and pipes keep nothing
        that one could look at later; where no output is a file, there is no record.
        """
        outputs = [path for path in outputs if files.is_regular(path)]
        beside = [path for path in beside if files.is_regular(path)]
        made = {path: {"sha256": checksum(path), "bytes": os.path.getsize(path)} for path in outputs}
        known = origin(device, self.started)
        for target in map(path_of, beside or outputs[:1]):
            content = {
                "format": FORMAT,
                "command": self.command,
                **known,
                "options": self.options,
                **facts,
                "inputs": {_from(target, path): found for path, found in self.inputs.items()},
                "outputs": {_from(target, path): found for path, found in made.items()},
            }
            files.write_json(target, content)


def read(path: Path) -> dict[str, Any]:
    """A record; a `UserError` if it is damaged, none, or of another version of the format."""
    content = files.read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format {found}, this version reads {FORMAT}; make the result anew")
    return content | Content.read(content, str(path)).model_dump()


def repeated(record: Mapping[str, Any]) -> bool:
    """Whether another record says the same of the same job, beside the first of its outputs."""
    return "/" in next(iter(record["outputs"]), "")


def _known_checksum(path: Path) -> str:
    """Of an input: what its own job has recorded, or else computed; large files are read once."""
    for record in path.parent.resolve().glob(f"*{SUFFIX}"):
        with suppress(UserError):
            if made := read(record)["outputs"].get(path.name):
                return str(made["sha256"])
    return checksum(path)


def _from(record: Path, path: str | os.PathLike[str]) -> str:
    """A path as seen from a record, so that a results tree can be moved."""
    return Path(os.path.relpath(os.path.abspath(path), os.path.abspath(record.parent))).as_posix()
