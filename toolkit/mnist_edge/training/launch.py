"""Start a command on several processes of this machine, as torchrun does, and say in one line how it ended."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mnist_edge.errors import StoppedError, SurroundingsError


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `mnist-edge` with these arguments on so many processes.

    Returns:
        The exit code of the first process that failed, which has told why; 0 where none did.

    Raises:
        SurroundingsError: a process was killed.
        StoppedError: a signal arrived, and the processes ended in order.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # its processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "mnist_edge", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        raise SurroundingsError(
            f"rank {rank} of {processes} was killed ({name})", hint="the last checkpoint is kept: --resume its folder"
        ) from error
    except SignalException as stop:
        raise StoppedError("stopped", signal_number=stop.sigval, hint="--resume the run folder to go on") from stop
    return 0
