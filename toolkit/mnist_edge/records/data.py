"""Datasets: labelled images for training and for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from mnist_edge.contract import DatasetName
from mnist_edge.pixels import ImageFile, Images


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Test images with their labels, in memory: all that evaluating and verifying need.

    Attributes:
        name: which dataset; every later record names it.
        source: the folder or package that it was read from; in no record, because it is a path of this machine.
        test_images: uint8 (N, 28, 28), 0 background to 255 ink.
        test_labels: uint8 (N,), 0 to 9.
    """

    name: DatasetName
    source: str
    test_images: Images
    test_labels: Images


@dataclass(frozen=True, kw_only=True)
class StoredSet:
    """Test images of any number, which stay in their file, with their labels.

    Attributes:
        source: the folder that it is read from; in no record, because it is a path of this machine.
        images: of the file; uint8 (N, 28, 28) where the file is compressed.
        labels: uint8 (N,), 0 to 9.
    """

    source: str
    images: ImageFile | Images
    labels: Images


@dataclass(frozen=True, kw_only=True)
class Dataset(EvaluationSet):
    """A test set with the training set that belongs to it.

    Attributes:
        train_images: uint8 (N, 28, 28); those of a user's own folder stay in their file.
        train_labels: uint8 (N,), 0 to 9.
        fingerprint: sha256 that distinguishes two folders; empty for a dataset that its name identifies.
    """

    train_images: Images | ImageFile
    train_labels: Images
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectionSplit:
    """Training images that training held out, to choose a variant or its settings by; at least one.

    Attributes:
        images: uint8 (N, 28, 28); those of a user's own folder stay in their file.
        labels: uint8 (N,), 0 to 9.
    """

    images: Images | ImageFile
    labels: Images
