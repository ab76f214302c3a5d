"""The environment of a timing: without it a timing cannot be compared with another."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

from mnist_edge.runtime.session import available_providers

PACKAGES = ("mnist-edge", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
"""CPU features by which onnxruntime selects its kernels."""
WORK_BYTES = 8_000_000


def environment() -> dict[str, Any]:
    """Return CPU, cores, affinity, governor, load, versions and providers, as JSON values."""
    cpu = _cpuinfo()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu["model"] or platform.processor() or platform.machine(),
        "cpu_features": cpu["features"],
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _governor(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": package_versions(),
        "providers": available_providers(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that matter to a timing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def reference_work_ms() -> float:
    """Time a fixed piece of work in one thread, the best of three, in milliseconds: it grows where the machine slows down."""
    block = bytes(WORK_BYTES)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        hashlib.sha256(block).digest()
        best = min(best, time.perf_counter() - started)
    return 1000 * best


def _cpuinfo() -> dict[str, Any]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {"model": fields.get("model name", ""), "features": [flag for flag in FLAGS if flag in flags]}


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else None
