"""Run every variant on every runtime that is here or can be emulated, over the test set, and record what each predicted.

One row a runtime, device and variant: flips against PyTorch, largest logit error, and the SHA-256 of the logits. Those
of an integer variant must be the same bytes everywhere. Exit 1 if a row does not pass; a runtime that is missing is
such a row, with the packages to install as its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.common import HERE, MNIST_EDGE, RESULTS, mnist_folder
from mnist_edge.benchmarking.environment import environment
from mnist_edge.records.report import Report

TEST_IMAGES = 10_000
WORK = HERE.parent / "runs" / "proof"
INTEGERS = ("int8-exact", "int4-exact", "student-3k-exact", "student-6k-exact")
DROP = ("--max-accuracy-drop", "0.3")
"""Weights of 4 bits lose more than the default of 0.1 points on some networks."""
FLOAT_GRAPHS = ("fp32", "int4-exact", "student-3k-exact", "student-6k-exact")
"""Those that compute on float tensors; the CUDA provider has no kernel for some quantised operators of the others."""
README = HERE.parent / "README.md"
MARKS = ("<!-- proof: begin -->\n", "<!-- proof: end -->")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where variants run, as `mnist-edge verify` names it.

    Attributes:
        options: of `mnist-edge verify`.
        images: number of test images; None for all.
    """

    name: str
    device: str
    emulated: bool = False
    options: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("fp32", *INTEGERS)
    images: int | None = None


def _target(target: str, device: str, described: str, *, emulated: bool = True, **more: Any) -> Runtime:
    options = ("--target", target, "--device", device)
    return Runtime(name=described, device=device, emulated=emulated, options=options, **more)


RUNTIMES = (
    *(
        Runtime(name="onnxruntime", device=f"this CPU, level {level}", options=("--optimization", level))
        for level in ("all", "none")
    ),
    _target("onnxruntime", "haswell", "onnxruntime"),
    _target("onnxruntime", "aarch64", "onnxruntime"),
    Runtime(name="onnxruntime-web", device="Chromium", options=("--target", "onnxruntime-web")),
    Runtime(name="page with wasm", device="Chromium", options=("--target", "web")),
    _target("c", "host", "generated C", emulated=False),
    _target("c", "host-sanitized", "generated C", emulated=False),
    _target("c", "cortex-m3", "generated C", variants=INTEGERS),
    _target("c", "cortex-m4", "generated C", variants=("fp32", *INTEGERS)),
    _target("c", "rv32imac", "generated C", variants=INTEGERS),
    _target("c", "cortex-m55", "generated C", variants=INTEGERS, images=1000),
    _target("c", "avr", "generated C", variants=("student-3k-exact",), images=16),
)

ON_CUDA = (
    Runtime(name="onnxruntime", device="CUDA", options=("--provider", "cuda"), variants=FLOAT_GRAPHS),
    Runtime(
        name="onnxruntime", device="CUDA with TF32", options=("--provider", "cuda", "--tf32"), variants=FLOAT_GRAPHS
    ),
)
"""With `--cuda`, on a machine that has it: a result of its own, which the table of README includes."""


@dataclass(frozen=True, kw_only=True)
class ProofRow:
    """One variant on one runtime.

    Attributes:
        emulated: whether the CPU was emulated; predictions are then those of the real one, times are not.
        flips: predictions that differ from those that the variant owes there: PyTorch's for fp32. None where the runtime did
            not run.
        max_abs_error: of a logit; None as above, and for variants that owe accuracy alone.
        outputs_sha256: of the logits.
        equal: whether these are the bytes that the manifest records; None for variants in floating point.
        reason: why it did not pass.
    """

    runtime: str
    device: str
    emulated: bool
    variant: str
    images: int
    flips: int | None
    max_abs_error: float | None
    outputs_sha256: str | None
    equal: bool | None
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ProofReport(Report):
    """Every row, with the machine that it was run on."""

    schema: ClassVar[str] = "mnist-edge/proof/1"
    environment: dict[str, Any]
    rows: tuple[ProofRow, ...]


def make_bundle(folder: Path) -> Path:
    """Train recipe fast and the students, and export every variant of the proof; what is there already is kept."""
    bundle = folder / "bundle"
    environment = {**os.environ, "MNIST_EDGE_DATA": str(mnist_folder())}
    if not (folder / "run" / "last.safetensors").exists():
        command = [MNIST_EDGE, "train", "--dataset", "mnist", "--recipe", "fast", "--run", str(folder / "run")]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    if not (bundle / "manifest.json").exists():
        wanted = ["student-3k", "student-6k", *INTEGERS]
        options = [part for name in wanted for part in ("--variant", name)]
        command = [MNIST_EDGE, "export", "--run", str(folder / "run"), "--output", str(bundle), *options, *DROP]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    return bundle


