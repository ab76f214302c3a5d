"""Read a PNG, JPEG or WebP from anywhere as a grey image: bounded in memory, upright, opaque."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.files import require_regular_file
from mnist_edge.pixels import Images

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
"""Names that image files of a folder end in, in lower case."""
MAX_BYTES = 2**27
"""A larger file is not read: a photo of 50 megapixels has 10 to 100 MB."""
MAX_PIXELS = 2**26
"""An image of more pixels is not decoded: its header may state any number."""
MAX_SIDE = 2048
"""A larger image is reduced, by a whole factor, until its longer side is less than twice this."""
HINT = "give a photo as PNG, JPEG or WebP"
SMALLER = f"scale it to at most {MAX_PIXELS:,} pixels, 8,192 by 8,192"


def read_image(source: Path | bytes, name: str = "") -> Images:
    """Return an image as a person sees it: rotated as its EXIF data state, in grey, transparent parts filled.

    What is transparent gets the median colour of the opaque part where that is larger, and otherwise white or black,
    whichever differs more from it. A photo with a second image in it (MPO) counts as its first.

    Args:
        source: a file, or its content.
        name: of the source in errors; by default the path.

    Returns:
        uint8 (height, width), 0 black to 255 white. 16-bit greys are divided by 257.

    Raises:
        BadFileError: no image of FORMATS, damaged, truncated, animated, or too large.
        UnavailableError: the file does not exist or may not be read.
    """
    name = name or (str(source) if isinstance(source, Path) else "the image")
    data = _content(source, name)
    try:
        # An image between Pillow's two limits only warns.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _require_readable(image, name)
            if image.format == "JPEG":
                image.draft(None, (MAX_SIDE, MAX_SIDE))  # decodes a half, quarter or eighth of the size
            return _grey(ImageOps.exif_transpose(image))
    except (BadFileError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadFileError(f"{name} is an image of too many pixels", hint=SMALLER) from error
    except UnidentifiedImageError as error:
        raise BadFileError(f"{name} is no PNG, JPEG or WebP image", hint=HINT) from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        reason = str(error) or type(error).__name__
        raise BadFileError(f"{name} is damaged: {reason}", hint="save or copy the image again") from error


def _content(source: Path | bytes, name: str) -> bytes:
    if isinstance(source, Path):
        require_regular_file(source, "an image", limit=MAX_BYTES, hint=HINT)
        try:
            with source.open("rb") as file:
                source = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"{name} cannot be read: {error.strerror}", hint="check its permissions") from error
    if len(source) > MAX_BYTES:
        raise BadFileError(f"{name} has more than {MAX_BYTES:,} bytes", hint=HINT)
    if not source:
        raise BadFileError(f"{name} is empty", hint=HINT)
    return source


def _require_readable(image: Image.Image, name: str) -> None:
    """Raise BadFileError for what the header states: too many pixels, or several frames."""
    if image.width * image.height > MAX_PIXELS:
        raise BadFileError(f"{name} has {image.width:,} x {image.height:,} pixels", hint=SMALLER)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the further images of an MPO are depth, gain or a second view
        raise BadFileError(
            f"{name} is animated, with {frames} frames: which of them is meant is unknown",
            hint="save one frame as an image",
        )


def _grey(image: Image.Image) -> Images:
    """Return an image in grey, its longer side less than twice MAX_SIDE."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would clip to 255
        values = np.clip(np.asarray(image), 0, 2**16 - 1) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")  # `reduce` takes no single bits
    elif image.mode != "L":
        image = image.convert("RGB")
    image = image.reduce(max(1, max(image.size) // MAX_SIDE))
    if image.mode != "RGBA":
        return np.asarray(image.convert("L"))
    grey, alpha = (np.asarray(band) for band in image.convert("LA").split())
    return _on_background(grey, alpha)


def _on_background(grey: Images, alpha: Images) -> Images:
    """Return a grey image with transparency, both uint8 (h, w), on the background that `read_image` describes."""
    opaque = alpha >= 128
    middle = float(np.median(grey[opaque])) if opaque.any() else 0.0
    behind = middle if opaque.mean() > 0.5 else (0.0 if middle > 127 else 255.0)
    share = alpha / np.float32(255)
    return np.asarray(np.rint(grey * share + behind * (1 - share)), dtype=np.uint8)
