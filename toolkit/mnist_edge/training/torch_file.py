"""Unpickle a file of `torch.save` into named tensors: nothing in it is executed, and memory is bounded by its size."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from mnist_edge.errors import BadFileError
from mnist_edge.files import explaining_os_errors

SAVE_STATE = "save the weights with torch.save(net.state_dict(), FILE)"
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Keys under which training scripts put the state_dict, the usual ones first."""

MOST_TUPLES = 20_000
"""A state_dict needs about six for each tensor."""

LONGEST_NAME = 200
"""Characters of a key; an error line names some of them."""

State = dict[str, Tensor]


def read_tensors(path: Path) -> tuple[State, str]:
    """Read the state_dict of a file, which may be part of another program's checkpoint.

    Returns:
        Dense tensors of real numbers by name, and the key that they were found under ('' for the whole file).

    Raises:
        BadFileError: damaged, something else than named tensors, or larger content declared than the file can hold.
    """
    state, wrapper = _find_state(_load(path), path)
    _require_plain_tensors(state, path)
    return state, wrapper


def listed(items: Iterable[str], limit: int = 6) -> str:
    """Join the first items with commas, and count the others."""
    found = list(items)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def _load(path: Path) -> Any:
    """Unpickle tensors and containers, and nothing else."""
    with explaining_os_errors(path), path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    try:
        fault = _archive_fault(path) if is_archive else _stream_fault(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about the kind of file; `model_kind` reports it
            content = None if fault else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadFileError(f"{path} is no state_dict: {_refused_content(path)}", hint=SAVE_STATE) from error
    except Exception as error:  # a damaged pickle can make the reader fail in any way
        raise BadFileError(f"{path} is no state_dict: it is damaged", hint="download or save it again") from error
    if fault:
        raise BadFileError(f"{path} {fault}", hint="download or save it again")
    return content


def _archive_fault(path: Path) -> str:
    """Describe what is wrong with a zip archive of torch.save, before anything in it is expanded; '' if nothing."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        # torch.save stores members uncompressed, so that together they are smaller than the file.
        declared = sum(member.file_size for member in archive.infolist())
        if declared > size:
            return f"declares {declared:,} bytes of content, the file has {size:,}"
        damaged = archive.testzip()  # torch.load does not check the CRC
        if damaged:
            return f"is damaged: the CRC of {damaged} differs"
        for member in archive.infolist():
            if member.filename.endswith("data.pkl"):
                with archive.open(member) as file:
                    if _tuples(file) > MOST_TUPLES:
                        return f"holds more than {MOST_TUPLES:,} tuples in its pickle"
    return ""


def _stream_fault(path: Path) -> str:
    """Describe what is wrong with the pickles of torch's older format: three of header, the content, the keys."""
    with path.open("rb") as file:
        tuples = sum(_tuples(file) for _ in range(5))
    return f"holds more than {MOST_TUPLES:,} tuples in its pickle" if tuples > MOST_TUPLES else ""


def _tuples(file: IO[bytes]) -> int:
    """Count the tuples that a pickle makes, without executing it.

    Hashing a tuple in a tuple in a tuple ... as the key of a dict overflows the stack of CPython, which ends the
    process; torch's reader hashes whatever the pickle names as a key.
    """
    count = 0
    try:
        for opcode, _argument, _position in pickletools.genops(file):
            count += opcode.name.startswith("TUPLE")
            if count > MOST_TUPLES:
                break
    except Exception:  # noqa: BLE001 - a damaged pickle, which torch.load refuses
        return count
    return count


def _refused_content(path: Path) -> str:
    """Name the first class or function that a pickle asks for and that is no tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception:  # noqa: BLE001 - a legacy or damaged file
            names = []
    return f"it needs {names[0]}, which is no tensor: a whole pickled object" if names else "it needs more than tensors"


def _find_state(content: Any, path: Path) -> tuple[State, str]:
    """Return the state_dict in what was unpickled, and the key that it was found under ('' for the whole)."""
    if not isinstance(content, Mapping):
        found = f"a tensor {tuple(content.shape)}" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        raise BadFileError(f"{path} holds {found}, no state_dict", hint=SAVE_STATE)
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return _named(content, path), ""
    nested = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Mapping)
        and value
        and all(isinstance(tensor, Tensor) for tensor in value.values())
        and any(tensor.ndim >= 2 for tensor in value.values())
    }
    usual = [key for key in WRAPPERS if key in nested][:1] or list(nested)
    if len(usual) == 1:
        return _named(nested[usual[0]], path), usual[0]
    if usual:
        raise BadFileError(
            f"{path} holds several state_dicts: {listed(usual)}", hint="save the one to use: " + SAVE_STATE
        )
    entries = listed(f"{str(key)[:80]} ({type(value).__name__})" for key, value in content.items()) or "nothing"
    kind = "the state of an optimiser and no weights" if "param_groups" in content else "no state_dict"
    raise BadFileError(f"{path} holds {kind}: {entries}", hint=SAVE_STATE)


def _named(state: Mapping[Any, Tensor], path: Path) -> State:
    for key in state:
        if not isinstance(key, str):
            raise BadFileError(f"{path}: the key {key!r:.80} is no name of a tensor", hint=SAVE_STATE)
        if len(key) > LONGEST_NAME:
            raise BadFileError(
                f"{path}: the name {key[:40]!r}... has {len(key):,} characters, expected at most {LONGEST_NAME}",
                hint=SAVE_STATE,
            )
    return dict(state)


def _require_plain_tensors(state: State, path: Path) -> None:
    """Raise BadFileError for tensors that do not hold real numbers in memory, one for each element."""
    for key, value in state.items():
        kind = ""
        if type(value) not in {Tensor, nn.Parameter}:
            kind = f"a {type(value).__name__}"
        elif value.is_meta:
            kind = "a meta tensor without values"
        elif value.layout != torch.strided or value.is_nested:
            kind = "a nested tensor" if value.is_nested else f"a {str(value.layout).removeprefix('torch.')} tensor"
        elif value.is_quantized or value.is_complex():
            kind = f"of type {str(value.dtype).removeprefix('torch.')}"
        if kind:
            raise BadFileError(f"{path}: {key} is {kind}, expected a dense float tensor", hint=SAVE_STATE)
    elements, size = sum(value.numel() for value in state.values()), path.stat().st_size
    if elements > size:  # each takes a byte at least
        raise BadFileError(f"{path} declares {elements:,} elements, the file has {size:,} bytes", hint=SAVE_STATE)
