"""Every fault that an exporter, a converter or a person can make is caught, for its reason and in its layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from faults import BY_NAME, CONTROL, FAULTS, Fault, Golden
from onnx import ModelProto, helper
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line
from torch import nn

from mnist_edge.bundle.folder import Bundle, load_bundle
from mnist_edge.bundle.golden import NO_LABEL, golden_bytes
from mnist_edge.contract import LABELS, Optimization
from mnist_edge.exporting import graph, pipeline
from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
from mnist_edge.records.data import Dataset
from mnist_edge.records.settings import SessionSettings
from mnist_edge.records.verification import VariantParity
from mnist_edge.training.model import build_model, normalize_pixels, reference_logits, reference_pre_activations
from mnist_edge.verification.reference import (
    Reference,
    ReferenceOutputs,
    golden_layers,
    live_reference,
    recorded_reference,
    with_relu,
)
from mnist_edge.verification.verify import VerifyOptions, verify_bundle, verify_model

pytestmark = pytest.mark.xdist_group("planted")

WIDTHS = (48, 48, 48)
LOSSY = VerifyOptions(max_drop=0.01)
"""1,797 images can show a loss of 0.15 % at best."""
SEEN: dict[str, tuple[str, str]] = {
    "weight bytes of the transpose": ("transposition", "in the order of the transposed matrix"),
    "square weight transposed": ("transposition", "its square weight matrix is transposed"),
    "weight rows permuted": ("permutation", "units are in another order"),
    "weight columns permuted": ("other weights", "it has other weights"),
    "two layers swapped": ("swapped layers", "the weights of layer 3 fit: the two are swapped"),
    "ReLU missing": ("missing activation", "its ReLU is missing"),
    "ReLU after the logits": ("doubled activation", "it has a ReLU where the reference has none"),
    # (x / 255 - 0.1307) / 0.5 is the seed's normalisation of x + 0.3693 * 255.
    "wrong mean in the normalisation": ("normalisation", "it reads a pixel x of 0 to 255 as 1 x + 94.17"),
    # (x / 255 - 0.5) / 0.3081 is the seed's normalisation of x / 0.6162 - 79.41.
    "wrong scale in the normalisation": ("normalisation", "it reads a pixel x of 0 to 255 as 1.623 x - 79.41"),
    "divided by 255 twice": ("normalisation", "its pixels are divided by 255 twice"),
    "pixels inverted": ("inverted pixels", "it reads a pixel x as 255 - x"),
    "image transposed": ("image transposed", "its input is the image transposed"),
    "batch size baked in": ("", "at batch 2 it runs only at batch 1, its batch size is baked in"),
    "float16 overflow": ("overflow", "its values become infinite"),
    # To get there it is scaled by a power of two; that is the first that is seen of it.
    "float16 saturation": ("scale", "its weights are scaled by"),
    "wrong quantisation scale": ("scale", "its weights are scaled by 1.2"),
    "wrong zero point": ("shift", "a bias or zero point is wrong"),
    "calibrated range too narrow": ("saturation", "the reference goes above it"),
    "int8 variant: wrong scale": ("scale", "its weights are scaled by 1.2"),
    "int8 variant: wrong zero point": ("shift", "a bias or zero point is wrong"),
    "int8 variant: stale calibration": ("saturation", "the reference goes above it"),
    "sign of one weight flipped": ("flipped sign", "the sign of weight"),
    "one weight NaN": ("not a number", "unit 3 of 48 is NaN"),
    "weights scaled by 1.01": ("scale", "its weights are scaled by 1.01"),
    "two classes swapped": ("permutation", "units 4 and 9 are swapped"),
    "constant logits": ("constant", "its values are the same for every image"),
    "golden inputs memorised": ("other architecture", "it may have memorised them"),
}
"""What is to be seen of each: the symptom, and a piece of the reason."""


class Subject(NamedTuple):
    """A trained network, its data, its bundle and its graph."""

    network: nn.Sequential
    data: Dataset
    folder: Path
    bundle: Bundle
    proto: ModelProto

    def planted(self, fault: Fault) -> ModelProto:
        """The graph with a fault; a quantiser is calibrated on pictures, not on noise."""
        golden = self.bundle.golden
        rows = golden.labels != NO_LABEL if fault.precision == "int8" else np.ones(len(golden.labels), bool)
        return fault.plant(self.proto, Golden(golden.images[rows], golden.logits[rows]))


@pytest.fixture(scope="session")
def subject(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """784-48-48-48-10, so that layers 2 and 3 are square and alike; its test set is larger than the golden inputs."""
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    data = dataclasses.replace(digits, test_images=images, test_labels=labels)
    torch.manual_seed(0)
    network = build_model(WIDTHS)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    pixels, truth = normalize_pixels(torch.tensor(images).flatten(1)), torch.tensor(labels).long()
    for _ in range(8):
        for rows in torch.randperm(len(pixels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pixels[rows]), truth[rows]).backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("square") / "digits"
    export_bundle(ExportRequest(model=network, dataset=data, output=folder, input="uint8", opset=20))
    return Subject(network, data, folder, load_bundle(folder), onnx.load(folder / "model.onnx"))


@pytest.fixture(scope="session")
def live(subject: Subject) -> ReferenceOutputs:
    """PyTorch's own answers, asked now, and not those in the bundle."""
    golden = subject.bundle.golden
    return live_reference(
        (golden.images, golden.labels),
        (subject.data.test_images, subject.data.test_labels),
        lambda images: reference_logits(subject.network, images),
        lambda images: with_relu(reference_pre_activations(subject.network, images)),
        "PyTorch, live",
    )


