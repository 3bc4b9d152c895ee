"""The Kubernetes profile: the plan, and what is really submitted, to a stand-in for the cluster's API."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

pytest.importorskip("snakemake")
pytest.importorskip("snakemake_executor_plugin_kubernetes")

from tests.projects import ROOT, copy_project

PROFILE = "workflow/profiles/kubernetes"
ENSEMBLE = "results/tiny/density/Rings/sg/ensemble.pt"
TINY = """\
experiment: tiny
checkpoint_seconds: 0.1
density:
  datasets: [Rings]
  seeds: [0, 1]
  training: {iterations: 400, warmup_iterations: 60, mixture_warmup_iterations: 20, batch_size: 64, hidden_width: 16}
  search: {enabled: false}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project on what stands for the volume."""
    folder = tmp_path_factory.mktemp("volume") / "introprior"
    folder.mkdir()
    copy_project(folder)
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def environment(project: Path, **others: str) -> dict[str, str]:
    """What a process needs to run the copy, with little of this one's environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    paths = {"PATH": path, "HOME": str(project.parent), "PYTHONPATH": str(project / "src")}
    return {**paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **others}


def snakemake(project: Path, *arguments: str, **others: str) -> tuple[int, str]:
    """Run Snakemake in the copy, with the profile's executor in reach; the exit code and all that was printed."""
    variables = environment(project, **others)
    variables["PYTHONPATH"] += f":{PROFILE}"
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


# ---- A stand-in for the API server, and for the nodes behind it ----


class Cluster(ThreadingHTTPServer):
    """Answers the requests that the plugin makes, and runs what the submitted jobs ask for, one process per pod.

    So many of the first pods as are to be ``preempted`` are killed in the midst of their training.
    """

    def __init__(self, project: Path, preempted: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.project, self.preempted = project, preempted
        self.jobs: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.pods: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, job: dict[str, Any]) -> None:
        """Run the container's command as a pod would: in an empty folder, with the image's environment."""
        self.jobs.append(job)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        number = len(self.jobs)
        home = self.project.parent / f"pod-{number}"
        home.mkdir()
        with (home / "log").open("wb") as log:
            pod = subprocess.Popen(
                [*container["command"], *container["args"]], cwd=home, env=environment(self.project),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pods[job["metadata"]["name"]] = pod
        if number <= self.preempted:
            threading.Thread(target=self.preempt, args=[pod], daemon=True).start()

    def preempt(self, pod: subprocess.Popen[bytes]) -> None:
        """Take the node away as soon as the training has kept its state once."""
        while pod.poll() is None and not list(self.project.glob("results/tiny/.state/[!.]*.pt")):
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.pid, signal.SIGKILL)

    def status(self, name: str) -> dict[str, int]:
        """A job's status in the API's words."""
        code = self.pods[name].poll()
        return {"active": 1} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}


class Handler(BaseHTTPRequestHandler):
    """The few paths of the API."""

    server: Cluster

    def answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/apis/batch/v1/namespaces/lab/jobs":
            self.server.start(body)
        self.answer(201, body)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(f"GET {url.path}")
        query = parse_qs(url.query)
        if match := re.fullmatch(r"/apis/batch/v1/namespaces/lab/jobs/([\w-]+)/status", url.path):
            self.answer(200, {"kind": "Job", "status": self.server.status(match[1])})
        elif url.path == "/api/v1/namespaces/lab/pods":
            name = query["labelSelector"][0].removeprefix("job-name=")
            code = self.server.pods[name].poll()
            state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
            ids = {"image": "i", "imageID": "i", "ready": False, "restartCount": 0}
            status = {"containerStatuses": [{"name": "snakemake", "state": state, **ids}]}
            self.answer(200, {"kind": "PodList", "items": [{"metadata": {"name": f"{name}-x"}, "status": status}]})
        elif url.path.endswith("/log") and query.get("previous"):
            self.answer(400, {"kind": "Status", "message": "previous terminated container not found"})
        else:
            self.answer(404, {"kind": "Status"})

    def do_DELETE(self) -> None:
        self.server.requests.append(f"DELETE {urlsplit(self.path).path}")
        self.answer(200, {"kind": "Status", "status": "Success"})

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def cluster(project: Path, preempted: int = 0) -> Iterator[tuple[Cluster, str]]:
    """The stand-in, and the path of a kubeconfig that leads to it."""
    with Cluster(project, preempted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "me", "user": {"token": "none"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "current-context": "here",
        }
        path = project.parent / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        try:
            yield server, str(path)
        finally:
            server.shutdown()
            for pod in server.pods.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pod.pid, signal.SIGKILL)
                pod.wait()


# ---- Tests ----


def test_all_can_be_planned_with_the_profile(project: Path) -> None:
    """What this machine plans, too: tests/test_workflow_dag.py."""
    demo = ["--configfile", "config/demo-all.yaml", "--workflow-profile", PROFILE]
    code, printed = snakemake(project, "--dry-run", "--quiet", "rules", *demo)
    assert code == 0, printed
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed.rpartition("Job stats:")[2], re.M))
    assert [counts[rule] for rule in ("search", "train", "evaluate", "warmup", "game")] == ["4", "8", "8", "5", "17"]


def test_the_plugin_itself_rules_out_a_shared_volume(project: Path) -> None:
    """Why there is an executor beside the profile: once this fails, it may go."""
    shared = ["--shared-fs-usage", "input-output", "persistence", "sources", "--workflow-profile", "none"]
    code, printed = snakemake(project, "--dry-run", "--executor", "kubernetes", "--jobs", "1", *shared)
    assert code == 1
    assert "If no shared filesystem is assumed" in printed


