"""Reading images from anywhere: every form that cameras, scanners and editors write, and files made to do harm."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli import in_process

from mnist_edge.data.image_file import MAX_SIDE, read_image
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import write_atomic

RANDOM = np.random.default_rng(7)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(20) * 6, np.arange(30) * 4).astype(np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG of 8-bit greys whose header states these sides, whatever data it has."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def with_alpha(ink: int, share: float = 0.1) -> Image.Image:
    """A transparent image with some opaque rows of one grey."""
    pixels = np.zeros((20, 30, 4), dtype=np.uint8)
    pixels[: round(20 * share)] = (ink, ink, ink, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("content", "most"),
    [
        (encoded(Image.fromarray(GREY)), 0),
        (encoded(Image.fromarray(GREY).convert("RGB")), 0),
        (encoded(Image.fromarray(GREY).convert("RGBA")), 0),
        (encoded(Image.fromarray(GREY).convert("P")), 0),
        (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), 0),
        (encoded(Image.fromarray(GREY), "WEBP", lossless=True), 1),
        (encoded(Image.fromarray(SMOOTH), "JPEG", quality=98), 3),
        (encoded(Image.fromarray(SMOOTH).convert("RGB"), "JPEG", quality=98), 3),
        (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=98), 3),
    ],
    ids=["grey", "RGB", "opaque alpha", "palette", "16 bit", "WebP", "JPEG", "JPEG in colour", "JPEG in CMYK"],
)
def test_every_form_of_an_image_gives_the_same_greys(content: bytes, most: int) -> None:
    """Modes and formats do not change what the model receives, but for the loss of JPEG."""
    expected = SMOOTH if most == 3 else GREY
    found = read_image(content)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= most


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, GREY), (2, GREY[:, ::-1]), (3, GREY[::-1, ::-1]), (6, np.rot90(GREY, -1)), (8, np.rot90(GREY))],
)
def test_exif_rotation_is_applied(orientation: int, upright: np.ndarray) -> None:
    """A phone stores a 6 sideways with a note: without it the model would see something else."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_image(encoded(Image.fromarray(GREY), exif=exif)), upright)


@pytest.mark.parametrize(
    ("image", "ink", "background"),
    [(with_alpha(0), 0, 255), (with_alpha(255), 255, 0), (with_alpha(60, 0.8), 60, 60)],
    ids=["black ink", "white ink", "a photo with transparent corners"],
)
def test_what_is_transparent_becomes_a_background(image: Image.Image, ink: int, background: int) -> None:
    """Ink on nothing keeps its contrast; the paper of a photo goes on into its transparent corners."""
    found = read_image(encoded(image))
    assert (found[0] == ink).all()
    assert (found[-1] == background).all()


