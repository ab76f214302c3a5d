"""The files that the server sends: those of the page of the `web` target, and the demo's own."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from mnist_edge.demo.latency import MEASURED
from mnist_edge.targets.web.page import SHARED_SCRIPTS, filled, read_asset

MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file as a browser receives it."""

    media_type: str
    content: bytes


def page_assets(bundle: str, variants: Sequence[str], token: str) -> Mapping[str, Asset]:
    """Return the files of the page, by path.

    Args:
        bundle: name of the bundle.
        variants: their names; the page shows most of the first.
        token: what the page sends with each image.
    """
    texts = {name: read_asset(name) for name in ("page.css", *SHARED_SCRIPTS)}
    texts |= {name: _read(name) for name in ("demo.css", "demo.js")}
    assets = {
        f"/{name}": Asset(media_type=MEDIA_TYPES[name.rpartition(".")[2]], content=text.encode())
        for name, text in texts.items()
    }
    count = f"{len(variants)} variants" if len(variants) > 1 else variants[0]
    values = {"MODEL": f"{bundle}, {count}", "TOKEN": token, "LATENCY": MEASURED}
    page = filled(_read("demo.html"), {name: html.escape(value) for name, value in values.items()})
    return {"/": Asset(media_type="text/html; charset=utf-8", content=page.encode()), **assets}


def _read(name: str) -> str:
    return (files("mnist_edge.demo") / name).read_text(encoding="utf-8")
