"""Start a command on several processes of this machine, and report in one line how it ended.

torchrun does the same across machines, but its rendezvous store listens on every network interface, without
authentication, and unpickles what it receives: whoever reaches the port runs code. Processes of one machine
need no port: their rendezvous is a file in a private folder, and gloo and NCCL are bound to the loopback interface.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mnist_edge.cpus import available_cpus
from mnist_edge.errors import UnavailableError
from mnist_edge.interrupts import stop_requests
from mnist_edge.ranks import rank_environment

GRACE_S = 20.0
"""How long the others may take to notice that one has ended, and to report it, before they are killed."""
LOOPBACK = "lo" if sys.platform.startswith("linux") else "lo0"


def launch(processes: int, arguments: Sequence[str], notify: Callable[[str], object]) -> int:
    """Run `mnist-edge` with these arguments in `processes` processes.

    Returns:
        0 where all ended well; the exit code of the first that failed and has reported why; 4 where one was killed and
        the first has reported that it lost another; 129, 130 or 143 after a signal.

    Raises:
        UnavailableError: the first process was killed, so none has reported for all.
    """
    with tempfile.TemporaryDirectory(prefix="mnist-edge-") as folder, stop_requests() as stop:  # its mode is 0700
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(max(1, available_cpus() // processes)),
            "GLOO_SOCKET_IFNAME": LOOPBACK,
            "NCCL_SOCKET_IFNAME": LOOPBACK,
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "mnist_edge", *arguments],
                env=environment | rank_environment(number, processes, Path(folder) / "store"),
                start_new_session=True,  # a terminal's Ctrl-C must reach each once: a second one ends without saving
            )
            for number in range(processes)
        ]
        try:
            codes, killed = _wait(ranks, lambda: stop.signal_number)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    if stop.signal_number is not None:
        return 128 + stop.signal_number
    return _exit_code(codes, killed, notify)


def _wait(
    ranks: Sequence[subprocess.Popen[bytes]], signal_number: Callable[[], int | None]
) -> tuple[list[int], set[int]]:
    """Wait until all have ended; pass on a signal once, and kill those that outlive a failed one for too long.

    Returns:
        The exit code of each rank, and the ranks that were killed here.
    """
    passed_on = False
    deadline = float("inf")
    while any(rank.poll() is None for rank in ranks):
        number = signal_number()
        if number is not None and not passed_on:
            passed_on = True
            for rank in ranks:
                rank.send_signal(number)
        if deadline == float("inf") and any(rank.returncode for rank in ranks):
            deadline = time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    killed = {index for index, rank in enumerate(ranks) if rank.poll() is None}
    for index in killed:
        ranks[index].kill()
    return [rank.wait() for rank in ranks], killed


def _exit_code(codes: Sequence[int], killed: set[int], notify: Callable[[str], object]) -> int:
    """Return the exit code of the rank that failed first, rather than that of one that only lost another (4)."""
    failed = {rank: code for rank, code in enumerate(codes) if code and rank not in killed}
    if not failed:
        return 0
    rank, code = min(failed.items(), key=lambda item: (item[1] >= 0, item[1] == UnavailableError.exit_code))
    if code >= 0:
        return code
    lost = UnavailableError(
        f"rank {rank} of {len(codes)} was killed ({signal.Signals(-code).name})",
        hint="the last checkpoint is kept: --resume its folder",
    )
    if codes[0] < 0:
        raise lost
    notify(f"mnist-edge: {lost.message} ({lost.hint})")
    return lost.exit_code
