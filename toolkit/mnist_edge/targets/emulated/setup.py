"""Set up emulated CPUs for onnxruntime: QEMU's user emulation, and for Arm a Python with the aarch64 wheels.

`python -m mnist_edge.targets.emulated.setup` downloads them once, as files, with Debian's `mmdebstrap` and pip: nothing is
installed on the machine. QEMU is Debian 13's, because version 7.2 of Debian 12 crashes when onnxruntime is imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.data.sources import cache_folder
from mnist_edge.errors import UnavailableError

DEVICES = {
    "aarch64": "Arm with 64 bits: the aarch64 wheels of onnxruntime",
    "haswell": "x86 with AVX2 and without VNNI, as before 2019: products of bytes are added in 16 bits",
}
FOLDER_VARIABLE = "MNIST_EDGE_EMULATORS"
RELEASE = "trixie"
ARM_PYTHON = "3.13"
"""The Python of Debian 13."""


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """How to run a Python with onnxruntime on an emulated CPU.

    Attributes:
        command: starts its interpreter; arguments follow.
        packages: folders with its packages.
    """

    command: tuple[str, ...]
    packages: tuple[Path, ...] = ()


def emulators_folder() -> Path:
    """Return where the emulators are: `$MNIST_EDGE_EMULATORS`, or a part of the cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else cache_folder() / "emulators"


def require_emulator(device: str) -> Emulator:
    """Return the emulator of a CPU; raise UnavailableError where it is not set up."""
    folder = emulators_folder()
    binary = folder / "qemu" / ("qemu-aarch64" if device == "aarch64" else "qemu-x86_64")
    root, wheels = folder / "aarch64", folder / "wheels-aarch64"
    needed = [binary, root, wheels] if device == "aarch64" else [binary]
    if not all(path.exists() for path in needed):
        raise UnavailableError(
            f"the emulated CPU {device} is not set up in {folder}",
            hint="apt-get install mmdebstrap, then make runtimes (python -m mnist_edge.targets.emulated.setup)",
        )
    if device == "aarch64":
        # -S: the interpreter's own site module would look for the packages of the machine outside.
        python = (str(binary), "-L", str(root), str(root / "usr/bin/python3"), "-S")
        return Emulator(command=python, packages=(wheels,))
    return Emulator(command=(str(binary), "-cpu", "Haswell", sys.executable))


def set_up(folder: Path) -> None:
    """Download the emulators into a folder, whose parts appear only once they are whole.

    Raises:
        UnavailableError: a program is missing, or a download fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as staged:
        parts = {
            "qemu": _qemu,
            "aarch64": lambda to: _unpack(to, "arm64", ["python3-minimal", "libpython3-stdlib", "libstdc++6"]),
            "wheels-aarch64": _wheels,
        }
        for name, make in parts.items():
            if not (folder / name).exists():
                make(Path(staged) / name)
                os.rename(Path(staged) / name, folder / name)


def _unpack(to: Path, architecture: str, packages: Sequence[str]) -> None:
    """Unpack Debian packages and what they depend on; nothing in them is run."""
    if shutil.which("mmdebstrap") is None:
        raise UnavailableError("mmdebstrap is not installed", hint="apt-get install mmdebstrap")
    include = f"--include={','.join(packages)}"
    _run(["mmdebstrap", "--quiet", "--variant=extract", f"--architectures={architecture}", include, RELEASE, str(to)])
    if not (to / "lib").exists():  # made by the installation of base-files, which is not run
        os.symlink("usr/lib", to / "lib")


def _qemu(to: Path) -> None:
    """Keep the two emulators that are used, of the forty that the package holds; they are statically linked."""
    unpacked = to.with_name("unpacked")
    _unpack(unpacked, "amd64", ["qemu-user"])
    to.mkdir()
    for name in ("qemu-aarch64", "qemu-x86_64"):
        os.rename(unpacked / "usr/bin" / name, to / name)


def _wheels(to: Path) -> None:
    """Download the aarch64 wheels of the versions that run here."""
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in ("onnxruntime", "numpy")]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)]
    version = ["--python-version", ARM_PYTHON, "--only-binary=:all:"]
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(to), *platforms, *version, *pinned])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(f"{command[0]} failed: {lines[-1]}", hint="try again with a network")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        set_up(emulators_folder())
