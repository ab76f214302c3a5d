"""Batches from images that stay in their file: one window of them is in memory at a time.

Every epoch shuffles the chunks of the file and groups them into windows. A window is read, and its images are
shuffled, shifted and deformed as `Feed` does with a complete set. So memory does not grow with the file.

Quality of the shuffle: a set that fits into one window is shuffled uniformly. In a larger set a window is a random
sample of about a thousand chunks, and its images are shuffled uniformly. For a file sorted by class, a window's share
of a class with one tenth of the images is 10 % with a standard deviation of 0.9 points; sampling single images would
give 0.1. A batch of 128 has 2.7 even then. There are no long runs of one class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mnist_edge.contract import Normalization
from mnist_edge.pixels import ImageFile, Images, RowRanges, take_rows
from mnist_edge.ranks import Rank
from mnist_edge.training.feed import Feed
from mnist_edge.training.recipes import Recipe

CHUNK = 64
"""Neighbouring images that are read at once: 50 kB, enough to make reading cheap."""
LEAST_CHUNKS = 1024
"""Fewest chunks of a file: a small one has smaller chunks, so that the held-out chunks are a representative sample."""
WINDOW = 65_536
"""Images in memory at a time, 51 MB as uint8."""


def chunks_of(count: int) -> RowRanges:
    """Cut a file of `count` images into chunks."""
    size = min(CHUNK, max(1, count // LEAST_CHUNKS))
    starts = np.arange(0, count, size)
    return np.stack([starts, np.minimum(starts + size, count)], axis=1)


class Stream:
    """Batches of the training set from its file; the interface of `Feed`."""

    def __init__(
        self,
        images: ImageFile,
        labels: Images,
        chunks: RowRanges,
        recipe: Recipe,
        device: torch.device,
        rank: Rank,
        normalization: Normalization = "seed",
    ) -> None:
        self.images = images
        self.labels = labels
        self.chunks = chunks
        self.recipe = recipe
        self.device = device
        self.rank = rank
        self.normalization = normalization

    def epoch(
        self, sampler: torch.Generator, from_step: int, *, distort: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (pixels float32 (n, 784), targets float32 (n, 10)).

        At the start, the order of the chunks and a seed for each window are drawn from `sampler`. So the windows that
        were finished before an interruption are not read again.

        Raises:
            BadFileError: the file became shorter.
            UnavailableError: it cannot be opened any more.
        """
        batch = self.recipe.batch_size
        steps = max(1, WINDOW // batch)  # of a window; only the last one of the epoch has fewer
        order = self.chunks[torch.randperm(len(self.chunks), generator=sampler).numpy()]
        images, labels = self.images.take(order), take_rows(self.labels, order)
        windows = math.ceil(len(images) / (steps * batch))
        seeds = torch.randint(2**32, (windows,), generator=sampler).tolist()
        for window in range(from_step // steps, windows):
            rows = slice(window * steps * batch, (window + 1) * steps * batch)
            feed = self._window(images[rows], labels[rows])
            window_sampler = torch.Generator().manual_seed(seeds[window])
            yield from feed.epoch(window_sampler, max(0, from_step - window * steps), distort=distort)
            del feed  # before the next is read

    def _window(self, images: Images, labels: Images) -> Feed:
        order = torch.arange(len(images))
        return Feed(images, labels, order, self.recipe, self.device, self.rank, self.normalization)
