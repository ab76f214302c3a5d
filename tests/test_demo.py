"""`demo` with the models of a bundle: its answers, the images that it refuses, and how the command ends."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from test_attack import INT64, model, value
from test_cli import in_process

from benchmarks.demo_screenshot import serving
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.contract import LABELS
from mnist_edge.demo import run
from mnist_edge.demo.answers import Answers, open_answers
from mnist_edge.demo.run import OpenDemo, serve_until_stopped
from mnist_edge.demo.server import DemoServer
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.interrupts import SignalArrived
from mnist_edge.runtime.classifier import open_classifier
from tests.demo_requests import ask, bomb, picture, request


@pytest.fixture(scope="module")
def demo(bundle_folder: Path) -> Iterator[OpenDemo]:
    """A page that is being served, with the bundle's own model."""
    with serving(bundle_folder) as found:
        yield found


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


def test_a_port_in_use_is_4_and_names_the_way_out(demo: OpenDemo, bundle_folder: Path, tmp_path: Path) -> None:
    """The commonest problem of a server, before any model is opened."""
    done = in_process("demo", bundle_folder, "--port", str(demo.server.server_port), "--json", cwd=tmp_path)
    assert done.code == 4
    assert done.err.count("\n") == 1
    error = done.json["error"]
    assert error["message"] == f"port {demo.server.server_port} of 127.0.0.1 is in use"
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
