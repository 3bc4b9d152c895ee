"""Checkpoints: tensors and plain values only, whole or absent, read without executing anything.

A run in training keeps its last two states (:func:`keep`). One that was damaged, by a disk that lost bytes or a copy
that was cut short, must not stop a run that nobody looks after: :func:`latest` moves it aside, says so in one line, and
takes the one before. A whole state that is not for this run (another version's, another run's) is refused: there the
user decides.
"""

from __future__ import annotations

import errno
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from introprior.errors import UserError, cut, one_line
from introprior.experiment import families
from introprior.game.model import IntroVAE
from introprior.game.priors import Prior
from introprior.operations.files import written

FORMAT = 2
WRITTEN_BY = {1: "introprior 0.1"}
"""Which releases read the other formats."""


class Damaged(UserError):
    """The file is not, or no longer, what was written."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, numbers, strings, lists, dicts) to ``path``, as a whole or not at all."""
    with written(path) as temporary:
        _write(temporary, content)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        UserError: missing, unreadable, foreign, or written by another version of the format.
        Damaged: truncated, or with a byte that is not as it was written.
    """
    try:
        if not _intact(path):
            raise Damaged(f"{path}: damaged or not a checkpoint; delete it and run again to make it anew")
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch's unpickler raises whatever a foreign byte leads it to
        raise UserError(f"{path}: not a checkpoint; delete it and run again to make it anew") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        reader = WRITTEN_BY.get(found, "the version that wrote it") if isinstance(found, int) else "its own program"
        raise UserError(
            f"{path}: format {found}, this version reads {FORMAT}; read it with {reader}, or delete it and run again "
            "to make it anew"
        )
    return content


def keep(path: Path, content: dict[str, Any]) -> None:
    """Write a state, and keep the one before as ``*.previous`` (where the file system knows links)."""
    with written(path) as temporary:
        _write(temporary, content)
        if path.exists():
            _previous(path).unlink(missing_ok=True)
            with suppress(OSError):
                os.link(path, _previous(path))  # not renamed: there is a state at `path` at any moment


def latest(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The last state that :func:`keep` wrote, or if it is damaged the one before; None where there is none.

    A damaged one is moved aside, to ``*.damaged``, and told of on standard error.

    Raises:
        UserError: it cannot be read, or belongs to another version.
    """
    places = [place for place in (path, _previous(path)) if place.exists()]
    for place in places:
        try:
            return load(place, device)
        except Damaged:
            aside, last = path.with_suffix(".damaged"), place == places[-1]
            place.replace(aside)
            then = "beginning anew" if last else "going on from the one before"
            print(f"{place}: damaged, moved to {aside.name}; {then}", file=sys.stderr)
    return None


def forget(path: Path) -> None:
    """Remove all states that were kept at ``path``."""
    for place in (path, _previous(path), path.with_suffix(".damaged")):
        place.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous")


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        with path.open("wb") as stream:  # given a path, torch writes its name into the file: no two would be equal
            torch.save({"format": FORMAT, **content}, stream)
    except RuntimeError as error:  # torch's zip writer reports a full disk so
        raise OSError(str(error).splitlines()[0]) from error


def _intact(path: Path) -> bool:
    """Whether the file is a zip archive whose checksums hold; torch writes them, and does not look at them.

    Nor does it fill the memory of an entry that one false bit has made a folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and not any(entry.external_attr for entry in archive.infolist())
    except OSError as error:
        if error.errno != errno.EINVAL:  # what seeking to a place that a false byte names comes to
            raise
        return False
    except Exception:  # zipfile raises whatever a false byte leads it to
        return False


@contextmanager
def understood(path: Path, what: str) -> Iterator[None]:
    """A checkpoint that is whole and is none of ``what``, whose parts are missing or others, is a `UserError`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, IndexError) as error:
        problem = f"not {what} ({cut(one_line(error))})"
        raise UserError(f"{path}: {problem}; delete it and run again to make it anew") from error


def model_state(model: IntroVAE, members: Sequence[int] | None = None) -> dict[str, Any]:
    """A model's tensors, of some of its members or all, and what kind of prior it has by now."""
    tensors = model.state_dict()
    if members is not None:
        shared = {f"prior.{name}" for name in model.prior.shared()}
        tensors = {name: tensor if name in shared else tensor[list(members)] for name, tensor in tensors.items()}
    return {"tensors": tensors, "prior": families.saved(model.prior)}


def restore(model: IntroVAE, state: dict[str, Any], device: torch.device | str) -> None:
    """Give ``model`` the prior and the tensors of ``state``; its members become as many as the state's."""
    tensors = state["tensors"]
    of_prior = {name.removeprefix("prior."): value for name, value in tensors.items() if name.startswith("prior.")}
    model.prior = families.restored(state["prior"], of_prior)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.data = tensors[name].clone()
    model.to(device)


def restored(networks: tuple[nn.Module, nn.Module], state: dict[str, Any], device: torch.device | str) -> IntroVAE:
    """The model of a state, for which there are networks of its shapes, in evaluation mode."""
    model = IntroVAE(*networks, Prior())
    restore(model, state, device)
    return model.eval()
