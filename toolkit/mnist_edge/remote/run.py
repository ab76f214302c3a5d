"""Run a command of mnist-edge on another machine, and return what it printed."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import IO, Any, Literal, Self

from mnist_edge.errors import (
    BadFileError,
    CheckFailedError,
    MnistEdgeError,
    UnavailableError,
    UnexpectedError,
    UsageError,
)
from mnist_edge.files import sha256_bytes
from mnist_edge.remote.ssh import MINIMUM, NO_PYTHON, connection_error, require_destination, ssh_command
from mnist_edge.remote.wheel import build_wheel

HEARTBEAT_SECONDS = 10
"""The program there gives up after six of them."""
CLEAN_UP_SECONDS = 10
"""How long the other side may take to remove its folder before ssh is ended."""
CHUNK = 2**16
"""Bytes after which sending notices that it is to stop."""
MAX_LINE = 256 * 2**20
"""Bytes of one message, which holds a report."""
MAX_NOISE = 2**20
"""Bytes of other output than messages, such as greetings, after which the account is not usable."""
KEPT_LINES, KEPT_BYTES = 50, 500
"""How much of other output is kept, for an error."""
ERRORS: dict[str, type[MnistEdgeError]] = {
    error.kind: error for error in (CheckFailedError, UsageError, BadFileError, UnavailableError, UnexpectedError)
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to run on another machine.

    Attributes:
        on: what ssh takes as a destination.
        words: the command without the program's name; it must print JSON. It runs in a folder with `files`.
        files: content by relative path.
        extra: of the package that the command needs.
    """

    on: str
    words: tuple[str, ...]
    files: Mapping[str, bytes]
    extra: Literal["cpu", "cuda"] = "cpu"


def run_there(job: Job, notify: Callable[[str], None] = lambda _line: None) -> dict[str, Any]:
    """Run a job, and return the JSON document that it printed; its exit code is then 0 or 1.

    The environment that it runs in is made by the first job of this version of mnist-edge, and kept. Everything else
    is removed there before this function returns, or as soon as the other side notices that the connection is lost.

    Args:
        job: what to run, and where.
        notify: takes one plain line about what happens.

    Raises:
        UsageError: `on` is no destination.
        UnavailableError: ssh, the connection or the other machine failed.
        MnistEdgeError: the error of the command there, of the same class.
    """
    require_destination(job.on)
    name, wheel = build_wheel()
    contents = {name: wheel, **job.files}
    header = {
        "words": job.words,
        "wheel": name,
        "extra": job.extra,
        "environment": f"{sha256_bytes(wheel)[:16]}-{job.extra}",
        "files": [(path, len(content)) for path, content in contents.items()],
    }
    program = files("mnist_edge.remote").joinpath("there.py").read_bytes()
    token = secrets.token_hex(8)
    megabytes = sum(map(len, contents.values())) / 1e6
    notify(f"copying {megabytes:.1f} MB to {job.on}")
    with _Connection(job.on, token, program, [json.dumps(header).encode() + b"\n", *contents.values()]) as connection:
        return _follow(connection, job.on, notify)


def _follow(connection: _Connection, on: str, notify: Callable[[str], None]) -> dict[str, Any]:
    """Report the stages of a job, and return its document."""
    stage = ""
    for message in connection.messages():
        if "error" in message:
            raise UnavailableError(f"{on}: {message['error']}", hint=str(message.get("hint", "")))
        if "code" in message:
            return _document(on, message)
        stage = str(message.get("stage", stage))
        if stage == "setting up":
            notify(f"setting up mnist-edge with Python {message.get('python')} on {on}, once for this version")
        elif stage == "waiting":
            notify(f"waiting for another run that sets up {on}")
        elif stage == "running":
            notify(f"running on {on}")
    raise connection.failure(stage)


