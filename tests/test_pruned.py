"""The variant `pruned`: whole neurons leave, what they contributed stays, and the smaller network is proven like any other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from faults import gemms, get, put
from test_cli import in_process
from torch import nn

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST, manifest_bytes
from mnist_edge.errors import CheckFailedError, UsageError
from mnist_edge.exporting import graph
from mnist_edge.exporting.graph import Origin, export_graph, weights_sha256
from mnist_edge.exporting.variants import pruned
from mnist_edge.exporting.variants.add import add_kind
from mnist_edge.exporting.variants.calibration import calibration_set
from mnist_edge.exporting.variants.kind import Built, VariantContext
from mnist_edge.files import sha256_bytes
from mnist_edge.records.bundle import Variant, VariantSpec
from mnist_edge.records.data import Dataset
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.stats import paired_drop_upper95
from mnist_edge.training.checkpoint import LAST
from mnist_edge.training.model import build_model, linear_layers, reference_logits, with_normalization
from mnist_edge.training.pruning import measure_neurons, prune
from mnist_edge.training.recipes import find_recipe
from mnist_edge.training.state_dict import read_model

pytestmark = pytest.mark.xdist_group("exporting")

STILL = 'base = "pruned"\nepochs = 1\nlr = 0.0\n'
"""A recipe that changes no weight."""
DROP = 0.04
"""Accuracy that the variant may lose: the 360 test images of the digits can show 0.83 % at best."""


def set_layer(layer: nn.Linear, weight: list[list[float]] | torch.Tensor, bias: list[float]) -> None:
    layer.weight.data, layer.bias.data = torch.as_tensor(weight, dtype=torch.float32), torch.tensor(bias)


def shapes(model: bytes) -> list[tuple[int, ...]]:
    """Of the weight matrices (out, in) of an exported network, input side first."""
    proto = onnx.load_model_from_string(model)
    return [get(proto, node.input[1]).shape for node in gemms(proto)]


# Pruning itself -------------------------------------------------------------------------------------------------------


def test_a_constant_neuron_leaves_without_a_trace(digits: Dataset) -> None:
    """784-2-2-10 to 784-1-1-10, computed by hand: what the constants contributed is in the biases."""
    model = build_model((2, 2))
    first, second, third = linear_layers(model)
    ink = torch.full((784,), 1 / 784)
    set_layer(first, torch.stack([torch.zeros(784), ink]), [2.0, 1.0])  # neuron 0 is always 2
    set_layer(second, [[3.0, 1.0], [0.0, 0.0]], [0.5, -1.0])  # neuron 1 is always 0
    set_layer(third, [[float(row), 7.0] for row in range(10)], [0.0] * 10)
    neurons = measure_neurons(model, digits.train_images[:50], digits.train_labels[:50])
    assert [found.mean[place].item() for found, place in zip(neurons, (0, 1), strict=True)] == [2.0, 0.0]
    assert [found.importance[place].item() for found, place in zip(neurons, (0, 1), strict=True)] == [0.0, 0.0]
    smaller = prune(model, neurons, (1, 1))
    one, two, three = linear_layers(smaller)
    assert torch.equal(one.weight, ink[None])
    assert (one.bias.item(), two.weight.item(), two.bias.item()) == (1.0, 1.0, 0.5 + 3.0 * 2.0)
    assert torch.equal(three.weight[:, 0], torch.arange(10.0))
    expected = reference_logits(model, digits.test_images)
    np.testing.assert_allclose(reference_logits(smaller, digits.test_images), expected, rtol=1e-6)


def test_a_neuron_that_varies_leaves_its_mean_behind(digits: Dataset) -> None:
    """The logits keep their mean over the images that were measured."""
    torch.manual_seed(0)
    model, images = build_model((6,)), digits.train_images[:200]
    neurons = measure_neurons(model, images, digits.train_labels[:200])
    smaller = prune(model, neurons, (2,))
    found, expected = reference_logits(smaller, images), reference_logits(model, images)
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=1e-5)
    assert np.abs(found - expected).max() > 1e-3


def test_importance_is_the_change_of_the_loss_to_first_order(digits: Dataset) -> None:
    """Against the gradient of the cross entropy written out in numpy: W^T (p - y) for the outputs of a hidden layer."""
    torch.manual_seed(1)
    model = build_model((5,))
    images, labels = digits.train_images[:64], digits.train_labels[:64]
    (neurons,) = measure_neurons(model, images, labels)
    first, last = linear_layers(model)
    pixels = images.reshape(64, -1) / 127.5 - 1
    hidden = np.maximum(pixels @ first.weight.detach().double().numpy().T + first.bias.detach().double().numpy(), 0)
    weight = last.weight.detach().double().numpy()
    logits = hidden @ weight.T + last.bias.detach().double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = (p - np.eye(10)[labels]) @ weight
    expected = (((hidden - hidden.mean(axis=0)) * gradient) ** 2).mean(axis=0)
    np.testing.assert_allclose(neurons.importance.numpy(), expected, rtol=1e-4)
    kept = np.sort(np.argsort(expected)[-2:])
    assert torch.equal(linear_layers(prune(model, (neurons,), (2,)))[0].weight, first.weight[kept])


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ((600, 400, 200, 100), ((64, 48, 32, 32), (96, 64, 32, 32), (192, 128, 64, 32))),
        ((48, 32), ((32, 32),)),
        ((16, 300), ((16, 32), (16, 48), (16, 96))),
    ],
)
def test_the_narrowest_widths_come_first(parent: tuple[int, ...], expected: tuple[tuple[int, ...], ...]) -> None:
    """Each once, none wider than the parent, none like it."""
    assert pruned.candidate_widths(parent) == expected


@pytest.mark.parametrize(("parent", "reason"), [((), "no hidden layer"), ((32, 8), "hidden widths 32,8")])
def test_a_network_without_neurons_to_remove_is_2(parent: tuple[int, ...], reason: str) -> None:
    """Refused before anything is trained."""
    with pytest.raises(UsageError, match=f"{reason}: there is nothing to prune"):
        pruned.candidate_widths(parent)


# The variant ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def few_epochs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Train less: the recipe of the variant is for accuracy."""
    path = tmp_path_factory.mktemp("recipe") / "short.toml"
    path.write_text('base = "pruned"\nepochs = 8\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruned, "RECIPE", str(path))
        yield


@pytest.fixture(scope="module")
def shared_context(
    workplace: Path, bundle_folder: Path, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> VariantContext:
    loaded = read_model(workplace / "runs" / "digits")
    assert loaded.recipe is not None
    return VariantContext(
        fp32=(bundle_folder / "model.onnx").read_bytes(),
        network=loaded.network,
        dataset=digits,
        recipe=loaded.recipe,
        normalization="seed",
        input="uint8",
        opset=20,
        max_accuracy_drop=DROP,
        runs=tmp_path_factory.mktemp("variants"),
        user_runs=workplace / "runs",
    )


@pytest.fixture
def context(shared_context: VariantContext, tmp_path: Path) -> VariantContext:
    return dataclasses.replace(shared_context, runs=tmp_path / "variants")


@pytest.fixture(scope="module")
def built(shared_context: VariantContext) -> Built:
    return pruned.build(shared_context)


def search(
    context: VariantContext, *to_try: tuple[int, ...], network: nn.Sequential | None = None
) -> tuple[pruned.Candidate, list[dict[str, Any]]]:
    """Prune the parent, or another network, to the first of these widths that is good enough."""
    network = context.network if network is None else network
    neurons = measure_neurons(network, context.dataset.train_images, context.dataset.train_labels)
    return pruned.smallest_accurate(context, network, neurons, to_try)


@pytest.mark.slow
def test_a_bundle_gets_a_network_with_fewer_neurons(
    built: Built, shared_context: VariantContext, bundle_folder: Path, tmp_path: Path
) -> None:
    """48 neurons become 32 in the matrices themselves; the manifest states how; no layer is compared with the parent's."""
    folder = shutil.copytree(bundle_folder, tmp_path / "digits")
    report = add_kind(folder, pruned.KIND, shared_context)
    fp32, found = report.variants
    assert shapes((folder / "model.onnx").read_bytes()) == [(48, 784), (32, 48), (10, 32)]
    assert shapes((folder / found.file).read_bytes()) == [(32, 784), (32, 32), (10, 32)]
    assert found.bytes < fp32.bytes
    assert (found.precision, found.requirement, found.reference) == ("fp32", "accuracy", "pytorch")
    assert found.made == json.loads(json.dumps(built.made))
    assert (found.made["widths"], found.made["parent_widths"]) == ([32, 32], [48, 32])
    assert found.made["parameters"] == 785 * 32 + 33 * 32 + 33 * 10
    assert found.made["recipe"]["holdout"] == find_recipe("fast").holdout
    checked = in_process("verify", folder, "--layers", "--max-accuracy-drop", str(100 * DROP), "--json", cwd=tmp_path)
    assert checked.code == 0, checked.err
    layers = checked.json["variants"][1]["layers"]
    assert (layers["tensors"], layers["detail"]) == (
        [],
        "it has weights of its own: no layer can be compared with the reference",
    )


def test_widths_grow_until_the_accuracy_is_kept(context: VariantContext) -> None:
    """Two neurons lose too much; 24 are enough, and 40 are not tried. Rates of 72 images are judged as of 360 of the test set."""
    found, tried = search(dataclasses.replace(context, max_accuracy_drop=0.1), (2, 2), (32, 24), (40, 32))
    assert found.widths == (32, 24)
    assert [entry["widths"] for entry in tried] == [[2, 2], [32, 24]]
    assert tried[0]["selection_accuracy"] < tried[1]["selection_accuracy"] - 0.2
    accuracy = found.accuracy
    counts = [5 * accuracy.only_reference_right, 5 * accuracy.only_variant_right]
    assert tried[1]["expected_drop_upper95"] == found.expected_drop == paired_drop_upper95(*counts, 360)
    assert tried[0]["expected_drop_upper95"] > 0.1 >= found.expected_drop


def test_where_none_is_shown_to_keep_it_the_most_accurate_is_left_to_the_test_set(context: VariantContext) -> None:
    """360 test images cannot show a loss below 0.8 %."""
    found, tried = search(dataclasses.replace(context, max_accuracy_drop=0.001), (32, 24), (2, 2))
    assert found.widths == (32, 24)
    assert len(tried) == 2


def test_training_starts_from_the_neurons_that_stay(
    context: VariantContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a learning rate of 0 the candidate is the pruned network itself."""
    (tmp_path / "still.toml").write_text(STILL)
    monkeypatch.setattr(pruned, "RECIPE", str(tmp_path / "still.toml"))
    neurons = measure_neurons(context.network, context.dataset.train_images, context.dataset.train_labels)
    found, _ = search(context, (32, 24))
    assert weights_sha256(found.model) == weights_sha256(prune(context.network, neurons, (32, 24)))


class KilledError(Exception):
    """Stands for a process that ends."""


def test_a_killed_export_continues_its_training(context: VariantContext) -> None:
    """After the second of eight epochs: the weights become the same as without a stop; a finished training is not repeated."""

    def weights(**changes: Any) -> str:
        return weights_sha256(search(dataclasses.replace(context, **changes), (32, 32))[0].model)

    def killed(line: str) -> None:
        if "epoch 2 of 8" in line:
            raise KilledError

    whole = weights(runs=context.runs / "whole")
    with pytest.raises(KilledError):
        weights(notify=killed)
    lines: list[str] = []
    assert weights(notify=lines.append) == whole
    assert any("resuming" in line and "2 of 8 epochs" in line for line in lines)
    assert not any("epoch 2 of 8" in line for line in lines)
    lines.clear()
    assert weights(notify=lines.append) == whole
    assert not any("epoch" in line for line in lines)


def test_a_training_of_other_weights_is_not_continued(context: VariantContext) -> None:
    """Another parent in the same folder, or a damaged checkpoint: it starts again."""
    first, _ = search(context, (32, 32))
    other = build_model((48, 32))
    other.load_state_dict(context.network.state_dict())
    with torch.no_grad():
        linear_layers(other)[0].bias += 1e-3
    lines: list[str] = []
    noisy = dataclasses.replace(context, notify=lines.append)
    second, _ = search(noisy, (32, 32), network=other)
    assert not any("resuming" in line for line in lines)
    assert weights_sha256(second.model) != weights_sha256(first.model)
    (context.runs / "pruned-32-32" / LAST).write_bytes(b"cut")
    again, _ = search(noisy, (32, 32), network=other)
    assert weights_sha256(again.model) == weights_sha256(second.model)


def test_weights_of_another_normalisation_are_pruned_for_it(
    context: VariantContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file takes pixels as its parent does, and computes what the same parent gives under the seed's normalisation."""
    (tmp_path / "still.toml").write_text(STILL)
    monkeypatch.setattr(pruned, "RECIPE", str(tmp_path / "still.toml"))
    network = with_normalization(context.network, "seed", "mnist")
    found = pruned.build(dataclasses.replace(context, network=network, normalization="mnist", input="float"))
    images = context.dataset.test_images
    stated = {entry.key: entry.value for entry in onnx.load_model_from_string(found.model).metadata_props}
    assert stated["mnist_edge.normalization"] == "mnist"
    calibration = calibration_set(context.dataset, context.recipe)
    neurons = measure_neurons(context.network, np.concatenate(list(calibration.batches())), calibration.labels)
    expected = reference_logits(prune(context.network, neurons, (32, 32)), images)
    np.testing.assert_allclose(open_classifier(found.model).logits(images), expected, atol=1e-3)


# Faults ---------------------------------------------------------------------------------------------------------------


def swapped_columns(proto: onnx.ModelProto) -> None:
    """Exchange the inputs of the second layer whose weights differ most."""
    name = gemms(proto)[1].input[1]
    weight = get(proto, name)
    distance = ((weight[:, :, None] - weight[:, None, :]) ** 2).sum(axis=0)
    one, other = np.unravel_index(distance.argmax(), distance.shape)
    weight[:, [one, other]] = weight[:, [other, one]]
    put(proto, name, weight)


def planted(model: bytes, fault: Callable[[onnx.ModelProto], None]) -> bytes:
    proto = onnx.load_model_from_string(model)
    fault(proto)
    return bytes(proto.SerializeToString())


def test_a_file_that_does_not_predict_as_the_pruned_network_is_not_built(
    built: Built, shared_context: VariantContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair of columns exchanged by the exporter: found even where its accuracy suffices."""
    file = planted(built.model, swapped_columns)
    monkeypatch.setattr(graph, "export_graph", lambda *_: file)
    with pytest.raises(CheckFailedError, match="pruned: onnxruntime and PyTorch differ on"):
        pruned.build(dataclasses.replace(shared_context, max_accuracy_drop=0.5))


def widened(network: nn.Sequential) -> nn.Sequential:
    """The same function with 16 more neurons in the first layer, each of which is always 1."""
    first, *others = linear_layers(network)
    wider = build_model((first.out_features + 16, *(layer.out_features for layer in others[:-1])))
    target, following, *rest = linear_layers(wider)
    target.weight.data = torch.cat([first.weight.data, torch.zeros(16, 784)])
    target.bias.data = torch.cat([first.bias.data, torch.ones(16)])
    extra = torch.randn(others[0].out_features, 16, generator=torch.Generator().manual_seed(0))
    following.weight.data = torch.cat([others[0].weight.data, extra], dim=1)
    following.bias.data = others[0].bias.data - extra.sum(dim=1)
    for layer, source in zip(rest, others[1:], strict=True):
        layer.load_state_dict(source.state_dict())
    return wider


def stating(folder: Path, spec: VariantSpec, file: bytes) -> None:
    """Add a variant to a bundle as if it had passed: every hash is valid."""
    manifest = load_bundle(folder).manifest
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    variant = Variant(**fields, file="pruned.onnx", bytes=len(file), sha256=sha256_bytes(file), passed=True)
    (folder / variant.file).write_bytes(file)
    changed = dataclasses.replace(manifest, variants=(*manifest.variants, variant))
    (folder / MANIFEST).write_bytes(manifest_bytes(changed))


@pytest.mark.slow
def test_verify_refuses_a_pruned_model_with_a_fault(
    shared_context: VariantContext, bundle_folder: Path, tmp_path: Path
) -> None:
    """16 constant neurons leave a widened network, which is then the original: it passes, and either fault is exit code 1."""
    wider, data = widened(shared_context.network), shared_context.dataset
    model = prune(wider, measure_neurons(wider, data.train_images, data.train_labels), (48, 32))
    right = export_graph(model, "uint8", Origin(dataset="digits", weights_sha256=weights_sha256(model)))

    def not_merged(proto: onnx.ModelProto) -> None:
        """The bias that the second layer had beside the constant neurons."""
        put(proto, gemms(proto)[1].input[2], linear_layers(wider)[1].bias.detach().numpy())

    spec = pruned.KIND.spec(shared_context)
    for number, file in enumerate((right, planted(right, swapped_columns), planted(right, not_merged))):
        folder = shutil.copytree(bundle_folder, tmp_path / f"digits-{number}")
        stating(folder, spec, file)
        done = in_process("verify", folder, "--max-accuracy-drop", str(100 * DROP), "--json", cwd=tmp_path)
        found = done.json["variants"][1]
        if number == 0:
            assert (done.code, found["passed"], found["flips"]) == (0, True, 0)
        else:
            assert (done.code, found["passed"]) == (1, False)
            assert found["reason"].startswith("it may lose up to")
