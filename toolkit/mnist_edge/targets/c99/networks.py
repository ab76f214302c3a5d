"""Which variants can be expressed in C, and their reference in numpy."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.integer_network import IntegerNetwork, integer_logits
from mnist_edge.pixels import Images, Logits
from mnist_edge.targets.c99.source import Network
from mnist_edge.verification.certificate import exact_logits
from mnist_edge.verification.integer_graph import read_integer_network
from mnist_edge.verification.linear_chain import LinearChain, NotLinearChainError, read_linear_chain


def read_network(model: Path, name: str) -> Network:
    """Read a variant's model as a network that C can be generated for.

    Raises:
        UsageError: it computes something else; names a variant to use instead.
    """
    with contextlib.suppress(BadFileError):
        return read_integer_network(model)
    try:
        chain = read_linear_chain(model)
    except NotLinearChainError as error:
        raise UsageError(
            f"C cannot be generated for the variant {name}, which is neither a network on integers nor one of float32 "
            f"layers: {error.message}",
            hint=_instead(name),
        ) from error
    _require_expressible(chain, name)
    return chain


def _instead(name: str) -> str:
    if name.startswith("student-"):
        return f"mnist-edge export --variant {name.removesuffix('-exact')}-exact, and generate C for that"
    return "mnist-edge export --variant int8-exact, and generate C for that"


def _require_expressible(chain: LinearChain, name: str) -> None:
    """Raise UsageError for a chain that takes normalised pixels, or lacks a ReLU between two layers."""
    if chain.input_dtype != "uint8":
        raise UsageError(
            f"C cannot be generated for the variant {name}: it takes normalised pixels",
            hint="mnist-edge export with --input uint8, and generate C for that",
        )
    *hidden, last = [layer.relu for layer in chain.layers]
    if not all(hidden) or last:
        raise UsageError(
            f"C cannot be generated for the variant {name}: expected a ReLU after every layer but the last",
            hint=_instead(name),
        )


def network_logits(network: Network, images: Images) -> Logits:
    """Return the logits of uint8 images (n, 28, 28), float32 (n, 10): exactly, or evaluated in float64 and rounded."""
    if isinstance(network, IntegerNetwork):
        return integer_logits(network, images)
    return exact_logits(network, images.reshape(len(images), -1)).astype(np.float32)
