"""The process around a command: signals at any moment, children that end with it, streams that are closed or full."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import mnist_edge

from mnist_edge.cli.streams import StandardStream

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed in /proc")

BAD_READERS = {
    "head": '{} --help | head -1 | grep -q "^Usage: "',
    "reader gone": "{} doctor | true",
    "full": "{} doctor > /dev/full",
    "help full": "{} train --help > /dev/full",
    "version closed": "{} --version >&-",
    "all closed": "{} doctor <&- >&- 2>&-",
    "errors closed": "{} doctor 2>&- > /dev/null",
}


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in bash; its exit code is that of the first command that fails in a pipe."""
    command = f"set -o pipefail; {line.format(f'{sys.executable} -m mnist_edge')}"
    env = {**os.environ, "XDG_CACHE_HOME": str(cwd / "no-cache")}
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", BAD_READERS)
def test_a_closed_or_full_stream_does_not_change_the_exit_code(line: str, tmp_path: Path) -> None:
    """The work counts, not who reads; a full disk is reported on standard error."""
    done = shell(BAD_READERS[line], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr == ("mnist-edge: standard output is incomplete: No space left on device\n" * ("full" in line))


@pytest.mark.parametrize("streams", ["2>&-", "2> /dev/full", "--json > /dev/full 2> /dev/full", "--json >&- 2>&-"])
def test_an_error_keeps_its_exit_code_where_it_cannot_be_printed(streams: str, tmp_path: Path) -> None:
    """A script that closes standard error still sees 4 for a missing file."""
    done = shell(f"{{}} eval missing.onnx {streams}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")


def test_a_stream_drops_what_it_cannot_write() -> None:
    """After the first failure everything is accepted and nothing is raised; the reason is kept."""
    with Path("/dev/full").open("wb") as full:
        stream = StandardStream(full.fileno(), "wb", closefd=False)
        assert [stream.write(b"abc"), stream.write(b"de")] == [3, 2]
        assert stream.failure is not None
        assert stream.failure.errno == errno.ENOSPC
    read, write = os.pipe()
    os.close(read)
    stream = StandardStream(write, "wb")
    assert stream.write(b"abc") == 3
    assert isinstance(stream.failure, BrokenPipeError)
    stream.close()


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything() -> None:
    """Some programs make the pipe that they share with us non-blocking; Python's own streams then raise."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    reader = subprocess.Popen(["sh", "-c", "sleep 0.2; wc -c"], stdin=read, stdout=subprocess.PIPE, text=True)
    os.close(read)
    with StandardStream(write, "wb") as stream:
        rest = memoryview(bytes(300_000))
        while rest:
            rest = rest[stream.write(rest) :]
        assert stream.failure is None
    assert reader.communicate()[0].strip() == "300000"


IMPORTS = {
    "plain": "time.sleep(60)",
    "swallowed by a C extension": "try:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('initialization failed')",
    "in a destructor": "class Slow:\n    def __del__(self):\n        time.sleep(60)\nSlow()",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kind", IMPORTS)
def test_a_signal_while_modules_are_imported_is_one_line(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    """Wherever in an import it arrives: one line, the exit code of the signal, a document with --json."""
    if kind != "plain" and number != signal.SIGINT:
        pytest.skip("the same handler")
    site = tmp_path / "site"
    site.mkdir()
    send = f"import os, threading, time\nthreading.Timer(0.05, os.kill, (os.getpid(), {int(number)})).start()\n"
    (site / "typer.py").write_text(send + IMPORTS[kind])
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = mnist_edge("doctor", "--json", cwd=tmp_path, timeout=30, PYTHONPATH=path)
    assert done.code == 128 + number, done.err
    assert done.err == "mnist-edge: interrupted\n"
    assert done.json == {
        "schema": "mnist-edge/error/1",
        "error": {"kind": "stopped", "message": "interrupted", "hint": ""},
    }


def test_nohup_is_respected(tmp_path: Path) -> None:
    """A hang-up that the user told the process to ignore stays ignored."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nraise SystemExit(7)")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "mnist_edge", "doctor"]
    done = subprocess.run(["nohup", *command], env=env, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 7, done.stderr


def children(process: int) -> set[int]:
    """The direct children of a process."""
    tasks = Path(f"/proc/{process}/task")
    return {int(word) for task in tasks.iterdir() for word in (task / "children").read_text().split()}


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_no_timing_process_outlives_bench(bundle_folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The terminal is closed, or the command is killed: nothing goes on measuring for nobody."""
    command = [sys.executable, "-m", "mnist_edge", "bench", bundle_folder, "--duration", "600", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        while not (workers := children(bench.pid)):
            assert bench.poll() is None, bench.communicate()
            time.sleep(0.02)
        bench.send_signal(number)
        out, err = bench.communicate(timeout=30)
    if number == signal.SIGHUP:
        assert (bench.returncode, err) == (129, "mnist-edge: interrupted\n")
        assert json.loads(out)["error"]["kind"] == "stopped"
    deadline = time.monotonic() + 60  # it may have to finish importing torch first
    while any(map(running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(running, workers))
