"""The program that `--on` starts on the other machine, where nothing is installed yet: standard library only.

It is sent through ssh, never imported there. It reads a job from standard input: a line of JSON, then the bytes of the
files that it lists, then heartbeats for as long as the connection lasts. It writes messages to standard output, each a
line of JSON after a token, because the account's start-up files may print there too.

Two processes: a worker in a session of its own, and its supervisor, which removes the worker's folder, its children and
a half-made environment in whatever way it ends. What a killed supervisor leaves is removed by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

SILENCE = 60
"""Seconds without a byte after which the connection counts as lost."""
READY = "ready"
"""File that is written last into an environment."""
CHUNK = 1 << 20


class Failure(Exception):  # noqa: N818 - a message to the other side
    """What this machine lacks, in a sentence, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def main(token: str) -> None:
    """Run the job of standard input and leave nothing but a complete environment."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist-edge" / "devices"
    try:
        os.umask(0o077)
        (root / "runs").mkdir(parents=True, exist_ok=True)
        (root / "environments").mkdir(exist_ok=True)
        _remove_unused(root / "runs")
        folder = Path(tempfile.mkdtemp(dir=root / "runs"))
        _lock(folder, fcntl.LOCK_EX)
    except OSError as error:
        _send(token, error=f"{error.filename or root}: {error.strerror}", hint=_hint(error))
        return
    worker = os.fork()
    if worker == 0:
        os.setsid()
        _work(token, root, folder)
    _supervise(worker, root, folder)


def _supervise(worker: int, root: Path, folder: Path) -> None:
    def end(_number: int, _frame: object) -> None:
        for kill in (os.killpg, os.kill):  # before it is in a session of its own, it has no group to kill
            with contextlib.suppress(OSError):
                kill(worker, signal.SIGKILL)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    os.waitpid(worker, 0)
    end(0, None)  # its children
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.1)  # a child that is not quite dead has written once more
    with contextlib.suppress(OSError), _locked(root):
        for environment in (root / "environments").iterdir():
            if not (environment / READY).exists():
                shutil.rmtree(environment, ignore_errors=True)


def _work(token: str, root: Path, folder: Path) -> NoReturn:
    """Run the job in the worker process, and end the process."""
    code = 1
    try:
        _send(token, stage="copying")
        job = _receive(folder)
        threading.Thread(target=_end_with_connection, daemon=True).start()
        python, _lock_of_environment = _environment(token, root, folder, job)
        _send(token, stage="running")
        # Nothing of this account decides what is compared: the test set is the one that was sent.
        own = {"PYTHONSAFEPATH": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        done = _run([str(python), "-m", "mnist_edge", *job["words"]], folder, own)
        _send(token, code=done.returncode, output=done.stdout, last_line=_last_line(done.stderr))
        code = 0
    except Failure as failure:
        _send(token, error=failure.message, hint=failure.hint)
    except OSError as error:
        _send(token, error=f"{error.filename or folder}: {error.strerror or error}", hint=_hint(error))
    except BaseException as error:  # noqa: BLE001 - the last line of defence against a traceback
        _send(token, error=f"{type(error).__name__}: {error}", hint="please report it")
    os._exit(code)


def _receive(folder: Path) -> dict[str, Any]:
    """Return the job, and write its files into the folder."""
    line = b""
    while not line.endswith(b"\n"):
        line += _read(1)
    job: dict[str, Any] = json.loads(line)
    for name, size in job["files"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        left = size
        with path.open("wb") as file:
            while left:
                chunk = _read(min(left, CHUNK))
                file.write(chunk)
                left -= len(chunk)
    return job


def _read(size: int) -> bytes:
    """Return 1 to `size` bytes of standard input; end the process where the connection is lost."""
    if select.select([0], [], [], SILENCE)[0] and (data := os.read(0, size)):
        return data
    os._exit(1)


def _end_with_connection() -> None:
    """Kill this process and its children when standard input ends or stays silent."""
    while select.select([0], [], [], SILENCE)[0] and os.read(0, CHUNK):
        pass
    os.killpg(0, signal.SIGKILL)


def _environment(token: str, root: Path, folder: Path, job: dict[str, Any]) -> tuple[Path, int]:
    """Return the interpreter of the environment for the job's wheel, and a lock that keeps it; make it if need be."""
    environments = root / "environments"
    home = environments / f"{job['environment']}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python = home / "bin" / "python"
    with _locked(root, lambda: _send(token, stage="waiting")):
        if not (home / READY).exists() or not python.exists():  # it links to an interpreter that may be gone
            _send(token, stage="setting up", python=sys.version.split()[0])
            shutil.rmtree(home, ignore_errors=True)
            _make(home, folder, job)
            held = _lock(home, fcntl.LOCK_SH)
            _remove_unused(environments)
        else:
            held = _lock(home, fcntl.LOCK_SH)
    return python, held


def _make(home: Path, folder: Path, job: dict[str, Any]) -> None:
    version = sys.version.split()[0]
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise Failure(
            f"its Python {version} cannot make environments: ensurepip is missing",
            "apt-get install python3-venv there, or what your system calls it",
        )
    python = str(home / "bin" / "python")
    own = {"TMPDIR": str(folder)}  # removed with it; /tmp may be small, and in memory
    steps = {
        "venv": [sys.executable, "-m", "venv", "--without-pip", str(home)],
        "ensurepip": [python, "-m", "ensurepip", "--default-pip"],
        "pip": [python, "-m", "pip", "install", "--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check",
                f"{folder / job['wheel']}[{job['extra']}]"],
    }  # fmt: skip
    for name, command in steps.items():
        done = _run(command, folder, own)
        if done.returncode:
            raise Failure(f"{name} failed there: {_reason(done)}", "fix it there, then run it again")
    (home / READY).touch()


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line of a program's output that says most about why it failed."""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    full = [line for line in lines if "No space left" in line or "quota" in line]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return [f"exit code {done.returncode}", *lines[-1:], *errors[-1:], *full[-1:]][-1]


def _run(command: list[str], folder: Path, own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program with further variables, and without those of the account that could change what it does."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MNIST_EDGE"))}
    return subprocess.run(
        command, cwd=folder, env=kept | own, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip


def _remove_unused(folder: Path) -> None:
    """Remove every folder in this one that no process has locked."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            held = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


@contextlib.contextmanager
def _locked(root: Path, before_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock under which environments are made; without anything to do before it, do not wait for it."""
    try:
        held = _lock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if before_waiting is None:
            raise
        before_waiting()
        held = _lock(root, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(held)


def _lock(path: Path, how: int) -> int:
    """Lock a folder until the descriptor is closed or every process that has it ends."""
    held = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(held, how)
    except OSError:
        os.close(held)
        raise
    return held


def _send(token: str, **message: object) -> None:
    """Write one message on a line of its own; a reader who is gone is noticed elsewhere."""
    data = f"\n{token} {json.dumps(message)}\n".encode()
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(1, data) :]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _hint(error: OSError) -> str:
    return "free some space there" if "space" in str(error) or "quota" in str(error) else "check that folder there"


if __name__ == "__main__":
    main(sys.argv[-1])
