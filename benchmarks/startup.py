"""Wall time of `mnist-edge --help` as a whole process, against a bare typer program of as many commands.

The peer is written into a temporary folder: 7 commands of one option each, in a module (so that its
bytecode is kept, as ours is) that a two-line script calls, as pip's script calls ours.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.common import MNIST_EDGE, pairs, report, row, run_child, take_turns, target, wall_seconds

COMMANDS = ("run", "train", "eval", "export", "verify", "bench", "doctor")
HEAD = "import typer\n\napp = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)\n"
COMMAND = '\n\n@app.command("{0}")\ndef {0}_command(option: int = 1) -> None:\n    """Do {0}, and say so."""\n'


def write_peer(folder: Path) -> Path:
    """Write the bare program; return the script that starts it."""
    (folder / "bare.py").write_text(HEAD + "".join(COMMAND.format(name) for name in COMMANDS))
    script = folder / "start.py"
    script.write_text("import sys\nfrom bare import app\nsys.exit(app())\n")
    return script


def main(rounds: int = 15) -> None:
    """Measure and report; one run of each comes first and is not counted, to fill the disk cache."""
    with tempfile.TemporaryDirectory() as scratch:
        commands = {
            "ours": [MNIST_EDGE, "--help"],
            "peer": [sys.executable, str(write_peer(Path(scratch))), "--help"],
        }
        for name, command in commands.items():
            shown = run_child(command).output
            missing = [word for word in COMMANDS if word not in shown]
            if missing:
                raise AssertionError(f"{name} does not list {missing}")
        seconds = take_turns({name: partial(wall_seconds, command) for name, command in commands.items()}, rounds)
    milliseconds = {name: [1000 * value for value in values] for name, values in seconds.items()}
    report(
        "startup",
        measured=str(__doc__),
        rows=[
            row("mnist-edge --help", "ms", milliseconds["ours"]),
            row("a bare typer program, --help", "ms", milliseconds["peer"]),
        ],
        targets=[target("ours / bare", pairs(seconds["ours"], seconds["peer"]), at_most=1.5)],
    )


if __name__ == "__main__":
    main()
