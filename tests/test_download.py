"""Downloads by the real torchvision from a server on this machine: complete or not at all, and within time limits."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mnist_edge.data import download as module
from mnist_edge.data import torchvision_process
from mnist_edge.data.download import download
from mnist_edge.errors import BadFileError, UnavailableError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ProcessResult = Callable[[BaseHTTPRequestHandler, threading.Event], None]


@contextlib.contextmanager
def mirror(answer: ProcessResult) -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that answers every request with `answer`; yields its address and what was asked."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            with contextlib.suppress(OSError):
                answer(self, over)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            over.set()
            server.shutdown()


def send(handler: BaseHTTPRequestHandler, body: bytes, announced: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(announced))
    handler.end_headers()
    handler.wfile.write(body)


def wrong(handler: BaseHTTPRequestHandler, _over: threading.Event) -> None:
    send(handler, b"<html>log in to this network first</html>", 41)


def cut(handler: BaseHTTPRequestHandler, _over: threading.Event) -> None:
    send(handler, b"\x1f\x8b\x08", 9_912_422)


def silent(_handler: BaseHTTPRequestHandler, over: threading.Event) -> None:
    over.wait(100)


def dripping(handler: BaseHTTPRequestHandler, over: threading.Event) -> None:
    send(handler, b"\x1f", 9_912_422)
    while not over.wait(0.1):
        handler.wfile.write(b"\0")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the program of the download process in this one: importing torchvision takes seconds, once is enough."""
    import torchvision.datasets

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", command[2:])
        try:
            torchvision_process.main()
        except SystemExit as stop:
            return subprocess.CompletedProcess(command, 1, "", str(stop.code))
        finally:
            socket.setdefaulttimeout(None)
        return subprocess.CompletedProcess(command, 0, "", "")

    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        dataset = getattr(torchvision.datasets, name)
        monkeypatch.setattr(dataset, "mirrors", list(dataset.mirrors))
    monkeypatch.setattr(torchvision_process, "end_with_parent", lambda _parent: None)
    monkeypatch.setattr(module.subprocess, "run", run)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def never(_raw: Path) -> None:
    pytest.fail("nothing whole arrived, so there is nothing to check")


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("answer", [wrong, cut])
def test_wrong_or_cut_content_is_refused(monkeypatch: pytest.MonkeyPatch, root: Path, answer: ProcessResult) -> None:
    """A login page in place of the archive, or half an archive, is an error and leaves nothing."""
    with mirror(answer) as (address, asked):
        monkeypatch.setenv("MNIST_EDGE_MIRROR", address)
        with pytest.raises(UnavailableError, match="MNIST could not be downloaded") as caught:
            download("MNIST", root, never)
    assert asked
    assert set(asked) == {f"/{NAMES[0]}.gz"}
    assert "\n" not in caught.value.message
    assert "digits" in caught.value.hint
    assert not list(root.iterdir())


@pytest.mark.usefixtures("in_this_process")
def test_a_server_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A refused connection ends with the reason, and with what works without a network."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port that nobody listens on
        monkeypatch.setenv("MNIST_EDGE_MIRROR", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        with pytest.raises(UnavailableError, match="refused") as caught:
            download("FashionMNIST", root, never)
    assert "digits" in caught.value.hint
    assert "--data-dir" in caught.value.hint
    assert not list(root.iterdir())


def test_an_endless_download_is_ended(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A process that does not end within the time limit is killed; it and its files are gone."""
    endless = root.with_name("endless")  # in place of a Python that imports torchvision, which takes seconds
    endless.write_text('#!/bin/sh\nmkdir -p "$4/MNIST/raw"; exec tail -f "$0" "$4"\n')
    endless.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(endless))
    with pytest.raises(UnavailableError, match=r"took over 0\.5 s"):
        download("MNIST", root, never, total_seconds=0.5)
    assert not list(root.iterdir())
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert str(root).encode() not in process.read_bytes()


@pytest.mark.usefixtures("in_this_process")
def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A server that takes the request and sends nothing is given up after IDLE_SECONDS, long before the total limit."""
    monkeypatch.setattr(torchvision_process, "IDLE_SECONDS", 0.3)
    with mirror(silent) as (address, asked):
        monkeypatch.setenv("MNIST_EDGE_MIRROR", address)
        with pytest.raises(UnavailableError, match="timed out"):
            download("KMNIST", root, never)
    assert asked
    assert not list(root.iterdir())


@pytest.mark.slow
def test_a_dripping_server_is_given_up_by_a_real_process(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A server that sends a byte now and then never idles: the limit of the whole download ends the process."""
    with mirror(dripping) as (address, asked):
        monkeypatch.setenv("MNIST_EDGE_MIRROR", address)
        with pytest.raises(UnavailableError, match="took over 40 s"):
            download("MNIST", root, never, total_seconds=40)
    assert asked
    assert not list(root.iterdir())


def laying(class_name: str, staging: Path, _seconds: float) -> None:
    """What torchvision leaves: raw files beside their archives."""
    raw = staging / class_name / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        (raw / name).write_bytes(name.encode())
        (raw / f"{name}.gz").write_bytes(b"archive")


def test_a_whole_download_is_published_without_its_archives(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """The four raw files arrive checked, under torchvision's path, with nothing beside them."""
    monkeypatch.setattr(module, "_fetch", laying)
    checked: list[set[str]] = []
    raw = download("KMNIST", root, lambda folder: checked.append({path.name for path in folder.iterdir()}))
    assert raw == root / "KMNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == {name: name.encode() for name in NAMES}
    assert [path.name for path in root.iterdir()] == ["KMNIST"]
    assert len(checked) == 1
    assert checked[0] >= set(NAMES)


def test_a_download_that_fails_its_check_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Files that are not the dataset's are not published, and what lay there before is untouched."""
    monkeypatch.setattr(module, "_fetch", laying)
    old = root / "MNIST" / "raw" / "mine"
    old.parent.mkdir(parents=True)
    old.write_text("mine")

    def refuse(raw: Path) -> None:
        assert (raw / NAMES[0]).exists()
        raise BadFileError("not the one of mnist")

    with pytest.raises(UnavailableError, match="not MNIST"):
        download("MNIST", root, refuse)
    assert [path for path in root.rglob("*") if path.is_file()] == [old]
    assert [path.name for path in root.iterdir()] == ["MNIST"]


def test_a_folder_that_cannot_be_written_is_found_before_the_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the data folder cannot be made, nothing is fetched."""
    monkeypatch.setattr(module, "_fetch", lambda *_: pytest.fail("fetched for nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="file"):
        download("MNIST", tmp_path / "file" / "data", never)


def test_without_torchvision_the_place_for_the_files_is_named(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A device without torchvision is told where to put the files; nothing is made there."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(UnavailableError) as caught:
        download("MNIST", root, never)
    assert str(root / "MNIST" / "raw") in caught.value.hint
    assert not root.exists()
