"""The exact logits of an exported graph, and how far they are from those of the network that PyTorch runs."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
from torch import from_numpy, nn, no_grad

from mnist_edge.contract import Normalization
from mnist_edge.pixels import Images, normalize
from mnist_edge.stats import rounded_up
from mnist_edge.training.model import linear_layers
from mnist_edge.verification.arithmetic import FLOAT64
from mnist_edge.verification.certificate import bound_logits, exact_logits
from mnist_edge.verification.linear_chain import LinearChain, LinearLayer, NotLinearChainError, read_linear_chain

BATCH = 1000
"""Images at a time."""


def exact_outputs(
    network: nn.Sequential, exported: bytes, golden: Images, test: Images, normalization: Normalization
) -> tuple[NDArray[np.float64], float]:
    """Evaluate an exported graph, and the network that it was made from, in float64.

    Folding the normalisation into the first layer rounds its weights once more. So the two are not quite the same
    function, and a bound on the one is a bound on the other only with their difference added.

    Args:
        network: as PyTorch runs it, on normalised pixels.
        exported: the content of its ONNX file.
        golden, test: uint8 (M, 28, 28) and (N, 28, 28).
        normalization: of the pixels that `network` takes.

    Returns:
        float64 (M, 10), the graph's logits on the golden images, and the largest difference of a logit on all images, with
        the float64 rounding error of both added, and rounded up to three digits, so that another machine's rounding does
        not change the file. Of a student, whose graph stores the very weights that PyTorch runs: PyTorch's in float64,
        and 0; and so where the graph is not the network's, which the comparison of their logits will report.
    """
    own, chain = chain_of(network), _exported_chain(exported)
    if chain is None or chain.form != own.form:
        return _in_float64(network, golden, normalization), 0.0
    difference = 0.0
    for images in (golden, test):
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH].reshape(-1, chain.widths[0])
            pixels = normalize(part, normalization)
            theirs = bound_logits(own, pixels, FLOAT64)
            ours = bound_logits(chain, part if chain.input_dtype == "uint8" else pixels, FLOAT64)
            apart = np.abs(theirs.logits - ours.logits) + theirs.errors + ours.errors
            difference = max(difference, float(apart.max()))
    flat = golden.reshape(len(golden), -1)
    inputs = flat if chain.input_dtype == "uint8" else normalize(flat, normalization)
    return exact_logits(chain, inputs), rounded_up(difference)


def _exported_chain(exported: bytes) -> LinearChain | None:
    try:
        return read_linear_chain(exported)
    except NotLinearChainError:
        return None


def chain_of(network: nn.Sequential) -> LinearChain:
    """Return a network's linear layers as they are, before anything is folded in."""
    layers = linear_layers(network)
    return LinearChain(
        layers=tuple(
            LinearLayer(
                weight=layer.weight.detach().cpu().numpy(),
                bias=layer.bias.detach().cpu().numpy(),
                relu=layer is not layers[-1],
            )
            for layer in layers
        ),
        input_dtype="float32",
    )


@no_grad()
def _in_float64(network: nn.Sequential, images: Images, normalization: Normalization) -> NDArray[np.float64]:
    double = copy.deepcopy(network).cpu().double()
    pixels = normalize(images.reshape(len(images), -1), normalization).astype(np.float64)
    logits: NDArray[np.float64] = double(from_numpy(pixels)).numpy()
    return logits
