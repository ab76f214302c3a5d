"""`--on`: a run on another machine, through an ssh that runs a shell on this one; tests/test_sshd.py has a real sshd."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result
from test_cli import in_process

from mnist_edge.benchmarking.results import read_result
from mnist_edge.remote import run, there
from mnist_edge.remote.run import Job, run_there
from mnist_edge.remote.ssh import ssh_command
from mnist_edge.remote.wheel import build_wheel

FAKE_SSH = r"""#!{python}
import os, pathlib, subprocess, sys, threading, time
here = pathlib.Path(__file__).parent.parent
(here / "arguments").write_text("\n".join(sys.argv[1:]))
environment = {{"HOME": str(here / "home"), "PATH": (here / "path").read_text()}}
sys.stdout.write((here / "greeting").read_text())
sys.stdout.flush()
shell = subprocess.Popen(["/bin/sh", "-c", (here / "before").read_text() + sys.argv[-1]], env=environment, cwd=here / "home",
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def feed():
    try:
        while data := os.read(0, 65536):
            shell.stdin.write(data)
            shell.stdin.flush()
        shell.stdin.close()
    except OSError:
        pass
def watch():
    while not (here / "cut").exists():
        time.sleep(0.02)
    sys.stderr.write("client_loop: send disconnect: Connection to device closed by remote host.\n")
    sys.stderr.flush()
    os._exit(255)
for work in (feed, watch):
    threading.Thread(target=work, daemon=True).start()
while data := os.read(shell.stdout.fileno(), 65536):
    os.write(1, data)
code = shell.wait()
sys.stdout.write((here / "farewell").read_text())
sys.stdout.flush()
os._exit(255 if code < 0 else code)
"""


class Device:
    """Another machine: a home folder of its own, reached through an ssh that is found first.

    Its environment is there already, with an interpreter that is a shell script: by default this one, with its packages.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "home" / ".cache" / "mnist-edge" / "devices"
        for name in ("greeting", "farewell", "before"):
            (folder / name).write_text("")
        (folder / "bin").mkdir()
        (folder / "home").mkdir()
        self.search("/usr/bin:/bin")
        self.ssh(FAKE_SSH.format(python=sys.executable))
        wheel = hashlib.sha256(build_wheel()[1]).hexdigest()[:16]
        version = subprocess.run(
            ["python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
            capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"},
        ).stdout.strip()  # fmt: skip
        self.environment = self.root / "environments" / f"{wheel}-cpu-py{version}"
        (self.environment / "bin").mkdir(parents=True)
        (self.environment / "ready").touch()
        self.interpreter(f'PYTHONPATH={ROOT}/toolkit exec {sys.executable} "$@"')

    def ssh(self, text: str) -> None:
        (self.folder / "bin" / "ssh").write_text(text)
        (self.folder / "bin" / "ssh").chmod(0o755)

    def search(self, path: str) -> None:
        """Let the shell there look for programs in these folders."""
        (self.folder / "path").write_text(path)

    def interpreter(self, script: str) -> None:
        """Let the interpreter of the environment be this shell script."""
        python = self.environment / "bin" / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)

    def prints(self, document: object, code: int) -> None:
        """Let the command there print this document and end with this code."""
        (self.folder / "document").write_text(document if isinstance(document, str) else json.dumps(document))
        self.interpreter(f'echo "$*" > {self.folder}/words; cat {self.folder}/document; exit {code}')

    @property
    def path(self) -> dict[str, str]:
        """Variables with which the fake ssh is found."""
        return {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def left(self) -> list[str]:
        """What is there beside the complete environment."""
        runs = [path.name for path in (self.root / "runs").iterdir()] if (self.root / "runs").exists() else []
        return runs + [path.name for path in (self.root / "environments").iterdir() if path != self.environment]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    folder = tmp_path / "device"
    folder.mkdir()
    return Device(folder)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def verify(device: Device, bundle: Path, *options: str) -> Result:
    return in_process("verify", bundle, "--on", "user@device", *options, cwd=device.folder, **device.path)


def bench(device: Device, bundle: Path, *options: str) -> Result:
    """As `verify`, and quicker to begin: no test set is read and sent."""
    return in_process("bench", bundle, "--on", "user@device", *options, cwd=device.folder, **device.path)


def failed(result: Result, code: int, *parts: str) -> None:
    """The command ended with this code and one line that has these parts."""
    lines = [line for line in result.err.splitlines() if line.startswith("mnist-edge: ")]
    assert (result.code, len(lines)) == (code, 1), result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in lines[0]


def test_a_bundle_is_verified_there_as_it_is_here(device: Device, bundle_folder: Path) -> None:
    """The same record, on all test images, and it names the machine; nothing but the environment stays there."""
    far = verify(device, bundle_folder, "--json")
    near = in_process("verify", bundle_folder, "--json", cwd=device.folder)
    assert (far.code, near.code) == (0, 0), far.err
    assert (far.json["host"], near.json["host"]) == ("user@device", None)
    assert far.json["environment"]["versions"]["onnxruntime"]
    assert far.json["test_set"]
    assert far.json["variants"][0]["images"] == 360
    own = {"host", "environment"}
    assert {k: v for k, v in far.json.items() if k not in own} == {k: v for k, v in near.json.items() if k not in own}
    assert device.left() == []


@pytest.mark.slow
def test_a_timing_there_is_a_result_that_compare_reads(device: Device, bundle_folder: Path) -> None:
    """`--output` writes it here, with the environment of the device."""
    timing = ("--scenario", "server", "--rate", "500", "--duration", "0.02", "--rounds", "2")  # without PyTorch
    options = (*timing, "--batch", "2", "--threads", "1", "--output", "far.json")
    far = in_process("bench", bundle_folder, "--on", "user@device", *options, cwd=device.folder, **device.path)
    assert far.code == 0, far.err
    assert "on user@device: " in far.out
    content = json.loads((device.folder / "far.json").read_text())
    assert (content["host"], content["model"]) == ("user@device", str(bundle_folder))
    assert content["results"][0]["batch"] == 2
    assert read_result(device.folder / "far.json").host == "user@device"
    assert device.left() == []


def test_options_are_passed_on_and_files_of_this_machine_are_not(device: Device, bundle_folder: Path) -> None:
    """What the user asked for is run there; `--json` and the test set are added."""
    device.prints({"error": {"kind": "usage", "message": "as asked", "hint": ""}}, 2)
    failed(
        verify(device, bundle_folder, "--batch", "5", "--layers", "--variant", "fp32", "--threads", "1"), 2, "as asked"
    )
    words = (device.folder / "words").read_text().split()
    assert words[:4] == ["-m", "mnist_edge", "verify", "model/digits"]
    assert set(words[4:]) == {
        "--json", "--batch=5", "--layers", "--variant=fp32", "--threads=1", "--data-dir", "data"
    }  # fmt: skip
    (device.folder / "words").unlink()
    for option in (("--against", "x.onnx"), ("--outputs", "x.npz")):
        failed(verify(device, bundle_folder, *option), 2, f"{option[0]} does not go with --on")
    failed(verify(device, bundle_folder, "--batch", "none"), 2, "--batch none")
    failed(verify(device, bundle_folder, "--variant", "int9"), 2, "no variant 'int9'")
    for option in (("--compare", "x.json"), ("--self-check",), ("--plot", "x.png")):
        done = in_process("bench", bundle_folder, "--on", "d", *option, cwd=device.folder, **device.path)
        failed(done, 2, f"{option[0]} does not go with --on")
    assert not (device.folder / "words").exists()


@pytest.mark.parametrize(("kind", "code"), [("check-failed", 1), ("bad-file", 3), ("stopped", 4)])
def test_an_error_there_is_the_same_error_here(device: Device, bundle_folder: Path, kind: str, code: int) -> None:
    """Scripts rely on the exit code; the message says on which machine."""
    device.prints({"error": {"kind": kind, "message": "it broke\x1b[2J", "hint": "mend it"}}, code)
    result = bench(device, bundle_folder, "--json")
    failed(result, code, "user@device: it broke", "(mend it)")
    assert "\x1b" not in result.err
    assert result.json["error"]["message"].startswith("user@device: it broke")
    assert device.left() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "code"),
    [("", 0), ("[]", 0), ("{}", 0), ("nonsense", 0), ('{"schema": NaN}', 0), ("[" * 100_000, 0), ('{"passed": true}', 1),
     ('{"passed": false}', 3), ("{}", 139)],
)  # fmt: skip
def test_what_is_no_report_is_no_result(device: Device, bundle_folder: Path, document: str, code: int) -> None:
    """A command that crashed, or whose output is not what it must be, proves nothing."""
    device.prints(document, code)
    failed(bench(device, bundle_folder, "--json"), 4, f"ended with exit code {code} and without a report")


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"schema": "mnist-edge/bench/6"}, {"variants": [{"name": "fp32"}]}], ids=str)
def test_a_report_with_other_fields_is_a_bad_file(
    device: Device, bundle_folder: Path, change: dict[str, object]
) -> None:
    """What another machine returns is checked like a file that somebody sent."""
    device.prints({"schema": "mnist-edge/verify/7", "passed": True, "model": "m", **change}, 0)
    failed(verify(device, bundle_folder, "--json"), 3, "user@device")


