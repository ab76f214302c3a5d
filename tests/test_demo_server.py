"""The server of `demo`: whom it answers, what it refuses, and that it survives every request."""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw
from test_attack import INT64, model, value
from test_cli import in_process

from benchmarks.demo_screenshot import serving
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.contract import LABELS
from mnist_edge.demo import run
from mnist_edge.demo import server as server_module
from mnist_edge.demo.answers import Answers, open_answers
from mnist_edge.demo.page import page_assets
from mnist_edge.demo.run import OpenDemo, serve_until_stopped
from mnist_edge.demo.server import CONNECTIONS, MAX_BODY_BYTES, DemoServer
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.interrupts import SignalArrived
from mnist_edge.runtime.classifier import open_classifier

SEVEN = [(6, 6), (20, 6), (12, 22)]
"""Corners of a 7, in pixels of 28x28."""


@pytest.fixture(scope="module")
def demo(bundle_folder: Path) -> Iterator[OpenDemo]:
    """A page that is being served, with the bundle's own model."""
    with serving(bundle_folder) as found:
        yield found


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


def request(
    server: DemoServer, method: str, path: str, body: bytes = b"", **headers: str | None
) -> tuple[int, bytes, Any]:
    """Send one request as the page does, with other headers where they are named; None leaves one out."""
    usual: dict[str, str | None] = {"Host": server.url[7:-1]}
    if method == "POST":
        usual |= {"X-Mnist-Edge-Token": server.token, "Content-Length": str(len(body))}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, text in {**usual, **{name.replace("_", "-"): text for name, text in headers.items()}}.items():
        if text is not None:
            connection.putheader(name, text)
    connection.endheaders(body or None)
    response = connection.getresponse()
    found = response.status, response.read(), response.headers
    connection.close()
    return found


def ask(server: DemoServer, image: bytes) -> tuple[int, Any]:
    """Send an image, and return the status and the document."""
    status, content, _ = request(server, "POST", "/answer", image)
    return status, json.loads(content)


