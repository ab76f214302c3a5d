"""The environment of a timing, without which it cannot be compared with another one."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from mnist_edge.cpus import available_cpus, cpu_model
from mnist_edge.extras import installed_versions
from mnist_edge.runtime.session import available_providers

PACKAGES = ("mnist-edge", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")
"""Packages whose versions matter to a timing."""
GPU_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "sm_clock_mhz": "clocks.sm",
    "max_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
}
"""Fields of `gpu` and what `nvidia-smi --query-gpu` calls them; a value that the GPU does not report stays a text."""
WORK_BYTES = 8_000_000


def environment() -> dict[str, Any]:
    """Return the environment as JSON values.

    Returns:
        `cores` are those of the machine, `available_cpus` those that this process may use (affinity and the quota of a
        container). `gpu` is None where `nvidia-smi` finds none; see `gpu_state`.
    """
    model, features = cpu_model()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model or platform.processor() or platform.machine(),
        "cpu_features": features,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "available_cpus": available_cpus(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _governor(),
        "gpu": gpu_state(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": installed_versions(PACKAGES),
        "providers": available_providers(),
    }


def gpu_state() -> dict[str, Any] | None:
    """Return name, driver, memory and clocks of the GPU that CUDA numbers 0, or None where `nvidia-smi` finds none."""
    if shutil.which("nvidia-smi") is None:
        return None
    # CUDA counts only the visible devices; nvidia-smi counts all, unless it is asked for one.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    chosen = [f"--id={visible}"] if visible else []
    query = ["nvidia-smi", *chosen, f"--query-gpu={','.join(GPU_FIELDS.values())}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if len(values) != len(GPU_FIELDS):
        return None
    return {name: int(value) if value.isdecimal() else value for name, value in zip(GPU_FIELDS, values, strict=True)}


def reference_work_ms() -> float:
    """Time a fixed piece of work in one thread, best of three, in milliseconds; more means that the machine is slower."""
    block = bytes(WORK_BYTES)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        hashlib.sha256(block).digest()
        best = min(best, time.perf_counter() - started)
    return 1000 * best


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else None
