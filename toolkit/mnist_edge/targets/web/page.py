"""Write the page: HTML, style, script, model and golden images in one file, under a strict Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from mnist_edge.pixels import Images, Logits


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
    scripts = {"@MODEL@": f"const MODEL = {content.replace('<', chr(92) + 'u003c')};\n", "@SCRIPT@": _read("page.js")}
    style = _read("page.css")
    hashes = " ".join(_csp_hash(script) for script in scripts.values())
    policy = (
        f"default-src 'none'; script-src {hashes} 'wasm-unsafe-eval'; style-src {_csp_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _read("page.html")
    for name, text in {"@POLICY@": policy, "@STYLE@": style, **scripts}.items():
        page = page.replace(name, text)
    return page.encode()


def _read(name: str) -> str:
    return (files("mnist_edge.targets.web") / name).read_text(encoding="utf-8")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _csp_hash(text: str) -> str:
    """Return the source expression that allows exactly this inline text (CSP level 3, section 6.7.3.3)."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"
