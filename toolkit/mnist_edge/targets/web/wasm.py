"""Compile generated C to one WebAssembly module, which imports nothing."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from mnist_edge.errors import CheckFailedError, UnavailableError

# -O3 made the module of a student 1.7 times as large, and no model measurably faster.
FLAGS = (
    *("--target=wasm32", "-std=c99", "-O2", "-msimd128", "-ffreestanding", "-nostdlib"),
    # Copies and fills as instructions: there is no C library to call.
    "-mbulk-memory",
    # A fused product would round otherwise than the reference; wasm has none today.
    "-ffp-contract=off",
    "-fvisibility=hidden",
    *("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=65536"),
)

SECONDS = 300.0
"""That clang may take; 3.2 MB of float constants take 3 s."""


def require_compiler() -> str:
    """Return the path of clang.

    Raises:
        UnavailableError: clang or lld's `wasm-ld` is not installed.
    """
    clang = shutil.which("clang")
    missing = [name for name in ("clang", "wasm-ld") if shutil.which(name) is None]
    if clang is None or missing:
        raise UnavailableError(
            f"{' and '.join(missing)} not found: the target web is compiled C", hint="apt-get install clang lld"
        )
    return clang


def compile_wasm(sources: Mapping[str, str]) -> bytes:
    """Return the WebAssembly module of a generated model; see `web.c` for what it exports.

    Args:
        sources: `model.h` and `model.c`, as `targets.c99.source.model_files` returns them.

    Raises:
        UnavailableError: clang or lld is not installed.
        CheckFailedError: the compiler refuses the code.
    """
    clang = require_compiler()
    entry = (files("mnist_edge.targets.web") / "web.c").read_text(encoding="ascii")
    with tempfile.TemporaryDirectory(prefix="mnist-edge-") as folder:
        for name, text in {**sources, "web.c": entry}.items():
            (Path(folder) / name).write_text(text, encoding="ascii")
        command = [clang, *FLAGS, "web.c", "model.c", "-o", "model.wasm"]
        try:
            ran = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise CheckFailedError(
                f"clang did not end within {SECONDS:g} s", hint="is the machine overloaded?"
            ) from None
        if ran.returncode:
            first = next(iter(ran.stderr.splitlines()), f"exit code {ran.returncode}")
            raise CheckFailedError(f"clang cannot compile the model: {first}", hint="clang 14 or newer is needed")
        return (Path(folder) / "model.wasm").read_bytes()
