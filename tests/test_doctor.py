"""`mnist-edge doctor`: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import pytest
from conftest import mnist_edge
from test_cli import hiding, in_process

import mnist_edge as package
from mnist_edge import diagnosis
from mnist_edge.diagnosis import diagnose
from mnist_edge.extras import EXTRAS


def by_subject(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {finding["subject"]: finding for finding in report["findings"]}
    assert len(found) == len(report["findings"])
    return found


def test_doctor_tells_what_is_there(tmp_path: Path) -> None:
    """Versions, CPU and providers as they are; every finding has the same keys."""
    done = in_process("doctor", "--json", cwd=tmp_path)
    assert (done.code, done.err, done.json["schema"]) == (0, "", "mnist-edge/doctor/2")
    found = by_subject(done.json)
    assert all(set(finding) == {"subject", "found", "ok", "fix"} for finding in found.values())
    assert found["mnist-edge"]["found"] == f"{package.__version__}, Python {platform.python_version()}"
    for extra, names in {"train": ["torch", "scikit-learn"], "plots": ["matplotlib"], "sweep": ["optuna"]}.items():
        finding = found[f"extra {extra}"]
        assert finding["ok"]
        assert all(f"{name} {importlib.metadata.version(name)}" in finding["found"].split(", ") for name in names)
    assert found["provider cpu"]["ok"]
    assert f"{os.cpu_count()} cores" in found["CPU"]["found"]
    table = in_process("doctor", cwd=tmp_path)
    assert table.code == 0
    assert all(subject in table.out for subject in found)
    assert all(finding["fix"] in table.out for finding in found.values())


def test_every_missing_thing_comes_with_a_mend(tmp_path: Path) -> None:
    """A bare machine is told what to type for each thing; looking is never an error."""
    packages = (
        "optuna",
        "tensorboard",
        "torch",
        "torchvision",
        "onnx",
        "onnxscript",
        "safetensors",
        "sklearn",
        "scikit-learn",
        "matplotlib",
        "psycopg",
        "ray",
        "model-signing",
    )
    environment = hiding(tmp_path / "site", *packages, "onnxruntime", "onnxruntime-gpu")
    done = mnist_edge("doctor", "--json", cwd=tmp_path, PATH="/nonexistent", **environment)
    assert done.code == 0, done.err
    found = by_subject(done.json)
    missing = {subject for subject, finding in found.items() if not finding["ok"]}
    assert missing == {
        *(f"extra {extra}" for extra in EXTRAS), "provider cpu", "provider cuda", "GPU", "data mnist", "data fashion-mnist", "data kmnist",
    }  # fmt: skip
    assert all(bool(finding["fix"]) != finding["ok"] for finding in found.values())
    assert '-m pip install "matplotlib>=' in found["extra train"]["fix"]
    assert "torch, torchvision" in found["extra train"]["found"]
    assert found["provider cpu"]["fix"].endswith('-m pip install "onnx>=1.21" "onnxruntime>=1.30"')
    assert found["provider cuda"]["fix"].endswith('-m pip install "onnx>=1.21" "onnxruntime-gpu[cuda,cudnn]>=1.30"')
    assert "mnist-edge train --dataset kmnist" in found["data kmnist"]["fix"]
    assert str(tmp_path / "no-cache") in found["data mnist"]["fix"]


def test_damaged_data_are_told(tmp_path: Path) -> None:
    """Files that are there and wrong are named, not taken for present."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"junk")
    done = in_process("doctor", "--data-dir", tmp_path, "--json", cwd=tmp_path)
    finding = by_subject(done.json)["data mnist"]
    assert (done.code, finding["ok"], bool(finding["fix"])) == (0, False, True)
    assert str(raw) in finding["found"]


def test_real_mnist_is_found(mnist_folder: Path) -> None:
    """Whole data are told as whole, with their folder."""
    found = {finding.subject: finding for finding in diagnose(mnist_folder).findings}["data mnist"]
    assert found.ok
    assert str(mnist_folder) in found.found


@pytest.mark.parametrize(
    ("script", "ok", "said"),
    [
        ("echo 'H100, 570.1, 81559 MiB'; echo 'H100, 570.1, 81559 MiB'", True, "; H100"),
        ("echo no driver; exit 9", False, "fails"),
        ("exit 0", False, ""),
    ],
)
def test_the_gpu_is_asked_for_and_believed_only_if_it_answers(
    script: str, ok: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An nvidia-smi without a driver, or without a GPU, is not a GPU."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    finding = diagnosis._gpu()
    assert finding.ok == ok
    assert said in finding.found
    assert bool(finding.fix) != ok
