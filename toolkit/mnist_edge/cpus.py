"""The CPUs that this process may use, by affinity mask and cgroup quota (a container's `--cpus`), and what they can do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mnist_edge.errors import UsageError

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
"""CPU features by which onnxruntime selects its kernels."""


def cpu_model(root: Path = Path("/")) -> tuple[str, list[str]]:
    """Return the name of the CPU, empty where the system does not state it, and those of its features in FLAGS.

    Args:
        root: where `/proc` is mounted.
    """
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", ""), [flag for flag in FLAGS if flag in flags]


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs this process may use, at least 1; a fractional quota is rounded up.

    Args:
        root: where `/proc` and `/sys` are mounted.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _cgroup_quotas(root))]))


def require_cpus(threads: int) -> None:
    """Raise UsageError for more threads than CPUs: the surplus threads would only wait for the others."""
    cpus = available_cpus()
    if threads > cpus:
        raise UsageError(f"--threads {threads}, but this process may use {cpus} CPUs", hint=f"--threads {cpus}")


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in CPUs, of this process's cgroup and of each of its parents that sets one."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        version_2 = not controllers
        mounts = ("", "unified") if version_2 else (controllers, "cpu")
        path = PurePosixPath(name.lstrip("/"))
        # In a container the name may be the host's, and only the mount's own files are visible: so each parent is tried.
        for mount in dict.fromkeys(root / "sys/fs/cgroup" / mount for mount in mounts):
            for folder in (path, *path.parents):
                if ".." not in folder.parts:
                    yield from (_quota_v2 if version_2 else _quota_v1)(mount / folder)


def _quota_v2(cgroup: Path) -> Iterator[float]:
    """`cpu.max` holds "<quota µs or max> <period µs>"."""
    fields = _read(cgroup / "cpu.max").split()
    if len(fields) == 2:
        yield from _ratio(*fields)


def _quota_v1(cgroup: Path) -> Iterator[float]:
    """`cpu.cfs_quota_us` is -1 where there is no limit."""
    yield from _ratio(_read(cgroup / "cpu.cfs_quota_us"), _read(cgroup / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> Iterator[float]:
    try:
        microseconds, every = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return
    if microseconds > 0 and every > 0:
        yield microseconds / every


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
