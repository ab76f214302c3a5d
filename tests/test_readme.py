"""The README's commands and its program, run as they stand, on the digits in place of MNIST."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from mnist_edge.benchmarking import comparable, plan
from mnist_edge.cli.app import app
from mnist_edge.errors import UnavailableError

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0] for line in re.findall(r"^\$ (?:\.venv/bin/)?mnist-edge (.*)$", TEXT, re.MULTILINE)]
PROGRAM = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)


def on_digits(command: str) -> list[str]:
    """The same command with the digits for MNIST, and one epoch where it trains."""
    words = shlex.split(re.sub(r"(runs|exported)/mnist", r"\1/digits", command))
    if words[0] in {"train", "run"} and "--resume" not in words:
        words += ["--epochs", "1"] + (["--dataset", "digits"] if "--dataset" not in words else [])
    if words[0] == "sweep":
        words += ["--dataset", "digits", "--epochs", "1", "--trials", "1", "--study", f"sweep-{len(words)}"]
    if words[0] == "bench" and "offline" not in words:
        words += ["--duration", "0.02"]  # the last one counts
    if "--tolerance" in words:  # two short rounds on busy cores prove nothing
        words[words.index("--tolerance") + 1] = "100000"
    # The device section copies the folder first; here it lies where it was exported.
    return ["exported/digits" if word == "mnist" else word for word in words]


def test_every_command_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new user can paste each command in the order in which it is shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_EDGE_DATA", raising=False)
    monkeypatch.setattr(plan, "ROUNDS", 2)
    monkeypatch.setattr(comparable, "MIN_PROCESSES", 2)
    assert len(COMMANDS) > 12
    for command in COMMANDS:
        if "--processes" in command:
            continue  # tests/test_processes.py starts real ones
        if "cuda" in command:
            with pytest.raises(UnavailableError, match="cuda"):
                app(on_digits(command), standalone_mode=False)
            continue
        if command.startswith("bench"):  # `run` has timed PyTorch too; once is enough here
            monkeypatch.setattr(plan, "find_spec", lambda _name: None)
        assert not app(on_digits(command), standalone_mode=False), command


def test_the_program_of_the_readme_works(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines for a device's own program run with onnxruntime and numpy alone and print a digit."""
    assert PROGRAM
    monkeypatch.chdir(workplace)
    exec(compile(PROGRAM[1].replace("exported/mnist", "exported/digits"), "README.md", "exec"), {})
    assert re.fullmatch(r"decided: \d\n", capsys.readouterr().out)
