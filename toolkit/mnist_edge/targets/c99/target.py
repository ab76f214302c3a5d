"""The target `c`: portable C99."""

from __future__ import annotations

from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.records.bundle import Variant
from mnist_edge.targets.c99.devices import DEVICES, GOLDEN_ONLY
from mnist_edge.targets.c99.folder import folder_files
from mnist_edge.targets.c99.networks import network_logits, read_network
from mnist_edge.targets.c99.program import open_program
from mnist_edge.targets.c99.source import Network, buffer_bytes, constant_bytes
from mnist_edge.targets.folder import write_folder
from mnist_edge.targets.golden import golden_rows
from mnist_edge.targets.target import Target


def read(bundle: Bundle, variant: Variant) -> Network:
    """Return the network of a variant; raises UsageError where C cannot be generated for it."""
    return read_network(bundle.file(variant), variant.name)


def build(bundle: Bundle, variant: Variant, folder: Path) -> dict[str, int]:
    """Write the C folder of a variant, atomically; return the bytes of its constants and of its buffers.

    Raises:
        UsageError: the variant is neither a chain of float32 layers nor a network on integers.
        UnavailableError: the folder cannot be written.
    """
    network = read(bundle, variant)
    images = bundle.golden.images[golden_rows(bundle.golden.labels)]
    write_folder(folder, folder_files(network, images, network_logits(network, images)), "c")
    return {"constants_bytes": constant_bytes(network), "buffers_bytes": buffer_bytes(network)}


C99 = Target(
    name="c",
    devices=tuple(DEVICES),
    require_expressible=read,
    build=build,
    open=open_program,
    golden_only=GOLDEN_ONLY,
)
