"""A step as a CUDA graph: some forty small kernels launched as one.

At batch 64 a GPU finishes a kernel sooner than Python launches the next. The captured step reads its batch
and learning rate from fixed tensors and writes its loss to one; nothing in it waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_edge.training.step import EagerStep

EAGER_STEPS = 3
"""Eager steps before the capture: libraries initialise themselves in their first calls, which no graph may contain."""


@dataclass(frozen=True)
class Captured:
    """A step that can be replayed: pixels (n, 784), targets (n, 10), lr () and loss (), all float32 on the GPU."""

    pixels: Tensor
    targets: Tensor
    lr: Tensor
    loss: Tensor
    replay: Callable[[], None]


def cuda_capture(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture `work` without running it; return a function that replays it, and the tensor of its result."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


class GraphStep:
    """A `step.Step` that replays a graph for full batches and runs the last batch of an epoch eagerly."""

    def __init__(
        self,
        step: EagerStep,
        batch_size: int,
        capture: Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]] = cuda_capture,
    ) -> None:
        self.step, self.batch_size, self.capture = step, batch_size, capture
        self.eager_steps = 0
        self.captured: Captured | None = None

    def __call__(self, pixels: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Take one step."""
        if len(pixels) != self.batch_size or self.eager_steps < EAGER_STEPS:
            self.eager_steps += len(pixels) == self.batch_size
            return self.step(pixels, targets, torch.full((), lr, device=pixels.device))
        if self.captured is None:
            self.captured = self._captured(pixels, targets)
        self.captured.pixels.copy_(pixels)
        self.captured.targets.copy_(targets)
        self.captured.lr.fill_(lr)
        self.captured.replay()
        return self.captured.loss.clone()

    def _captured(self, pixels: Tensor, targets: Tensor) -> Captured:
        batch_pixels, batch_targets = torch.empty_like(pixels), torch.empty_like(targets)
        lr = torch.zeros((), device=pixels.device)
        replay, loss = self.capture(lambda: self.step(batch_pixels, batch_targets, lr))
        return Captured(batch_pixels, batch_targets, lr, loss, replay)
