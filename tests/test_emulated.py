"""onnxruntime on emulated CPUs: the process that runs there, its failures, and real predictions of Arm and of an older x86.

The fast tests let the same worker run on this CPU, without an emulator.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import mnist_edge

from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import DEFAULT_SETTINGS
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.emulated import process, target
from mnist_edge.targets.emulated.process import open_emulated
from mnist_edge.targets.emulated.setup import DEVICES, Emulator, require_emulator
from mnist_edge.targets.registry import REGISTRY


def run_instead(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Let a command take the place of every emulator."""
    packages = tuple(Path(folder) for folder in sys.path if folder)
    monkeypatch.setattr(process, "require_emulator", lambda device: Emulator(command=command, packages=packages))


def test_the_worker_returns_the_logits_of_its_own_onnxruntime(
    bundle_folder: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes back is what onnxruntime computes, at each batch size, in the order of the images."""
    run_instead(monkeypatch, sys.executable)
    model = bundle_folder / "model.onnx"
    images = digits.test_images[:65]
    expected = open_classifier(model)
    with open_emulated(model, "aarch64", DEFAULT_SETTINGS) as found:
        assert found.placement == expected.placement
        for batch in (1, 64, None):
            np.testing.assert_array_equal(found.logits(images, batch), expected.logits(images, batch))


def test_a_model_that_it_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the onnxruntime in there comes back, not a dead process."""
    run_instead(monkeypatch, sys.executable)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07not a graph")
    with (
        pytest.raises((RefusedModelError, CheckFailedError), match=r"model\.onnx"),
        open_emulated(tmp_path / "model.onnx", "haswell", DEFAULT_SETTINGS),
    ):
        pass


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "ended with"),
        ("print('Segmentation fault')", "Segmentation fault"),
        ('print(\'{"placement": {}, "fixed_batch": null}\'); input()', "ended with"),
        ('print(\'{"placement": {}, "fixed_batch": null}\'); input(); print(\'{"rows": 3}\')', "3 logits for 65"),
    ],
    ids=["crash", "garbage", "ends early", "too few"],
)
def test_a_process_that_fails_fails_the_check(
    program: str, reason: str, bundle_folder: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, garbage, an end before the response and a missing image are failures, with one line each."""
    run_instead(monkeypatch, sys.executable, "-c", program)
    with (
        pytest.raises(CheckFailedError, match=reason),
        open_emulated(bundle_folder / "model.onnx", "haswell", DEFAULT_SETTINGS) as found,
    ):
        found.logits(digits.test_images[:65])


def test_a_run_ends_at_its_timeout(bundle_folder: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--timeout` is the limit of a run, besides a second for each image."""
    run_instead(
        monkeypatch,
        sys.executable,
        "-c",
        'print(\'{"placement": {}, "fixed_batch": null}\', flush=True); input(); input()',
    )
    monkeypatch.setattr(process, "SECONDS_PER_IMAGE", 0.05)
    with (
        open_emulated(bundle_folder / "model.onnx", "haswell", DEFAULT_SETTINGS, timeout=0.1) as found,
        pytest.raises(CheckFailedError, match=r"did not respond within 0\.15 s") as error,
    ):
        found.logits(digits.test_images[:1])
    assert "--timeout" in error.value.hint


def test_a_folder_of_any_origin_is_tried_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else: a file that is no model never reaches an emulator."""
    monkeypatch.setattr(target, "require_emulator", lambda device: None)
    monkeypatch.setattr(target, "open_emulated", lambda *arguments: pytest.fail("opened"))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07not a graph")
    with (
        pytest.raises(BadFileError, match=r"model\.onnx"),
        REGISTRY["onnxruntime"].open(tmp_path, "haswell", 60.0),
    ):
        pass


def test_a_missing_emulator_names_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 and the command that sets it up."""
    monkeypatch.setenv("MNIST_EDGE_EMULATORS", str(tmp_path))
    for device in DEVICES:
        with pytest.raises(UnavailableError) as raised:
            require_emulator(device)
        assert raised.value.exit_code == 4
        assert "mmdebstrap" in raised.value.hint
        assert "make runtimes" in raised.value.hint


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """An emulated CPU that is set up."""
    try:
        require_emulator(request.param)
    except UnavailableError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    return request.param


@pytest.mark.slow
def test_verify_on_another_cpu(device: str, bundle_folder: Path, tmp_path: Path) -> None:
    """The bundle predicts on an emulated CPU as PyTorch did here: golden inputs at six batch sizes, and 100 test images."""
    found = mnist_edge(
        "verify", bundle_folder, "--target", "onnxruntime", "--device", device, "--images", "100", "--json",
        cwd=tmp_path, MNIST_EDGE_EMULATORS=str(emulated_folder()),
    )  # fmt: skip
    assert found.code == 0, found.err
    (variant,) = found.json["variants"]
    assert (variant["flips"], variant["images"]) == (0, 100)
    assert variant["max_abs_error"] < 1e-4
    assert {1, 2, 3, 7, 64} < set(variant["batches"])


def emulated_folder() -> Path:
    """Where the emulators of this machine are."""
    from mnist_edge.targets.emulated.setup import emulators_folder

    return emulators_folder()
