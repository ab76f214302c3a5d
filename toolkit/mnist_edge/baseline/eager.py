"""The process that times PyTorch eager, with the weights of an exported file, the same inputs and the same checks."""

from __future__ import annotations

import time

import onnx
import torch
from torch import Tensor, nn

from mnist_edge.benchmarking.outputs import check_outputs, load_golden, row_groups
from mnist_edge.benchmarking.process import ProcessResult, Task, process_result, serve
from mnist_edge.benchmarking.sampling import sample
from mnist_edge.contract import INPUT_NAMES, NORMALIZATIONS, Normalization
from mnist_edge.errors import BadFileError, UnavailableError
from mnist_edge.pixels import normalize
from mnist_edge.training.model import build_model


class Eager(nn.Module):
    """The exported network in PyTorch, with the weights of its ONNX file and the same input."""

    def __init__(self, path: str) -> None:
        super().__init__()
        proto = onnx.load(path)
        graph = proto.graph
        tensors = {value.name: torch.tensor(onnx.numpy_helper.to_array(value)) for value in graph.initializer}
        state = {name.removeprefix("layers."): value for name, value in tensors.items() if name.startswith("layers.")}
        weights = [value for name, value in state.items() if name.endswith(".weight")]
        stated = {entry.key: entry.value for entry in proto.metadata_props}.get("mnist_edge.normalization")
        self.normalization: Normalization = next((name for name in NORMALIZATIONS if name == stated), "seed")
        self.takes_uint8 = graph.input[0].name == INPUT_NAMES["uint8"]
        self.layers = build_model([len(weight) for weight in weights[:-1]])
        try:
            self.layers.load_state_dict(state)
        except RuntimeError as error:
            raise BadFileError(f"{path} is not a graph that mnist-edge exported", hint="export it again") from error

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 (batch, 10) of uint8 (batch, 28, 28) or of normalised float32 (batch, 784)."""
        return self.layers(images.float().flatten(1) if self.takes_uint8 else images)  # type: ignore[no-any-return]


def measure(task: Task) -> ProcessResult:
    """Load, run, warm up, time, and check the outputs of the timed runs, as the onnxruntime process does."""
    golden = load_golden(task.golden)
    if golden is None:
        raise BadFileError(f"{task.model} has no golden inputs", hint="bench a bundle to compare with PyTorch")
    if task.settings.provider == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch finds no CUDA device", hint="mnist-edge doctor")
    process_ns = time.monotonic_ns() - task.started_ns
    torch.set_num_threads(task.settings.threads)
    torch.backends.cuda.matmul.allow_tf32 = task.settings.tf32  # as the onnxruntime session it is compared with
    device = torch.device(task.settings.provider)
    started = time.perf_counter_ns()
    model = Eager(task.model).eval().to(device)
    session_ns = time.perf_counter_ns() - started
    groups = row_groups(len(golden.images), task.batch)
    inputs = [golden.images[rows] for rows in groups]
    feeds = [
        torch.tensor(images if model.takes_uint8 else normalize(images, model.normalization).reshape(len(images), -1))
        for images in inputs
    ]
    with torch.inference_mode():
        # From host memory to host memory, as a run of onnxruntime; on the CPU both copies are no-ops.
        samples = sample(lambda feed: model(feed.to(device)).cpu(), feeds, task.scenario, task.batch, task.seed)
    outputs = {index: output.numpy() for index, output in samples.timed.outputs.items()}
    return process_result(
        samples,
        process_ns=process_ns,
        session_ns=session_ns,
        placement={},
        check=check_outputs(outputs, groups, golden, task.requirement),
    )


if __name__ == "__main__":
    serve(measure)
