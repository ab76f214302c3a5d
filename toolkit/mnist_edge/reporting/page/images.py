"""Images of the test set as data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np

from mnist_edge.pixels import Images


def png_url(image: Images) -> str:
    """Return an image, uint8 (28, 28), as the URL of a PNG, dark strokes on white paper."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.uint8(255) - image).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
