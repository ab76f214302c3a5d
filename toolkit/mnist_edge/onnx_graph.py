"""Write an ONNX graph in as few bytes as it takes; integers of a few bits stay packed, and are taken apart once.

Names have one letter: a name or a node costs as much as a row of weights. onnx is imported when a graph is written.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import BATCH_AXIS, CLASSES, INPUT_NAMES, OUTPUT_NAME, SIDE

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

FLOAT, UINT8, INT8, INT32, INT64, FLOAT16, INT4, INT2 = 1, 2, 3, 6, 7, 10, 22, 26
"""Types of an ONNX tensor, as TensorProto numbers them."""
INTEGERS: dict[int, tuple[int, int]] = {8: (INT8, 1), 4: (INT4, 21), 2: (INT2, 25)}
"""By bits: the type of an initializer, and the first opset whose Cast takes it."""


def _names() -> Iterator[str]:
    """Yield short names that no graph has twice: letters first."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))


@dataclass
class Graph:
    """Nodes and initializers in the making; each function returns the name of what it adds."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    names: Iterator[str] = field(default_factory=_names)

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        from onnx import helper

        output = output or next(self.names)
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def split(self, values: str, sizes: Sequence[int]) -> list[str]:
        """Split a tensor along its first axis."""
        from onnx import helper

        outputs = [next(self.names) for _ in sizes]
        self.nodes.append(helper.make_node("Split", [values, self.shape(sizes)], outputs))
        return outputs

    def floats(self, values: str) -> str:
        """Cast a tensor to float32."""
        return self.node("Cast", values, to=FLOAT)

    def constant(self, kind: int, shape: Sequence[int], data: bytes) -> str:
        """Add an initializer of little-endian bytes."""
        from onnx import TensorProto

        name = next(self.names)
        self.initializers.append(TensorProto(name=name, data_type=kind, dims=shape, raw_data=data))
        return name

    def shape(self, values: Sequence[int]) -> str:
        """Return an int64 initializer, one byte for each small value; equal ones are shared."""
        from onnx import TensorProto

        for known in self.initializers:
            if known.data_type == INT64 and list(known.int64_data) == list(values):
                return str(known.name)
        name = next(self.names)
        self.initializers.append(TensorProto(name=name, data_type=INT64, dims=[len(values)], int64_data=values))
        return name

    def integers(self, layers: Sequence[tuple[NDArray[np.int8], int]], opset: int) -> list[str]:
        """Add the weights of every layer, integers with the bits that each needs, as float32 of the same shape.

        Everything that unpacks them depends on constants alone, so onnxruntime runs it once, when the session is created;
        DequantizeLinear would run on every call (onnxruntime 1.32). Where the opset has a type for the integers, they are
        initializers of that type; otherwise all of a width are in one of uint8, taken apart by BitShift and BitwiseAnd.
        """
        names: dict[int, str] = {}
        packed: dict[int, list[int]] = {}
        for index, (integers, bits) in enumerate(layers):
            kind, first = INTEGERS[bits]
            if opset >= first:
                names[index] = self.floats(self.constant(kind, integers.shape, pack(integers, bits)))
            else:
                packed.setdefault(bits, []).append(index)
        for bits, indices in packed.items():
            names |= zip(indices, self._unpacked([layers[index][0] for index in indices], bits), strict=True)
        return [names[index] for index in range(len(layers))]

    def _unpacked(self, layers: Sequence[NDArray[np.int8]], bits: int) -> list[str]:
        """Add the integers of some layers in one uint8 initializer, and the nodes that take it apart."""
        per_byte = 8 // bits
        offset = 2 ** (bits - 1)  # stored as unsigned integers: the bit operators know no others
        data = b"".join(pack(integers + offset, bits) for integers in layers)
        shifts = self.constant(UINT8, [per_byte], bytes(range(0, 8, bits)))
        mask = self.constant(UINT8, [], bytes([2**bits - 1]))
        zero = self.constant(FLOAT, [], np.float32(offset).tobytes())
        parts = self.node(  # (bytes, 1) and (per_byte,) to (bytes, per_byte), in the order of the weights
            "BitShift", self.constant(UINT8, [len(data), 1], data), shifts, direction="RIGHT"
        )
        values = self.node("Sub", self.floats(self.node("BitwiseAnd", parts, mask)), zero)
        by_layer = self.split(values, [integers.size // per_byte for integers in layers])
        return [
            self.node("Reshape", part, self.shape(integers.shape))
            for part, integers in zip(by_layer, layers, strict=True)
        ]

    def model(self, opset: int) -> ModelProto:
        """Return the checked model that takes `image` uint8 (batch, 28, 28) and returns `logits` float32 (batch, 10)."""
        import onnx
        from onnx import helper

        image = helper.make_tensor_value_info(INPUT_NAMES["uint8"], UINT8, [BATCH_AXIS, SIDE, SIDE])
        logits = helper.make_tensor_value_info(OUTPUT_NAME, FLOAT, [BATCH_AXIS, CLASSES])
        operators = onnx.OperatorSetIdProto(version=opset)
        proto = onnx.ModelProto(
            ir_version=helper.find_min_ir_version_for([operators]),
            opset_import=[operators],
            graph=helper.make_graph(self.nodes, "s", [image], [logits], self.initializers),
        )
        onnx.checker.check_model(proto, full_check=True)
        return proto


def pack(integers: NDArray[np.int8], bits: int) -> bytes:
    """Pack integers into bytes, the first into the lowest bits, as ONNX stores INT4 and INT2.

    Args:
        integers: as many as fill whole bytes; only their lowest `bits` bits count.
        bits: 2, 4 or 8.
    """
    fields = integers.reshape(-1, 8 // bits).astype(np.uint8) & (2**bits - 1)
    shifted = fields << np.arange(0, 8, bits, dtype=np.uint8)
    data: bytes = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8).tobytes()
    return data
