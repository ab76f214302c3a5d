"""Read the fields of a protobuf message without its schema: enough to check an untrusted ONNX file before it is opened."""

from __future__ import annotations

from collections.abc import Iterator

MAX_VARINT_BYTES = 10


class TruncatedError(ValueError):
    """The message ends within a field, or is no protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field: an int for a varint, the bytes for any other wire type; copies nothing.

    Raises:
        TruncatedError: a field reaches beyond the end, or has a wire type that protobuf 3 does not write.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == 2:
            length, at = _varint(message, at)
        elif wire_type in {1, 5}:
            length = 8 if wire_type == 1 else 4
        else:
            raise TruncatedError
        if number == 0 or length > len(message) - at:
            raise TruncatedError
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a varint and the offset behind it."""
    value = 0
    for shift in range(MAX_VARINT_BYTES):
        if at + shift >= len(message):
            break
        byte = message[at + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise TruncatedError


def varints(packed: int | memoryview) -> list[int]:
    """Return the integers of a repeated field, packed or not."""
    if isinstance(packed, int):
        return [packed]
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found
