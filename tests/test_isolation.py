"""The device half runs where torch is not, `--help` loads nothing heavy, and the floors of the house hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

WORKSHOP = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "safetensors"}
# typer itself imports pydantic where it is installed.
HEAVY = WORKSHOP | {"numpy", "scipy", "onnxruntime", "sklearn", "matplotlib", "PIL"}
COMMANDS = (
    "",
    "run",
    "train",
    "sweep",
    "eval",
    "export",
    "variants",
    "verify",
    "bench",
    "report",
    "inspect",
    "sign",
    "compare",
    "doctor",
)
TASK = {"batch": 1, "scenario": {"seconds": 0.01}, "settings": {"provider": "cpu", "threads": 1}, "parent": os.getpid()}


def imported(*arguments: str | Path, cwd: Path, task: str = "", package: Path | None = None) -> set[str]:
    """The top-level packages that a python process imports, as the interpreter itself tells."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MNIST_EDGE")}
    env |= {"XDG_CACHE_HOME": str(cwd / "no-cache")} | ({"PYTHONPATH": str(package)} if package else {})
    command = [sys.executable, "-X", "importtime", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, input=task, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    names = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE)
    return {name.split(".")[0] for name in names}


@pytest.fixture
def altered(tmp_path: Path) -> Path:
    """A copy of the house that a test may spoil: its folder, with toolkit/ and pyproject.toml."""
    house = tmp_path / "house"
    shutil.copytree(ROOT / "toolkit", house / "toolkit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", house)
    return house


def spoil(house: Path, module: str, line: str) -> None:
    path = house / "toolkit" / "mnist_edge" / module
    path.write_text(path.read_text() + f"\n{line}\n")


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=house, env={**os.environ, "PYTHONPATH": str(house / "toolkit")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str, tmp_path: Path) -> None:
    """--help answers at once, also where nothing but the base is installed."""
    found = imported("-m", "mnist_edge", *command.split(), "--help", cwd=tmp_path)
    assert "mnist_edge" in found
    assert found & HEAVY == set()


def test_verify_never_imports_the_workshop(bundle_folder: Path, tmp_path: Path) -> None:
    """A device without torch verifies; one with torch does not pay for it. The certificate reads the graph with onnx."""
    found = imported("-m", "mnist_edge", "verify", bundle_folder, cwd=tmp_path)
    assert {"mnist_edge", "onnxruntime", "numpy"} <= found
    assert found & (WORKSHOP - {"onnx"}) == set()


def test_listing_variants_never_imports_the_workshop(tmp_path: Path) -> None:
    """A device without torch can see what could be made for it."""
    found = imported("-m", "mnist_edge", "variants", cwd=tmp_path)
    assert "mnist_edge" in found
    assert found & WORKSHOP == set()


def test_doctor_never_imports_the_workshop(tmp_path: Path) -> None:
    """Looking at a broken machine must not depend on what is broken."""
    found = imported("-m", "mnist_edge", "doctor", cwd=tmp_path)
    assert {"mnist_edge", "onnxruntime"} <= found
    assert found & WORKSHOP == set()


def test_the_timing_process_never_imports_the_workshop(bundle_folder: Path, tmp_path: Path) -> None:
    """torch's thread pool beside onnxruntime's would spoil the figures."""
    files = {"model": str(bundle_folder / "model.onnx"), "golden": str(bundle_folder / "golden.npz")}
    found = imported("-m", "mnist_edge.benchmarking.worker", cwd=tmp_path, task=json.dumps(TASK | files))
    assert {"mnist_edge", "onnxruntime"} <= found
    assert found & WORKSHOP == set()


def test_bench_itself_never_imports_the_workshop(bundle_folder: Path, tmp_path: Path) -> None:
    """The process that starts the timings only names PyTorch's."""
    script = f"""
from pathlib import Path
from mnist_edge.benchmarking import rounds
from mnist_edge.benchmarking.plan import Plan
rounds.ENGINES["torch"] = rounds.ENGINES["onnxruntime"]
from mnist_edge.records.benchmark import Scenario
plan = Plan(model=Path({str(bundle_folder)!r}), rounds=1, scenario=Scenario(seconds=0))
assert [row.engine for row in rounds.bench(plan).results] == ["onnxruntime", "torch"]
"""
    found = imported("-c", script, cwd=tmp_path)
    assert "mnist_edge" in found
    assert found & WORKSHOP == set()


@pytest.mark.slow
def test_the_check_sees_torch_where_it_is_imported(altered: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """The checks above can fail: one import in the session's file is seen through the command."""
    # As good as the real one here, and quicker; scipy looks for the class where torch is imported.
    (altered / "toolkit" / "torch.py").write_text("class Tensor: ...\n")
    spoil(altered, "runtime/session.py", "import torch")
    found = imported("-m", "mnist_edge", "verify", bundle_folder, cwd=tmp_path, package=altered / "toolkit")
    assert "torch" in found
    spoil(altered, "cli/options.py", "import numpy")
    assert "numpy" in imported("-m", "mnist_edge", "--help", cwd=tmp_path, package=altered / "toolkit")


def test_the_floors_hold() -> None:
    """No room imports from a floor above, the device half never from the workshop."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("runtime/session.py", "import torch"),
        ("runtime/session.py", "def late():\n    import torch"),
        ("verification/parity.py", "from mnist_edge.training.model import build_model"),
        ("bundle/golden.py", "import onnx"),
        ("files.py", "from mnist_edge.cli.app import main"),
        ("training/loop.py", "from rich.console import Console"),
        ("benchmarking/rounds.py", "import mnist_edge.baseline.eager"),
        ("training/loop.py", "from mnist_edge.sweeping.study import Space"),
        ("sweeping/search.py", "from rich.console import Console"),
    ],
)
def test_an_import_across_the_floors_is_found(module: str, line: str, altered: Path) -> None:
    """The contracts can fail: each wrong import, even a late one, breaks them by name."""
    spoil(altered, module, line)
    done = lint_imports(altered)
    assert done.returncode == 1, done.stdout + done.stderr
    assert module.removesuffix(".py").replace("/", ".") in done.stdout
    assert "BROKEN" in done.stdout
