"""Sign a bundle, so that whoever has the public key can check where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.errors import UsageError

if TYPE_CHECKING:
    from mnist_edge.records.signature import SignReport


def sign(bundle: str | Path, *, key: str | Path, output: str | Path | None = None) -> SignReport:
    """Sign every file of a bundle; needs the extra `sign`, and no network.

    Args:
        bundle: the folder.
        key: private key in PEM on the curve P-256, P-384 or P-521, without a password.
        output: the signature; None for `<bundle>.sig` beside the folder.

    Raises:
        BadFileError: the bundle is damaged, or it is no such key.
        UnavailableError: a file does not exist, or the place cannot be written to.
        UsageError: the signature would lie in the bundle, or replace the key.
    """
    from mnist_edge.bundle.folder import is_bundle
    from mnist_edge.files import require_writable
    from mnist_edge.signature import sign_bundle, signature_path

    folder = Path(bundle)
    path = signature_path(folder) if output is None else Path(output)
    if is_bundle(path.parent) or folder.resolve() in path.resolve().parents:
        raise UsageError(
            f"--output {path}: {folder} is a bundle, and would be refused with a file that its manifest does not name",
            hint=f"--output {path.name}",
        )
    if path.exists() and Path(key).exists() and path.samefile(key):
        raise UsageError(f"--output {path} would replace the private key", hint="leave --output out")
    require_writable(path)
    return sign_bundle(folder, Path(key), path)