def picture(size: int = 280, file_format: str = "PNG", *, digit: bool = True, **options: Any) -> bytes:
    """A thick black 7 on white paper, or white paper alone."""
    image = Image.new("L", (size, size), 255)
    if digit:
        points = [(x * size / 28, y * size / 28) for x, y in SEVEN]
        ImageDraw.Draw(image).line(points, fill=0, width=size // 11, joint="curve")
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header declares far more pixels than its data hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


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


@pytest.mark.slow
def test_an_image_is_answered_as_pytorch_does(demo: OpenDemo, workplace: Path) -> None:
    """What the page shows is what the model predicts for the prepared image, by PyTorch."""
    from mnist_edge.training.model import reference_logits
    from mnist_edge.training.state_dict import read_model

    status, found = ask(demo.server, picture())
    assert status == 200
    image = np.array(found["prepared"], np.uint8)
    loaded = read_model(workplace / "runs" / "digits")
    logits = reference_logits(loaded.network, image[np.newaxis], normalization=loaded.normalization)[0]
    (variant,) = found["variants"]
    prediction = variant["prediction"]
    shares = {entry["label"]: entry["probability"] for entry in prediction["top"]}
    manifest = load_bundle(demo.report.model).manifest
    scaled = logits.astype(np.float64) / (manifest.variants[0].temperature or 1.0)
    expected = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
    assert np.abs(np.array([shares[str(digit)] for digit in range(10)]) - expected).max() < 1e-4
    assert prediction["label"] == str(expected.argmax())
    assert (prediction["accepted"], prediction["reason"]) == (found["accepted"], found["reason"])
    assert variant["latency_us"] > 0


def endless_on_ink() -> bytes:
    """A model that returns at once for a blank image, and loops for ever where there is ink."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["state"], ["next"])],
        "body",
        [value("i", (), INT64), value("go", (), TensorProto.BOOL), value("state", ("b", 10))],
        [value("go_on", (), TensorProto.BOOL), value("next", ("b", 10))],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["ink"], keepdims=0),
        helper.make_node("Mul", ["ink", "many"], ["turns"]),
        helper.make_node("Cast", ["turns"], ["times"], to=INT64),
        helper.make_node("Loop", ["times", "true", "logits"], ["y"], body=body),
    ]
    extra = {"many": np.array(1e12, np.float32), "true": np.array(True)}
    return model(nodes, outputs=[value("y", ("b", 10))], extra=extra).SerializeToString()


def test_a_model_that_never_returns_ends_and_the_others_answer(demo: OpenDemo, tmp_path: Path) -> None:
    """A bundle of somebody else cannot hang the page, and the variants that work are still shown."""
    (tmp_path / "endless.onnx").write_bytes(endless_on_ink())
    classifier = open_classifier(tmp_path / "endless.onnx", normalization="raw", timeout=0.2)
    (own,) = demo.answers.readers
    endless = dataclasses.replace(own, model=dataclasses.replace(own.model, classifier=classifier))
    found = Answers([endless, own], 10.0).answer(picture())
    failed, answered = found.variants
    assert failed.prediction.reason.endswith("endless.onnx did not return within 0.2 s")
    assert (failed.prediction.label, failed.prediction.top, failed.latency_us) == (None, (), None)
    assert (found.accepted, found.reason) == (False, failed.prediction.reason)
    assert answered.prediction.label is not None


def test_an_image_does_not_wait_for_ever(demo: OpenDemo) -> None:
    """While a model runs, another image waits for a bounded time."""
    answers = Answers(demo.answers.readers, 0.05)
    assert answers.idle_within(1)
    with pytest.raises(UnavailableError, match="busy"):
        answers.answer(picture())


def test_an_image_is_answered_as_predict_does(demo: OpenDemo, tmp_path: Path) -> None:
    """The page and the command agree on a file, to the last digit and the reason."""
    (tmp_path / "seven.png").write_bytes(picture())
    done = in_process("predict", "seven.png", "--model", demo.report.model, "--json", cwd=tmp_path)
    (expected,) = done.json["predictions"]
    (variant,) = ask(demo.server, picture())[1]["variants"]
    found = variant["prediction"]
    assert expected | {"image": "", "top": []} == found | {"image": "", "top": []}
    assert expected["top"] == found["top"][:3]


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"seven", "is no PNG, JPEG or WebP image"),
    "truncated JPEG": (picture(file_format="JPEG")[:-400], "is damaged"),
    "truncated PNG": (picture()[:-60], "is damaged"),
    "bomb": (bomb(8_000, 8_000), "is damaged"),
    "too many pixels": (bomb(50_000, 50_000), "pixels"),
    "GIF": (picture(file_format="GIF"), "is no PNG, JPEG or WebP image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_one_line_and_the_server_goes_on(demo: OpenDemo, name: str) -> None:
    """A person reads what is wrong with the file; the next image is answered."""
    content, message = BAD[name]
    status, document = ask(demo.server, content)
    assert status == 422
    assert message in document["error"]["message"]
    assert "\n" not in document["error"]["message"]
    assert ask(demo.server, picture())[0] == 200


def test_blank_paper_is_refused_before_any_model_runs(demo: OpenDemo) -> None:
    """A model would predict a digit for it."""
    status, found = ask(demo.server, picture(digit=False))
    assert (status, found["accepted"], found["prepared"], found["variants"]) == (200, False, None, [])
    assert found["reason"].startswith("no digit")


def test_models_of_clothes_are_refused(bundle_folder: Path) -> None:
    """The page asks for digits, and would answer "Pullover"."""
    bundle = load_bundle(bundle_folder)
    manifest = dataclasses.replace(bundle.manifest, dataset="fashion-mnist", labels=LABELS["fashion-mnist"])
    with pytest.raises(UsageError, match="classifies fashion-mnist; the page is for digits"):
        open_answers(dataclasses.replace(bundle, manifest=manifest), 10.0, lambda _done, _all: None)


def test_a_port_in_use_is_4_and_names_the_way_out(stub: DemoServer, bundle_folder: Path, tmp_path: Path) -> None:
    """The commonest problem of a server, before any model is opened."""
    done = in_process("demo", bundle_folder, "--port", str(stub.server_port), "--json", cwd=tmp_path)
    assert done.code == 4
    assert done.err.count("\n") == 1
    error = done.json["error"]
    assert error["message"] == f"port {stub.server_port} of 127.0.0.1 is in use"
    assert "--port 0" in error["hint"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_quietly(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Standard output holds one document with the address; Ctrl-C is the usual end and prints nothing."""
    serve_forever = DemoServer.serve_forever

    def serve_and_stop(server: DemoServer) -> None:
        def use() -> None:
            found.append(request(server, "GET", "/")[0])
            os.kill(os.getpid(), number)

        threading.Thread(target=use).start()
        serve_forever(server)

    found: list[int] = []
    monkeypatch.setattr(DemoServer, "serve_forever", serve_and_stop)
    done = in_process("demo", bundle_folder, "--port", "0", "--json", cwd=tmp_path)
    assert (done.code, done.err, found) == (code, "", [200])
    assert done.json["schema"] == "mnist-edge/demo/1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", done.json["url"])
    assert done.json["variants"] == ["fp32"]


@pytest.mark.parametrize("found", [True, False])
def test_the_browser_is_opened_on_demand(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    """--open opens the page itself; on a machine without a browser a line says what to do, and the server goes on."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or found)
    monkeypatch.setattr(DemoServer, "serve_forever", lambda _server: [thread.join() for thread in openers()])
    done = in_process("demo", bundle_folder, "--port", "0", "--open", "--json", cwd=tmp_path)
    assert (done.code, opened) == (0, [done.json["url"]])
    assert done.err == ("" if found else f"no browser was found: open {opened[0]}\n")


def openers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("(open_page)")]


def test_a_model_that_still_runs_does_not_keep_the_program(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the program also where a model cannot be interrupted; the usual way out would abort in onnxruntime."""

    def interrupted(_server: DemoServer) -> None:
        raise SignalArrived(signal.SIGINT)

    codes: list[int] = []
    monkeypatch.setattr(run.os, "_exit", codes.append)
    monkeypatch.setattr(run, "STOP_SECONDS", 0.01)
    with serving(bundle_folder) as demo:
        monkeypatch.setattr(DemoServer, "serve_forever", interrupted)
        assert demo.answers.idle_within(1)  # as a model that runs
        assert serve_until_stopped(demo) == 130
    assert codes == [130]


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(two_variant_bundle: Path, tmp_path: Path) -> None:
    """The real program ends with 130, prints nothing further, and no process of its session is left."""
    command = [sys.executable, "-m", "mnist_edge", "demo", str(two_variant_bundle), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=20) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    left = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and session_of(entry) == process.pid]
    assert left == []
    assert list(tmp_path.iterdir()) == []


def session_of(process: Path) -> int | None:
    """The session of a process, from its folder in /proc; None where it has ended."""
    try:
        return os.getsid(int(process.name))
    except ProcessLookupError:
        return None