def test_a_killed_command_is_reported(device: Device, bundle_folder: Path) -> None:
    """As by the kernel, where memory runs out."""
    device.interpreter("kill -9 $$")
    failed(bench(device, bundle_folder), 4, "ended by signal 9", "memory")
    assert device.left() == []


def test_what_the_shell_prints_is_not_mixed_up_with_the_report(device: Device, bundle_folder: Path) -> None:
    """Start-up files greet, without a line feed at the end, and logout files say goodbye."""
    device.prints({"error": {"kind": "bad-file", "message": "as asked", "hint": ""}}, 3)
    (device.folder / "greeting").write_text('Welcome!\nmessage {"code": 0, "output": "{}"}\nLast login: today')
    (device.folder / "farewell").write_text("bye\n" * 1000)
    failed(bench(device, bundle_folder), 3, "as asked")


SAID = {
    "unknown key": ("No ED25519 host key is known for d.\nHost key verification failed.", "not known", "ssh user@device once"),
    "changed key": (
        "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "another machine", "ssh-keygen -R"
    ),
    "refused": ("user@device: Permission denied (publickey).", "refused the login", "ssh-copy-id user@device"),
    "no name": ("ssh: Could not resolve hostname device: Name or service not known", "cannot be reached", "Name or service"),
    "no sshd": ("ssh: connect to host device port 22: Connection refused", "cannot be reached", "Connection refused"),
    "silent": ("ssh: connect to host device port 22: Connection timed out", "cannot be reached", "timed out"),
    "other": ("kex_exchange_identification: read: reset by peer", "did not run the command", "kex_exchange"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_why_ssh_failed_is_said_with_what_to_do(device: Device, bundle_folder: Path, name: str) -> None:
    """The messages are those of OpenSSH."""
    said, *parts = SAID[name]
    device.ssh(f"#!/bin/sh\necho '{said}' >&2\nexit 255\n")
    failed(bench(device, bundle_folder), 4, *parts)


def test_an_account_that_runs_nothing_is_reported(device: Device, bundle_folder: Path) -> None:
    """nologin prints on standard output; `yes` in a start-up file never ends."""
    device.ssh("#!/bin/sh\necho This account is currently not available.; exit 1\n")
    failed(bench(device, bundle_folder), 4, "did not run the command (This account is currently not available.)")
    device.ssh("#!/bin/sh\nexec yes\n")
    failed(bench(device, bundle_folder), 4, "prints without end")


def test_without_ssh_nothing_is_started(device: Device, bundle_folder: Path) -> None:
    """The packages that bring it are named."""
    (device.folder / "bin" / "ssh").unlink()
    done = in_process("bench", bundle_folder, "--on", "d", cwd=device.folder, PATH=str(device.folder / "bin"))
    failed(done, 4, "--on needs ssh", "openssh-client")


@pytest.mark.parametrize("on", ["-oProxyCommand=touch x", "-p22", "", "a b", "a\nb"])
def test_what_ssh_would_read_as_an_option_is_refused(device: Device, bundle_folder: Path, on: str) -> None:
    """A name from a file must not become a command on this machine."""
    done = in_process("bench", bundle_folder, f"--on={on}", cwd=device.folder, **device.path)
    failed(done, 2, "is no destination of ssh")
    assert not (device.folder / "arguments").exists()


def test_ssh_asks_nothing_and_gives_up_in_time(device: Device, bundle_folder: Path) -> None:
    """No question in the middle of a program, no connection that hangs for ever, and no host key is trusted unseen."""
    device.prints({"error": {"kind": "usage", "message": "", "hint": ""}}, 2)
    bench(device, bundle_folder)
    arguments = (device.folder / "arguments").read_text().split("\n")
    assert {"BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=3"} <= set(arguments)
    assert not any("StrictHostKeyChecking" in word for word in arguments)
    assert arguments[-3:-1] == ["--", "user@device"]


@pytest.mark.parametrize("version", ["Python 3.9.2", None])
def test_an_old_python_there_is_named(device: Device, bundle_folder: Path, version: str | None) -> None:
    """Or that there is none."""
    old = device.folder / "old"
    old.mkdir()
    if version:
        (old / "python3").write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo {version} && exit; exit 1\n')
        (old / "python3").chmod(0o755)
    (old / "sh").symlink_to("/bin/sh")
    device.search(str(old))
    failed(bench(device, bundle_folder), 4, "no Python 3.11 or newer", f"found {version or 'no python3'}")


def test_a_python_elsewhere_is_found(device: Device, bundle_folder: Path) -> None:
    """python3 is too old, but python3.12 is not; ~/.local/bin is where tools for users put theirs."""
    local = device.folder / "home" / ".local" / "bin"
    local.mkdir(parents=True)
    (local / "python3.12").symlink_to("/usr/bin/python3")
    (device.folder / "sh").symlink_to("/bin/sh")
    device.search(str(device.folder))
    device.interpreter('echo \'{"error": {"kind": "usage", "message": "found"}}\'')
    failed(bench(device, bundle_folder), 2, "found")


def test_a_full_disk_there_is_reported_and_nothing_stays(device: Device, bundle_folder: Path) -> None:
    """A limit on the size of files stands for the disk; tests/test_sshd.py fills a real one."""
    (device.folder / "before").write_text("ulimit -f 20; ")
    failed(bench(device, bundle_folder), 4, "user@device: ", "File too large")
    assert device.left() == []


def test_a_folder_that_cannot_be_made_is_reported(device: Device, bundle_folder: Path) -> None:
    """A read-only home, or one that is a file."""
    (device.root.parent / "devices").rename(device.folder / "away")
    (device.root.parent / "devices").write_text("")
    failed(bench(device, bundle_folder), 4, "user@device: ", "devices", "check that folder there")


def test_a_lost_connection_leaves_nothing(device: Device, bundle_folder: Path) -> None:
    """Both sides notice: one line and exit 4 here, no process and no folder there."""
    device.interpreter(f"echo $$ > {device.folder}/pid; touch {device.folder}/cut; exec sleep 60")
    failed(bench(device, bundle_folder), 4, "connection to user@device was lost while running", "closed by remote host")
    wait_for(lambda: device.left() == [], "the folder of the run is still there")
    wait_for(lambda: not alive(device.folder / "pid"), "the command still runs")


def test_an_interrupt_leaves_nothing(device: Device, bundle_folder: Path) -> None:
    """Ctrl-C here ends the command there and removes its folder, before this side ends with 130."""
    device.interpreter(f"echo $$ > {device.folder}/pid; exec sleep 60")
    command = [sys.executable, "-m", "mnist_edge", "bench", str(bundle_folder), "--on", "user@device"]
    env = {**os.environ, **device.path, "XDG_CACHE_HOME": str(device.folder / "none")}
    with subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, text=True, cwd=device.folder, start_new_session=True
    ) as process:
        wait_for(lambda: alive(device.folder / "pid"), "the command did not start")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert device.left() == []
    assert not alive(device.folder / "pid")


def test_a_killed_worker_there_leaves_nothing(device: Device, bundle_folder: Path) -> None:
    """Its supervisor removes the folder, and this side reports that the run ended without a result."""
    device.interpreter(f"echo $$ > {device.folder}/pid; kill -9 $PPID; sleep 60")
    failed(bench(device, bundle_folder), 4, "user@device ended the run while running", "killed")
    assert device.left() == []
    wait_for(lambda: not alive(device.folder / "pid"), "the command still runs")


def test_what_a_killed_run_left_is_removed_by_the_next(device: Device, bundle_folder: Path) -> None:
    """Where even the supervisor was killed; a folder in use is another run's."""
    device.prints({"error": {"kind": "usage", "message": "", "hint": ""}}, 2)
    (device.root / "runs" / "killed").mkdir(parents=True)
    (device.root / "environments" / "half-made" / "bin").mkdir(parents=True)
    (device.root / "runs" / "busy").mkdir()
    held = there._lock(device.root / "runs" / "busy", 2)
    bench(device, bundle_folder)
    os.close(held)
    assert device.left() == ["busy"]


@pytest.mark.slow
def test_a_connection_that_stays_silent_counts_as_lost(tmp_path: Path) -> None:
    """A cable that is pulled closes nothing: the program there ends without the heartbeats."""
    text = Path(there.__file__).read_text()
    program = text.replace("SILENCE = 60", "SILENCE = 0.3")
    assert program != text
    command = [sys.executable, "-I", "-c", program, "token"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"HOME": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        assert b"copying" in process.stdout.read()  # to its end: the program has ended although its input is open
        process.wait(10)
    assert list((tmp_path / ".cache/mnist-edge/devices/runs").iterdir()) == []


@pytest.mark.slow
def test_a_run_may_take_longer_than_the_silence_that_ends_it(
    device: Device, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This side sends heartbeats for as long as the command there runs."""
    text = Path(there.__file__).read_text().replace("SILENCE = 60", "SILENCE = 0.5")
    (device.folder / "there.py").write_text(text)
    monkeypatch.setattr(run, "files", lambda _package: device.folder)
    monkeypatch.setattr(run, "HEARTBEAT_SECONDS", 0.1)
    device.interpreter('sleep 1.5; echo \'{"error": {"kind": "usage", "message": "as asked"}}\'')
    failed(bench(device, bundle_folder), 2, "as asked")
    monkeypatch.setattr(run, "HEARTBEAT_SECONDS", 60)
    failed(bench(device, bundle_folder), 4, "user@device ended the run while running")


def test_the_account_does_not_decide_what_is_compared(device: Device, bundle_folder: Path) -> None:
    """Variables of its shell, and modules in the folder of a run, are not used."""
    (device.folder / "before").write_text("export MNIST_EDGE_DATA=/there PYTHONHOME=/there; ")
    device.interpreter(
        'echo "{\\"error\\": {\\"kind\\": \\"usage\\", \\"message\\": \\"<$MNIST_EDGE_DATA$PYTHONHOME>\\"}}"'
    )
    failed(bench(device, bundle_folder), 2, "user@device: <>")


def alive(pid_file: Path) -> bool:
    """Whether the process runs whose id is in a file."""
    if not pid_file.exists() or not (text := pid_file.read_text().strip()):
        return False
    try:
        return Path(f"/proc/{text}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh", "busybox"])
def test_the_command_means_the_same_to_every_shell(shell: str, tmp_path: Path) -> None:
    """The account's shell is whatever its owner likes."""
    import shutil

    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = b"import sys; print(sys.stdin.read(), sys.argv)"
    command = ssh_command("device", "token", program)[-1]
    shells = [shell, "sh", "-c"] if shell == "busybox" else [shell, "-c"]
    done = subprocess.run(
        [*shells, command], input=program + b"the rest", capture_output=True, check=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.decode() == f"the rest ['-c', '{len(program)}', 'token']\n"
    assert not re.search(r"['\\!\n]", command.removeprefix("exec sh -c '").removesuffix("'"))


def test_the_wheel_holds_the_package_and_equal_files_give_equal_bytes() -> None:
    """Every file with the hash that RECORD states for it, and the metadata of the installed package."""
    name, content = build_wheel()
    assert build_wheel() == (name, content)
    wheel = zipfile.ZipFile(io.BytesIO(content))
    assert wheel.testzip() is None
    info = name.removesuffix("-py3-none-any.whl") + ".dist-info"
    rows = {
        path: (digest, size) for path, digest, size in csv.reader(io.StringIO(wheel.read(f"{info}/RECORD").decode()))
    }
    assert set(rows) == set(wheel.namelist())
    for path, (digest, size) in rows.items():
        if path != f"{info}/RECORD":
            data = wheel.read(path)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={expected}", len(data)), path
    package = ROOT / "toolkit" / "mnist_edge"
    files = {f"mnist_edge/{p.relative_to(package)}" for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {path for path in rows if path.startswith("mnist_edge/")} == files
    assert b"Provides-Extra: cpu" in wheel.read(f"{info}/METADATA")
    assert b"mnist-edge = mnist_edge.cli.entry:main" in wheel.read(f"{info}/entry_points.txt")


def test_a_job_for_cuda_gets_an_environment_of_its_own(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime and onnxruntime-gpu exclude each other, so the extra is part of the environment's name."""
    monkeypatch.setenv("PATH", device.path["PATH"])
    cuda = device.root / "environments" / device.environment.name.replace("-cpu-", "-cuda-")
    device.environment.rename(cuda)
    device.environment = cuda
    device.prints({"passed": True}, 0)
    assert run_there(Job(on="d", words=("x",), files={}, extra="cuda")) == {"passed": True}
