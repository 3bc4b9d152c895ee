"""Downloads of image datasets and of Inception's weights, from a server here that has the faults of real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from pytorch_fid import inception as upstream

from introprior.data import images
from introprior.data.images.splits import load
from introprior.errors import UserError
from introprior.metrics import inception
from introprior.operations import downloads
from tests import published
from tests.commands import refused
from tests.published import Files, Tiny, sha256, write

WEIGHTS = b"weights" * 1000


class Server(ThreadingHTTPServer):
    """Serves files by name with a fault, and keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: Files = {}
        self.fault = ""
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}/"
        self.closing = threading.Event()


class Answer(BaseHTTPRequestHandler):
    """One answer of the server."""

    server: Server

    def do_GET(self) -> None:
        name, fault = self.path[1:], self.server.fault
        self.server.asked.append(name)
        if fault == "silent":
            self.server.closing.wait()
        elif fault == "dripping":
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.wait(0.05):
                self.wfile.write(b"!")
        elif fault == "missing" or name not in self.server.files:
            self.send_error(404)
        elif fault.startswith("redirect"):
            self.send_response(302)
            self.send_header("Location", fault.removeprefix("redirect ") or self.path)
            self.end_headers()
        else:
            data = self.server.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write({"junk": b"!" + data[1:], "cut": data[: len(data) // 2]}.get(fault, data))

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def publish(server, monkeypatch) -> Callable[[str], Tiny]:
    """Put a tiny edition of a dataset on the server."""

    def tiny(name: str) -> Tiny:
        made = published.publish(monkeypatch, images.DATASETS[name], address=server.address)
        server.files = {Path(name).name: data for name, data in made.packed.items()}
        return made

    return tiny


@pytest.fixture(params=["MNIST", "CIFAR-10", "weights"])
def fetch(request, publish, server, tmp_path, monkeypatch) -> Callable[[], object]:
    """What downloads a dataset or the weights from the server; nothing is there yet."""
    if request.param != "weights":
        publish(request.param)
        return lambda: images.prepare(request.param, tmp_path / "out")
    server.files = {inception.WEIGHTS: WEIGHTS}
    monkeypatch.setattr(upstream, "FID_WEIGHTS_URL", server.address + inception.WEIGHTS)
    monkeypatch.setattr(inception, "SHA256", sha256(WEIGHTS))
    return inception.weights


FAULTS = {
    "missing": "404",
    "junk": "",
    "cut": "",
    "silent": "timed out",
    "dripping": "the server sends next to nothing",
    "redirect ": "infinite loop",
    "redirect file:///etc/hostname": "not allowed",
    "redirect http://[nonsense": "",
}
"""With what is said of them at least."""


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_server_does_is_one_line_and_leaves_nothing_that_is_trusted(
    fetch, server, tmp_path, monkeypatch, fault
):
    server.fault = fault
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "PATIENCE", 0.4 if fault == "dripping" else 60)
        with pytest.raises(UserError, match=r"^\S+: cannot download \(.*" + FAULTS[fault]) as raised:
            fetch()
    assert "\n" not in str(raised.value)
    assert server.asked
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= set(server.files)
    server.fault = ""
    fetch()


def test_no_server_says_what_to_do(fetch, server):
    server.shutdown()
    server.server_close()
    weights = inception.WEIGHTS in server.files
    what_to_do = ("fd_classifier", upstream.FID_WEIGHTS_URL, "home/") if weights else ("images.source",)
    refused(fetch, "cannot download (", "Connection refused", *what_to_do)


def test_what_is_there_is_not_downloaded_again(fetch, server, tmp_path):
    first, asked = fetch(), len(server.asked)
    assert fetch() == first
    assert len(server.asked) == asked
    if isinstance(first, Path):  # to where pytorch-fid looks for weights
        assert first == tmp_path / "home/hub/checkpoints" / inception.WEIGHTS
        assert first.read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["MNIST", "CIFAR-10"])
def test_downloads_are_prepared_and_removed(publish, tmp_path, name):
    tiny = publish(name)
    manifest = images.prepare(name, tmp_path)
    assert manifest["origin"] == "downloaded by torchvision"
    assert manifest["verified"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(images.FILES)
    for split, (pixels, labels) in tiny.arrays.items():
        assert np.array_equal(load(tmp_path, split).images, pixels)
        assert np.array_equal(load(tmp_path, split).labels, labels)


def test_the_next_attempt_keeps_whole_files_and_nothing_else(publish, server, tmp_path):
    tiny = publish("MNIST")
    last, kept = server.files.popitem()
    refused(lambda: images.prepare("MNIST", tmp_path), "cannot download", last)
    assert not (tmp_path / images.FILES[0]).exists()
    server.files[last] = kept
    server.asked.clear()
    cut = {name: data[:-9] for name, data in tiny.files.items()}  # by a process that was killed while unpacking
    write(tmp_path / ".downloads", cut)
    images.prepare("MNIST", tmp_path)
    assert set(server.asked) == {last}
    assert len(load(tmp_path, "train").images) == 20


def test_a_mirror_that_sends_junk_leaves_the_next_ones_file_alone(publish, server, tmp_path, monkeypatch):
    tiny = publish("MNIST")
    server.files |= {f"bad/{name}": b"junk" for name in server.files}
    reader = torchvision.datasets.MNIST
    monkeypatch.setattr(reader, "mirrors", [f"{server.address}bad/", f"{server.address}none/", server.address])
    images.prepare("MNIST", tmp_path)
    assert {path.partition("/")[0] for path in server.asked if "/" in path} == {"bad", "none"}
    assert np.array_equal(load(tmp_path, "train").images, tiny.arrays["train"][0])
