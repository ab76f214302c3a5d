"""The system's ssh: which options it is given, how it finds a Python on the other machine, and why it failed."""

from __future__ import annotations

import re
import shutil

from mnist_edge.errors import UnavailableError, UsageError

CONNECT_SECONDS = 15
ALIVE_SECONDS, ALIVE_COUNT = 15, 3
"""A connection that stays silent for the product of the two is lost."""
OPTIONS = {
    "BatchMode": "yes",  # a password, or whether to trust a key, cannot be asked in the middle of a program
    "ConnectTimeout": CONNECT_SECONDS,
    "ServerAliveInterval": ALIVE_SECONDS,
    "ServerAliveCountMax": ALIVE_COUNT,
    # What the user's configuration may add for a terminal has no place here, or keeps the connection open.
    "ClearAllForwardings": "yes",
    "ControlMaster": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
}
MINIMUM = (3, 11)
NO_PYTHON = "no-python"
# A word in single quotes without an apostrophe, a backslash, an exclamation mark or a line feed means the same to sh, bash,
# zsh, fish and csh. The program is read byte by byte: what follows it on standard input is for the program.
_FIND_PYTHON = (
    "PATH=$PATH:$HOME/.local/bin; "
    "for p in python3 python3.14 python3.13 python3.12 python3.11; do "
    '"$p" -I -c "import sys; sys.exit(sys.version_info < {minimum})" </dev/null >/dev/null 2>&1 && '
    'exec "$p" -I -c "import os, sys; '
    'exec(bytes().join(os.read(0, 1) for _ in range(int(sys.argv[1]))))" {size} {token}; done; '
    "echo; echo {token} {no_python} $(python3 --version 2>/dev/null || echo no python3)"
)


def require_destination(on: str) -> None:
    """Check that `--on` names something that ssh can take as a destination.

    Raises:
        UsageError: it is empty, would be read as an option, or holds spaces or control characters.
        UnavailableError: there is no ssh.
    """
    if not on or on.startswith("-") or re.search(r"[\s\x00-\x1f\x7f]", on):
        raise UsageError(f"--on {on!r} is no destination of ssh", hint="--on user@host, or a host of ~/.ssh/config")
    if shutil.which("ssh") is None:
        raise UnavailableError("--on needs ssh, which is not installed", hint="apt-get install openssh-client")


def ssh_command(on: str, token: str, program: bytes) -> list[str]:
    """Return the command that runs a Python program, sent first on standard input, on the other machine."""
    script = _FIND_PYTHON.format(minimum=MINIMUM, size=len(program), token=token, no_python=NO_PYTHON)
    options = [part for name, value in OPTIONS.items() for part in ("-o", f"{name}={value}")]
    return ["ssh", "-T", "-a", "-x", *options, "--", on, f"exec sh -c '{script}'"]


def connection_error(on: str, said: str) -> UnavailableError | None:
    """Return the error to report for what ssh printed, where it never logged in; None for anything else."""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    if "IDENTIFICATION HAS CHANGED" in said:
        return UnavailableError(
            f"the host key of {on} is not the one that was accepted before: another machine may answer in its place",
            hint="ask its owner; if the change is known, remove the old key with ssh-keygen -R",
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return UnavailableError(f"the host key of {on} is not known", hint=f"ssh {on} once, to check and accept it")
    if "Permission denied" in said or "Too many authentication failures" in said:
        return UnavailableError(
            f"{on} refused the login ({last})", hint=f"it needs a key without a question: ssh-copy-id {on}"
        )
    unreachable = ("Could not resolve", "refused", "timed out", "No route to host", "unreachable")
    if any(phrase in last for phrase in unreachable):
        return UnavailableError(f"{on} cannot be reached ({last})", hint=f"check that ssh {on} works")
    return None
