"""Sign a bundle with a private key, and check the signature with the public one; offline, with OpenSSF model-signing.

The signature lies outside the folder, as a bundle holds only what its manifest names. It covers the name and the
SHA-256 of every file.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnist_edge.bundle.folder import is_bundle, load_bundle
from mnist_edge.bundle.manifest import EXPORT_AGAIN
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.files import explaining_os_errors, require_regular_file, sha256_bytes, sha256_file, write_atomic
from mnist_edge.records.signature import SignReport

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from model_signing.hashing import Config

KeyKind = Literal["private", "public"]
CURVES = ("secp256r1", "secp384r1", "secp521r1")
MAX_KEY, MAX_SIGNATURE, MAX_BUNDLE = 2**16, 2**20, 2**33
"""Bytes of files that are read: a PEM file has some hundred, a signature some thousand, a bundle some million."""
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem"
PUBLIC_KEY = "openssl pkey -in private.pem -pubout -out public.pem"


def signature_path(folder: Path) -> Path:
    """Return where the signature of a bundle lies by default: beside it, `<bundle>.sig`."""
    named = folder if folder.name else folder.resolve()
    return named.with_name(f"{named.name}.sig")


def sign_bundle(folder: Path, key: Path, output: Path) -> SignReport:
    """Sign every file of a bundle whose bytes agree with its manifest; `output` is written atomically.

    Raises:
        BadFileError: the bundle is damaged, or the key is no private key of a supported kind.
        UnavailableError: a file is missing or the place cannot be written to.
        ModuleNotFoundError: the extra `sign` is not installed.
    """
    public_pem = _public_pem(_read_key(key, "private"))
    bundle = load_bundle(folder)
    from model_signing import signing

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        written = Path(scratch) / "signature"
        config = signing.Config()  # type: ignore[no-untyped-call] # as its own examples call it
        config.set_hashing_config(_hashing()).use_elliptic_key_signer(private_key=key)
        config.sign(bundle.folder, written)
        data = written.read_bytes()
    write_atomic(output, data)
    return SignReport(bundle=folder, signature=output, key_sha256=sha256_bytes(public_pem), files=_signed_files(data))


def check_signature(folder: Path, key: Path, signature: Path | None = None) -> Path:
    """Check that a bundle holds exactly the files that were signed with a key, before anything in it is read.

    Args:
        folder: the bundle.
        key: the public key, in PEM.
        signature: None for `<bundle>.sig`.

    Returns:
        The signature file.

    Raises:
        BadFileError: the signature is damaged or of another key, or a file was changed, removed or added.
        UnavailableError: the key or the signature does not exist.
        UsageError: `folder` is no bundle.
        ModuleNotFoundError: the extra `sign` is not installed.
    """
    path = signature or signature_path(folder)
    if not is_bundle(folder):
        raise UsageError(f"--key checks the signature of a bundle, {folder} is none", hint="name a bundle folder")
    _read_key(key, "public")
    if not path.exists():
        raise UnavailableError(
            f"{folder} is not signed: {path} does not exist", hint="name the signature with --signature FILE"
        )
    require_regular_file(path, "a signature", limit=MAX_SIGNATURE)
    _require_plain_files(folder)
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    config = verifying.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(_hashing()).use_elliptic_key_verifier(public_key=key)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints about signatures without the hash of a key
            config.verify(folder, path)
    except InvalidSignature as error:
        raise _other_key(path, key) from error
    except Exception as error:  # whatever a crafted signature makes of the library: it is not valid
        if str(error).startswith("Key mismatch"):
            raise _other_key(path, key) from error
        problem = next(_differences(folder, path), "") if str(error).startswith("Signature mismatch") else ""
        raise BadFileError(
            problem or f"{path} is not a signature of a bundle, or was damaged",
            hint=EXPORT_AGAIN if problem else "copy it again",
        ) from error
    # The library leaves out the files that a signature names as ignored, which other programs can write.
    if problem := next(_differences(folder, path), ""):
        raise BadFileError(problem, hint=EXPORT_AGAIN)
    return path


def _other_key(signature: Path, key: Path) -> BadFileError:
    return BadFileError(
        f"{signature} was not made with the private key of {key}, or was changed",
        hint="ask for the public key over a channel that you trust",
    )


def _hashing() -> Config:
    """Return how files are hashed: every one, links refused."""
    from model_signing import hashing

    config = hashing.Config()  # type: ignore[no-untyped-call]
    return config.set_ignored_paths(paths=[], ignore_git_paths=False)


def _read_key(path: Path, kind: KeyKind) -> PrivateKeyTypes | PublicKeyTypes:
    """Return a key in PEM on a curve that model-signing takes.

    Raises:
        BadFileError: encrypted, of another kind, or no key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    require_regular_file(path, f"a {kind} key", limit=MAX_KEY)
    with explaining_os_errors(path):
        data = path.read_bytes()
    key: PrivateKeyTypes | PublicKeyTypes
    try:
        if kind == "private":
            key = serialization.load_pem_private_key(data, None)
        else:
            key = serialization.load_pem_public_key(data)
    except TypeError as error:
        raise BadFileError(
            f"{path} is an encrypted key, expected a private key without a password",
            hint=f"openssl pkey -in {path} -out plain.pem",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = NEW_KEY if kind == "private" else PUBLIC_KEY
        raise BadFileError(f"{path} is no {kind} key in PEM", hint=f"{hint} makes one") from error
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) else ""
    if curve not in CURVES:
        raise BadFileError(
            f"{path} is not a key on the curve P-256, P-384 or P-521{f', but {curve}' if curve else ''}",
            hint=f"{NEW_KEY} makes one",
        )
    return key


def _public_pem(key: PrivateKeyTypes | PublicKeyTypes) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def _require_plain_files(folder: Path) -> None:
    """Refuse what is no regular file, and more bytes than a bundle has, before all of them are hashed."""
    total = 0
    with explaining_os_errors(folder):
        entries = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(folder))
    for name, status in entries:
        total += status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise BadFileError(f"{folder / name} is no regular file: nothing else can be signed", hint=EXPORT_AGAIN)
        if total > MAX_BUNDLE:
            raise BadFileError(f"{folder / name} makes {folder} larger than a bundle can be", hint=EXPORT_AGAIN)


def _signed_files(signature: bytes) -> dict[str, str]:
    """Return the SHA-256 of each file in a signature, by name; only for messages, as nothing is checked."""
    envelope = json.loads(signature)["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    return {entry["name"]: entry["digest"] for entry in payload["predicate"]["resources"]}


def _differences(folder: Path, signature: Path) -> Iterator[str]:
    """Yield each file that differs from what was signed."""
    signed = _signed_files(signature.read_bytes())
    present = {path.name for path in folder.iterdir()}
    for name in sorted(signed.keys() | present):
        if name not in present:
            yield f"{folder / name} is missing; {signature} covers it"
        elif name not in signed:
            yield f"{folder / name} was added: {signature} does not cover it"
        elif sha256_file(folder / name) != signed[name]:
            yield f"{folder / name} was changed since {signature} was made, or that is of another bundle"
