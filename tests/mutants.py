"""`make mutants`: change the code that proves and trains, a place at a time, and count the changes that no test sees.

mutmut makes the mutants and runs, for each, the tests that reach its function. It wants the package below `src/`, so a
copy of the project is made for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRATCH = ROOT / ".mutants"
MUTATED = ("verification/*", "bundle/*", "training/step.py")
TESTS = (
    "test_bundle", "test_calibration", "test_evaluate", "test_margins", "test_outputs", "test_parity",
    "test_planted_faults", "test_precision", "test_recorded", "test_step", "test_suspicion", "test_symptoms",
)  # fmt: skip
"""Those that run in the process of the tests, which is where mutants live."""


def main() -> int:
    """Run the mutants and print the score; a run that is stopped prints that of the mutants it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", help="files below mnist_edge/, as verification/parity.py; may be repeated"
    )
    options = parser.parse_args()
    _copy(options.only or MUTATED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MNIST_EDGE_TEST_WORKPLACE": str(SCRATCH / "workplace")}
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run([sys.executable, "-m", "mutmut", "run"], cwd=SCRATCH, env=environment, check=False)
    fates = {name: _fate(code) for meta in SCRATCH.glob("mutants/**/*.meta") for name, code in _codes(meta).items()}
    for name, fate in fates.items():
        if fate not in {"killed", "timeout", "not checked"}:
            print(f"{fate}: {name}")
    print(f"{len(fates)} mutants: {dict(Counter(fates.values()))}")
    return 0


def _copy(mutated: Sequence[str]) -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)
    (SCRATCH / "src").mkdir(parents=True)
    shutil.copytree(ROOT / "toolkit" / "mnist_edge", SCRATCH / "src" / "mnist_edge")
    for name in ("tests", "benchmarks", "docs", "exported"):
        shutil.copytree(ROOT / name, SCRATCH / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "Makefile"):
        shutil.copy(ROOT / name, SCRATCH)
    (SCRATCH / "workplace").mkdir()
    tests = [f"tests/{name}.py" for name in TESTS if (ROOT / "tests" / f"{name}.py").exists()]
    settings = {
        "source_paths": ["src/"],
        "only_mutate": [f"src/mnist_edge/{pattern}" for pattern in mutated],
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-n", "0", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "not slow"],
        "also_copy": ["benchmarks/", "docs/", "exported/", "README.md", "Makefile"],
        "process_isolation": "forkserver",
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text()
    (SCRATCH / "pyproject.toml").write_text(project + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


def _codes(meta: Path) -> dict[str, int | None]:
    return dict(json.loads(meta.read_text())["exit_code_by_key"])


def _fate(code: int | None) -> str:
    from mutmut.stats import status_by_exit_code

    return str(status_by_exit_code[code])


if __name__ == "__main__":
    sys.exit(main())