def verified(subject: Subject, target: Path, settings: VerifyOptions = LOSSY, **changes: Any) -> VariantParity:
    """A copy of the bundle with these changes and every hash renewed, held against what it carries itself."""
    bundle = load_bundle(rewrite_bundle(subject.folder, target, **changes))
    (found,) = verify_bundle(bundle, recorded_reference(bundle, subject.data), settings).variants
    assert found.passed == (found.reason == "")
    return found


def test_every_fault_of_the_list_is_expected_here() -> None:
    """A fault that is added to the list is checked too."""
    assert set(SEEN) == {fault.name for fault in FAULTS}
    assert len(FAULTS) == len(SEEN)


EACH = [
    pytest.param(fault, id=fault.name, marks=[pytest.mark.slow] if number % 4 else [])
    for number, fault in enumerate(FAULTS)
]
"""One of four is planted in the fast tests, the others in the slow ones."""


@pytest.mark.parametrize("fault", EACH)
def test_a_fault_is_caught_for_its_reason_in_its_layer(
    fault: Fault, subject: Subject, live: ReferenceOutputs, tmp_path: Path
) -> None:
    """In a bundle with right hashes, and as a bare file against live PyTorch: failed, the layer and the symptom named."""
    symptom, piece = SEEN[fault.name]
    model = subject.planted(fault).SerializeToString()
    found = verified(subject, tmp_path / "b", model=model, precision=fault.precision)
    (tmp_path / "bare.onnx").write_bytes(model)
    bare = verify_model(tmp_path / "bare.onnx", "digits", live, LOSSY)
    assert not bare.passed
    for variant in (found, *bare.variants):
        assert not variant.passed
        assert variant.precision == fault.precision
        assert piece in variant.reason
        if not symptom:
            assert variant.layers is None
            continue
        assert variant.layers is not None
        assert (variant.layers.first, variant.layers.symptom) == (fault.layer_of(4), symptom)
        if fault.layer is not None:
            assert f"layer {fault.layer_of(4)} is the first to drift, {symptom}: " in variant.reason
            drifting = [
                tensor.layer
                for tensor in variant.layers.tensors
                if tensor.drift is None or tensor.drift > tensor.allowed
            ]
            assert drifting[0] == fault.layer_of(4)


