"""A variant under onnxruntime-web, in a headless Chromium, from a server on the loopback interface."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import numpy as np

from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.pixels import Images, Logits
from mnist_edge.runtime.classifier import Classifier, open_classifier
from mnist_edge.targets.emulated.target import MODEL
from mnist_edge.targets.web.chromium import Browser, open_browser
from mnist_edge.targets.web.predictor import BASE64_OF, MESSAGE_IMAGES, read_logits

PACKAGE = "onnxruntime-web"
INSTALL = f"npm install {PACKAGE}@1.30.0 in this folder, or $NODE_PATH names the node_modules that has it"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; img-src data:"
TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


@dataclass(frozen=True, kw_only=True)
class OnnxruntimeWeb:
    """A model that is open in onnxruntime-web.

    Attributes:
        classifier: the same file under onnxruntime on this machine: it states what the input takes.
        timeout: seconds that one run may take.
    """

    name: str
    browser: Browser
    classifier: Classifier
    timeout: float
    placement: Mapping[str, int] = field(default_factory=dict)

    @property
    def fixed_batch(self) -> int | None:
        """Of the graph."""
        return self.classifier.fixed_batch

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the model; see `Predictor.logits`.

        Raises:
            PageFailedError: the page crashed, took too long, or returned another number of logits.
        """
        model_input, size = self.classifier.input, min(batch or len(images), MESSAGE_IMAGES)
        rows = []
        for feed, count in self.classifier.batches(self.classifier.prepare(images), size):
            sent = base64.b64encode(np.ascontiguousarray(feed).tobytes()).decode()
            names = (model_input.name, self.classifier.output.name, model_input.dtype, feed.shape, sent)
            call = f"run({', '.join(map(json.dumps, names))}).then({BASE64_OF})"
            rows.append(read_logits(self.browser.evaluate(call, self.timeout), len(feed), self.name)[:count])
        return np.concatenate(rows)

    def self_test(self) -> None:
        """Return None: an ONNX file has no self-test."""


def find_package() -> Path:
    """Return the folder of onnxruntime-web, looked up as Node does: `node_modules` here or above, then `$NODE_PATH`.

    Raises:
        UnavailableError: it is not installed.
    """
    here = Path.cwd()
    folders = [folder / "node_modules" for folder in (here, *here.parents)]
    folders += [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    for folder in folders:
        package = folder / PACKAGE
        if all((package / "dist" / name).is_file() for name in RUNTIME):
            return package
    raise UnavailableError(f"{PACKAGE} is not installed: the npm package holds the runtime", hint=INSTALL)


@contextlib.contextmanager
def open_onnxruntime_web(folder: Path, device: str, timeout: float) -> Iterator[OnnxruntimeWeb]:
    """Open an ONNX file under onnxruntime-web, on one thread.

    Args:
        folder: with the file, `model.onnx`.
        device: Chromium, the only one.
        timeout: seconds that loading and each run may take.

    Raises:
        UnavailableError: Chromium or onnxruntime-web is not installed.
        UsageError: the model takes neither uint8 nor float32.
        PageFailedError: onnxruntime-web refuses the model.
    """
    del device
    package = find_package()
    model = folder / MODEL
    classifier = open_classifier(model, timeout=timeout)
    if classifier.input.dtype not in {"uint8", "float32"}:
        raise UsageError(f"{model} takes {classifier.input.dtype}; this target takes uint8 or float32")
    version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    own = files("mnist_edge.targets.web")
    content = {"/": (own / "ort.html").read_bytes(), "/ort.js": (own / "ort.js").read_bytes()}
    content |= {f"/{name}": (package / "dist" / name).read_bytes() for name in RUNTIME}
    content["/model.onnx"] = model.read_bytes()
    with open_browser() as browser, _serve(content) as address:
        browser.open(address, timeout)
        browser.evaluate("ready.then(() => true)", timeout)
        yield OnnxruntimeWeb(name=f"{PACKAGE} {version}", browser=browser, classifier=classifier, timeout=timeout)


@contextlib.contextmanager
def _serve(content: Mapping[str, bytes]) -> Iterator[str]:
    """Serve these paths, and nothing else, on a free port of 127.0.0.1; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header(
                "Content-Type",
                TYPES.get(Path(self.path).suffix, "text/html" if self.path == "/" else "application/octet-stream"),
            )
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
