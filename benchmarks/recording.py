"""Run the first minutes in an empty folder and draw the terminal of README: `python -m benchmarks.recording`.

The SVG holds what the commands printed, but for the lines of most epochs. It asks no server for a font.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from benchmarks.common import HERE, MNIST_EDGE
from mnist_edge.data.sources import load_dataset

DRAWING = HERE.parent / "docs" / "terminal.svg"
COLUMNS = 112
COMMANDS = (
    "mnist-edge train --dataset digits --widths 64,32 --run runs/small",
    "mnist-edge export --run runs/small --output exported/small",
    "mnist-edge verify exported/small",
    "mnist-edge bench exported/small",
    "mnist-edge predict seven.png",
    "mnist-edge report exported/small",
)
# rich's own template asks a server for its font.
TEMPLATE = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def recorded(commands: tuple[str, ...], folder: Path) -> str:
    """Run the commands in a folder and return their terminal as SVG.

    Raises:
        RuntimeError: a command ends with another code than 0.
    """
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "PATH": f"{Path(MNIST_EDGE).parent}:{os.environ['PATH']}"}
    for command in commands:
        console.print(Text(f"$ {command}", style="bold"))
        done = subprocess.run(
            command,
            check=False,
            shell=True,
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout[-2000:]}")
        console.print(Text(shortened(done.stdout.rstrip())))
        console.print()
    return console.export_svg(title="mnist-edge", code_format=TEMPLATE, unique_id="terminal")


def shortened(output: str) -> str:
    """Return an output with the lines of the epochs between the first and the last left out."""
    lines = output.splitlines()
    epochs = [number for number, line in enumerate(lines) if line.startswith("epoch")]
    if len(epochs) > 3:
        lines[epochs[1] : epochs[-1]] = ["..."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=DRAWING)
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory() as name:
        write_seven(Path(name) / "seven.png")
        output.write_text(recorded(COMMANDS, Path(name)), encoding="utf-8")
    print(f"wrote {output}")


def write_seven(path: Path) -> None:
    """Write the first 7 of the test digits as an image file."""
    digits = load_dataset("digits")
    image = digits.test_images[list(digits.test_labels).index(7)]
    Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC).save(path)


if __name__ == "__main__":
    main()
