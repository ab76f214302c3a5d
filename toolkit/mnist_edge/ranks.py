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


def this_rank() -> Rank:
    """Read what torchrun tells its processes in their environment."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Rank()
    names = {"number": "RANK", "local": "LOCAL_RANK", "size": "WORLD_SIZE", "restarts": "TORCHELASTIC_RESTART_COUNT"}
    return Rank(**{field: int(os.environ.get(name, "1" if field == "size" else "0")) for field, name in names.items()})