def prove(bundle: Path, runtime: Runtime, variant: str) -> ProofRow:
    """Verify one variant on one runtime with the command that a user would type."""
    number = ("--images", str(runtime.images)) if runtime.images else ()
    drop = (
        () if "--target" in runtime.options else DROP
    )  # a target owes the logits of the variant, whatever its accuracy
    command = [MNIST_EDGE, "verify", str(bundle), "--variant", variant, *runtime.options, *number, *drop, "--json"]
    done = subprocess.run(
        command,
        env={**os.environ, "MNIST_EDGE_DATA": str(mnist_folder())},
        capture_output=True,
        text=True,
        check=False,
    )
    row = ProofRow(
        runtime=runtime.name,
        device=runtime.device,
        emulated=runtime.emulated,
        variant=variant,
        images=0,
        flips=None,
        max_abs_error=None,
        outputs_sha256=None,
        equal=None,
        passed=False,
        reason="",
    )
    try:
        content = json.loads(done.stdout)
    except ValueError:
        return dataclasses.replace(row, reason=f"verify ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    if "error" in content:
        return dataclasses.replace(row, reason=f"{content['error']['message']} ({content['error']['hint']})")
    found = content["variants"][0]
    fields = ("images", "flips", "max_abs_error", "outputs_sha256", "reason")
    recorded = json.loads((bundle / "manifest.json").read_text())["variants"]
    owed = next(entry for entry in recorded if entry["name"] == variant)["outputs_sha256"]
    return dataclasses.replace(
        row,
        **{name: found[name] for name in fields},
        equal=None if owed is None else _equal(found, owed["test"]),
        passed=done.returncode == 0 and found["passed"],
    )


def _equal(found: dict[str, Any], owed: str) -> bool:
    """Whether the logits are the recorded bytes; of fewer images than the test set, `verify` itself compared them."""
    return bool(found["passed"] and (found["outputs_sha256"] == owed or found["images"] < TEST_IMAGES))


def table(rows: Sequence[ProofRow]) -> str:
    """Return the rows as a Markdown table: a line a runtime and device, a column a variant."""
    names = list(dict.fromkeys(row.variant for row in rows))
    lines = [f"| runtime | device | images | {' | '.join(names)} |", "| --- " * (3 + len(names)) + "|"]
    places: dict[tuple[str, str], dict[str, ProofRow]] = {}
    for row in rows:
        device = f"{row.device}, emulated" if row.emulated else row.device
        places.setdefault((row.runtime, device), {})[row.variant] = row
    for (runtime, device), found in places.items():
        images = max(row.images for row in found.values())
        cells = [_cell(found[name]) if name in found else "" for name in names]
        lines.append(f"| {runtime} | {device} | {images:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: ProofRow) -> str:
    if not row.passed:
        return "**did not pass**"
    if row.equal is not None:
        return "equal bytes" if row.equal else "**other bytes**"
    error = "" if row.max_abs_error is None else f", error {row.max_abs_error:.1e}"
    return f"{row.flips} flips{error}"


def newest(name: str) -> tuple[ProofRow, ...]:
    """Return the rows of the newest result of this name; none where there is no result."""
    files = sorted(RESULTS.glob(f"*-{name}.json"))
    return tuple(ProofRow(**row) for row in json.loads(files[-1].read_text())["rows"]) if files else ()


def with_table(readme: str) -> str:
    """Return the text of README with the table of the newest results between its marks."""
    before, after = (re.escape(mark) for mark in MARKS)
    content = table((*newest("proof"), *newest("proof_cuda")))
    text, count = re.subn(f"({before}).*?({after})", lambda m: m[1] + content + m[2], readme, flags=re.DOTALL)
    if count != 1:
        raise AssertionError("README has no place for the table of the proof")
    return text


def write_readme() -> None:
    """Replace the table of README."""
    README.write_text(with_table(README.read_text()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, two at a time; write the result and README's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="use this one, with all variants, instead of training")
    parser.add_argument("--cuda", action="store_true", help="run onnxruntime on a GPU, and nothing else")
    parser.add_argument("--only", help="runtimes and devices whose names match; nothing is written")
    options = parser.parse_args(arguments)
    bundle = options.bundle or make_bundle(WORK)
    work = [
        (runtime, variant)
        for runtime in (ON_CUDA if options.cuda else RUNTIMES)
        for variant in runtime.variants
        if options.only is None or re.search(options.only, f"{runtime.name} {runtime.device} {variant}")
    ]

    def one(item: tuple[Runtime, str]) -> ProofRow:
        row = prove(bundle, *item)
        verdict = "passed" if row.passed else f"FAILED: {row.reason}"
        print(f"{row.runtime}, {row.device}, {row.variant}: {verdict}", file=sys.stderr, flush=True)
        return row

    with ThreadPoolExecutor(max_workers=2) as pool:
        rows = tuple(pool.map(one, work))
    report = ProofReport(environment=environment(), rows=rows)
    print(table(rows))
    if options.only is None:
        name = "proof_cuda" if options.cuda else "proof"
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC).date()}-{name}.json"
        path.write_text(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        write_readme()
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
