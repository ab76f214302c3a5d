"""int8-dynamic: int8 weights by onnxruntime's own quantiser; activations get their scale anew on every run."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind


def build(context: VariantContext) -> Built:
    """Quantise the fp32 export dynamically."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from mnist_edge.cpus import cpu_model
    from mnist_edge.exporting.variants.schemes import scheme_for

    scheme = scheme_for(cpu_model()[1])
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        file = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            onnx.load_model_from_string(context.fp32),
            file,
            op_types_to_quantize=["Gemm", "MatMul"],
            weight_type=QuantType.QInt8,
            reduce_range=scheme.reduce_range,
        )
        proto = onnx.load(file)
    made = scheme.described() | {"activations": "uint8, ranges of each run"}
    return Built(model=proto.SerializeToString(deterministic=True), spec=KIND.spec(context), made=made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's quantiser from printing and from logging advice that has no reader."""
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(silenced)


KIND = VariantKind(
    name="int8-dynamic",
    precision="int8",
    requirement="lossy",
    advice="for comparison; int8 is usually faster",
    build=build,
)