@pytest.mark.parametrize("fault", CONTROL, ids=lambda fault: fault.name)
def test_what_has_nothing_wrong_passes(fault: Fault, subject: Subject, live: ReferenceOutputs, tmp_path: Path) -> None:
    """No false alarm, in fp32, fp16 and int8, though every layer is looked at; a ReLU doubled is the identity."""
    settings = dataclasses.replace(LOSSY, layers=True)
    model = subject.planted(fault).SerializeToString()
    found = verified(subject, tmp_path / "b", settings, model=model, precision=fault.precision)
    (tmp_path / "bare.onnx").write_bytes(model)
    (bare,) = verify_model(tmp_path / "bare.onnx", "digits", live, settings).variants
    for variant in (found, bare):
        assert (variant.passed, variant.reason, variant.precision) == (True, "", fault.precision)
        assert variant.layers is not None
        assert (variant.layers.first, variant.layers.symptom, variant.layers.detail) == (None, "", "")
        assert {tensor.layer for tensor in variant.layers.tensors} == {1, 2, 3, 4}
        assert variant.images == len(subject.data.test_images)


@pytest.mark.slow
@pytest.mark.parametrize("optimization", ["none", "basic", "extended", "all"])
def test_every_optimization_of_the_untouched_model_passes(
    optimization: Optimization, subject: Subject, tmp_path: Path
) -> None:
    """Rewriting a graph is no fault, and the report says what it holds for."""
    bundle = load_bundle(rewrite_bundle(subject.folder, tmp_path / "b"))
    settings = VerifyOptions(session=SessionSettings(optimization=optimization, threads=2), layers=True)
    report = verify_bundle(bundle, recorded_reference(bundle, subject.data), settings)
    assert (report.passed, report.settings, report.test_set) == (True, settings.session, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [fault.name for fault in FAULTS if fault.precision == "fp32" and "memorised" not in fault.name]
)
def test_the_golden_inputs_alone_show_the_faults_too(name: str, subject: Subject, tmp_path: Path) -> None:
    """A device without the test set names the same layer and symptom."""
    model = subject.planted(BY_NAME[name]).SerializeToString()
    bundle = load_bundle(rewrite_bundle(subject.folder, tmp_path / "b", model=model))
    report = verify_bundle(bundle, recorded_reference(bundle, None), VerifyOptions())
    (found,) = report.variants
    assert (report.passed, report.test_set, found.passed, found.images) == (False, False, False, 1040)
    assert SEEN[name][1] in found.reason
    assert (found.layers.symptom if found.layers else "") == SEEN[name][0]


def test_labels_exchanged_in_the_manifest_are_caught(subject: Subject, tmp_path: Path) -> None:
    """Logits cannot show it: a device would print the wrong name to a right answer."""
    order = [0, 1, 2, 3, 9, 5, 6, 7, 8, 4]
    swapped = tuple(LABELS["digits"][place] for place in order)
    found = verified(subject, tmp_path / "b", labels=swapped)
    assert "classes were swapped" in found.reason
    assert (found.flips, found.max_abs_error is not None and found.max_abs_error < 1e-4) == (0, True)
    proto = ModelProto()
    proto.CopyFrom(subject.proto)
    stated = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, stated | {"mnist_edge.labels": str(list(swapped)).replace("'", '"')})
    for number, labels in enumerate((swapped, LABELS["digits"])):
        found = verified(subject, tmp_path / f"b{number}", labels=labels, model=proto.SerializeToString())
        assert "classes were swapped" in found.reason


def other_network() -> nn.Sequential:
    """A network of the same shape that was never trained."""
    torch.manual_seed(1)
    return build_model(WIDTHS)


def test_a_stale_golden_file_is_caught(subject: Subject, tmp_path: Path) -> None:
    """Answers of the training before, hashes renewed: told as stale; as a forgery told by what they say."""
    other = other_network()
    origin = graph.Origin(dataset="digits", weights_sha256=graph.weights_sha256(other))
    stale = pipeline.golden_of(other, subject.data, origin, graph.export_graph(other, "uint8", origin))
    found = verified(subject, tmp_path / "stale", golden=golden_bytes(stale))
    assert found.reason.startswith("golden.npz is stale")
    forged = dataclasses.replace(stale, weights_sha256=subject.bundle.golden.weights_sha256)
    found = verified(subject, tmp_path / "forged", golden=golden_bytes(forged))
    assert "stale" not in found.reason
    assert "logits differ by up to" in found.reason
    assert found.layers is not None
    assert (found.layers.first, found.layers.symptom) == (1, "other weights")


