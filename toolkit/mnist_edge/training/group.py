"""Training on several processes, started by `--processes` or torchrun: each computes its share of every batch.

DistributedDataParallel adds up the gradients (gloo between CPUs, nccl between GPUs). The batch is the recipe's
whatever the number of processes, so the losses are those of one process but for the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mnist_edge.errors import UnavailableError
from mnist_edge.ranks import Rank
from mnist_edge.training.recipes import Recipe
from mnist_edge.training.step import update

TIMEOUT = timedelta(minutes=5)
"""How long a process waits for one that is alive but does not respond."""
LOST = ("connect", "peer", "timed out", "timeout", "socket", "broken pipe")
"""Words in gloo's messages when another process has ended."""


@contextmanager
def process_group(rank: Rank, device: torch.device) -> Iterator[None]:
    """Join the group of processes for the length of the block; nothing where there is one process.

    Raises:
        UnavailableError: the others do not join in time, or one is lost.
    """
    if rank.size == 1:
        yield
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    with _naming_lost_processes(rank):
        dist.init_process_group(
            # With gloo beside it, the stop request of each step travels between CPUs: no step waits for the GPU, and
            # a lost rank raises here at once, where NCCL alone would abort the process when its watchdog times out.
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=_store(rank),
            rank=rank.number,
            world_size=rank.size,
            timeout=TIMEOUT,
            device_id=device if on_gpu else None,
        )
    try:
        yield
    except BaseException:
        _leave(abort=on_gpu)
        raise
    _leave(abort=False)


def _leave(*, abort: bool) -> None:
    """Leave the group; `abort` does not wait for collectives that a lost rank will never join."""
    if abort:
        dist.distributed_c10d._abort_process_group()  # noqa: SLF001 - torch has no public name for it
    else:
        dist.destroy_process_group()


def _store(rank: Rank) -> Store:
    """Return what the processes meet through: the file of `--processes`, or torchrun's store on a port."""
    if rank.store is not None:
        return dist.FileStore(  # type: ignore[attr-defined] # torch.distributed has no __all__
            str(rank.store), rank.size
        )
    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    # torchrun's store outlives a restart, and would lead to processes that are gone (pytorch issue 135712).
    return PrefixStore(f"restart-{rank.restarts}", store)


@contextmanager
def _naming_lost_processes(rank: Rank) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own for it
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in LOST):
            raise
        raise UnavailableError(
            f"rank {rank.number} of {rank.size} lost another process of its group",
            hint="its own error line gives the reason; torchrun --max-restarts 3 continues from the last checkpoint",
        ) from error


def require_same_work(rank: Rank, what: dict[str, Any]) -> None:
    """Check that all processes are about to do the same work.

    Args:
        rank: this process.
        what: picklable values that must be equal on all processes, by name.

    Raises:
        UnavailableError: names what differs.
    """
    if rank.size == 1:
        return
    found: list[dict[str, Any]] = [{} for _ in range(rank.size)]
    with _naming_lost_processes(rank):
        dist.all_gather_object(found, what)
    for name, value in found[0].items():
        if any(other[name] != value for other in found):
            raise UnavailableError(
                f"the processes differ in {name}: {', '.join(str(other[name]) for other in found)}",
                hint="give every machine the same data and the same run folder",
            )


def stop_on_any(rank: Rank, stop: Callable[[], bool]) -> Callable[[], bool]:
    """Return a `stop` that is True on every process if it is True on any, so that all end after the same step."""
    if rank.size == 1:
        return stop

    def on_any() -> bool:
        requested = torch.tensor(float(stop()))  # on the CPU, where gloo reduces it without waiting for the GPU
        with _naming_lost_processes(rank):
            dist.all_reduce(requested, dist.ReduceOp.MAX)
        return bool(requested)

    return on_any


class SharedStep:
    """A `step.Step` for several processes, each with a share of the batch."""

    def __init__(self, model: nn.Sequential, recipe: Recipe, momentum: dict[str, Tensor], rank: Rank) -> None:
        self.model, self.recipe, self.momentum, self.rank = model, recipe, momentum, rank
        with _naming_lost_processes(rank):
            self.shared = DistributedDataParallel(model)

    def __call__(self, pixels: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Take a step with this process's share, which may be empty; the loss is that of the whole batch."""
        with _naming_lost_processes(self.rank):
            losses = -(torch.log_softmax(self.shared(pixels), dim=1) * targets).sum()
            # new_full fills on the device; new_tensor would copy from the CPU and wait for the GPU.
            totals = torch.stack([losses.detach(), losses.new_full((), len(pixels))])
            dist.all_reduce(totals)
            self.model.zero_grad()
            # DistributedDataParallel takes the mean over processes of what is a sum over images.
            (losses * self.rank.size / totals[1]).backward()  # type: ignore[no-untyped-call]
        update(self.model, self.momentum, self.recipe, lr)
        return totals[0] / totals[1]
