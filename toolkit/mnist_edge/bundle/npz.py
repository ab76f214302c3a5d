"""Read arrays from an .npz file of unknown origin: without pickle, and with sizes checked before memory is allocated."""

from __future__ import annotations

import io
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mnist_edge.errors import BadFileError
from mnist_edge.files import require_regular_file

Shape = tuple[int | None, ...]
"""A side of None takes any length."""
FREE_BYTES = 16 * 2**20
MAX_RATIO = 64
"""Arrays of up to FREE_BYTES in all may be compressed by any ratio, larger ones by at most MAX_RATIO. Deflate reaches
1,032 on zeros, images and logits stay below 20."""
HEADER_BYTES = 10_000
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,  # a flipped bit in a member's flags means that it is encrypted
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # numpy reads an array's header as Python
    SyntaxError,
)
"""What numpy and zipfile raise on a damaged archive."""


def read_arrays(
    path: Path, expected: Mapping[str, tuple[Shape, type]], kind: str, hint: str
) -> dict[str, NDArray[Any]]:
    """Read the arrays named, and check dtype, shape and size of each before its values are read.

    Args:
        path: of the file.
        expected: shape and dtype by name; other members are ignored.
        kind: what the file should be, for errors: `a golden file`.
        hint: what to do about a bad file.

    Raises:
        UnavailableError: there is no file, or it cannot be read.
        BadFileError: no such archive, a member that is missing, of another dtype or shape, empty or damaged, or arrays
            that take far more memory than the file can hold.
    """
    size = require_regular_file(path, kind, hint=hint)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in expected}
            declared = sum(member.file_size for member in members.values())
            if declared > FREE_BYTES and declared > MAX_RATIO * size:
                raise BadFileError(
                    f"{path} declares {declared:,} bytes of arrays in a file of {size:,} bytes",
                    hint=hint,
                )
            return {
                name: _read(archive, members[name], f"{path}: {name}", shape, np.dtype(dtype), hint)
                for name, (shape, dtype) in expected.items()
            }
    except DAMAGED as error:
        raise BadFileError(f"{path} is not {kind}", hint=hint) from error


def _read(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, shape: Shape, dtype: np.dtype[Any], hint: str
) -> NDArray[Any]:
    with archive.open(member) as stream:
        # numpy parses at most HEADER_BYTES as a Python literal, and reads no more of the member than that.
        head = io.BytesIO(stream.read(HEADER_BYTES + 12))
    version = npy.read_magic(head)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    with warnings.catch_warnings(action="ignore"):  # a header as Python 2 wrote it
        found_shape, fortran, found = read_header(head, max_header_size=HEADER_BYTES)
    wanted = tuple(side if known is None else known for side, known in zip(found_shape, shape, strict=False))
    if found != dtype or len(found_shape) != len(shape) or found_shape != wanted or 0 in found_shape:
        sides = ", ".join("n" if side is None else str(side) for side in shape)
        raise BadFileError(
            f"{where} is {found} {found_shape}, expected {dtype} ({sides}{',' if len(shape) == 1 else ''})", hint=hint
        )
    start = head.tell()
    if member.file_size != start + int(np.prod(found_shape, dtype=object)) * dtype.itemsize:
        raise BadFileError(f"{where} declares {found_shape} and holds {member.file_size} bytes", hint=hint)
    # The member ends at its declared size; zipfile checks its CRC there.
    data = np.frombuffer(archive.read(member), dtype=dtype, offset=start)
    return data.reshape(found_shape, order="F" if fortran else "C")