def _document(on: str, message: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a command that ended with 0 or with a failed check, or raise the error that it reports."""
    code, last = message["code"], message.get("last_line")
    try:
        document = dict(json.loads(message["output"], parse_constant=_refuse_constant))
    except (ValueError, TypeError, RecursionError):
        document = {}
    error = document.get("error")
    if isinstance(error, dict):
        kind = ERRORS.get(str(error.get("kind")), UnavailableError)
        raise kind(f"{on}: {error.get('message')}", hint=str(error.get("hint") or ""))
    if document and (code == 0 or (code == 1 and document.get("passed") is False)):
        return document
    how = f"was ended by signal {-code}" if isinstance(code, int) and code < 0 else f"ended with exit code {code}"
    raise UnavailableError(
        f"mnist-edge on {on} {how} and without a report" + (f": {last}" if last else ""),
        hint="its memory may be too small" if code == -9 else "run it again",
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Connection:
    """One run of ssh: a thread sends, a thread collects what ssh prints, and this thread reads messages."""

    def __init__(self, on: str, token: str, program: bytes, contents: list[bytes]) -> None:
        self.on = on
        self._token = token.encode()
        self._said: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._noise: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._ended = threading.Event()
        # A session of its own: a terminal's Ctrl-C must reach this process alone, which then lets the other side clean up.
        self._process = subprocess.Popen(
            ssh_command(on, token, program), start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._output = self._process.stdout
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._feeder = threading.Thread(
            target=self._feed, args=(self._process.stdin, [program, *contents]), daemon=True
        )
        self._listener.start()
        self._feeder.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()  # standard input is closed: the other side sees it and cleans up
        try:
            self._process.wait(CLEAN_UP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._feeder.join(1)
        self._listener.join(1)  # a connection that ssh shares with others may keep its end open

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield each message until the connection ends; other output is set aside."""
        noise = 0
        while line := self._output.readline(MAX_LINE):
            start, _, text = line.partition(b" ")
            if start == self._token and text.startswith(NO_PYTHON.encode()):
                found = text.decode(errors="replace").removeprefix(NO_PYTHON).strip()
                needed = ".".join(map(str, MINIMUM))
                raise UnavailableError(
                    f"{self.on} has no Python {needed} or newer, found {found}", hint=f"install Python {needed} there"
                )
            message = _parsed(text) if start == self._token else None
            if message is not None:
                yield message
                continue
            noise += len(line)
            self._noise.append(line[:KEPT_BYTES])
            if noise > MAX_NOISE:
                self._process.kill()
                raise UnavailableError(f"{self.on} prints without end instead of running the command")

    def failure(self, stage: str) -> UnavailableError:
        """Return why the connection ended without a result, by the last stage that was reported."""
        try:
            code = self._process.wait(CLEAN_UP_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self._listener.join(1)
        said = b"".join(self._said).decode(errors="replace")
        printed = b"".join(self._noise).decode(errors="replace").splitlines() + said.splitlines()
        last = next((line.strip() for line in reversed(printed) if line.strip()), "")
        because = f" ({last})" if last else ""
        if stage and code in {255, None} and re.search(r"onnection|[Tt]imeout|[Bb]roken pipe", said):
            return UnavailableError(f"the connection to {self.on} was lost while {stage}{because}", hint="run it again")
        if stage:
            return UnavailableError(
                f"{self.on} ended the run while {stage}: its processes were killed",
                hint="check its memory, run it again",
            )
        if code == 255 and (known := connection_error(self.on, said)) is not None:
            return known
        return UnavailableError(
            f"{self.on} did not run the command{because or f': ssh ended with {code}'}",
            hint=f"check ssh {self.on} echo ok",
        )

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(KEPT_BYTES):
                self._said.append(line)

    def _feed(self, pipe: IO[bytes], contents: list[bytes]) -> None:
        with contextlib.suppress(OSError), pipe:  # a lost connection is reported by the reader
            for content in contents:
                for start in range(0, len(content), CHUNK):
                    if self._ended.is_set():
                        return
                    pipe.write(memoryview(content)[start : start + CHUNK])
            pipe.flush()
            while not self._ended.wait(HEARTBEAT_SECONDS):
                pipe.write(b".")
                pipe.flush()


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Return a message; None for one that was cut off."""
    try:
        message = json.loads(text)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
