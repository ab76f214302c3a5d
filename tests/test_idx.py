"""IDX files: what is whole is read as it is, and nothing else is read at all."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnist_edge.data.idx import read_images, read_labels
from mnist_edge.errors import BadFileError, UnavailableError

IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 28, 28) + bytes(i % 251 for i in range(2 * 784))
LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes([0, 9, 3, 7, 1])
READERS = {"images": (read_images, IMAGES), "labels": (read_labels, LABELS)}
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture(params=READERS)
def reader_and_data(request: pytest.FixtureRequest):
    return READERS[request.param]


@one_folder
@given(pixels=st.integers(1, 12).flatmap(lambda n: arrays(np.uint8, (n, 28, 28))))
def test_images_come_back_as_written(tmp_path: Path, pixels) -> None:
    """Any number of pictures with any pixels is read without a changed value."""
    file = tmp_path / "images"
    file.write_bytes(struct.pack(">4I", 0x803, len(pixels), 28, 28) + pixels.tobytes())
    read = read_images(file, len(pixels))
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)


@one_folder
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=200))
def test_labels_come_back_as_written(tmp_path: Path, labels: list[int]) -> None:
    """Any labels from 0 to 9 are read in their order."""
    file = tmp_path / "labels"
    file.write_bytes(struct.pack(">2I", 0x801, len(labels)) + bytes(labels))
    assert read_labels(file).tolist() == labels


def test_every_changed_header_byte_is_refused(tmp_path: Path, reader_and_data) -> None:
    """No byte of a header may differ by as little as one bit, and the file is named."""
    reader, data = reader_and_data
    file = tmp_path / "idx"
    for position in range(4 + 4 * data[3]):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            file.write_bytes(changed)
            with pytest.raises(BadFileError) as caught:
                reader(file)
            assert str(file) in caught.value.message


def test_a_cut_or_longer_file_is_refused(tmp_path: Path, reader_and_data) -> None:
    """A file that ends early, anywhere, or goes on after its end is refused."""
    reader, data = reader_and_data
    file = tmp_path / "idx"
    file.write_bytes(data)
    reader(file)
    for end in range(len(data)):
        file.write_bytes(data[:end])
        with pytest.raises(BadFileError):
            reader(file)
    for extra in (b"\0", b"\0" * 784, data):
        file.write_bytes(data + extra)
        with pytest.raises(BadFileError):
            reader(file)


def test_no_items_and_another_count_are_refused(tmp_path: Path, reader_and_data) -> None:
    """An empty set and a set of another size than asked for are refused with both numbers."""
    reader, data = reader_and_data
    file = tmp_path / "idx"
    file.write_bytes(data[:4] + struct.pack(">I", 0) + data[8 : 4 + 4 * data[3]])
    with pytest.raises(BadFileError):
        reader(file)
    file.write_bytes(data)
    with pytest.raises(BadFileError, match=r"\b[25] items, expected 60000"):
        reader(file, 60_000)


def test_a_label_above_nine_is_refused(tmp_path: Path) -> None:
    """The message says which label, and where."""
    file = tmp_path / "labels"
    for wrong in (10, 255):
        file.write_bytes(LABELS[:-2] + bytes([wrong, 0]))
        with pytest.raises(BadFileError, match=f"label {wrong} at position 3"):
            read_labels(file)


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    """A well-made IDX file of pictures that are not 28x28 is refused with the size it has."""
    file = tmp_path / "images"
    for rows, columns in ((28, 14), (14, 56), (32, 32), (784, 1)):
        file.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 3, rows, columns) + bytes(3 * rows * columns))
        with pytest.raises(BadFileError, match=f"{rows}x{columns}"):
            read_images(file)


def test_images_and_labels_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Two swapped files are noticed by their headers."""
    file = tmp_path / "idx"
    file.write_bytes(LABELS)
    with pytest.raises(BadFileError):
        read_images(file)
    file.write_bytes(IMAGES)
    with pytest.raises(BadFileError):
        read_labels(file)


def test_a_file_that_cannot_be_opened_is_no_bad_file(tmp_path: Path, reader_and_data) -> None:
    """A missing file, or a folder in its place, is the surroundings' fault and named."""
    reader, _ = reader_and_data
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UnavailableError, match=path.name):
            reader(path)
