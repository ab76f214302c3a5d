"""`mnist-edge sign`: a signature over every file of a bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mnist_edge.cli.options import Json


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    *,
    key: Annotated[
        Path, typer.Option(metavar="PRIVATE.pem", help="Private key in PEM on the curve P-256, P-384 or P-521.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Signature file. Default: <bundle>.sig beside the folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign a bundle with a private key, without a network. Needs the extra sign."""
    from mnist_edge.reporting.console import emit, program, say
    from mnist_edge.reporting.tables.format import facts_table
    from mnist_edge.workflow.sign import sign as sign_stage

    report = sign_stage(bundle, key=key, output=output)
    emit(
        report,
        json,
        lambda shown: facts_table(
            f"signed {shown.bundle}", {"signature": str(shown.signature), "public key": shown.key_sha256, **shown.files}
        ),
    )
    if not json:
        own = () if output is None else ("--signature", str(output))
        public = shlex.join(["openssl", "pkey", "-in", str(key), "-pubout", "-out", "public.pem"])
        say(f"next: {public} && {shlex.join([*program(), 'verify', str(bundle), '--key', 'public.pem', *own])}")
