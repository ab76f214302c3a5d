"""The targets `web`, one HTML file with the generated C in it, and `onnxruntime-web`, the variant's own file."""

from __future__ import annotations

from pathlib import Path

from mnist_edge.bundle.folder import Bundle
from mnist_edge.errors import UsageError
from mnist_edge.files import write_atomic
from mnist_edge.integer_network import IntegerNetwork
from mnist_edge.records.bundle import Variant
from mnist_edge.targets.c99.networks import network_logits, read_network
from mnist_edge.targets.c99.source import Network, model_files
from mnist_edge.targets.emulated.target import build as build_copy
from mnist_edge.targets.golden import golden_rows
from mnist_edge.targets.target import Target
from mnist_edge.targets.web.chromium import DEVICE
from mnist_edge.targets.web.onnxruntime_web import open_onnxruntime_web
from mnist_edge.targets.web.page import PageModel, write_page
from mnist_edge.targets.web.predictor import open_page
from mnist_edge.targets.web.wasm import compile_wasm
from mnist_edge.verification.requirement import TOLERANCE

GENERATOR = b'<meta name="generator" content="mnist-edge">'
"""Stands near the beginning of every page, and tells it from a user's file."""
HEAD_BYTES = 1024


def _read(bundle: Bundle, variant: Variant) -> Network:
    """Return the network of a variant.

    Raises:
        UsageError: the classes are not digits, or no C can be generated for the variant.
    """
    bundle.require_digits("the page is for digits that a person draws", hint="--target c")
    return read_network(bundle.file(variant), variant.name)


def build_page(bundle: Bundle, variant: Variant, page: Path) -> dict[str, int]:
    """Write the page of a variant, atomically; return the bytes of its WebAssembly module.

    Raises:
        UsageError: the classes are not digits, no C can be generated for the variant, or the file that would be replaced
            is no such page.
        UnavailableError: clang or lld is missing, or the file cannot be written.
    """
    network = _read(bundle, variant)
    _require_replaceable(page)
    images = bundle.golden.images[golden_rows(bundle.golden.labels)]
    model = PageModel(
        description=_description(bundle, variant),
        wasm=compile_wasm(model_files(network)),
        images=images,
        logits=network_logits(network, images),
        tolerance=0.0 if isinstance(network, IntegerNetwork) else TOLERANCE,
        temperature=variant.temperature or 1.0,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, write_page(model))
    return {"wasm_bytes": len(model.wasm)}


def _require_replaceable(page: Path) -> None:
    if not (page.exists() or page.is_symlink()):
        return
    if page.is_file():
        with page.open("rb") as file:
            if GENERATOR in file.read(HEAD_BYTES):
                return
    raise UsageError(f"{page} is no page that an export wrote; it is not replaced", hint="choose another --output")


def _description(bundle: Bundle, variant: Variant) -> str:
    """Return what the page states of its model: `int8-exact, 98.84 % on MNIST`."""
    dataset = {"mnist": "MNIST", "folder": "your own digits"}.get(bundle.manifest.dataset, bundle.manifest.dataset)
    return variant.name if variant.accuracy is None else f"{variant.name}, {100 * variant.accuracy:.2f} % on {dataset}"


WEB = Target(name="web", devices=(DEVICE,), require_expressible=_read, build=build_page, open=open_page, suffix=".html")
ONNXRUNTIME_WEB = Target(
    name="onnxruntime-web",
    devices=(DEVICE,),
    require_expressible=lambda _bundle, _variant: None,
    build=build_copy,
    open=open_onnxruntime_web,
    all_batches=True,
)
