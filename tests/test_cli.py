"""The command line itself: exit codes, one line an error, one document with --json."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Result, mnist_edge
from typer.main import get_command

import mnist_edge as package
from mnist_edge import diagnosis
from mnist_edge.cli.app import app
from mnist_edge.cli.entry import main
from mnist_edge.errors import BadFileError
from mnist_edge.extras import install_hint
from mnist_edge.interrupts import restored_signals
from mnist_edge.reporting.console import say_next

COMMANDS = (
    "run",
    "train",
    "eval",
    "export",
    "variants",
    "verify",
    "bench",
    "tune",
    "report",
    "inspect",
    "sign",
    "score",
    "compare",
    "predict",
    "demo",
    "doctor",
)


def in_process(*arguments: str | Path, cwd: Path, **environment: str) -> Result:
    """The same main() as the real command, without the seconds that a fresh process needs for its imports."""
    out, err = io.StringIO(), io.StringIO()
    with restored_signals(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["mnist-edge", *map(str, arguments)])
        for name in [name for name in os.environ if name.startswith("MNIST_EDGE")]:
            patch.delenv(name)
        for name, value in {"XDG_CACHE_HOME": str(cwd / "no-cache"), **environment}.items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code
    return Result(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def hiding(folder: Path, *packages: str) -> dict[str, str]:
    """Environment of a process in which these import names and distributions are not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""
