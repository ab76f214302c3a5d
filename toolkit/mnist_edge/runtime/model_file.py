"""Check an untrusted ONNX file before onnxruntime opens it: declared sizes, names, external data. Needs no onnx package."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from mnist_edge.errors import BadFileError
from mnist_edge.files import explaining_os_errors, require_regular_file
from mnist_edge.model_kind import require_model_kind
from mnist_edge.runtime.protobuf import TruncatedError, fields, varints

MAX_BYTES = 2**31
"""protobuf's own limit for one message."""
MAX_DEPTH = 16
"""Subgraphs within subgraphs; each level also costs onnxruntime stack."""
# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_METADATA, MODEL_FUNCTIONS = 7, 14, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = 5, 6, 10, 11, (22, 23)
FUNCTION_NODE = 7
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
TENSOR_TYPED = (4, 5, 6, 7, 10, 11)
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Bits of one element by TensorProto.DataType; strings (8) are counted by their fields."""

BROADCASTING = {"Add", "Sub", "Mul", "Div"}
ELEMENTWISE = BROADCASTING | {
    "Cast", "Reshape", "Flatten", "Relu", "Identity", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "ArgMax",
}  # fmt: skip
PRODUCTS = {"Gemm", "MatMul"}
FEW_NODES = 64
FEW_VALUES = 2**24


@dataclass
class Contents:
    """What the walk over a model finds.

    Attributes:
        external: location, offset and length of the data of each tensor that lies in another file.
        elements: number of elements of each initializer of the main graph, and its dimensions.
        plain: whether there are no subgraphs, no functions and no operators of other domains.
        sparse: whether weights are stored as sparse tensors.
    """

    name: str
    inputs: int = 0
    outputs: int = 0
    nodes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    initializers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    external: list[tuple[str, dict[str, str], int | None]] = field(default_factory=list)
    plain: bool = True
    sparse: bool = False


def check_model_file(path: Path, *, to_run: bool = True) -> Contents:
    """Check a file before it is opened.

    Args:
        path: of the file.
        to_run: also refuse what onnxruntime must not be given: no input, no output, sparse tensors.

    Raises:
        BadFileError: another kind of file, truncated, names that are no UTF-8, sizes that contradict the data, or
            external data that are missing or not an ordinary file below the model's folder.
        UnavailableError: it does not exist or cannot be read.
    """
    require_model_kind(path, "onnx")
    require_regular_file(path, "an ONNX model", limit=MAX_BYTES, hint="store large weights as external data")
    with explaining_os_errors(path):
        data = path.read_bytes()
    contents = check_model(data, str(path), to_run=to_run)
    for tensor, entries, size in contents.external:
        _check_external(path, tensor, entries, size)
    return contents


def check_model(data: bytes, name: str, *, to_run: bool = True) -> Contents:
    """Check the bytes of a model as `check_model_file` does, without its external data.

    Args:
        data: a serialized ModelProto.
        name: of the model, in errors.
        to_run: as `check_model_file` takes it.
    """
    contents = Contents(name)
    damaged = BadFileError(
        f"{name} is not an ONNX model, or was truncated: {len(data):,} bytes",
        hint="download or export it again",
    )
    if not data:
        raise BadFileError(f"{name} is empty, expected an ONNX model", hint="download or export it again")
    try:
        graphs = _walk_model(contents, memoryview(data))
    except TruncatedError as error:
        raise damaged from error
    if not graphs:
        raise damaged
    if to_run:
        _require_runnable(contents)
    return contents


def _require_runnable(contents: Contents) -> None:
    name = contents.name
    if contents.sparse:
        raise BadFileError(
            f"{name} stores weights as sparse tensors, which are not supported",
            hint="store them as dense tensors: onnxruntime would expand them to any declared size",
        )
    if not contents.outputs:
        raise BadFileError(f"{name} has no output", hint="export the model with its logits as output")
    if not contents.inputs:
        raise BadFileError(f"{name} has no input", hint="export the model with images as its input")


def is_small_dense_network(contents: Contents) -> bool:
    """Return whether a model is a chain of a few matrix products with constants, as the exporter writes it.

    Time and memory of one run are then bounded by the file: no operator takes more than one computed value, none
    repeats or enlarges it, except products, by the ratio of the sides of a constant matrix.
    """
    if not contents.plain or len(contents.nodes) > FEW_NODES:
        return False
    growth, width = 784.0, 0
    for op, inputs in contents.nodes:
        constants = [contents.initializers[name] for name in inputs if name in contents.initializers]
        if op not in ELEMENTWISE | PRODUCTS or len(inputs) - len(constants) != 1:
            return False
        if op in PRODUCTS and constants:
            sides = constants[0]
            if len(sides) != 2 or 0 in sides:
                return False
            growth *= max(sides) / min(sides)
            width = sides[1]
        elif op in BROADCASTING and any(prod(sides) != 1 and sides != (width,) for sides in constants):
            return False  # only a bias of the last product leaves the shape as it is
    return growth < FEW_VALUES


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TruncatedError
    return value


def _text(contents: Contents, value: int | memoryview, what: str) -> str:
    try:
        return str(_message(value), "utf-8")
    except UnicodeDecodeError as error:
        raise BadFileError(
            f"{contents.name}: a name in its {what} is not UTF-8: {bytes(_message(value))[:40]!r}",
            hint="export it again",
        ) from error


def _walk_model(contents: Contents, model: memoryview) -> int:
    """Walk over a ModelProto and return the number of its graphs."""
    graphs = 0
    for number, value in fields(model):
        if number == MODEL_GRAPH:
            graphs += 1
            _walk_graph(contents, _message(value), 0)
        elif number == MODEL_METADATA:
            for _, text in fields(_message(value)):
                _text(contents, text, "metadata")
        elif number == MODEL_FUNCTIONS:
            contents.plain = False
            for inner, node in fields(_message(value)):
                if inner == FUNCTION_NODE:
                    _walk_node(contents, _message(node), 1)
    return graphs


def _walk_graph(contents: Contents, graph: memoryview, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadFileError(f"{contents.name} nests more than {MAX_DEPTH} subgraphs", hint="export it without them")
    for number, value in fields(graph):
        if number == GRAPH_NODE:
            _walk_node(contents, _message(value), depth)
        elif number == GRAPH_INITIALIZER:
            name, dims = _walk_tensor(contents, _message(value))
            if depth == 0:
                contents.initializers[name] = dims
        elif number == GRAPH_SPARSE:
            contents.sparse = True
        elif number in {GRAPH_INPUT, GRAPH_OUTPUT}:
            _walk_value(contents, _message(value))
            contents.inputs += number == GRAPH_INPUT and depth == 0
            contents.outputs += number == GRAPH_OUTPUT and depth == 0


def _walk_value(contents: Contents, value: memoryview) -> None:
    for number, text in fields(value):
        if number == 1:
            _text(contents, text, "inputs or outputs")


def _walk_node(contents: Contents, node: memoryview, depth: int) -> None:
    texts: dict[int, list[str]] = {}
    for number, value in fields(node):
        if number in {NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_DOMAIN}:
            texts.setdefault(number, []).append(_text(contents, value, "nodes"))
        elif number == NODE_ATTRIBUTE:
            for inner, part in fields(_message(value)):
                if inner in {ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS}:
                    contents.plain = False
                    _walk_graph(contents, _message(part), depth + 1)
                elif inner in {ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS}:
                    _walk_tensor(contents, _message(part))
                elif inner in ATTRIBUTE_SPARSE:
                    contents.sparse = True
    if any(texts.get(NODE_DOMAIN, ())):
        contents.plain = False
    if depth == 0:
        contents.nodes.append(("".join(texts.get(NODE_OP, ())), tuple(filter(None, texts.get(NODE_INPUT, ())))))


def _walk_tensor(contents: Contents, tensor: memoryview) -> tuple[str, tuple[int, ...]]:
    """Check the declared size of a tensor against its data; return its name and dimensions."""
    found: dict[int, list[int | memoryview]] = {}
    for number, value in fields(tensor):
        found.setdefault(number, []).append(value)
    dims = [side for part in found.get(TENSOR_DIMS, []) for side in varints(part)]
    name = "".join(_text(contents, part, "initializers") for part in found.get(TENSOR_NAME, []))
    elements = prod(dims)
    bits = next((BITS.get(kind) for kind in found.get(TENSOR_TYPE, []) if isinstance(kind, int)), None)
    size = None if bits is None else -(-elements * bits // 8)
    if 1 in found.get(TENSOR_LOCATION, []):
        entries = {}
        for entry in found.get(TENSOR_EXTERNAL, []):
            pair = {number: _text(contents, text, "external data") for number, text in fields(_message(entry))}
            entries[pair.get(1, "")] = pair.get(2, "")
        contents.external.append((name, entries, size))
    elif size is not None:
        raw = [len(_message(part)) for part in found.get(TENSOR_RAW, [])]
        typed = sum(1 if isinstance(part, int) else len(part) for kind in TENSOR_TYPED for part in found.get(kind, []))
        # A packed element of the typed fields takes at least a byte for 4 elements (int2).
        if raw[-1] != size if raw else elements > 4 * typed:
            raise BadFileError(
                f"{contents.name}: the tensor {name or 'of a node'} declares {elements:,} values of {dims}, "
                f"and holds {raw[-1] if raw else typed:,} bytes",
                hint="download or export it again",
            )
    return name, tuple(dims)


def _check_external(model: Path, tensor: str, entries: dict[str, str], size: int | None) -> None:
    """Refuse external data that are missing, too short, or anything but an ordinary file below the model's folder.

    A link may point to any file of the machine, and writing to its other name would change the model.
    """
    location = entries.get("location", "")
    parts = location.replace("\\", "/").split("/")
    if (
        not location
        or Path(location).is_absolute()
        or ":" in parts[0]
        or any(part in {"", ".", ".."} for part in parts)
    ):
        raise BadFileError(
            f"{model}: its external data {location!r} are not named by a plain path below its folder",
            hint="put the data file beside the model and export it again",
        )
    path = model.parent
    status = None
    for part in parts:
        path /= part
        status = _status(path)
        if status is None:
            raise BadFileError(
                f"{model}: its external data {path} are missing",
                hint="the data file belongs beside the model, under the name that it had at the export",
            )
        if stat.S_ISLNK(status.st_mode):
            raise BadFileError(
                f"{model}: its external data {path} are a symbolic link", hint="copy the file instead of linking it"
            )
    if status is None or not stat.S_ISREG(status.st_mode):
        raise BadFileError(f"{model}: its external data {path} are no regular file", hint="export it again")
    if status.st_nlink > 1:
        raise BadFileError(
            f"{model}: its external data {path} are a hard link, which another name can change",
            hint="copy the file instead of linking it",
        )
    numbers = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
        raise BadFileError(
            f"{model}: offset or length of the external data of {tensor} is no number", hint="export it again"
        )
    offset, length = map(int, numbers)
    if length and size is not None and length != size:
        raise BadFileError(
            f"{model}: the tensor {tensor} takes {size:,} bytes, its external data have {length:,}",
            hint="export it again",
        )
    if offset + (length or size or 0) > status.st_size:
        raise BadFileError(
            f"{model}: its external data {path} have {status.st_size:,} bytes, expected {offset + (length or size or 0):,}",
            hint="copy the data file again: it is not complete",
        )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
