"""A dataset: images and labels."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_edge.contract import (
    DatasetName,
)
from mnist_edge.pixels import ImageFile, Images


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images and labels, held in memory; the training images of a folder stay in their file.

    Attributes:
        name: which dataset; every later record names it.
        source: the folder or package that it came from; in no record, for it is a place on this machine.
        train_images, test_images: uint8 (N, 28, 28), 0 background to 255 ink.
        train_labels, test_labels: uint8 (N,), 0 to 9.
        fingerprint: sha256 that tells two folders apart; empty where the name does.
    """

    name: DatasetName
    source: str
    train_images: Images | ImageFile
    train_labels: Images
    test_images: Images
    test_labels: Images
    fingerprint: str = ""
