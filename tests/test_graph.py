"""The exported graph: the same bytes anywhere, nothing of this machine inside, the same answers as PyTorch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import nn

from mnist_edge.contract import INPUT_NAMES, LABELS, OPSETS, InputKind
from mnist_edge.exporting.graph import Origin, RawImages, export_graph, fold_normalization, weights_sha256
from mnist_edge.records.data import Dataset
from mnist_edge.training.model import build_model
from mnist_edge.training.state_dict import read_model

pytestmark = pytest.mark.xdist_group("exporting")
TRACES = ("/", ".py", "site-packages", "stack_trace", "Traceback", "\\")


@pytest.fixture(scope="module")
def model(workplace: Path) -> nn.Sequential:
    """The trained network of the shared workplace."""
    return read_model(workplace / "runs" / "digits").network


def export(model: nn.Sequential, kind: InputKind = "uint8", **options: int) -> bytes:
    return export_graph(model, kind, Origin(dataset="digits", weights_sha256=weights_sha256(model)), **options)


def by_hand(model: nn.Sequential, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The network in float64 numpy: normalise as the seed does, then layer by layer."""
    x = ((images.reshape(len(images), -1) / 255) - 0.5) / 0.5
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    last = max(int(key.split(".")[0]) for key in state)
    for layer in range(0, last + 1, 2):
        x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        x = np.maximum(x, 0) if layer < last else x
    return x


def answer(data: bytes, feed: NDArray[np.generic]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: feed})[0]


def traces(data: bytes) -> list[str]:
    """Readable text in a model, weights left out, that tells of the machine it was made on."""
    proto = onnx.load_from_string(data)
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    texts = [text.decode() for text in re.findall(rb"[\x20-\x7e]{2,}", proto.SerializeToString())]
    return [text for text in texts if any(trace in text for trace in TRACES)]


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes_in_another_process_and_folder(
    model: nn.Sequential, bundle_folder: Path
) -> None:
    """Anyone can export again and compare hashes; the bundle came from a process started elsewhere."""
    assert export(model) == (bundle_folder / "model.onnx").read_bytes()
    changed = fold_normalization(model)
    assert export(changed) != export(model)


def test_nothing_of_the_machine_is_in_the_bytes(bundle_folder: Path) -> None:
    """No path, source line or stack trace leaves the house with a model."""
    data = (bundle_folder / "model.onnx").read_bytes()
    assert traces(data) == []
    for folder in (ROOT, Path.home(), bundle_folder.parent.parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in data


def test_the_search_for_traces_finds_them(model: nn.Sequential) -> None:
    """PyTorch's own export, uncleaned, is full of them: the search above can fail."""
    program = torch.onnx.export(
        RawImages(model).eval(), (torch.zeros(2, 28, 28, dtype=torch.uint8),), dynamo=True, verbose=False
    )
    assert any("stack_trace" in text for text in traces(program.model_proto.SerializeToString()))


def test_the_graph_takes_raw_images_and_gives_logits(bundle_folder: Path) -> None:
    """Names, types and the free batch are what every device program relies on."""
    session = onnxruntime.InferenceSession(bundle_folder / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,), (given_back,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("image", "tensor(uint8)", ["batch", 28, 28])
    assert (given_back.name, given_back.type, given_back.shape) == ("logits", "tensor(float)", ["batch", 10])


def test_the_metadata_says_where_the_graph_comes_from(model: nn.Sequential, bundle_folder: Path) -> None:
    """A file found alone still tells its dataset, labels, normalisation, weights and versions."""
    proto = onnx.load(bundle_folder / "model.onnx")
    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert found["mnist_edge.dataset"] == "digits"
    assert json.loads(found["mnist_edge.labels"]) == list(LABELS["digits"])
    assert found["mnist_edge.normalization"] == "raw"
    assert found["mnist_edge.trained_normalization"] == "seed"
    assert found["mnist_edge.weights_sha256"] == weights_sha256(model)
    assert json.loads(found["mnist_edge.versions"])["torch"] == torch.__version__.split("+")[0]
    assert proto.producer_name == "mnist-edge"


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
def test_every_offered_opset_answers_as_pytorch(model: nn.Sequential, digits: Dataset, opset: int) -> None:
    """No value of --opset gives a graph that onnxruntime refuses or runs differently, at any batch."""
    data = export(model, opset=opset)
    assert [entry.version for entry in onnx.load_from_string(data).opset_import if not entry.domain] == [opset]
    expected = by_hand(model, digits.test_images)
    for batch in (1, 7, len(expected)):
        found = answer(data, digits.test_images[:batch])
        assert found.shape == (batch, 10)
        np.testing.assert_allclose(found, expected[:batch], atol=1e-4)
    assert np.array_equal(answer(data, digits.test_images).argmax(axis=1), expected.argmax(axis=1))


def test_the_float_form_takes_normalised_pixels(model: nn.Sequential, digits: Dataset) -> None:
    """`--input float` is the classic form: (batch, 784), normalised by the caller, and says so."""
    data = export(model, "float")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == (INPUT_NAMES["float"], "tensor(float)", ["batch", 784])
    assert session.get_modelmeta().custom_metadata_map["mnist_edge.normalization"] == "seed"
    pixels = ((digits.test_images.reshape(-1, 784) / 255 - 0.5) / 0.5).astype(np.float32)
    np.testing.assert_allclose(answer(data, pixels), by_hand(model, digits.test_images), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    images=arrays(np.uint8, (2, 28, 28), elements=st.integers(0, 255), fill=st.sampled_from([0, 1, 128, 255])),
    widths=st.sampled_from([(), (1,), (48, 32), (600, 400, 200, 100)]),
    seed=st.integers(0, 3),
)
def test_folding_the_normalisation_changes_no_answer(
    images: NDArray[np.uint8], widths: tuple[int, ...], seed: int
) -> None:
    """Raw pixels through the folded network give what normalised pixels give through the trained one."""
    torch.manual_seed(seed)
    model = build_model(widths)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        found = fold_normalization(model)(torch.tensor(images).float().flatten(1)).numpy()
    np.testing.assert_allclose(found, by_hand(model, images), atol=2e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