def test_a_large_image_is_reduced(tmp_path: Path) -> None:
    """What follows takes bounded memory and time; every pixel of the photo counts."""
    image = np.kron(GREY[:1, :6], np.ones((64, 1024), dtype=np.uint8))
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(Image.fromarray(image), "JPEG", quality=95))
    for source in (path, encoded(Image.fromarray(image))):
        found = read_image(source)
        assert MAX_SIDE / 2 <= max(found.shape) < 2 * MAX_SIDE
        middles = found[found.shape[0] // 2, found.shape[1] // 12 :: found.shape[1] // 6]
        assert np.abs(middles.astype(int) - GREY[0, :6]).max() <= 2


def test_a_large_scan_in_black_and_white_is_read(tmp_path: Path) -> None:
    """One bit a pixel, as scanners write pages of text."""
    scan = Image.new("1", (4200, 4200), 1)
    scan.paste(0, (0, 0, 4200, 2100))
    scan.save(tmp_path / "scan.png")
    grey = read_image(tmp_path / "scan.png")
    assert grey.shape == (2100, 2100)
    assert (int(grey[0, 0]), int(grey[-1, -1])) == (0, 255)


def test_the_first_image_of_a_photo_with_two_counts() -> None:
    """Phones store a depth or a gain map behind the photo; that is no animation."""
    photo, other = Image.fromarray(SMOOTH).convert("RGB"), Image.fromarray(255 - SMOOTH).convert("RGB")
    found = read_image(encoded(photo, "MPO", save_all=True, append_images=[other], quality=98))
    assert np.abs(found.astype(int) - SMOOTH).max() <= 3


LARGE_TEXT = b"zTXtA\0\0" + zlib.compress(b"0" * 3_000_000)
BOMB = struct.pack(">I", len(LARGE_TEXT) - 4) + LARGE_TEXT + struct.pack(">I", zlib.crc32(LARGE_TEXT))
SECOND = Image.fromarray(GREY[::-1])


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (b"", "is empty"),
        (b"no image", "is no PNG, JPEG or WebP"),
        (encoded(Image.fromarray(GREY), "GIF"), "is no PNG, JPEG or WebP"),
        (encoded(Image.fromarray(SMOOTH), "JPEG")[:-60], "is damaged"),
        (encoded(Image.fromarray(GREY))[:-60], "is damaged"),
        (encoded(Image.fromarray(GREY), "WEBP")[:-60], "is damaged"),
        (png(50_000, 50_000), "too many pixels"),
        (png(2**31 - 1, 2**31 - 1), "too many pixels"),
        (png(10_000, 9_000), "10,000 x 9,000 pixels"),
        (png(8_000, 8_000, b"\0"), "is damaged"),
        (png(8, 8, b"\0" * 72, BOMB), "is damaged"),
        (encoded(Image.fromarray(GREY), save_all=True, append_images=[SECOND]), "is animated, with 2 frames"),
        (encoded(Image.fromarray(GREY), "WEBP", save_all=True, append_images=[SECOND]), "is animated"),
    ],
    ids=["empty", "text", "GIF", "cut JPEG", "cut PNG", "cut WebP", "50,000 x 50,000", "2^31 x 2^31", "90 megapixels",
         "declares more than it holds", "a text of 3 MB", "animated PNG", "animated WebP"],
)  # fmt: skip
def test_a_bad_image_is_refused(content: bytes, piece: str) -> None:
    """Each names the image and what is wrong; nothing is guessed from half an image."""
    with pytest.raises(BadFileError, match=piece) as caught:
        read_image(content, "photo.jpg")
    assert caught.value.message.startswith("photo.jpg ")
    assert caught.value.hint


def test_a_huge_header_takes_no_memory() -> None:
    """It is refused before anything is decoded: the process does not grow by a tenth of what the header states."""
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(BadFileError):
            read_image(png(50_000, 50_000))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "sparse file"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """A FIFO would block for ever, and a device has no end."""
    path = tmp_path / "photo.png"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse file":
        with path.open("wb") as file:
            file.truncate(2**40)
    with pytest.raises(BadFileError):
        read_image(Path("/dev/zero") if kind == "device" else path)


def test_a_missing_file_is_the_environments(tmp_path: Path) -> None:
    """Exit code 4, as for every input."""
    with pytest.raises(UnavailableError, match="does not exist"):
        read_image(tmp_path / "photo.png")


VALID = [
    encoded(Image.fromarray(GREY)),
    encoded(Image.fromarray(GREY).convert("P")),
    encoded(with_alpha(0)),
    encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"),
    encoded(Image.fromarray(GREY), "WEBP"),
]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(0, 6000),
)
def test_no_bytes_crash_the_reader(content: bytes, changes: list[tuple[int, bytes]], length: int) -> None:
    """Mutated and truncated images give greys or BadFileError, and nothing else."""
    data = bytearray(content)
    for place, piece in changes:
        data[place % len(data) : place % len(data) + len(piece)] = piece
    try:
        found = read_image(bytes(data[:length]))
    except BadFileError:
        return
    assert found.dtype == np.uint8
    assert found.ndim == 2
    assert found.size


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\1\0\0WEBP"]), st.binary(max_size=200))
def test_random_bytes_are_no_image(start: bytes, rest: bytes) -> None:
    """Also behind the first bytes of a format."""
    with pytest.raises(BadFileError):
        read_image(start + rest)


def test_the_command_ends_with_3(workplace: Path, tmp_path: Path) -> None:
    """One line that names the file, and one document with --json."""
    write_atomic(tmp_path / "cut.jpg", encoded(Image.fromarray(SMOOTH), "JPEG")[:-60])
    done = in_process("predict", "cut.jpg", "--model", workplace / "exported" / "digits", "--json", cwd=tmp_path)
    assert done.code == 3
    assert done.err.startswith("mnist-edge: cut.jpg is damaged")
    assert done.json["error"]["kind"] == "bad-file"
