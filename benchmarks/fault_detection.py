"""Which planted faults are reported by `mnist-edge verify`, and which by the default checks of other tools.

Every fault of planted_faults.py is planted in the network of the seed, 784-600-400-200-100-10, trained
for an epoch on MNIST; those that need equal layers, in 784-48-48-48-10. Controls have nothing wrong: to
report one is a false positive. A fault counts as distinguished from controls where it is reported and no control
of its precision is. What each tool compares is recorded with its version. The tools run in an environment of
their own that this benchmark creates and removes; those of torch run in this one.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.common import HERE, MNIST_EDGE, PEERS, make_bundle, mnist_folder, report, row, run_child, target
from benchmarks.planted_faults import CONTROL, FAULTS, Fault, Golden, gemms
from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.files import sha256_bytes
from mnist_edge.verification.requirement import requirement_of

EQUAL_WIDTHS = "48,48,48"
PINS = ("onnx==1.23.2", "onnxruntime==1.32.0", "onnxsim==0.8.1", "onnxslim==0.1.98", "polygraphy==0.53.6")
OURS = "mnist-edge verify"
RIVALS = {
    "onnx.checker": "check_model(full_check=True): form, types and shapes of the broken file alone; runs nothing",
    "onnxsim": "simplify(check_n=3; its default is 0, no comparison at all): the broken file against itself simplified, "
    "batch 1, random numbers in [0, 1) cast to uint8, so all-black; rtol 1e-4, atol 1e-5, NaN equals NaN. "
    "The original is never run",
    "onnxslim": "slim(model_check=True; its default is False): the broken file against itself slimmed, batch 1, random "
    "numbers in [0, 1) cast to uint8, so all-black; rtol 1e-3, atol 1e-4, NaN equals NaN. The original is never run",
    "polygraphy": "run --onnxrt on the original, then on the broken file with --load-inputs and --load-outputs: one batch "
    "of 1, integers in [0, 1] where the image goes to 255; every logit, rtol 1e-5 or atol 1e-5",
    "torch verify": "verify_onnx_program returns numbers and no verdict; judged by what torch.onnx.export(verify=True) "
    "warns of: absolute 5e-3 or relative 1e-1 reached by any logit (never by NaN). Against PyTorch, on the example "
    "given to export, here 2 random images",
    "torch assert": "torch.onnx.testing.assert_onnx_program: against PyTorch, on the same 2 images; rtol 1.3e-6, "
    "atol 1e-5, NaN equals NaN",
}

Verdict = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A trained and exported network to plant faults in."""

    name: str
    run: Path
    bundle: Path


def rewritten(source: Path, target: Path, model: bytes, fault: Fault) -> Path:
    """Copy a bundle with another model and every hash renewed: only its outputs differ from an honest one."""
    shutil.copytree(source, target)
    manifest = load_bundle(source).manifest
    (target / "model.onnx").write_bytes(model)
    variant = dataclasses.replace(
        manifest.variants[0],
        precision=fault.precision,
        requirement=requirement_of(fault.precision),
        bytes=len(model),
        sha256=sha256_bytes(model),
    )
    (target / MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, variants=(variant,))))
    return target


def run_verify(bundle: Path) -> Verdict:
    """Return `caught` for a report that fails or a file that is refused (exit code 3); an error catches nothing."""
    done = subprocess.run([MNIST_EDGE, "verify", str(bundle), "--json"], capture_output=True, text=True, check=False)
    try:
        (variant,) = json.loads(done.stdout)["variants"]
    except (ValueError, KeyError):
        verdict = "caught" if done.returncode == 3 else "cannot run"
        return {"verdict": verdict, "reason": f"exit code {done.returncode}: {done.stderr.strip()}", "layer": None}
    verdict = {0: "not caught", 1: "caught"}.get(done.returncode, "cannot run")
    return {"verdict": verdict, "reason": variant["reason"], "layer": (variant["layers"] or {}).get("first")}


