"""The process in which torchvision downloads: run by `download.py`, imported by nobody."""

from __future__ import annotations

import os
import socket
import sys

from mnist_edge.data.download import IDLE_SECONDS


def main() -> None:
    """Download the dataset named by the first argument into the folder named by the second."""
    import torchvision.datasets

    class_name, folder = sys.argv[1:]
    dataset = getattr(torchvision.datasets, class_name)
    mirror = os.environ.get("MNIST_EDGE_MIRROR")
    if mirror:
        dataset.mirrors = [mirror]
    socket.setdefaulttimeout(IDLE_SECONDS)
    try:
        dataset(folder, download=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this process's one answer
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    main()
