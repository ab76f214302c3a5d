"""A headless Chromium, driven by the Chrome DevTools protocol over two pipes.

Nothing listens on a port, and the browser ends when this process does: it exits once its pipe is closed. Playwright does the
same with 165 MB of installed files; two hundred lines are enough for one page in one browser.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnist_edge.errors import UnavailableError
from mnist_edge.runtime.session import RefusedModelError

DEVICE = "chromium"
"""Where the web targets run."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    # /dev/shm is 64 MB in most containers.
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "about:blank",
)
START_SECONDS = 60.0
BROWSER_READS, BROWSER_WRITES = 3, 4
"""File descriptors that `--remote-debugging-pipe` uses."""


class PageFailedError(RefusedModelError):
    """A page crashed, threw an exception, took too long, or returned something else than logits."""


def require_chromium() -> str:
    """Return the path of Chromium or Chrome.

    Raises:
        UnavailableError: neither is installed.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise UnavailableError(
            "chromium not found: the page is checked in a real browser", hint="apt-get install chromium"
        )
    return found


class Browser:
    """One tab of a headless Chromium.

    Attributes:
        events: (method, parameters) of the tab so far: console messages, exceptions, requests.
    """

    def __init__(self, commands: io.FileIO, results: io.FileIO) -> None:
        self._commands, self._results = commands, results
        self._received = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []

    def attach(self, timeout: float = START_SECONDS) -> None:
        """Open the tab that all later commands are for."""
        target = self.send("Target.createTarget", timeout=timeout, url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", timeout=timeout, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Inspector"):
            self.send(f"{domain}.enable", timeout=timeout)

    def send(self, method: str, timeout: float = 30.0, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result.

        Raises:
            PageFailedError: the command failed, the page crashed, or no result came within `timeout` seconds.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._write(json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise PageFailedError(f"the browser refused {method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result

    def wait_for(self, method: str, timeout: float = 30.0) -> None:
        """Wait for an event that has not been received yet."""
        deadline = time.monotonic() + timeout
        while self._receive(deadline, method).get("method") != method:
            pass

    def open(self, url: str, timeout: float = 30.0) -> None:
        """Load a page and wait for its `load` event.

        Raises:
            PageFailedError: it cannot be loaded.
        """
        error = self.send("Page.navigate", timeout=timeout, url=url).get("errorText")
        if error:
            raise PageFailedError(f"the browser cannot open {url}: {error}")
        self.wait_for("Page.loadEventFired", timeout)

    def evaluate(self, expression: str, timeout: float = 30.0) -> Any:
        """Return the JSON value of a JavaScript expression, awaited where it is a promise.

        Raises:
            PageFailedError: it threw an exception, or took longer than `timeout` seconds.
        """
        answer = self.send(
            "Runtime.evaluate", timeout=timeout, expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            text = thrown.get("exception", {}).get("description") or thrown["text"]
            raise PageFailedError(f"the page failed: {text.splitlines()[0]}")
        return answer["result"].get("value")

    def _write(self, message: bytes) -> None:
        rest = memoryview(message)
        try:
            while rest:  # a pipe takes 64 kB at a time
                rest = rest[self._commands.write(rest) :]
        except BrokenPipeError:
            raise PageFailedError("the browser ended") from None

    def _receive(self, deadline: float, waits_for: str) -> dict[str, Any]:
        """Return the next message and keep it if it is an event."""
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._results], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise PageFailedError(f"the page did not finish in time ({waits_for})", hint="--timeout allows more")
            received = self._results.read(1 << 20)
            if not received:
                raise PageFailedError("the browser ended")
            self._received += received
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append((message["method"], message.get("params", {})))
            if message["method"] in ("Inspector.targetCrashed", "Target.targetCrashed"):
                raise PageFailedError("the page crashed")
        return message


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser with an empty profile; end it, and everything that it started, on leaving.

    Raises:
        UnavailableError: Chromium is not installed, or does not start.
    """
    chromium = require_chromium()
    with contextlib.ExitStack() as undo:
        home = undo.enter_context(tempfile.TemporaryDirectory(prefix="mnist-edge-", ignore_cleanup_errors=True))
        output = undo.enter_context((Path(home) / "output").open("w+b", buffering=0))
        commands, results = _Pipe(undo), _Pipe(undo)
        # Chromium's sandbox refuses to run as root.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        pid = os.posix_spawn(
            chromium,
            [chromium, *root, f"--user-data-dir={home}/profile", *FLAGS],
            {**os.environ, "HOME": home},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
                (os.POSIX_SPAWN_DUP2, commands.read_end.fileno(), BROWSER_READS),
                (os.POSIX_SPAWN_DUP2, results.write_end.fileno(), BROWSER_WRITES),
            ],
            setpgroup=0,
        )
        undo.callback(_end, pid)
        commands.read_end.close()
        results.write_end.close()
        browser = Browser(commands.write_end, results.read_end)
        try:
            browser.attach()
        except PageFailedError as error:
            output.seek(0)
            lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
            reason = lines[-1][:200] if lines else error.message
            raise UnavailableError(f"{chromium} does not start: {reason}", hint=f"try {chromium} --headless") from error
        yield browser


class _Pipe:
    """A pipe whose ends are closed at the latest with the stack, and lie above the numbers that the browser uses."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        low = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
        for end in low:
            os.close(end)
        self.read_end = undo.enter_context(os.fdopen(high[0], "rb", buffering=0))
        self.write_end = undo.enter_context(os.fdopen(high[1], "wb", buffering=0))


def _end(pid: int) -> None:
    """End a process group and wait for its first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
