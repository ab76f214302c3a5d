"""The rank of this process among those that train together, started by `--processes` or torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

STORE, LAUNCHER = "MNIST_EDGE_STORE", "MNIST_EDGE_LAUNCHER"
"""Environment variables that `--processes` sets: the rendezvous file, and the process that waits for all."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """This process among those that train together.

    Attributes:
        number: 0 to `size` - 1; rank 0 leads: only it writes and prints.
        local: its number on this machine, which is also that of its GPU.
        size: how many train together.
        restarts: how often torchrun has restarted them after one was lost.
        store: the rendezvous file; None under torchrun, which has a store on a port.
        launcher: process id of the `mnist-edge` that started them; None under torchrun.
    """

    number: int = 0
    local: int = 0
    size: int = 1
    restarts: int = 0
    store: Path | None = None
    launcher: int | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.number == 0


ALONE = Rank()


def this_rank() -> Rank:
    """Read this process's rank from its environment; without torchrun or `--processes` there is one process."""
    environment = os.environ
    store = environment.get(STORE)
    if store is None and "TORCHELASTIC_RUN_ID" not in environment:
        return ALONE
    return Rank(
        number=int(environment["RANK"]),
        local=int(environment["LOCAL_RANK"]),
        size=int(environment["WORLD_SIZE"]),
        restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
        store=None if store is None else Path(store),
        launcher=None if store is None else int(environment[LAUNCHER]),
    )


def rank_environment(number: int, size: int, store: Path) -> dict[str, str]:
    """Return the environment variables of a rank that this process starts on this machine."""
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(size),
        STORE: str(store),
        LAUNCHER: str(os.getpid()),
    }
