"""Run every benchmark in turn, each in a process of its own, so that none finds another's memory or threads."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "startup",
    "export_cost",
    "memory",
    "data_scale",
    "large_sets",
    "score",
    "bench_overhead",
    "train_epoch",
    "time_to_accuracy",
    "best_accuracy",
    "variants",
    "processes",
    "compare_power",
    "race_error",
    "tune_regret",
    "injected_slowdown",
    "fault_detection",
)


def main() -> int:
    """Run them all, also after one that fails; 1 if any did."""
    failed = [
        name for name in NAMES if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
