"""Python and the command ``introprior`` as programs that start at once.

Every job of a workflow is a program of its own, and importing torch, pandas and Snakemake takes most of them longer
than their work. Here one process imports these, and nothing of this project, and forks: a program is a process of its
own as ever, with its own arguments, environment, folder and streams, but finds the libraries imported.

`serve` is that process; the programs below its folder hand it what they were called with, and wait.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path

PRELOADED = ("jsonschema", "matplotlib.pyplot", "pandas", "pydantic", "scipy.stats", "seaborn", "sklearn.svm")
PRELOADED += ("sklearn.datasets", "sklearn.manifold", "snakemake.cli", "snakemake.script", "torch", "zuko")
PRELOADED += ("jinja2", "nbformat", "smart_open", "snakemake.executors.touch")  # which Snakemake imports late

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
said = server.makefile()
job = int(said.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(job, number))
code = int(said.readline() or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


@cache
def programs() -> Path:
    """The folder of the programs ``python`` and ``introprior``, which work while this process lives."""
    folder = tempfile.mkdtemp(prefix="warm")  # short: addresses of sockets may not be long
    (made := Path(folder) / "bin").mkdir()
    for program in (made / "python", made / "introprior"):
        program.write_text(CLIENT.format(python=sys.executable, address=f"{folder}/socket"))
        program.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    command = [sys.executable, __file__, folder]
    alone = clean | {"OMP_NUM_THREADS": "1"}  # what has threads is not to be forked
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=alone)
    assert server.stdout.readline() == b"ready\n"
    atexit.register(server.communicate)  # which closes its standard input, and waits
    return made


def serve(folder: Path) -> None:
    """Start what is asked for until standard input ends."""
    for name in PRELOADED:
        __import__(name)
    with contextlib.suppress(SystemExit), open(os.devnull, "w") as out, contextlib.redirect_stdout(out):
        sys.modules["snakemake.cli"].parse_args(["--version"])  # finds the plug-ins
    sys.modules["snakemake.executors.touch"].Executor.SLEEPING_TIME = 0  # else it touches ten files a second
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        os.write(1, b"ready\n")
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            if not os.fork():
                listener.close()
                answer(client, folder)
            client.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    shutil.rmtree(folder)
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass


def answer(client: socket.socket, folder: Path) -> None:
    """Start a program, tell its number and how it ended, and kill it where nobody listens any more."""
    _, streams, *_ = socket.recv_fds(client, 1, 3)
    arguments, place, environment = json.loads(client.makefile().readline())
    job = os.fork()
    if not job:
        client.close()
        for stream, own in enumerate(streams):
            os.dup2(own, stream)
            os.close(own)
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        become(folder, *arguments)
    client.sendall(f"{job}\n".encode())
    threading.Thread(target=kill_unheard, args=(client, job), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with contextlib.suppress(OSError):
        client.sendall(f"{code}\n".encode())
    os._exit(0)


def kill_unheard(client: socket.socket, job: int) -> None:
    """Kill a program once its caller is gone."""
    if not client.recv(1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


def become(folder: Path, program: str, *arguments: str) -> None:
    """Run ``python -m module``, ``python file`` or ``introprior``, and end."""
    sys.prefix, sys.executable = str(folder), str(folder / "bin" / "python")
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if os.path.basename(program) == "introprior":
        arguments = ("-m", "introprior", *arguments)
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
