"""Downloads that go on where they stopped, from several mirrors, and count only if their checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tqdm import tqdm

from introprior import __version__
from introprior.errors import UserError

PAUSE = 1.0
"""Seconds to wait before the second round through the mirrors; doubled before each further one."""


class Unreachable(UserError):
    """No mirror delivered the file."""


class _Failed(Exception):
    """One attempt failed; ``final`` if asking that mirror again is in vain."""

    def __init__(self, reason: str, final: bool = False):
        super().__init__(reason)
        self.final = final


def fetch(urls: Sequence[str], path: Path, sha256: str, *, rounds: int = 3, timeout: float = 15.0) -> str:
    """Download a file to ``path``, with a progress bar; what an interrupted download left (``.part``) is gone on with.

    Args:
        urls: where it is to be had, in the order of preference.
        path: where to put it.
        sha256: what it must be, in hexadecimal digits.
        rounds: how often to try every mirror, with growing pauses in between.
        timeout: seconds without an answer after which a mirror is given up for this round.

    Returns:
        The address that delivered it.

    Raises:
        Unreachable: no mirror did.
        UserError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    failures: dict[str, _Failed] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(rounds):
            for url in urls:
                if url in failures and failures[url].final:
                    continue
                try:
                    _transfer(url, part, timeout)
                    _check(part, sha256)
                except _Failed as failure:
                    failures[url] = failure
                else:
                    part.replace(path)
                    return url
            if all(failure.final for failure in failures.values()):
                break
            if attempt < rounds - 1:
                time.sleep(PAUSE * 2**attempt)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{part}: cannot write ({reason}); free some space, or make the folder writable") from error
    reasons = "; ".join(f"{urllib.parse.urlsplit(url).netloc}: {failure}" for url, failure in failures.items())
    raise Unreachable(f"cannot download {path.name} ({reasons})")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _transfer(url: str, part: Path, timeout: float) -> None:
    """Append to ``part`` what it lacks of ``url``, or write it anew where the server knows no ranges."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"introprior/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # there is no more: complete, unless the checksum says otherwise
            return
        final = 400 <= error.code < 500 and error.code not in (408, 429)  # those two mean: later
        raise _Failed(f"HTTP {error.code} {error.reason}", final) from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise _Failed(str(getattr(cause, "strerror", None) or cause) or type(cause).__name__) from error
    with response:
        resumed = response.status == 206
        start = start if resumed else 0
        length = response.headers.get("Content-Length")
        end = start + int(length) if length else None
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=end, initial=start, desc=part.stem, unit="B", unit_scale=True, mininterval=1.0) as bar,
        ):
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
            if end is not None and file.tell() < end:
                raise _Failed(f"the connection broke after {file.tell()} of {end} bytes")


def _read(response: IO[bytes]) -> bytes:
    """The next piece; what goes wrong here is the network's fault, not the disk's."""
    try:
        return response.read(1 << 18)
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(f"the connection broke ({error})") from error


def _check(part: Path, sha256: str) -> None:
    if sha256_of(part) != sha256:
        part.unlink()
        raise _Failed("sent another file (SHA-256 differs)")
