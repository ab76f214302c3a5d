"""What other tools say of a broken model by default: one JSON object on standard output, {file name: verdict}.

Run as `rival_checks.py TOOL ORIGINAL BROKEN...`, in an environment that holds the tool. ORIGINAL is the
untouched model; for the two of torch, it is the run folder that it was exported from. A verdict is
`{"verdict": "caught" | "not caught" | "no verdict" | "cannot run", "reason": ...}`. mnist_edge is not
imported, but where torch needs the network.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

Verdict = dict[str, str]
ONNXSIM_CHECKS = 3
EXPORT_ABSOLUTE, EXPORT_RELATIVE = 5e-3, 1e-1
"""What `torch.onnx.export(verify=True)` warns of: torch/onnx/_internal/exporter/_core.py, step 6."""


def caught(reason: object) -> Verdict:
    return {"verdict": "caught", "reason": str(reason)}


def passed(reason: object) -> Verdict:
    return {"verdict": "not caught", "reason": str(reason)}


def onnx_checker(original: Path, broken: Path) -> Verdict:
    """`onnx.checker.check_model(full_check=True)`: form and shapes of the broken file alone."""
    import onnx

    del original
    onnx.checker.check_model(str(broken), full_check=True)
    return passed("its form is valid")


def onnxsim(original: Path, broken: Path) -> Verdict:
    """`simplify`, and its own comparison of before and after, which is off (check_n=0) unless asked for."""
    del original
    _, same = import_module("onnxsim").simplify(str(broken), check_n=ONNXSIM_CHECKS)
    return passed("the simplified file answers as the broken one") if same else caught("simplifying changed answers")


def onnxslim(original: Path, broken: Path) -> Verdict:
    """`slim(model_check=True)`, which is off by default; it returns no model where the answers changed."""
    del original
    if import_module("onnxslim").slim(str(broken), model_check=True) is None:
        return caught("slimming changed answers")
    return passed("the slimmed file answers as the broken one")


def polygraphy(original: Path, broken: Path) -> Verdict:
    """`polygraphy run` twice: the original saves its inputs and outputs, the broken one is compared with them."""
    command = str(Path(sys.executable).with_name("polygraphy"))
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = f"{scratch}/inputs.json", f"{scratch}/outputs.json"
        for options in (
            [str(original), "--onnxrt", "--save-inputs", inputs, "--save-outputs", outputs],
            [str(broken), "--onnxrt", "--load-inputs", inputs, "--load-outputs", outputs],
        ):
            done = subprocess.run([command, "run", *options], capture_output=True, text=True, check=False)
            if options[0] == str(original) and done.returncode:
                return {"verdict": "cannot run", "reason": _last_line(done.stdout + done.stderr)}
    told = re.search(r"Minimum Required Tolerance: .*?\[abs=(\S+?)\] OR \[rel=(\S+?)\]", done.stdout)
    figures = f"largest error {told[1]}, relative {told[2]}" if told else _last_line(done.stdout + done.stderr)
    return caught(figures) if done.returncode else passed(figures)


def _last_line(text: str) -> str:
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line or "Error" in line]
    return (errors or lines or ["no word"])[0].strip()


def _torch_program(run: Path) -> Any:
    """The ONNXProgram of the true network, its example one seeded batch of noise pictures."""
    import torch

    from mnist_edge.exporting.graph import deployed
    from mnist_edge.training.state_dict import read_model

    network = read_model(run).network
    example = torch.randint(0, 256, (2, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.onnx.export(
        deployed(network, "uint8"),
        (example,),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )


def torch_verify(program: Any) -> Verdict:
    """`verify_onnx_program` gives figures; `torch.onnx.export(verify=True)` warns of them beyond its limits."""
    from torch.onnx.verification import verify_onnx_program

    (info,) = verify_onnx_program(program)
    figures = f"largest error {info.max_abs_diff:.3g}, relative {info.max_rel_diff:.3g}"
    beyond = info.max_abs_diff >= EXPORT_ABSOLUTE or info.max_rel_diff >= EXPORT_RELATIVE
    return caught(figures) if beyond else passed(figures)


def torch_assert(program: Any) -> Verdict:
    """`torch.onnx.testing.assert_onnx_program` with its defaults, those of `torch.testing.assert_close`."""
    from torch.onnx.testing import assert_onnx_program

    try:
        assert_onnx_program(program, strategy=None)
    except AssertionError as error:
        told = re.search(r"Greatest absolute difference: \S+", str(error))
        return caught(told[0] if told else str(error).strip().splitlines()[0])
    return passed("within rtol 1.3e-6, atol 1e-5")


def with_torch(check: Callable[[Any], Verdict]) -> Callable[[Path, Path], Verdict]:
    """Put each broken graph in the place of the one that torch exported."""
    kept: list[Any] = []

    def run(original: Path, broken: Path) -> Verdict:
        import onnx
        import onnx_ir

        if not kept:
            kept.append(_torch_program(original))
        (program,) = kept
        program.release()
        program.model = onnx_ir.from_proto(onnx.load(broken))
        return check(program)

    return run


TOOLS: dict[str, Callable[[Path, Path], Verdict]] = {
    "onnx.checker": onnx_checker,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "polygraphy": polygraphy,
    "torch verify": with_torch(torch_verify),
    "torch assert": with_torch(torch_assert),
}
PACKAGES = {"onnx.checker": "onnx", "torch verify": "torch", "torch assert": "torch"}


def ask(tool: str, original: Path, broken: Path) -> Verdict:
    """One verdict; an exception is the tool's way to say that the file is wrong."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return TOOLS[tool](original, broken)
    except ImportError as error:
        return {"verdict": "cannot run", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a tool raises, it did not pass the file
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return caught(f"{type(error).__name__}: {lines[0] if lines else 'no word'}")


def main(tool: str, original: str, *broken: str) -> None:
    """Ask one tool about each broken file."""
    verdicts = {Path(path).name: ask(tool, Path(original), Path(path)) for path in broken}
    print(json.dumps({"version": version(PACKAGES.get(tool, tool)), "verdicts": verdicts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
