"""Write the page: HTML, style, script, model and golden images in one file, under a strict Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from mnist_edge.pixels import Images, Logits

SHARED_SCRIPTS = ("drawing.js", "result.js")
"""What every page with a drawing area runs, before its own script; here and in `demo`."""


@dataclass(frozen=True, kw_only=True)
class PageModel:
    """What a page holds of a model.

    Attributes:
        description: one line for people.
        wasm: the module; see `web.c` for what it exports.
        images: golden images of the self-test, uint8 (n, 28, 28).
        logits: which it must return for them, float32 (n, 10).
        temperature: the logits are divided by it before the softmax.
        tolerance: largest error of a logit, relative to the image's largest (or to 1 where that is smaller); 0 for
            integer variants.
    """

    description: str
    wasm: bytes
    images: Images
    logits: Logits
    tolerance: float
    temperature: float = 1.0


def write_page(model: PageModel) -> bytes:
    """Return the HTML file; the same model gives the same bytes.

    The browser runs a script only if its sha256 is in the policy, so a changed byte of the model disables the page.
    `'wasm-unsafe-eval'` allows compiling WebAssembly and nothing else; every request is refused.
    """
    content = json.dumps(
        {
            "description": model.description,
            "tolerance": model.tolerance,
            "temperature": model.temperature,
            "logits": _base64(np.ascontiguousarray(model.logits, "<f4").tobytes()),
            "images": _base64(np.ascontiguousarray(model.images).tobytes()),
            "wasm": _base64(model.wasm),
        },
        indent=0,
    )
    # "</script" in a string would end the script.
    script = "".join(map(read_asset, (*SHARED_SCRIPTS, "prepare.js", "page.js")))
    scripts = {"MODEL": f"const MODEL = {content.replace('<', chr(92) + 'u003c')};\n", "SCRIPT": script}
    style = read_asset("page.css")
    hashes = " ".join(_csp_hash(script) for script in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes} 'wasm-unsafe-eval'; style-src {_csp_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = filled(read_asset("page.html"), {"POLICY": policy, "STYLE": style, **scripts})
    return page.encode()


def filled(page: str, texts: Mapping[str, str]) -> str:
    """Return a page with its drawing area, its result and these texts in the places of their names, such as `@STYLE@`."""
    known = {"DRAWING": read_asset("drawing.html"), "RESULT": read_asset("result.html"), **texts}
    return re.sub("@([A-Z]+)@", lambda found: known[found[1]], page)  # in one pass: a text may look like a name


def read_asset(name: str) -> str:
    """Return the text of a file of this folder."""
    return (files("mnist_edge.targets.web") / name).read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _csp_hash(text: str) -> str:
    """Return the source expression that allows exactly this inline text (CSP level 3, section 6.7.3.3)."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"
