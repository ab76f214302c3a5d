"""IDX files: a sound file is read as it was written, and every other one is refused."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnist_edge.data.idx import open_images, read_images, read_labels, sha256_of_idx
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
    with pytest.raises(BadFileError, match=r"\b[25] (images|labels), expected 60000"):
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


def test_a_missing_file_is_a_fault_of_the_environment(tmp_path: Path, reader_and_data) -> None:
    """A file that is not there is named with exit code 4."""
    reader, _ = reader_and_data
    with pytest.raises(UnavailableError, match="nowhere"):
        reader(tmp_path / "nowhere")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_at_once(make, tmp_path: Path, reader_and_data) -> None:
    """A folder, a FIFO that nobody writes to and an endless device are refused before they are opened."""
    reader, _ = reader_and_data
    path = tmp_path / "train-images-idx3-ubyte"
    make(path)
    for read in (reader, open_images):
        with pytest.raises(BadFileError, match=path.name):
            read(path)


@pytest.mark.parametrize("kind", READERS)
def test_compressed_files_are_read_as_the_plain_ones(kind: str, tmp_path: Path) -> None:
    """The values of a `.gz` are those of the file that was compressed, and its sha256 too."""
    reader, data = READERS[kind]
    (tmp_path / "plain").write_bytes(data)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(data))
    values = reader(tmp_path / "packed.gz")
    assert np.array_equal(values, reader(tmp_path / "plain"))
    assert sha256_of_idx(values) == hashlib.sha256(data).hexdigest()


def damage(data: bytes) -> Iterator[bytes]:
    packed = gzip.compress(data)
    yield from (packed[: len(packed) // 2], packed[:-6], packed[:12], packed[:-8] + bytes(8), b"")
    yield from (gzip.compress(data[:-1]), gzip.compress(data + b"\0"), data, b"<!DOCTYPE html>")


def test_a_damaged_gz_is_refused(tmp_path: Path, reader_and_data) -> None:
    """Cut, with a wrong checksum, longer or shorter inside, or not compressed at all: exit code 3."""
    reader, data = reader_and_data
    file = tmp_path / "idx.gz"
    for content in damage(data):
        file.write_bytes(content)
        with pytest.raises(BadFileError, match=r"idx\.gz"):
            reader(file)


def test_more_than_a_file_can_hold_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """A compressed bomb, and a sparse file of 2^31 images, raise without an allocation of their declared size."""
    bomb, sparse = tmp_path / "bomb.gz", tmp_path / "sparse"
    header = struct.pack(">4I", 0x803, 1 << 31, 28, 28)
    bomb.write_bytes(gzip.compress(header + bytes(1 << 22)))
    small = tmp_path / "small.gz"  # under the memory limit, and still more than deflate can have compressed
    small.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 1 << 20, 28, 28)))
    sparse.write_bytes(header)
    os.truncate(sparse, 16 + 784 * (1 << 31))
    tracemalloc.start()
    try:
        for path in (bomb, small, sparse):
            with pytest.raises(BadFileError, match=path.name):
                read_images(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


FOREIGN = {
    "gzip": (gzip.compress(IMAGES), "gzip data", ".gz"),
    "html": (b"<!DOCTYPE html><p>403 Forbidden", "web page", "again"),
    "html after blanks": (b"\xef\xbb\xbf\r\n <html><p>403 Forbidden", "web page", "again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer", "again"),
}


@pytest.mark.parametrize("found", FOREIGN)
def test_another_format_is_named(found: str, tmp_path: Path, reader_and_data) -> None:
    """gzip data, a web page and a git-lfs pointer under the name of an IDX file are reported as such."""
    content, name, hint = FOREIGN[found]
    (tmp_path / "idx").write_bytes(content)
    with pytest.raises(BadFileError, match=name) as caught:
        reader_and_data[0](tmp_path / "idx")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("values", "reader", "found", "hint"),
    [
        (np.zeros((2, 28, 28), ">f4"), read_images, "32-bit float values in 3 dimensions", "255"),
        (np.zeros((2, 28, 28), ">f8"), read_images, "64-bit float values in 3 dimensions", "255"),
        (np.zeros((2, 8), ">i4"), read_labels, "32-bit integer values in 2 dimensions", "first column"),
        (np.zeros(2, ">i4"), read_labels, "32-bit integer values in 1 dimension;", "astype('uint8')"),
        (np.zeros((2, 28, 28), np.uint8), read_labels, "8-bit unsigned integer values in 3 dimensions", "exchanged"),
    ],
)
def test_another_type_is_named_in_words(values, reader, found: str, hint: str, tmp_path: Path) -> None:
    """Float images and QMNIST's labels are refused with their type and a conversion, not with a code in hex."""
    codes = {np.dtype(np.uint8): 8, np.dtype(">i4"): 12, np.dtype(">f4"): 13, np.dtype(">f8"): 14}
    header = bytes([0, 0, codes[values.dtype], values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    (tmp_path / "idx").write_bytes(header + values.tobytes())
    with pytest.raises(BadFileError, match=found) as caught:
        reader(tmp_path / "idx")
    assert hint in caught.value.hint
