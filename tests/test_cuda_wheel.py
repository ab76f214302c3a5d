"""The real onnxruntime-gpu wheel on a machine without a driver: 4, one line, one document, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import mnist_edge
from platformdirs import user_cache_path

ONLY_THE_GPU_WHEEL = """
import sys
from importlib.machinery import PathFinder
class WithoutCpuWheel:
    find_spec = staticmethod(PathFinder.find_spec)
    @staticmethod
    def find_distributions(context):
        return (found for found in PathFinder.find_distributions(context) if found.name != "onnxruntime")
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutCpuWheel
"""


@pytest.fixture(scope="module")
def gpu_wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has onnxruntime-gpu in place of onnxruntime; 256 MB are downloaded once."""
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may have a working GPU")
    target = user_cache_path("mnist-edge-tests") / f"onnxruntime-gpu-{sys.version_info[0]}{sys.version_info[1]}"
    if not (target / "onnxruntime").is_dir():
        staged = target.with_name(f"{target.name}-{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(staged),
            "onnxruntime-gpu",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("onnxruntime-gpu could not be downloaded within 200 s")
        if done.returncode:
            pytest.skip(
                f"onnxruntime-gpu cannot be installed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
            )
        staged.rename(target)
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(ONLY_THE_GPU_WHEEL)
    return {"PYTHONPATH": os.pathsep.join([str(site), str(target), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("verify",), ("bench", "--rounds", "2", "--duration", "0.1"), ("eval", "--dataset", "digits")], ids=str
)
def test_cuda_without_a_driver_is_4(
    command: tuple[str, ...], gpu_wheel: dict[str, str], bundle_folder: Path, tmp_path: Path
) -> None:
    """The line names the library or driver that is missing; onnxruntime's own log is not printed."""
    name, *more = command
    done = mnist_edge(name, bundle_folder, *more, "--provider", "cuda", "--json", cwd=tmp_path, **gpu_wheel)
    assert done.code == 4, done.err
    assert "CUDA cannot be used" in done.json["error"]["message"]
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    assert "onnxruntime:Default" not in done.err


@pytest.mark.slow
def test_doctor_reports_cuda_as_missing(gpu_wheel: dict[str, str], tmp_path: Path) -> None:
    """The wheel lists the provider; opening a session shows that it does not work. The CPU of this wheel does."""
    done = mnist_edge("doctor", "--json", cwd=tmp_path, **gpu_wheel)
    assert (done.code, done.err) == (0, "")
    found = {finding["subject"]: finding for finding in done.json["findings"]}
    assert "CUDAExecutionProvider" in found["onnxruntime providers"]["found"]
    assert not found["provider cuda"]["ok"]
    assert "CUDA cannot be used" in found["provider cuda"]["found"]
    assert found["provider cuda"]["fix"]
    assert found["provider cpu"]["ok"]


@pytest.mark.slow
def test_the_cpu_of_the_gpu_wheel_verifies(gpu_wheel: dict[str, str], bundle_folder: Path, tmp_path: Path) -> None:
    """The control of the tests above."""
    done = mnist_edge("verify", bundle_folder, "--json", cwd=tmp_path, **gpu_wheel)
    assert (done.code, done.json["passed"]) == (0, True), done.err
