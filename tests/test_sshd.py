"""`--on` against a real sshd on loopback and a fresh account: a wheel, pip and ssh as a user has them. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Result, mnist_edge

pytestmark = pytest.mark.slow

ACCOUNT = "mnist-edge-test"
SSHD = "/usr/sbin/sshd"


class Machine:
    """An account of its own, an sshd that serves it, and the folder with an ssh that knows both by the name `device`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Path(pwd.getpwnam(ACCOUNT).pw_dir)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for key in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        (self.home / ".ssh").mkdir(mode=0o700)
        shutil.copy(folder / "client.pub", self.home / ".ssh" / "authorized_keys")
        subprocess.run(["chown", "-R", ACCOUNT, self.home / ".ssh"], check=True)
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nAuthorizedKeysFile .ssh/authorized_keys\n"
        )
        (folder / "bin").mkdir()
        self.trust("known")
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its privileges
        self.sshd = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("sshd does not listen")

    def trust(self, known_hosts: str, key: str = "client") -> None:
        """Let ssh use this file of known host keys, and this key to log in."""
        (self.folder / "ssh_config").write_text(
            f"Host device\n HostName 127.0.0.1\n Port {self.port}\n User {ACCOUNT}\n IdentityFile {self.folder}/{key}\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {self.folder}/{known_hosts}\n GlobalKnownHostsFile none\n"
        )
        (self.folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {self.folder}/ssh_config "$@"\n')
        (self.folder / "bin" / "ssh").chmod(0o755)

    @property
    def path(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def runs(self) -> list[Path]:
        folder = self.home / ".cache" / "mnist-edge" / "devices" / "runs"
        return list(folder.iterdir()) if folder.exists() else []

    def environments(self) -> list[Path]:
        folder = self.home / ".cache" / "mnist-edge" / "devices" / "environments"
        return list(folder.iterdir()) if folder.exists() else []


def processes() -> dict[int, str]:
    """The account's processes: their command lines by process id."""
    owner, found = pwd.getpwnam(ACCOUNT).pw_uid, {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == owner and (words := (path / "cmdline").read_bytes()):
                found[int(path.name)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


def missing() -> str:
    """Why this cannot run here."""
    if os.getuid() != 0:
        return "needs root, to add an account"
    needed = [SSHD, "ssh", "ssh-keygen", "useradd", "userdel"]
    lacking = [program for program in needed if shutil.which(program) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install openssh-server)" if lacking else ""


@contextlib.contextmanager
def account(*options: str) -> Iterator[None]:
    subprocess.run(["useradd", "--create-home", "--password", "*", *options, ACCOUNT], check=True)
    try:
        yield
    finally:
        for pid in processes():
            os.kill(pid, signal.SIGKILL)
        for _ in range(50):
            if subprocess.run(["userdel", "--remove", ACCOUNT], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "sshd"
    folder.mkdir()
    with account("--shell", "/bin/bash"):
        made = Machine(folder)
        try:
            yield made
        finally:
            made.sshd.kill()
            made.sshd.wait()


def failed(result: Result, *parts: str) -> None:
    """Exit 4 and one line that has these parts."""
    lines = [line for line in result.err.splitlines() if line.startswith("mnist-edge: ")]
    assert (result.code, len(lines)) == (4, 1), result.err
    for part in parts:
        assert part in lines[0]


@pytest.mark.timeout(900)
def test_from_nothing_to_report_with_one_command(machine: Machine, bundle_folder: Path, tmp_path: Path) -> None:
    """A fresh account, whose start-up file prints: verify sets it up once, bench finds it, and compare reads results."""
    rc = machine.home / ".bashrc"
    rc.write_text('echo "Welcome"; printf "no line feed"; echo "some trouble" >&2\n' + rc.read_text())
    first = mnist_edge("verify", bundle_folder, "--on", "device", "--json", cwd=tmp_path, timeout=800, **machine.path)
    assert first.code == 0, first.err
    assert "setting up mnist-edge" in first.err
    report = first.json
    assert (report["passed"], report["host"], report["test_set"]) == (True, "device", True)
    assert report["variants"][0]["images"] == 360
    assert "torch" not in report["environment"]["versions"]
    for name in ("one.json", "two.json"):
        timed = mnist_edge(
            "bench",
            bundle_folder,
            "--on",
            "device",
            "--duration",
            "0.05",
            "--output",
            name,
            cwd=tmp_path,
            **machine.path,
        )
        assert timed.code == 0, timed.err
        assert "setting up" not in timed.err
    content = json.loads((tmp_path / "one.json").read_text())
    assert (content["host"], content["environment"]["versions"]["onnxruntime"]) == (
        "device",
        report["environment"]["versions"]["onnxruntime"],
    )
    compared = mnist_edge("compare", "one.json", "two.json", "--tolerance", "100000", "--json", cwd=tmp_path)
    assert compared.code == 0, compared.err
    assert machine.runs() == []
    assert [path.name for path in (machine.home / ".cache").iterdir()] == ["mnist-edge"]
    assert len(machine.environments()) == 1


def test_refusals_are_one_line_each(machine: Machine, bundle_folder: Path, tmp_path: Path) -> None:
    """OpenSSH's own messages: an unknown host key, a changed one, a login that is refused, a port where nobody listens."""

    def verify() -> Result:
        return mnist_edge("verify", bundle_folder, "--on", "device", cwd=tmp_path, **machine.path)

    machine.trust("empty")
    failed(verify(), "host key of device is not known", "ssh device once")
    other = (machine.folder / "client.pub").read_text()
    (machine.folder / "changed").write_text(f"[127.0.0.1]:{machine.port} {other}")
    machine.trust("changed")
    failed(verify(), "another machine may answer")
    machine.trust("known", key="host")
    failed(verify(), "device refused the login", "Permission denied")
    machine.trust("known")
    machine.sshd.kill()
    machine.sshd.wait()
    failed(verify(), "device cannot be reached", "Connection refused")
    assert not (machine.home / ".cache").exists()


@pytest.mark.timeout(300)
def test_a_set_up_that_fails_leaves_nothing(machine: Machine, bundle_folder: Path, tmp_path: Path) -> None:
    """pip finds no package; then the connection is lost in the middle of the set-up."""
    config = machine.home / ".config" / "pip"
    config.mkdir(parents=True)
    (config / "pip.conf").write_text(
        "[global]\nindex-url = http://127.0.0.1:9/simple\nextra-index-url =\nfind-links =\nretries = 0\ntimeout = 1\n"
    )
    (machine.home / ".bashrc").write_text("unset ${!PIP_*}\n")
    subprocess.run(["chown", "-R", ACCOUNT, machine.home / ".config"], check=True)
    done = mnist_edge("verify", bundle_folder, "--on", "device", cwd=tmp_path, **machine.path)
    failed(done, "device: pip failed there: ", "No matching distribution found")
    assert (machine.runs(), machine.environments()) == ([], [])

    command = [sys.executable, "-m", "mnist_edge", "verify", str(bundle_folder), "--on", "device"]
    with subprocess.Popen(
        command, env={**os.environ, **machine.path}, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        for _ in range(600):
            if machine.environments():
                break
            time.sleep(0.05)
        assert machine.environments()
        sessions = [pid for pid, words in processes().items() if words.startswith("sshd")]
        assert sessions
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    failed(Result(process.returncode, "", err), "connection to device was lost while setting up")
    for _ in range(200):
        if not processes():
            break
        time.sleep(0.05)
    assert processes() == {}
    assert (machine.runs(), machine.environments()) == ([], [])


def test_a_full_disk_is_one_line(machine: Machine, bundle_folder: Path, tmp_path: Path) -> None:
    """A cache folder on a file system of a megabyte."""
    cache = machine.home / ".cache"
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", cache], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = mnist_edge("verify", bundle_folder, "--on", "device", cwd=tmp_path, **machine.path)
        failed(done, "device: ", "No space left on device")
        assert (machine.runs(), machine.environments()) == ([], [])
    finally:
        subprocess.run(["umount", "--lazy", cache], check=True)


@pytest.mark.parametrize("shell", ["dash", "fish", "zsh", "tcsh"])
def test_any_login_shell_will_do(machine: Machine, bundle_folder: Path, tmp_path: Path, shell: str) -> None:
    """The run gets as far as Python with each; pip has nothing to take, which is quicker than a whole run."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run(["usermod", "--shell", path, ACCOUNT], check=True)
    (machine.home / ".cache").write_text("")
    failed(mnist_edge("verify", bundle_folder, "--on", "device", cwd=tmp_path, **machine.path), "device: ", ".cache")
