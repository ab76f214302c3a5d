"""A wheel of the running package, from its own files: a checkout and an installed wheel both have all that it needs."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

from mnist_edge.errors import UnavailableError

PACKAGE = Path(__file__).parent.parent
_TAGS = "Wheel-Version: 1.0\nGenerator: mnist-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip archive can state: equal files give equal bytes."""


def build_wheel() -> tuple[str, bytes]:
    """Return the name and the bytes of a wheel (PEP 427) with every file of the package.

    Raises:
        UnavailableError: the package has no metadata, because it is not installed.
    """
    try:
        installed = importlib.metadata.distribution("mnist-edge")
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(
            "mnist-edge is run from its source folder and not installed: its requirements are not known",
            hint="pip install --editable . in that folder",
        ) from error
    name = f"mnist_edge-{installed.version}"
    info = f"{name}.dist-info"
    files = {
        f"mnist_edge/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    files[f"{info}/METADATA"] = (installed.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = _TAGS.encode()
    files[f"{info}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    lines = [f"{path},sha256={_hash(content)},{len(content)}\n" for path, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _DATE)
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return f"{name}-py3-none-any.whl", archive.getvalue()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
