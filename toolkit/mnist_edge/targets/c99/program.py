"""A C folder, compiled and run on a device: a predictor that checks that there are logits for each image."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_edge.contract import CLASSES
from mnist_edge.errors import UnavailableError
from mnist_edge.files import explaining_os_errors
from mnist_edge.pixels import Images, Logits
from mnist_edge.records.target import SelfTest
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.c99.devices import DEVICES, GOLDEN_ONLY, compiler_hint, require_tools
from mnist_edge.targets.c99.make import SHOWN, failure, make_environment, working_folder
from mnist_edge.targets.folder import changes

PRINTED = re.compile(rf"(?<![0-9a-f])[0-9a-f]{{{8 * CLASSES}}}(?![0-9a-f])")
"""Logits of an image as a device prints them: the bytes of float32, little-endian."""
PASSED = re.compile(r"mnist-edge selftest ok (\d+) images, sha256 ([0-9a-f]{64})")
COMPILING_SECONDS = 300.0
"""That the compiler may take; 3.2 MB of float constants take 3 s."""


@dataclass(frozen=True, kw_only=True)
class CProgram:
    """A compiled folder on a device.

    Attributes:
        folder: with the Makefile.
        place: as `working_folder` makes it; object files, images and logits are in its `build`.
        timeout: seconds that a run may take, besides those for its number of images.
    """

    folder: Path
    device: str
    place: Path
    timeout: float
    fixed_batch: int | None = None
    placement: Mapping[str, int] = field(default_factory=dict)

    @property
    def build(self) -> Path:
        """Folder for object files, images and logits."""
        return self.place / "build"

    @property
    def name(self) -> str:
        """The folder and the device."""
        return f"{self.folder} on {self.device}"

    def logits(self, images: Images, batch: int | None = None) -> Logits:
        """Run images through the program, all in one run; see `Predictor.logits`.

        Raises:
            RefusedModelError: it ends with an error, does not end, or does not return the logits of each image.
        """
        del batch
        seconds = self.timeout + DEVICES[self.device].seconds_per_image * len(images)
        printed = self.device in GOLDEN_ONLY
        output = self.build / ("logits.txt" if printed else "logits.bin")
        with explaining_os_errors(self.build):
            output.unlink(missing_ok=True)
            (self.build / "images.bin").write_bytes(np.ascontiguousarray(images).tobytes())
        self._make("run", seconds)
        data = output.read_bytes() if output.is_file() else b""
        found = self._printed(data, len(images)) if printed else self._written(data, len(images))
        return np.frombuffer(found, "<f4").reshape(-1, CLASSES).astype(np.float32)

    def _written(self, data: bytes, images: int) -> bytes:
        """Return the logits in what the harness wrote, which ends with their count."""
        expected = 4 * CLASSES * images + 4
        if len(data) != expected:
            raise RefusedModelError(
                f"{self.name} wrote {len(data)} bytes for {images} images, expected {expected}: it stopped early, or "
                "wrote something else",
                hint="generate it again",
            )
        count = int.from_bytes(data[-4:], "little")
        if count != images:
            raise RefusedModelError(f"{self.name} reports {count} images, expected {images}", hint="generate it again")
        return data[:-4]

    def _printed(self, data: bytes, images: int) -> bytes:
        """Return the logits in what a device printed on its serial line; its golden images are those of `images`."""
        found = PRINTED.findall(data.decode(errors="replace"))
        if len(found) != images:
            raise RefusedModelError(
                f"{self.name} printed the logits of {len(found)} images, expected {images}: it stopped early, or printed "
                "something else",
                hint="generate it again",
            )
        return bytes.fromhex("".join(found))

    def self_test(self) -> SelfTest:
        """Compile and run selftest.c; see `TargetProgram.self_test`."""
        output = self._make("golden", COMPILING_SECONDS + self.timeout)
        lines = output.strip().splitlines()
        found = PASSED.search(lines[-1]) if lines else None
        if found is None:
            last = lines[-1][:SHOWN] if lines else "nothing"
            raise RefusedModelError(f"the self-test of {self.name} printed {last!r}", hint="generate it again")
        return SelfTest(images=int(found[1]), sha256=found[2])

    def compile(self) -> None:
        """Compile the harness.

        Raises:
            RefusedModelError: the compiler refuses it.
            UnavailableError: that of this computer refuses what an export wrote, unchanged.
        """
        try:
            self._make("harness", COMPILING_SECONDS)
        except RefusedModelError as error:
            if DEVICES[self.device].tools or changes(self.folder, "c"):  # a microcontroller: it may be too large
                raise
            raise UnavailableError(
                f"the compiler cannot compile generated C: {error.message}", hint=compiler_hint()
            ) from error

    def _make(self, goal: str, timeout: float) -> str:
        """Make a goal of the folder and return what it printed."""
        command = ["make", "--silent", "--no-print-directory", f"DEVICE={self.device}", "BUILD=../build", goal]
        try:
            code, output = _run(command, self.place / "source", timeout)
        except OSError as error:
            raise UnavailableError(f"make: {error.strerror}", hint="apt-get install make") from error
        if code is None:
            raise RefusedModelError(
                f"{self.name} did not end within {timeout:.3g} s", hint="raise --timeout, or take fewer --images"
            )
        if code != 0:
            raise RefusedModelError(f"{self.name} failed: {failure(output)}", hint="generate it again")
        return output


def _run(command: list[str], folder: Path, timeout: float) -> tuple[int | None, str]:
    """Run a command in a folder, with everything that it starts; return its exit code, None after `timeout` seconds, and its output."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=make_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.returncode is None:  # a timeout, or a signal to this process: the emulator must not live on
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return code, output.read(2**20).decode(errors="replace")


@contextlib.contextmanager
def open_program(folder: Path, device: str, timeout: float) -> Iterator[CProgram]:
    """Compile a C folder for a device; what is compiled lies in a temporary folder as long as it is open.

    Raises:
        UnavailableError: a tool is missing, or this computer's compiler refuses what an export wrote, unchanged.
        RefusedModelError: it is no such folder, or the compiler refuses it.
    """
    require_tools(device)
    if not (folder / "Makefile").is_file():
        raise UnavailableError(f"{folder} holds no Makefile", hint="mnist-edge export --target c makes such a folder")
    with working_folder(folder) as place:
        program = CProgram(folder=folder, device=device, place=place, timeout=timeout)
        program.compile()
        yield program
