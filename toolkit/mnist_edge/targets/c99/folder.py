"""The folder of the C target: the model, golden images with their logits, a self-test, a harness and a Makefile."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from mnist_edge.contract import CLASSES, PIXELS
from mnist_edge.integer_network import IntegerNetwork
from mnist_edge.pixels import Images, Logits, logits_sha256
from mnist_edge.targets.c99.source import Network, array, hex_floats, model_files

GENERATED = {"model.h", "floats.c", "layer.c", "integers.c", "dots.c"}
"""Files of `files/` that are parts of model.h and model.c."""


def folder_files(network: Network, images: Images, logits: Logits) -> dict[str, bytes]:
    """Return the files of the folder by name.

    Args:
        network: to generate.
        images: golden images, uint8 (n, 28, 28).
        logits: float32 (n, 10), what the network returns for them; of an integer network, exactly.
    """
    copied = {
        entry.name: entry.read_text()
        for entry in (files(__package__) / "files").iterdir()
        if entry.name not in GENERATED
    }
    texts = copied | model_files(network) | {"golden.h": golden_header(network, images, logits)}
    return {name: text.encode() for name, text in sorted(texts.items())}


def golden_header(network: Network, images: Images, logits: Logits) -> str:
    """Return golden.h; the sha256 is that of the logits as little-endian float32, which only integers repeat exactly."""
    if isinstance(network, IntegerNetwork):
        units = np.ldexp(logits.astype(np.float64), network.layers[-1].shift).astype(np.int64)
        values = [str(value) for value in units.ravel().tolist()]
        stated = f'#define GOLDEN_SHA256 "{logits_sha256(logits)}"\n'
    else:
        values, stated = hex_floats(logits), ""
    rows = [f"{{{','.join(values[start : start + CLASSES])}}}" for start in range(0, len(values), CLASSES)]
    pixels = [f"{{{','.join(map(str, image))}}}" for image in images.reshape(len(images), PIXELS).tolist()]
    return "\n".join(
        [
            "/* Images with the logits that the network returns for them. */",
            "#ifndef GOLDEN_H\n#define GOLDEN_H\n",
            '#include "model.h"\n',
            f"#define GOLDEN_COUNT {len(images)}\n{stated}",
            array("golden_images", "uint8_t", pixels, "GOLDEN_COUNT][MODEL_PIXELS"),
            array("golden_logits", "model_logit", rows, "GOLDEN_COUNT][MODEL_CLASSES"),
            "#endif\n",
        ]
    )
