"""onnxruntime on an emulated CPU, as a predictor: the same wheels that run on an Arm board or on an older x86.

QEMU's user emulation runs the instructions of another CPU, one process at a time. Predictions are those of the real
CPU; times are not. The emulators are set up once by `targets/emulated/setup.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnist_edge.errors import CheckFailedError
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.classifier import TIMEOUT_SECONDS
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.emulated.setup import Emulator, require_emulator

START_SECONDS = 300.0
"""For the import of onnxruntime under emulation, which takes seconds on an idle machine."""

SECONDS_PER_IMAGE = 1.0
"""Time limit of a run, for each of its images; an emulated one takes about 0.01 s."""


@dataclass(frozen=True, kw_only=True)
class EmulatedClassifier:
    """A model that is open in an emulated process; see `Predictor`.

    Attributes:
        timeout: seconds that a run may take, besides `SECONDS_PER_IMAGE`.
    """

    name: str
    process: subprocess.Popen[str]
    fixed_batch: int | None
    folder: Path
    timeout: float
    placement: Mapping[str, int] = field(default_factory=dict)

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the model; see `Predictor.logits`.

        Raises:
            CheckFailedError: the process ended, took too long, or returned another number of images.
            RefusedModelError: its onnxruntime cannot run the model.
        """
        files = {"images": str(self.folder / "images.npy"), "logits": str(self.folder / "logits.npy")}
        np.save(files["images"], images)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the response, which will not come, tells more
            self.process.stdin.write(json.dumps({**files, "batch": batch}) + "\n")
            self.process.stdin.flush()
        response = _response(self.name, self.process, self.timeout + SECONDS_PER_IMAGE * len(images))
        if response.get("rows") != len(images):
            raise CheckFailedError(f"{self.name} returned {response.get('rows')} logits for {len(images)} images")
        return np.asarray(np.load(files["logits"]), dtype=np.float32)

    def self_test(self) -> None:
        """A model file has none."""


@contextlib.contextmanager
def open_emulated(
    model: Path, device: str, settings: SessionSettings, timeout: float = TIMEOUT_SECONDS
) -> Iterator[EmulatedClassifier]:
    """Open a model in onnxruntime on an emulated CPU, until the block ends.

    Args:
        model: an ONNX file whose bytes and sizes have been checked.
        device: name of the emulated CPU.
        settings: of the session.
        timeout: seconds that opening and a run may take, besides `START_SECONDS` and `SECONDS_PER_IMAGE`.

    Raises:
        UnavailableError: the emulator is not set up.
        CheckFailedError: the process ended or did not start in time.
        RefusedModelError: its onnxruntime cannot build the model.
    """
    emulator = require_emulator(device)
    name = f"onnxruntime on {device}"
    with tempfile.TemporaryDirectory(prefix="mnist-edge-") as folder:
        process = _start(emulator, model, settings)
        try:
            opened = _response(name, process, START_SECONDS + timeout)
            yield EmulatedClassifier(
                name=name,
                process=process,
                fixed_batch=opened["fixed_batch"],
                folder=Path(folder),
                timeout=timeout,
                placement=opened["placement"],
            )
        finally:
            process.kill()
            process.communicate()


def _start(emulator: Emulator, model: Path, settings: SessionSettings) -> subprocess.Popen[str]:
    source = Path(__file__).parents[3]
    packages = [str(source), *map(str, emulator.packages)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages), "PYTHONSAFEPATH": "1"}
    worker = ["-m", "mnist_edge.targets.emulated.worker", str(model.resolve())]
    return subprocess.Popen(
        [*emulator.command, *worker, json.dumps(dataclasses.asdict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tempfile.gettempdir(),
    )


def _response(name: str, process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """Return the next response of the process."""
    assert process.stdout is not None
    line = _line(process, seconds)
    if line is None:
        raise CheckFailedError(
            f"{name} did not respond within {seconds:.3g} s", hint="raise --timeout, or take fewer --images"
        )
    try:
        response: dict[str, Any] = dict(json.loads(line))
    except (ValueError, TypeError):
        how = f"printed {line[:60]!r}" if line else f"ended with {process.poll()}"
        raise CheckFailedError(f"{name}: the emulated process {how}", hint="make runtimes sets it up again") from None
    if "refused" in response:
        message, hint = response["refused"]
        raise RefusedModelError(message, hint=hint)
    return response


def _line(process: subprocess.Popen[str], seconds: float) -> str | None:
    """Return the next line that the process prints, empty where it ended; None after `seconds`."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout=seconds):
            return None
    line = process.stdout.readline()
    if not line:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    return line
