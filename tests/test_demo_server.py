"""The server of `demo`: whom it answers, what it refuses, and that it survives every request."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mnist_edge.demo import server as server_module
from mnist_edge.demo.page import page_assets
from mnist_edge.demo.server import CONNECTIONS, MAX_BODY_BYTES, DemoServer
from tests.demo_requests import ask, request


@pytest.fixture
def answered() -> list[bytes]:
    """The images that `stub` was asked for."""
    return []


@pytest.fixture
def stub(answered: list[bytes]) -> Iterator[DemoServer]:
    """A server without models: what it is asked is recorded, and an image that says so fails."""

    def answer(content: bytes) -> dict[str, Any]:
        answered.append(content)
        if content == b"fail":
            raise ZeroDivisionError("a bug")
        return {"fine": True}

    notes: list[str] = []
    with DemoServer(0, notes.append) as server:
        server.assets = page_assets("a <b>bundle</b>", ["fp32"], server.token)
        server.answer = answer
        server.notes = notes
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_page_and_its_files_are_sent_under_a_strict_policy(stub: DemoServer) -> None:
    """Every file that the page names is there; nothing is inline, nothing comes from elsewhere, names are escaped."""
    status, page, headers = request(stub, "GET", "/")
    assert status == 200
    assert b"a &lt;b&gt;bundle&lt;/b&gt;, fp32" in page
    named = re.findall(rb'(?:src|href)="(/[^"]*)"', page)
    assert len(named) == 5
    for path in named:
        status, content, sent = request(stub, "GET", path.decode())
        assert (status, sent["Content-Type"].split(";")[0]) in {(200, "text/javascript"), (200, "text/css")}
        assert not re.search(rb"https?:|@[A-Z]+@", content)
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
        "img-src": "blob: data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert not re.search(rb"<style|<script>|\son\w+=|\sstyle=|https?:", page)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_only_loopback_is_bound(stub: DemoServer) -> None:
    """Other machines cannot connect."""
    assert stub.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost:1", "", None])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_host_is_refused(stub: DemoServer, answered: list[bytes], method: str, host: str | None) -> None:
    """A page whose name was made to point here (DNS rebinding) gets neither the token nor an answer."""
    status, content, _ = request(stub, method, "/" if method == "GET" else "/answer", Host=host)
    assert status == 421
    assert stub.token.encode() not in content
    assert answered == []


def test_localhost_is_the_same_host(stub: DemoServer) -> None:
    """Users type it."""
    assert request(stub, "GET", "/", Host=f"localhost:{stub.server_port}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"X_Mnist_Edge_Token": None}, {"X_Mnist_Edge_Token": "x"}, {"X_Mnist_Edge_Token": "\xff"},
     {"Origin": "http://evil.example"}, {"Origin": "null"}],
)  # fmt: skip
def test_a_request_of_another_page_is_refused(
    stub: DemoServer, answered: list[bytes], headers: dict[str, str | None]
) -> None:
    """A site that the user visits cannot use the models, nor make them busy."""
    status, content, _ = request(stub, "POST", "/answer", b"x", **headers)
    assert (status, answered) == (403, [])
    assert json.loads(content)["error"]["message"] == "this page is of an earlier run: load it again"


def test_the_page_itself_is_answered(stub: DemoServer, answered: list[bytes]) -> None:
    """The checks above can pass: with its own origin and token."""
    assert request(stub, "POST", "/answer", b"x", Origin=stub.url[:-1])[0] == 200
    assert answered == [b"x"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content_Length": "9" * 4000}, 413),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "\u00b2"}, 411),
        ({"Transfer_Encoding": "chunked"}, 411),
    ],
)
def test_a_body_is_bounded_before_it_is_read(
    stub: DemoServer, answered: list[bytes], headers: dict[str, str], status: int
) -> None:
    """No length, or too large a one, is refused at once: the client here sends no body at all."""
    found, content, _ = request(stub, "POST", "/answer", **headers)
    assert (found, answered) == (status, [])
    assert "\n" not in json.loads(content)["error"]["message"]


@pytest.mark.parametrize("path", ["/favicon.ico", "/../server.py", "/answer", "/page.css?x", "/%2e%2e/demo.js"])
def test_an_unknown_path_is_not_found(stub: DemoServer, path: str) -> None:
    """Only the files of the page are served, by their exact names."""
    assert request(stub, "GET", path)[0] == 404
    assert request(stub, "POST", "/")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "NONSENSE"])
def test_another_method_is_refused(stub: DemoServer, method: str) -> None:
    """Nor is a preflight answered, which would let another site send the token's header."""
    status, _, headers = request(stub, method, "/answer")
    assert (status, "Access-Control-Allow-Origin" in headers) == (501, False)


def test_a_bug_is_reported_and_the_server_goes_on(stub: DemoServer) -> None:
    """One image must not end the demo; the terminal and the page name the error, without a traceback."""
    status, document = ask(stub, b"fail")
    assert (status, document["error"]["message"]) == (500, "unexpected ZeroDivisionError: a bug")
    assert stub.notes == ["an image was not answered: unexpected ZeroDivisionError: a bug"]
    assert ask(stub, b"x") == (200, {"fine": True})


def test_connections_are_bounded_and_broken_ones_forgotten(
    stub: DemoServer, answered: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Idle and broken connections take a bounded number of threads, print nothing, and free them when they end."""
    head = f"POST /answer HTTP/1.1\r\nHost: {stub.url[7:-1]}\r\nX-Mnist-Edge-Token: {stub.token}\r\n"
    idle = [socket.create_connection(("127.0.0.1", stub.server_port)) for _ in range(CONNECTIONS)]
    for number, connection in enumerate(idle):  # all kinds: silent, in the head, in the body
        connection.sendall([b"", b"GET / HT", f"{head}Content-Length: 9\r\n\r\nhalf".encode()][number % 3])
    with socket.create_connection(("127.0.0.1", stub.server_port), timeout=20) as further:
        assert further.recv(100).startswith(b"HTTP/1.0 503")
    for connection in idle:
        connection.close()
    deadline = time.monotonic() + 20
    while (found := request_or_none(stub)) != 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (found, answered) == (200, [])
    assert capfd.readouterr() == ("", "")


def request_or_none(server: DemoServer) -> int | None:
    try:
        return request(server, "GET", "/")[0]
    except (http.client.HTTPException, OSError):
        return None


def test_a_slow_body_ends_at_a_deadline(
    stub: DemoServer, answered: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends a byte now and then cannot hold a thread for ever."""
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.1)
    head = f"POST /answer HTTP/1.1\r\nHost: {stub.url[7:-1]}\r\nX-Mnist-Edge-Token: {stub.token}\r\nContent-Length: 99\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stub.server_port), timeout=20) as connection:
        connection.sendall(head.encode())
        for _ in range(2000):
            time.sleep(0.01)
            try:
                connection.sendall(b"x")
            except ConnectionError:
                break
        else:
            pytest.fail("the server still reads")
    assert answered == []