def test_a_golden_file_whose_answers_happen_to_agree_is_still_stale(subject: Subject, tmp_path: Path) -> None:
    """Which weights answered is asked apart from what they answered."""
    golden = dataclasses.replace(subject.bundle.golden, weights_sha256=np.zeros(32, np.uint8))
    assert "stale" in verified(subject, tmp_path / "b", golden=golden_bytes(golden)).reason


def test_a_model_of_other_weights_than_the_manifest_names_is_caught(subject: Subject, tmp_path: Path) -> None:
    """The file's own metadata say what it was exported from."""
    proto = ModelProto()
    proto.CopyFrom(subject.proto)
    stated = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, stated | {"mnist_edge.weights_sha256": "0" * 64})
    found = verified(subject, tmp_path / "b", model=proto.SerializeToString())
    assert "exported from other weights" in found.reason


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_model_relabelled_as_lossy_does_not_escape_the_exact_check(
    precision: str, subject: Subject, tmp_path: Path
) -> None:
    """An error that int8 would explain, in a model that computes in fp32: its graph says what it is held to."""
    model = subject.planted(BY_NAME["weights scaled by 1.01"]).SerializeToString()
    found = verified(subject, tmp_path / "b", model=model, precision=precision)
    assert not found.passed
    assert f"manifest.json states that it computes in {precision}, its graph computes in fp32" in found.reason


def test_int8_relabelled_as_fp16_is_told(subject: Subject, tmp_path: Path) -> None:
    """And fp32 is a promise of exact logits, whatever the graph."""
    model = subject.planted(BY_NAME["quantised to int8, untouched"]).SerializeToString()
    found = verified(subject, tmp_path / "fp16", model=model, precision="fp16")
    assert "manifest.json states that it computes in fp16, its graph computes in int8" in found.reason
    found = verified(subject, tmp_path / "fp32", model=model, precision="fp32")
    assert "logits differ by up to" in found.reason


def swapped_together(subject: Subject) -> dict[str, bytes]:
    """The model and PyTorch's answers in the golden file, both with classes 4 and 9 exchanged."""
    golden, order = subject.bundle.golden, [0, 1, 2, 3, 9, 5, 6, 7, 8, 4]
    sums = golden.pre_activations.copy()
    sums[:, -10:] = sums[:, -10:][:, order]
    swapped = {name: getattr(golden, name)[:, order] for name in ("logits", "test_logits", "exact_logits")}
    forged = dataclasses.replace(golden, pre_activations=sums, **swapped)
    model = subject.planted(BY_NAME["two classes swapped"])
    return {"model": model.SerializeToString(), "golden": golden_bytes(forged)}


def test_a_model_and_its_golden_file_forged_together_miss_the_stated_accuracy(subject: Subject, tmp_path: Path) -> None:
    """They agree with each other to the last bit; only the labels can tell, of the test set or of the golden inputs."""
    folder = rewrite_bundle(subject.folder, tmp_path / "forged", **swapped_together(subject))
    bundle = load_bundle(folder)
    for data, labelled in ((subject.data, 1797), (None, 1024)):
        (found,) = verify_bundle(bundle, recorded_reference(bundle, data), VerifyOptions()).variants
        assert (found.passed, found.flips) == (False, 0)
        assert "manifest.json states an accuracy of" in found.reason
        assert found.reason.endswith(f"of {labelled}")


@pytest.mark.parametrize("images", [-1, 0, 1])
def test_the_stated_accuracy_is_held_to_the_image(images: int, subject: Subject, tmp_path: Path) -> None:
    """One image of 1,797 more or less than PyTorch's answers come to is a failed check."""
    whole = len(subject.data.test_labels)
    right = int((subject.bundle.golden.test_logits.argmax(axis=1) == subject.data.test_labels).sum())
    found = verified(subject, tmp_path / "b", accuracy=(right + images) / whole)
    assert found.passed == (images == 0)
    assert ("manifest.json states an accuracy" in found.reason) == (images != 0)


