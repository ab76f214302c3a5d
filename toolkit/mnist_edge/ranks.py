"""Which of torchrun's processes this one is. Outside torchrun there is one, and it leads."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rank:
    """This process among those that train together.

    Attributes:
        number: 0 to `size` - 1; rank 0 leads: it alone writes and prints.
        local: its number on this machine, which is also that of its GPU.
        size: how many train together.
        restarts: how often torchrun has started them anew after one was lost.
    """

    number: int = 0
    local: int = 0
    size: int = 1
    restarts: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.number == 0


ALONE = Rank()


def this_rank() -> Rank:
    """Read what torchrun tells its processes in their environment."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    told = os.environ
    return Rank(
        number=int(told["RANK"]),
        local=int(told["LOCAL_RANK"]),
        size=int(told["WORLD_SIZE"]),
        restarts=int(told.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