def arguments(project: Path, volume: Path) -> list[str]:
    """How a user of the profile calls Snakemake for one training: own namespace, image and volume; less patience."""
    own = ["--kubernetes-volume-namespace", "lab", "--container-image", "example.org/own:1"]
    own += ["--kubernetes-volume-persistent-volumes", f"introprior:{volume}"]
    haste = ["--seconds-between-status-checks", "1", "--latency-wait", "5"]
    files = ["--configfile", "config/demo-all.yaml", "tiny.yaml"]
    return ["--workflow-profile", PROFILE, *own, *haste, *files, "--", ENSEMBLE]


def test_a_training_whose_pod_is_preempted_is_submitted_again_and_goes_on(project: Path) -> None:
    """Real plugin, real requests, real commands; only the API server and the nodes are stood in for."""
    call = arguments(project, project.parent)
    with cluster(project, preempted=1) as (server, kubeconfig):
        code, printed = snakemake(project, *call, KUBECONFIG=kubeconfig)
        logs = "".join(path.read_text() for path in sorted(project.parent.glob("pod-*/log")))
        assert code == 0, printed + logs
    record = json.loads(Path(f"{project / ENSEMBLE}.provenance.json").read_text())
    assert 0 < record["resumed"] < record["iterations"] == 400
    assert [path.name for path in project.parent.glob("pod-*/*")] == ["log"] * 2  # nothing was left in the pods
    first, second = server.jobs
    assert first["metadata"]["name"] != second["metadata"]["name"]
    for attempt, job in enumerate(server.jobs, start=1):
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert job["spec"]["backoffLimit"] == 0  # Snakemake retries, Kubernetes does not
        assert pod["restartPolicy"] == "Never"
        assert container["image"] == "example.org/own:1"
        asked = container["resources"]
        assert asked["limits"]["nvidia.com/gpu"] == asked["requests"]["nvidia.com/gpu"] == "1"
        assert asked["requests"]["cpu"] == "950m"
        assert asked["limits"]["cpu"] == "1000m"
        assert asked["limits"]["memory"] == asked["requests"]["memory"]
        assert re.fullmatch(r"[1-9]\d+M", asked["limits"]["memory"])
        assert asked["requests"]["ephemeral-storage"] == "2000M"
        assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]
        assert {"name": "introprior", "mountPath": str(project.parent)} in container["volumeMounts"]
        assert {"name": "introprior", "persistentVolumeClaim": {"claimName": "introprior"}} in pod["volumes"]
        (command,) = container["args"][1:]
        assert command.startswith(f"cd {project} && python -m snakemake")
        assert f"--attempt {attempt} " in command
        assert "--retries 0" in command  # in the pod
    names = [job["metadata"]["name"] for job in server.jobs]
    assert [f"DELETE /apis/batch/v1/namespaces/lab/jobs/{name}" in server.requests for name in names] == [True, True]
    assert set(map(used, server.requests)) == granted()


def documents() -> list[dict[str, Any]]:
    """All that the documentation tells to apply."""
    blocks = re.findall(r"^   ```yaml\n(.*?)^   ```$", (ROOT / "docs/kubernetes.md").read_text(), re.M | re.S)
    return [document for block in blocks for document in yaml.safe_load_all(textwrap.dedent(block))]


def granted() -> set[tuple[str, str, str]]:
    """API group, resource and verb of every right that the documentation gives to Snakemake."""
    (role,) = (document for document in documents() if document["kind"] == "Role")
    rules = role["rules"]
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


def used(request: str) -> tuple[str, str, str]:
    """The right that a request needs."""
    method, path = request.split()
    match = re.fullmatch(r"/(?:apis/(\w+)|api)/v1/namespaces/lab/(\w+)(?:/([\w-]+)(/\w+)?)?", path)
    assert match, path
    group, resource, name, part = match.groups(default="")
    verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
    return group, resource + part, verb


def test_a_project_on_no_volume_is_refused_before_anything_is_submitted(project: Path, tmp_path: Path) -> None:
    with cluster(project) as (server, kubeconfig):
        code, printed = snakemake(project, "--forceall", *arguments(project, tmp_path), KUBECONFIG=kubeconfig)
    assert code == 1
    assert f"{project} lies on no volume that jobs will see ({tmp_path})" in printed
    assert server.requests == []


def test_profile_image_and_documentation_agree() -> None:
    profile = yaml.safe_load((ROOT / PROFILE / "config.yaml").read_text())
    ((claim, path),) = (volume.split(":") for volume in profile["kubernetes-volume-persistent-volumes"])
    container = (ROOT / "envs/Containerfile").read_text()
    (folder,) = re.findall(r"^WORKDIR (.+)$", container, re.M)
    assert Path(folder).is_relative_to(path)
    assert profile["container-image"] in container
    kinds = {document["kind"]: document for document in documents()}
    assert kinds["PersistentVolumeClaim"]["metadata"]["name"] == claim
    pod = kinds["Pod"]["spec"]
    assert pod["containers"][0]["image"] == profile["container-image"]
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == path
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]


def test_the_image_gets_all_that_the_installation_reads(tmp_path: Path) -> None:
    """Building the image takes a network; what it copies is enough to install the project, which is tried."""
    source = tmp_path / "source"
    source.mkdir()
    for line in re.findall(r"^COPY (.+) \S+$", (ROOT / "envs/Containerfile").read_text(), re.M):
        subprocess.run(["cp", "--recursive", *line.split(), source], cwd=ROOT, check=True)
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("introprior-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (link,) = (name for name in archive.namelist() if name.endswith(".pth"))
        assert archive.read(link).decode().strip() == str(source / "src")
