"""The C target: what is generated computes what the network does, without a warning and without an external symbol."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mnist_edge.targets.registry import REGISTRY
from tests.conftest import mnist_edge

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc make"
)


@pytest.fixture(scope="module")
def generated(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C folder of the fp32 variant of the small bundle, by the command. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("c99") / "fp32"
    done = mnist_edge(
        "export", "--target", "c", "--bundle", bundle_folder, "--output", folder, "--json", cwd=folder.parent
    )
    assert done.code == 0, done.err
    report = done.json
    assert (report["schema"], report["target"], report["variant"]) == ("mnist-edge/target/1", "c", "fp32")
    assert report["self_test"] is None or report["self_test"]["images"] == 16
    return folder


@needs_compiler
def test_verify_compares_the_program_with_pytorch(bundle_folder: Path, tmp_path: Path) -> None:
    done = mnist_edge("verify", bundle_folder, "--target", "c", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.json
    (found,) = report["variants"]
    assert (report["target"], report["device"], report["passed"]) == ("c", "host", True)
    assert (found["images"], found["flips"], found["requirement"]) == (360, 0, "exact")
    assert 0 <= found["max_abs_error"] < 1e-4


@needs_compiler
def test_a_tampered_file_fails_the_self_test(generated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(generated, tmp_path / "c")
    command = ["make", "-s", "-C", str(folder), "selftest"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mnist-edge selftest ok 16 images, sha256 ")
    with (folder / "model.c").open("a") as file:
        file.write("/* one byte more */\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_targets_have_a_default_device() -> None:
    assert [(name, target.devices[0]) for name, target in REGISTRY.items() if name == "c"] == [("c", "host")]
