"""Start a command on several processes of this machine, as torchrun does, and say in one line how it ended."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mnist_edge.errors import UnavailableError


def launch(processes: int, arguments: Sequence[str], say: Callable[[str], object]) -> int:
    """Run `mnist-edge` with these arguments on so many processes.

    Returns:
        0 where all ended well, the exit code of the first that did not and has told why, 4 where one was killed and
        the first has told that it lost another, 130 or 143 after a signal.

    Raises:
        UnavailableError: the first process was killed: nobody else speaks for all.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # its processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "mnist_edge", *arguments)
    except ChildFailedError as error:
        # Of several, the one that was killed is the cause, and one that only lost another (4) never is.
        codes = {rank: int(failure.exitcode) for rank, failure in error.failures.items()}
        rank, code = min(codes.items(), key=lambda failed: (failed[1] >= 0, failed[1] == UnavailableError.exit_code))
        if code >= 0:
            return code
        lost = UnavailableError(
            f"rank {rank} of {processes} was killed ({signal.Signals(-code).name})",
            hint="the last checkpoint is kept: --resume its folder",
        )
        if rank == 0:
            raise lost from error
        say(f"mnist-edge: {lost.message} ({lost.hint})")
        return lost.exit_code
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0
