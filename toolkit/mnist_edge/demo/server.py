"""HTTP on the loopback interface: fixed files, and one request that sends an image and receives a record.

A page of another site must not use it: requests must name this host (DNS rebinding) and carry the token of the page.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from mnist_edge.demo.page import Asset
from mnist_edge.errors import MnistEdgeError, UnavailableError, error_document

HOST = "127.0.0.1"
PAGE_HEADER = "X-Mnist-Edge-Token"
ANSWER_PATH = "/answer"
CONNECTIONS = 16
"""Most connections at a time, each with a thread; browsers keep a few open without a request."""
MAX_BODY_BYTES = 32 * 2**20
"""Largest image file: a photo of a telephone has 2 to 25 MB."""
REQUEST_SECONDS = 20.0
"""Time in which a request must have arrived."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
STATUSES = {"bad-file": HTTPStatus.UNPROCESSABLE_ENTITY, "environment": HTTPStatus.SERVICE_UNAVAILABLE}
"""By the kind of an error; any other is 500."""


class DemoServer(ThreadingHTTPServer):
    """A server for the page; `serve_forever` runs it, and `with` closes it.

    Attributes:
        token: what a request with an image must carry; the page holds it.
        notify: called with one line about an unexpected error.
        assets: files by path.
        answer: from the bytes of an image file to what the page shows, as JSON values.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS

    assets: Mapping[str, Asset]
    answer: Callable[[bytes], Mapping[str, Any]]

    def __init__(self, port: int, notify: Callable[[str], None]) -> None:
        """Bind a port, 0 for a free one.

        Raises:
            UnavailableError: the port is in use, or not allowed.
        """
        self.token = secrets.token_urlsafe(16)
        self.notify = notify
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise UnavailableError(
                f"port {port} of {HOST} {reason}", hint="--port 0 takes a free one, or end the program that uses it"
            ) from error

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Values of the Host header that are this server."""
        names = (HOST, "localhost")
        return tuple(f"{name}:{self.server_port}" for name in names) + (names if self.server_port == 80 else ())

    def server_bind(self) -> None:
        """Bind the port; http.server would also look its name up in the DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or close it where there are too many."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, *_connection: Any) -> None:
        """Report a bug; a connection that broke is none, because browsers close them at any time."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.notify(f"a request was not answered: unexpected {type(error).__name__}: {error}")


class _RefusedError(Exception):
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One request a connection, as HTTP/1.0 has it."""

    server: DemoServer
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        """Send a file of the page."""
        asset = self.server.assets.get(self.path)
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, f"open {self.server.url}")
        elif asset is None:
            self.send_error(HTTPStatus.NOT_FOUND, "no such file")
        else:
            self._send(HTTPStatus.OK, asset.media_type, asset.content)

    def do_POST(self) -> None:
        """Send what the models predict for the image in the body."""
        try:
            self._require_own_page()
            body = self._read_body()
            document = self.server.answer(body)
        except _RefusedError as refused:
            self.send_error(refused.status, str(refused))
            self._discard()
        except MnistEdgeError as error:
            self._send_json(
                STATUSES.get(error.kind, HTTPStatus.INTERNAL_SERVER_ERROR),
                error_document(error.kind, error.message, error.hint),
            )
        except (TimeoutError, ConnectionError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - the server goes on, whatever an image does
            self.server.notify(f"an image was not answered: unexpected {type(error).__name__}: {error}")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {type(error).__name__}: {error}")
        else:
            self._send_json(HTTPStatus.OK, document)

    def _require_own_page(self) -> None:
        """Refuse a request of anything but the page that this server sent."""
        host = self.headers.get("Host")
        if host not in self.server.hosts:
            raise _RefusedError(HTTPStatus.MISDIRECTED_REQUEST, f"open {self.server.url}")
        if self.path != ANSWER_PATH:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "no such file")
        token = self.headers.get(PAGE_HEADER, "").encode()
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}" or not hmac.compare_digest(
            token, self.server.token.encode()
        ):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "this page is of an earlier run: load it again")

    def _read_body(self) -> bytes:
        """Return the body, whose length is stated and bounded before any of it is read."""
        stated = self.headers.get("Content-Length", "")
        if not (stated.isascii() and stated.isdecimal()) or "Transfer-Encoding" in self.headers:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "the length of the image is not stated")
        if len(stated) > 18 or int(stated) > MAX_BODY_BYTES:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the image has more than {MAX_BODY_BYTES / 2**20:.0f} MiB",
            )
        size, body, deadline = int(stated), bytearray(), time.monotonic() + REQUEST_SECONDS
        while len(body) < size:
            part = self.rfile.read1(min(size - len(body), 2**16))
            if not part or time.monotonic() > deadline:
                raise TimeoutError
            body += part
        return bytes(body)

    def _discard(self) -> None:
        """Read on for a second: a connection that is closed with unread data loses the response."""
        deadline = time.monotonic() + 1.0
        self.connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            while self.rfile.read1(2**16) and time.monotonic() < deadline:
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error as the command line reports one; http.server calls this too."""
        del explain
        self._send_json(HTTPStatus(code), error_document("request", message or HTTPStatus(code).phrase))

    def _send_json(self, status: HTTPStatus, document: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(document, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, media_type: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.wfile.write(content)

    def version_string(self) -> str:
        """Return what the header Server states."""
        return "mnist-edge"

    def log_message(self, *_arguments: object) -> None:
        """Print nothing: standard error is for the user of the command line."""