@pytest.mark.slow
@pytest.mark.parametrize("empty", ["golden", "test set"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_empty_set_of_images_proves_nothing(empty: str, precision: str, subject: Subject, tmp_path: Path) -> None:
    """No image, no proof, whatever the precision."""
    nothing = Reference(
        images=np.zeros((0, 28, 28), np.uint8), labels=np.zeros(0, np.uint8), logits=np.zeros((0, 10), np.float32)
    )
    bundle = load_bundle(rewrite_bundle(subject.folder, tmp_path / "b"))
    (variant,) = bundle.manifest.variants
    manifest = dataclasses.replace(
        bundle.manifest,
        variants=(
            dataclasses.replace(variant, precision=precision, requirement="exact" if precision == "fp32" else "lossy"),
        ),
    )
    whole = recorded_reference(bundle, subject.data)
    truth = ReferenceOutputs(
        golden=nothing if empty == "golden" else whole.golden,
        test_set=nothing if empty == "test set" else whole.test_set,
        layers=golden_layers(bundle),
        description="nothing",
    )
    report = verify_bundle(dataclasses.replace(bundle, manifest=manifest), truth, LOSSY)
    assert not report.passed
    assert "there is no image to compare" in report.variants[0].reason


def test_int8_on_the_golden_inputs_alone_fails_closed(subject: Subject, tmp_path: Path) -> None:
    """1,024 labelled images cannot show a loss of at most 0.1 %; the reason says what would.

    The reference is right on all of them, so that what the quantiser changes on this CPU can only be a loss.
    """
    model = subject.planted(BY_NAME["quantised to int8, untouched"]).SerializeToString()
    golden = subject.bundle.golden
    predicted = golden.logits.argmax(axis=1).astype(np.uint8)
    golden = dataclasses.replace(golden, labels=np.where(golden.labels == NO_LABEL, golden.labels, predicted))
    changes = {"model": model, "golden": golden_bytes(golden), "precision": "int8"}
    bundle = load_bundle(rewrite_bundle(subject.folder, tmp_path / "b", **changes))
    (found,) = verify_bundle(bundle, recorded_reference(bundle, None), VerifyOptions()).variants
    assert not found.passed
    assert "1024 images cannot show that it loses at most 0.10% accuracy" in found.reason
    assert "give the test set" in found.reason
    assert found.layers is not None
    assert found.layers.symptom == ""


COMMAND_LINE = [
    ("weights scaled by 1.01", "layer 3 is the first to drift, scale: its weights are scaled by 1.01"),
    ("ReLU missing", "layer 2 is the first to drift, missing activation"),
    ("one weight NaN", "layer 2 is the first to drift, not a number"),
    ("float16 overflow", "layer 2 is the first to drift, overflow"),
    ("wrong zero point", "layer 2 is the first to drift, shift"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "said"), COMMAND_LINE, ids=[name for name, _ in COMMAND_LINE])
def test_the_command_line_names_the_layer_and_the_symptom(
    name: str, said: str, subject: Subject, tmp_path: Path
) -> None:
    """Exit code 1, one line on standard error, and the report in both forms, for values that are no numbers too."""
    fault = BY_NAME[name]
    model = subject.planted(fault).SerializeToString()
    folder = rewrite_bundle(subject.folder, tmp_path / "b", model=model, precision=fault.precision)
    table = in_process("verify", folder, cwd=tmp_path)
    lines = [line for line in table.err.splitlines() if "only the golden inputs" not in line]
    assert table.code == 1
    assert said in one_line("\n".join(lines))
    assert "FAILED" in table.out
    assert "drifts" in table.out
    done = in_process("verify", folder, "--json", cwd=tmp_path)
    assert done.code == 1
    (row,) = done.json["variants"]
    assert (row["passed"], row["layers"]["first"]) == (False, int(said.split()[1]))
    assert said.split(", ")[1].startswith(row["layers"]["symptom"])
