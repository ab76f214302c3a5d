"""Run blocks on Ray: embedded on this machine, or on a cluster. A lost worker's blocks are run again by Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mnist_edge.cpus import available_cpus
from mnist_edge.errors import MnistEdgeError, UnavailableError, UsageError
from mnist_edge.interrupts import restored_signals
from mnist_edge.scoring.plan import Block
from mnist_edge.scoring.worker import ScoreJob, score_rows

OBJECT_STORE_BYTES = 128 * 2**20
"""Shared memory of an embedded Ray: the model, and a few finished blocks."""
CONNECT_SECONDS = 10.0
"""Time in which a cluster must accept a connection."""
HEALTH_SECONDS = 60.0
"""Time in which it must report that it is healthy, the start of the process that asks included."""
START_ONE = "ray start --head starts one; check host, port and firewall"
ATTEMPTS = 3
"""Ray gives up where its own processes take over 30 seconds to start, as they may on a busy machine."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # reports nothing home
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning about a variable of its next version
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "0",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With the rule that Ray has for those systems, the servers of an embedded Ray listen on 127.0.0.1 only."""


@dataclass(frozen=True)
class RayRun:
    """A Ray that is connected.

    Attributes:
        workers: processes at a time.
    """

    workers: int

    def run(self, job: ScoreJob, blocks: tuple[Block, ...], keep: Callable[[int, bytes], None]) -> None:
        """Score blocks in any order, and hand over the file of each once it is finished.

        Raises:
            MnistEdgeError: as `score_block`.
            UnavailableError: Ray gave up.
        """
        import ray
        import ray.data

        shared = ray.put(job)
        rows = [{"number": block.number, "start": block.start, "stop": block.stop} for block in blocks]
        scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            cast("Any", score_rows),
            batch_size=1,
            batch_format="numpy",
            fn_kwargs={"job": shared},
            num_cpus=1,
            concurrency=self.workers,
        )
        try:
            for row in scored.iter_rows():
                if row["error"]:
                    raise cast("MnistEdgeError", pickle.loads(row["error"]))  # noqa: S301 - Ray's workers run our code
                keep(int(row["number"]), row["part"])
        except ray.exceptions.RayError as error:
            raise _failed(error) from error


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[RayRun]:
    """Start a Ray on this machine for the duration of the block, or connect to a cluster.

    An embedded one listens on 127.0.0.1 only, has no dashboard, reports no usage, and leaves no file.

    Args:
        address: HOST:PORT of the cluster's head; None starts one here.
        workers: processes at a time; None takes every CPU of this machine, or of the cluster.

    Raises:
        UsageError: no such address.
        UnavailableError: Ray is not installed or does not start; the cluster does not answer, or has another version.
    """
    os.environ.update(QUIET if address is not None else QUIET | LOOPBACK)
    _quiet_logs()
    with (
        warnings.catch_warnings(action="ignore"),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),  # Ray prints there that a machine was lost
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place,
    ):
        import ray

        try:
            with restored_signals():  # Ray replaces the handler of SIGTERM
                count = _start(Path(place), workers) if address is None else _connect(address, workers)
            _quiet_data()
            yield RayRun(count)
        finally:
            ray.shutdown()


def _start(place: Path, workers: int | None) -> int:
    """Start an embedded Ray, and return the number of workers."""
    import ray

    count = workers or available_cpus()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=count,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(place / str(attempt)),
            )
        except Exception as error:  # Ray raises a bare Exception
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise UnavailableError(
                    f"Ray does not start here: {_first_line(error)}", hint="end other programs, and run it again"
                ) from error
        else:
            break
    return count


def _connect(address: str, workers: int | None) -> int:
    """Connect to a cluster, and return the number of workers."""
    import ray

    _require_healthy(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # another version of Ray or Python is a bare RuntimeError
        raise UnavailableError(
            f"{address}: {_first_line(error)}", hint="the cluster must run the same versions of Python and Ray"
        ) from error
    return workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


def require_answer(address: str) -> None:
    """Raise unless something listens at an address.

    Raises:
        UsageError: no HOST:PORT.
        UnavailableError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"--address {address}: expected HOST:PORT of a Ray head", hint="--address 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UnavailableError(
            f"no Ray cluster answers at {address}: {error.strerror or error}", hint=START_ONE
        ) from error


def _require_healthy(address: str) -> None:
    """Raise UnavailableError unless a Ray head answers, asked by another process: in this one Ray would wait, or abort it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        healthy = subprocess.run(command, capture_output=True, timeout=HEALTH_SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise UnavailableError(f"what listens at {address} is no healthy Ray cluster of this version", hint=START_ONE)


def _failed(error: Exception) -> UnavailableError:
    """Return the error for what Ray could not do, with the last line of its text, which names the cause."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return UnavailableError(
        f"Ray could not score a block: {lines[-1].strip() if lines else type(error).__name__}",
        hint="run it again: finished blocks are kept",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _quiet_logs() -> None:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _quiet_data() -> None:
    """Keep Ray Data from printing, and let it take blocks as they come."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False  # the parts are numbered
    _quiet_logs()
