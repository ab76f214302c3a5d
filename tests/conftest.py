"""What the tests share: a small trained run and bundle on the digits that need no network, and the command line."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Two workers with two spinning threads each on two cores wait for each other: a step takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from mnist_edge.data.digits import load_digits
from mnist_edge.interrupts import restored_signals
from mnist_edge.records.data import Dataset

ROOT = Path(__file__).parent.parent
WIDTHS = (48, 32)


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def mnist_edge(*arguments: str | Path, cwd: Path, timeout: float = 200, **environment: str) -> Result:
    """Run the real command in a process of its own, with no dataset of this machine in sight."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MNIST_EDGE")}
    env |= {"XDG_CACHE_HOME": str(cwd / "no-cache"), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "mnist_edge", *map(str, arguments)],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def _restored_signals() -> Iterator[None]:
    """main() leaves signals ignored when it ends, and child processes inherit that."""
    with restored_signals():
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """1,437 training and 360 test pictures, real handwriting."""
    return load_digits()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/digits (784-48-32-10, 20 epochs) and exported/digits, made by the commands. Do not change it."""
    base = tmp_path_factory.getbasetemp()
    # One for all workers of pytest-xdist, or of a check with mutants: the first makes it while the others wait.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("MNIST_EDGE_TEST_WORKPLACE", shared / "workplace"))
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            widths = ",".join(map(str, WIDTHS))
            trained = mnist_edge("train", "--dataset", "digits", "--widths", widths, "--epochs", "20", cwd=folder)
            assert trained.code == 0, trained.err
            exported = mnist_edge("export", cwd=folder)
            assert exported.code == 0, exported.err
            (folder / "ready").touch()
    return folder


@pytest.fixture(scope="session")
def bundle_folder(workplace: Path) -> Path:
    """The bundle of `workplace`. Copy it before changing it."""
    return workplace / "exported" / "digits"


@pytest.fixture(scope="session")
def two_variant_bundle(bundle_folder: Path, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `workplace` with a second variant, int8 by onnxruntime's quantiser. Copy it before changing it."""
    import onnx

    from benchmarks.planted_faults import Golden, to_int8
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.bundle.golden import NO_LABEL
    from mnist_edge.exporting.pipeline import add_variant
    from mnist_edge.records.bundle import VariantSpec

    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("two") / "digits")
    golden = load_bundle(folder).golden
    rows = golden.labels != NO_LABEL
    model = to_int8(onnx.load(folder / "model.onnx"), Golden(golden.images[rows], golden.logits[rows]))
    spec = VariantSpec(name="int8", precision="int8", requirement="lossy", max_accuracy_drop=0.05)
    add_variant(folder, spec, model.SerializeToString(), digits)
    return folder


@pytest.fixture(scope="session")
def variant_context(
    workplace: Path, bundle_folder: Path, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What the variants of the bundle of `workplace` are made from (a VariantContext)."""
    from mnist_edge.exporting.variants.kind import VariantContext
    from mnist_edge.training.recipes import find_recipe
    from mnist_edge.training.state_dict import read_model

    return VariantContext(
        fp32=(bundle_folder / "model.onnx").read_bytes(),
        network=read_model(workplace / "runs" / "digits").network,
        dataset=digits,
        recipe=find_recipe("fast"),
        normalization="seed",
        input="uint8",
        opset=20,
        max_accuracy_drop=0.05,
        runs=tmp_path_factory.mktemp("runs"),
        user_runs=workplace / "runs",
    )


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder of real MNIST, where this machine has it."""
    found = os.environ.get("MNIST_EDGE_DATA")
    if not found or not (Path(found) / "MNIST" / "raw").is_dir():
        pytest.skip("real MNIST is not at hand: set MNIST_EDGE_DATA")
    return Path(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Where every tool is meant to be there ($MNIST_EDGE_NO_SKIPS), let a test that is skipped for want of one fail."""
    report = yield
    if report.skipped and os.environ.get("MNIST_EDGE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not re.search("CUDA|GPU|could not be downloaded", reason):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} may not be skipped here: {reason}"
    return report
