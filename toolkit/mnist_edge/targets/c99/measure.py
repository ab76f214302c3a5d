"""Instructions of an image, bytes of stack and of flash of a C folder on a microcontroller in QEMU."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.errors import CheckFailedError
from mnist_edge.targets.c99.devices import require_tools
from mnist_edge.targets.c99.make import make_environment, working_folder

PRINTED = re.compile(r"mnist-edge measure (\d+) instructions, (\d+) bytes of stack")
SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model takes on a device.

    Attributes:
        instructions: of an image, the mean of twelve digits; QEMU counts instructions, not cycles.
        stack_bytes: that `model_logits` uses, with its buffers: all of its RAM.
        flash_bytes: of model.c: constants and code.
    """

    instructions: int
    stack_bytes: int
    flash_bytes: int


def measure(folder: Path, device: str) -> Measured:
    """Compile a C folder for a device and measure it.

    Raises:
        UnavailableError: a tool is missing.
        CheckFailedError: it cannot be compiled, or prints something else.
    """
    require_tools(device)
    command = ["make", "--silent", f"DEVICE={device}", "BUILD=../build", "measure"]
    with working_folder(folder) as place:
        done = subprocess.run(
            command,
            cwd=place / "source",
            env=make_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=SECONDS,
        )
    printed = PRINTED.search(done.stdout + done.stderr)  # QEMU's console is standard error
    if done.returncode or printed is None:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1][:160]
        raise CheckFailedError(f"{folder} cannot be measured on {device}: {last}", hint="generate it again")
    text, data, _ = (int(word) for word in done.stdout.splitlines()[-1].split()[:3])
    return Measured(instructions=int(printed[1]), stack_bytes=int(printed[2]), flash_bytes=text + data)
