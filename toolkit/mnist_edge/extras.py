"""The optional parts of the package (extras), and the pip command that installs each on this machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

ExtraName = Literal["train", "plots", "sweep", "postgresql", "score", "sign", "tensorboard", "cpu", "cuda"]
EXTRAS: tuple[ExtraName, ...] = get_args(ExtraName)

_EXTRA_OF_MODULE: dict[str, ExtraName] = {
    **dict.fromkeys(("onnxruntime", "onnx"), "cpu"),
    **dict.fromkeys(("torch", "torchvision", "onnx_ir", "onnxscript", "safetensors", "sklearn"), "train"),
    "matplotlib": "plots",
    "tensorboard": "tensorboard",
    "optuna": "sweep",
    "psycopg": "postgresql",
    **dict.fromkeys(("ray", "pyarrow"), "score"),
    **dict.fromkeys(("model_signing", "cryptography", "OpenSSL"), "sign"),
}


def extra_of_module(module: str) -> ExtraName | None:
    """Return the extra that brings an importable module such as `torch.nn`; None for any other module."""
    return _EXTRA_OF_MODULE.get(module.split(".", maxsplit=1)[0])


def requirements(extra: ExtraName) -> tuple[str, ...]:
    """Return the requirements of an extra, such as `onnxruntime>=1.30`, from the metadata of the installed package.

    Empty where the package is not installed (run from its source folder) or was installed before it had the extra.
    """
    try:
        lines = importlib.metadata.requires("mnist-edge") or []
    except importlib.metadata.PackageNotFoundError:
        return ()
    # A line reads `onnxruntime-gpu[cuda,cudnn]>=1.30 ; extra == 'cuda'`.
    split = (line.partition(";") for line in lines)
    return tuple(
        requirement.strip()
        for requirement, _, marker in split
        if re.search(rf"""extra\s*==\s*['"]{extra}['"]""", marker)
    )


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each of these packages that is installed, by name."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def install_hint(extra: ExtraName) -> str:
    """Return the command that installs an extra here.

    It names the packages themselves: mnist-edge is on no package index, so `pip install "mnist-edge[cpu]"` fails.
    """
    named = requirements(extra)
    if not named:
        return f'{pip()} install ".[{extra}]" in the source folder of mnist-edge'
    return " ".join([pip(), "install", *(f'"{requirement}"' for requirement in named)])


def pip() -> str:
    """Return the pip command of the running interpreter; plain `pip` only where the shell finds that one."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    executable = Path(sys.executable or "python3")
    with contextlib.suppress(ValueError, OSError):  # elsewhere than below the working folder
        executable = executable.relative_to(Path.cwd())
    return f"{shlex.quote(str(executable))} -m pip"