import sys
from importlib.machinery import PathFinder
HIDDEN = {packages!r}
class Hiding:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)
    @staticmethod
    def find_distributions(context):
        return (found for found in PathFinder.find_distributions(context) if found.name not in HIDDEN)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def one_line(text: str) -> str:
    """The only line of a text."""
    (line,) = text.splitlines()
    return line


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    """A bug report can name the version, and the real command starts."""
    done = mnist_edge("--version", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, f"mnist-edge {package.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--help is on standard output, begins with the usage, fits 80 columns, and ends with examples that parse."""
    monkeypatch.setenv("COLUMNS", "80")
    done = in_process(command, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "--json" in done.out
    assert done.out.startswith("Usage: ")
    assert max(map(len, done.out.splitlines())) <= 80
    _, examples = done.out.split("Examples:\n")
    assert examples.strip()
    for example in examples.strip().splitlines():
        program, name, *words = shlex.split(example)
        assert (program, name) == ("mnist-edge", command)
        assert get_command(app).commands[name].make_context(name, words)


def test_the_list_of_commands_cuts_no_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns every command is described by a whole sentence."""
    monkeypatch.setenv("COLUMNS", "80")
    done = in_process("--help", cwd=tmp_path)
    _, commands = done.out.split("Commands:\n")
    lines = commands.strip().splitlines()
    assert [line.split()[0] for line in lines] == [*COMMANDS[:2], "sweep", *COMMANDS[2:]]
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_no_argument_shows_the_commands_and_no_empty_error(tmp_path: Path) -> None:
    """A first call without arguments is answered with the help and with nothing that looks broken."""
    done = in_process(cwd=tmp_path)
    assert all(command in done.out + done.err for command in COMMANDS)
    assert "mnist-edge:  (" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor", "--nonsense"), ("nonsense",), ("export", "--opset", "17"), ("export", "--opset", "x"),
        ("verify", "--provider", "tpu"), ("eval",), ("verify", "--threads", "0"), ("train", "--epochs", "0"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_2_in_one_line_and_in_one_document(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Scripts tell a typo from a failed check; nothing is half printed."""
    plain = in_process(*arguments, cwd=tmp_path)
    assert (plain.code, plain.out) == (2, "")
    assert one_line(plain.err).startswith("mnist-edge: ")
    told = in_process(*arguments, "--json", cwd=tmp_path)
    assert told.code == 2
    assert set(told.json) == {"schema", "error"}
    assert told.json["schema"] == "mnist-edge/error/1"
    assert set(told.json["error"]) == {"kind", "message", "hint"}
    assert told.json["error"]["kind"] == "usage"
    assert told.json["error"]["message"] in told.err
    assert not any(tmp_path.iterdir())


def break_doctor(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_folder: object) -> NoReturn:
        raise error

    patch.setattr(diagnosis, "diagnose", fail)


def test_an_unexpected_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No user ever sees a traceback that was not asked for; with the variable it is there."""
    break_doctor(monkeypatch, RuntimeError("first\nsecond"))
    done = in_process("doctor", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "unexpected RuntimeError: first second" in one_line(done.err)
    asked = in_process("doctor", cwd=tmp_path, MNIST_EDGE_TRACEBACK="1")
    assert asked.code == 1
    assert "Traceback (most recent call last)" in asked.err
    assert "in fail" in asked.err
    told = in_process("doctor", "--json", cwd=tmp_path)
    assert (told.code, told.json["error"]["kind"]) == (1, "bug")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/some/file"), 4, "/some/file"),
        (PermissionError(errno.EACCES, "Permission denied", "/some/file"), 4, "/some/file"),
        (MemoryError(), 4, "memory"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 4, "no further process or thread"),
        (RuntimeError("can't start new thread"), 4, "no further process or thread"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 4, install_hint("cpu")),
        (ModuleNotFoundError("no", name="torch.nn"), 4, install_hint("train")),
        (ModuleNotFoundError("no", name="onnxruntime"), 4, install_hint("cpu")),
        (BadFileError("x.onnx is damaged", hint="export it again"), 3, "x.onnx is damaged (export it again)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value)[:20],
)
def test_each_kind_of_error_has_its_exit_code(
    error: Exception, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the machine lacks is 4, a bad file 3, and the line names the file or the remedy."""
    break_doctor(monkeypatch, error)
    done = in_process("doctor", cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert said in one_line(done.err)
    told = in_process("doctor", "--json", cwd=tmp_path)
    assert told.code == code
    assert said.split(" (", maxsplit=1)[0] in told.json["error"]["message"] + told.json["error"]["hint"]


def test_numpy_starts_no_threads_that_could_fail(tmp_path: Path) -> None:
    """OpenBLAS answers a thread that cannot be started with a SIGINT of its own, which would read as Ctrl-C."""
    code = (
        "import os, sys\nfrom mnist_edge.cli.entry import main\nsys.argv = ['mnist-edge', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    import numpy\nprint(len(os.listdir('/proc/self/task')))"
    )
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in /proc")
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=free, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "1"


def test_training_without_torch_names_the_extra(tmp_path: Path) -> None:
    """On a device the workshop is missing: the command says which extra brings it."""
    environment = hiding(tmp_path / "site", "torch")
    done = mnist_edge("train", "--dataset", "digits", "--json", cwd=tmp_path, **environment)
    assert done.code == 4
    assert install_hint("train") in one_line(done.err)
    assert done.json["error"]["kind"] == "environment"
    assert not (tmp_path / "runs").exists()


def test_completion_can_be_installed_and_completes() -> None:
    """The shell's script is produced, and what it calls knows the commands."""
    script = Path(sys.executable).parent / "mnist-edge"

    def complete(**environment: str) -> str:
        command = subprocess.run(
            [script], env={**os.environ, **environment}, capture_output=True, text=True, check=True
        )
        return command.stdout

    assert "complete -o default" in complete(_MNIST_EDGE_COMPLETE="source_bash")
    words = complete(_MNIST_EDGE_COMPLETE="complete_bash", COMP_WORDS="mnist-edge ex", COMP_CWORD="1")
    assert words.split() == ["export"]
    words = complete(_MNIST_EDGE_COMPLETE="complete_bash", COMP_WORDS="mnist-edge train --recipe be", COMP_CWORD="3")
    assert words.split() == ["best"]


def test_errors_are_json_even_where_stdout_is_ascii(tmp_path: Path) -> None:
    """A path with any letters is named, and the document stays whole."""
    done = mnist_edge("eval", "mödel ✓.onnx", "--json", cwd=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.code == 4
    assert json.loads(done.out)["error"]["message"].startswith("mödel ✓.onnx")


def test_a_command_names_the_newest_bundle_and_the_next_command(workplace: Path) -> None:
    """What was taken without being named is said, and what to do next, on standard error; not with --json."""
    done = in_process("verify", cwd=workplace)
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "taking exported/digits, the newest bundle in exported/",
        "next: mnist-edge bench exported/digits",
    ]
    assert "next:" not in in_process("verify", "--json", cwd=workplace).err


def test_the_next_command_can_be_pasted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are quoted for the shell, and the program is named as it was started."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(sys, "argv", [".venv/bin/mnist-edge"])
    say_next("verify", Path("my exports/it's"))
    monkeypatch.setattr(sys, "argv", ["/somewhere/mnist_edge/__main__.py"])
    say_next("verify", Path("-x"))
    lines = capsys.readouterr().err.splitlines()
    assert shlex.split(lines[0]) == ["next:", ".venv/bin/mnist-edge", "verify", "my exports/it's"]
    assert shlex.split(lines[1]) == ["next:", sys.executable, "-m", "mnist_edge", "verify", "-x"]


@pytest.mark.parametrize("command", ["run --seed", "sweep --seeds"])
def test_a_seed_that_pytorch_cannot_take_is_wrong_usage(command: str, tmp_path: Path) -> None:
    """2 ** 64 is one too many."""
    done = in_process(*command.split(), str(2**64), "--dataset", "digits", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert command.split()[1] in one_line(done.err)
