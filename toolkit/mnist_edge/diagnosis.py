"""Inspect the machine: CPU, extras, providers, GPU and data, without importing torch."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mnist_edge.benchmarking.environment import environment
from mnist_edge.contract import VERSION, DatasetName, ProviderName
from mnist_edge.data.layout import TRAIN_FILES, find_files
from mnist_edge.data.sources import SOURCES, cache_folder, find_raw, load_dataset, load_test_set
from mnist_edge.errors import MnistEdgeError
from mnist_edge.extras import EXTRAS, ExtraName, install_hint, installed_versions, requirements
from mnist_edge.records.system import DoctorReport, Finding
from mnist_edge.runtime.cuda import require_working_cuda
from mnist_edge.runtime.session import EXECUTION_PROVIDERS, available_providers, require_provider

_PURPOSES: dict[ExtraName, str] = {
    "train": "to train and export",
    "plots": "for --plot and mnist-edge report",
    "sweep": "for mnist-edge sweep",
    "postgresql": "for sweep --storage postgresql://...",
    "score": "for mnist-edge score",
    "sign": "for mnist-edge sign and verify --key",
    "tensorboard": "for train --log tensorboard",
    "cpu": "to verify and time on the CPU",
    "cuda": "to verify and time on an NVIDIA GPU",
}


def diagnose(data_dir: Path | None = None) -> DoctorReport:
    """Return one finding for each subject; change nothing."""
    findings = [Finding(subject="mnist-edge", found=f"{VERSION}, Python {platform.python_version()}", ok=True)]
    findings += [*_machine(), *_extras(), *_providers(), _gpu(), *_data(data_dir)]
    return DoctorReport(findings=tuple(findings))


def _machine() -> Iterator[Finding]:
    machine = environment()
    features = ", ".join(machine["cpu_features"]) or "none of those that inference uses"
    yield Finding(
        subject="CPU", found=f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_1min']}", ok=True
    )
    yield Finding(subject="CPU features", found=features, ok=True)


def _extras() -> Iterator[Finding]:
    """Report each extra: the versions of its packages, or which of them are missing and the command for them."""
    for extra in EXTRAS:
        subject = f"extra {extra}"
        # The name in a requirement ends before `>=` or `[`.
        names = [re.split(r"[^\w.-]", requirement)[0] for requirement in requirements(extra)]
        versions = installed_versions(names)
        missing = [name for name in names if name not in versions]
        if versions and not missing:
            yield Finding(subject=subject, found=", ".join(f"{name} {versions[name]}" for name in names), ok=True)
        else:
            found = f"missing: {', '.join(missing)}" if missing else "unknown: mnist-edge itself is not installed"
            yield Finding(subject=subject, found=found, ok=False, fix=f"{_fix(extra)}  # {_PURPOSES[extra]}")


def _fix(extra: ExtraName) -> str:
    """Return the command that installs an extra; for `cpu` and `cuda` it also uninstalls the wheel of the other."""
    if extra in ("cpu", "cuda"):
        try:
            require_provider(extra)
        except MnistEdgeError as error:
            return error.hint
    return install_hint(extra)


def _providers() -> Iterator[Finding]:
    names: tuple[ProviderName, ...] = ("cpu", "cuda")
    for name in names:
        subject = f"provider {name}"
        try:
            require_provider(name)
            if name == "cuda":
                require_working_cuda()
        except MnistEdgeError as error:
            yield Finding(subject=subject, found=error.message, ok=False, fix=error.hint)
        else:
            yield Finding(subject=subject, found=EXECUTION_PROVIDERS[name], ok=True)
    yield Finding(subject="onnxruntime providers", found=", ".join(available_providers()) or "nothing", ok=True)


def _gpu() -> Finding:
    fix = "install the NVIDIA driver, if there is a GPU"
    if shutil.which("nvidia-smi") is None:
        return Finding(subject="GPU", found="no nvidia-smi", ok=False, fix=fix)
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(subject="GPU", found=f"nvidia-smi fails: {error}", ok=False, fix=fix)
    if not done.stdout.strip():
        return Finding(subject="GPU", found="nvidia-smi lists none", ok=False, fix=fix)
    return Finding(subject="GPU", found="; ".join(done.stdout.strip().splitlines()), ok=True)


def _data(data_dir: Path | None) -> Iterator[Finding]:
    for name in SOURCES:
        yield _dataset(name, data_dir)


def _dataset(name: DatasetName, data_dir: Path | None) -> Finding:
    """Find one dataset; a test set alone is enough for eval, verify and bench."""
    subject = f"data {name}"
    raw = find_raw(name, data_dir)
    if raw is None:
        where = (data_dir or cache_folder()) / SOURCES[name].folder / "raw"
        fix = f"mnist-edge train --dataset {name} downloads it; or put the four files into {where}"
        return Finding(subject=subject, found="not found", ok=False, fix=fix)
    test_only = not any(file in TRAIN_FILES for file in find_files(raw))
    try:
        (load_test_set if test_only else load_dataset)(name, data_dir, may_download=False)
    except MnistEdgeError as error:
        return Finding(subject=subject, found=error.message, ok=False, fix=error.hint)
    return Finding(subject=subject, found=f"{raw}, {'test set only' if test_only else 'complete'}", ok=True)