def rival_environment(folder: Path) -> Path | str:
    """Install the rivals; return their python, or why there is none."""
    uv = str(Path(sys.executable).with_name("uv"))
    python = folder / "rivals" / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "rivals")],
        [uv, "pip", "install", "--quiet", "--python", str(python), *PINS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"does not install: {done.stderr.strip()}"
    return python


def run_rival(python: Path, tool: str, original: Path, broken: list[Path]) -> tuple[str, dict[str, Verdict]]:
    """Run a tool on each file, in a process of its own; return its version and its verdicts by file name."""
    command = [str(python), str(PEERS / "rival_checks.py"), tool, str(original), *map(str, broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"its process ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
        return "", {path.name: {"verdict": "cannot run", "reason": reason} for path in broken}
    result = json.loads(done.stdout)
    return result["version"], result["verdicts"]


def cleaner(folder: Path) -> Callable[[str], str]:
    """Return a function that removes paths of this machine, addresses and terminal colours from a reason."""
    places = "|".join(re.escape(f"{place}/") for place in (folder, tempfile.gettempdir(), HERE.parent, sys.prefix))

    def clean(text: str) -> str:
        text = re.sub(rf"\x1b\[[0-9;]*m|{places}|https?://\S+", "", text)
        return " ".join(text.split())[:400]

    return clean


def plant_all(networks: list[Network], folder: Path) -> list[tuple[Fault, Network, Path]]:
    """Plant every fault in the first network that has a place for it; return where each broken model lies."""
    planted = []
    for number, fault in enumerate(CONTROL + FAULTS):
        for network in networks:
            golden = load_bundle(network.bundle).golden
            try:
                model = fault.plant(
                    onnx.load(network.bundle / "model.onnx"), Golden(images=golden.images, logits=golden.logits)
                )
            except ValueError:
                continue
            path = folder / f"{number:02}.onnx"
            path.write_bytes(model.SerializeToString())
            planted.append((fault, network, path))
            break
    return planted


def run_all(planted: list[tuple[Fault, Network, Path]], folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Run every tool on every broken model; return the table and the versions of the tools."""
    clean = cleaner(folder)
    python = rival_environment(folder)
    verdicts: dict[str, dict[str, Verdict]] = {}
    versions: dict[str, str] = {}
    for tool in RIVALS:
        verdicts[tool] = {}
        by_torch = tool.startswith("torch")
        for network in dict.fromkeys(network for _, network, _ in planted):
            files = [path for _, its, path in planted if its == network]
            where = Path(sys.executable) if by_torch else python
            if isinstance(where, str):
                verdicts[tool] |= {path.name: {"verdict": "cannot run", "reason": where} for path in files}
                continue
            original = network.run if by_torch else network.bundle / "model.onnx"
            # torch exports once for all; the others crash, if they do, alone.
            for group in [files] if by_torch else [[path] for path in files]:
                found, given = run_rival(where, tool, original, group)
                versions[tool] = found or versions.get(tool, "")
                verdicts[tool] |= given
        print(f"  ran {tool} {versions.get(tool, '')}", file=sys.stderr, flush=True)
    table = []
    for fault, network, path in planted:
        model = path.read_bytes()
        ours = run_verify(rewritten(network.bundle, folder / path.stem, model, fault))
        verdicts_of = {OURS: ours} | {tool: verdicts[tool][path.name] for tool in RIVALS}
        table.append(
            {
                "fault": fault.name,
                "control": fault in CONTROL,
                "network": network.name,
                "precision": fault.precision,
                "layer": fault.layer_of(len(gemms(onnx.load(network.bundle / "model.onnx")))),
                **{tool: {**verdict, "reason": clean(verdict["reason"])} for tool, verdict in verdicts_of.items()},
            }
        )
    return table, versions


def markdown(table: list[dict[str, Any]]) -> str:
    """The verdicts, and our reason, as a Markdown table."""
    tools = [OURS, *RIVALS]
    lines = ["| fault | " + " | ".join(tools) + " | our reason |", "| --- " * (len(tools) + 2) + "|"]
    for entry in table:
        name = f"*{entry['fault']}*" if entry["control"] else entry["fault"]
        cells = [name, *(entry[tool]["verdict"] for tool in tools), entry[OURS]["reason"].replace("|", "/")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def count(table: list[dict[str, Any]], tool: str, *, control: bool) -> float:
    """How many faults, or controls, a tool reported."""
    return float(sum(entry[tool]["verdict"] == "caught" for entry in table if entry["control"] is control))


def distinguished(table: list[dict[str, Any]], tool: str) -> float:
    """Return how many faults it reported in a precision of which it reports no control: a tool that always fails shows nothing."""
    false_positives = {
        entry["precision"] for entry in table if entry["control"] and entry[tool]["verdict"] != "not caught"
    }
    return float(
        sum(
            entry[tool]["verdict"] == "caught" and entry["precision"] not in false_positives
            for entry in table
            if not entry["control"]
        )
    )


def main() -> None:
    """Plant, run and report; the table is added to the results file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small, smaller = folder / "equal", folder / "broken"
        small.mkdir()
        smaller.mkdir()
        bundle = make_bundle(folder)
        run_child(
            [MNIST_EDGE, "train", "--dataset", "mnist", "--epochs", "1", "--widths", EQUAL_WIDTHS, "--run", "run"],
            small,
        )
        run_child([MNIST_EDGE, "export", "--run", "run", "--output", "bundle"], small)
        networks = [
            Network("784-600-400-200-100-10", folder / "run", bundle),
            Network("784-48-48-48-10", small / "run", small / "bundle"),
        ]
        table, versions = run_all(plant_all(networks, smaller), folder)
    text = json.dumps(table)
    for place in (str(HERE.parent), str(mnist_folder()), tempfile.gettempdir(), sys.prefix, "://"):
        if place in text:
            raise AssertionError(f"the table names a place: {place}")
    faults = [entry for entry in table if not entry["control"]]
    everybody = (OURS, *RIVALS)
    rows = [
        row(f"faults reported by {tool}", f"of {len(faults)}", [count(table, tool, control=False)])
        for tool in everybody
    ]
    rows += [
        row(f"controls reported by {tool}", f"of {len(CONTROL)}", [count(table, tool, control=True)])
        for tool in everybody
    ]
    rows += [
        row(f"faults distinguished from controls by {tool}", f"of {len(faults)}", [distinguished(table, tool)])
        for tool in everybody
    ]
    unplaced = sum(entry[OURS]["layer"] != entry["layer"] for entry in faults if entry["layer"] is not None)
    path = report(
        "fault_detection",
        measured=str(__doc__),
        rows=rows,
        targets=[
            target("faults that ours misses", [len(faults) - count(table, OURS, control=False)], at_most=0),
            target(
                "controls that ours fails",
                [len(CONTROL) - sum(entry[OURS]["verdict"] == "not caught" for entry in table if entry["control"])],
                at_most=0,
            ),
            target("faults in one layer where ours names another, or none", [unplaced], at_most=0),
        ],
    )
    tools = {tool: {"version": versions.get(tool, ""), "compares": compares} for tool, compares in RIVALS.items()}
    content = json.loads(path.read_text()) | {"tools": tools, "table": table}
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    print(markdown(table))


if __name__ == "__main__":
    main()
