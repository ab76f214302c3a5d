"""The process in which torchvision downloads: run by `download.py`, never imported."""

from __future__ import annotations

import os
import socket
import sys

from mnist_edge.data.download import IDLE_SECONDS
from mnist_edge.interrupts import end_with_parent


def main() -> None:
    """Download a dataset; the arguments are its class in torchvision, the folder, and the parent's process id."""
    class_name, folder, parent = sys.argv[1:]
    end_with_parent(int(parent))
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, class_name)
    mirror = os.environ.get("MNIST_EDGE_MIRROR")
    if mirror:
        dataset.mirrors = [mirror]
    socket.setdefaulttimeout(IDLE_SECONDS)
    try:
        dataset(folder, download=True)
    except Exception as error:  # noqa: BLE001 - any failure is reported to the parent in one line
        sys.exit(" ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    main()
