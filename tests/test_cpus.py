"""The CPUs that a process may use: affinity, and cgroup quotas as containers set them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mnist_edge.cpus import available_cpus, require_cpus
from mnist_edge.errors import UsageError


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """An affinity mask of eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """A fake `/proc/self/cgroup` and files below `/sys/fs/cgroup`."""
    for path, text in {
        "proc/self/cgroup": cgroup,
        **{f"sys/fs/cgroup/{key}": value for key, value in files.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


V1 = "12:cpuset:/\n5:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"
CASES = {
    "no cgroup files": ("", {}, 8),
    "v2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
    "v2, a container with --cpus 2": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "v2, a fraction rounds up": ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
    "v2, below one": ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
    "v2, more than there are": ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
    "v2, the parent limits": ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
    "v2, the least of both": ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 3),
    "v2, another cgroup": ("0::/a\n", {"b/cpu.max": "100000 100000\n"}, 8),
    "v2, outside the namespace": ("0::/../x\n", {"cpu.max": "200000 100000\n"}, 2),
    "hybrid": ("0::/a\n", {"unified/a/cpu.max": "200000 100000\n"}, 2),
    "v1": (V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "50000\n"}, 3),
    "v1, seen from inside": (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 1),
    "v1, mounted as cpu": (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "400000\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"}, 4),
    "v1, no limit": (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    "v1, cpuset alone": ("1:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, 8),
    "garbage": ("0::/\nx\n\n:\n", {"cpu.max": "many\n"}, 8),
    "a period of nothing": ("0::/\n", {"cpu.max": "100000 0\n"}, 8),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_quota_limits_the_cpus(tmp_path: Path, case: str) -> None:
    """The affinity mask, or the smallest quota of the process's own cgroup and its parents, rounded up."""
    cgroup, files, expected = CASES[case]
    assert available_cpus(machine(tmp_path, cgroup, **files)) == expected


def test_affinity_limits_below_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota of four CPUs on a mask of one is one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {5})
    assert available_cpus(machine(tmp_path, "0::/\n", **{"cpu.max": "400000 100000\n"})) == 1


def test_more_threads_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option and both numbers are named, and the hint is the value that works."""
    monkeypatch.setattr("mnist_edge.cpus.available_cpus", lambda: 2)
    require_cpus(2)
    with pytest.raises(UsageError, match="--threads 3, but this process may use 2 CPUs") as caught:
        require_cpus(3)
    assert caught.value.hint == "--threads 2"
