"""The target `c`: portable C99."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.files import explaining_os_errors, publish_folder
from mnist_edge.records.bundle import Variant
from mnist_edge.targets.c99.devices import DEVICES, GOLDEN_ONLY
from mnist_edge.targets.c99.folder import folder_files
from mnist_edge.targets.c99.golden import golden_rows
from mnist_edge.targets.c99.networks import network_logits, read_network
from mnist_edge.targets.c99.program import open_program
from mnist_edge.targets.c99.source import buffer_bytes, constant_bytes
from mnist_edge.targets.target import Target


def build(bundle: Bundle, variant: Variant, folder: Path) -> dict[str, int]:
    """Write the C folder of a variant, atomically; return the bytes of its constants and of its buffers.

    Raises:
        UsageError: the variant is neither a chain of float32 layers nor a network on integers.
        UnavailableError: the folder cannot be written.
    """
    network = read_network(bundle.file(variant), variant.name)
    images = bundle.golden.images[golden_rows(bundle.golden.labels)]
    content = folder_files(network, images, network_logits(network, images))
    with explaining_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=folder.parent, ignore_cleanup_errors=True) as staged:
            new = Path(staged) / folder.name
            new.mkdir()
            for name, data in content.items():
                (new / name).write_bytes(data)
            publish_folder(new, folder)
    return {"constants_bytes": constant_bytes(network), "buffers_bytes": buffer_bytes(network)}


C99 = Target(name="c", devices=tuple(DEVICES), build=build, open=open_program, golden_only=GOLDEN_ONLY)
