"""Faults planted in generated C, one at a time: `verify --target c --built` reports each, and nothing where there is none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_edge.bundle.folder import Bundle, load_bundle
from mnist_edge.errors import UsageError
from mnist_edge.exporting.pipeline import add_variant
from mnist_edge.exporting.variants import exact
from mnist_edge.exporting.variants.kind import VariantContext
from mnist_edge.pixels import logits_sha256
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import VariantParity
from mnist_edge.targets.bounded import beyond_bound
from mnist_edge.targets.c99.folder import golden_header
from mnist_edge.targets.c99.networks import network_logits, read_network
from mnist_edge.targets.registry import REGISTRY
from mnist_edge.targets.verify import TargetOptions, verify_programs
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.workflow.verify import verify_target
from tests.conftest import mnist_edge

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None, reason="no C compiler: apt-get install gcc make"
)
C = REGISTRY["c"]


@pytest.fixture(scope="module")
def bundle(
    bundle_folder: Path, variant_context: VariantContext, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The bundle of `workplace` with the variant int8-exact."""
    folder = shutil.copytree(bundle_folder, tmp_path_factory.mktemp("c99") / "digits")
    built = exact.build(8, variant_context)
    add_variant(folder, built.spec, built.model, digits, outputs_sha256=built.outputs_sha256)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def folders(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The C folders of both variants, compiled fast. Copy one before changing it."""
    place = tmp_path_factory.mktemp("folders")
    for variant in bundle.manifest.variants:
        C.build(bundle, variant, place / variant.name)
        change(
            place / variant.name / "Makefile",
            "FLAGS += -O2\n  PORT := port_host.c",
            "FLAGS += -O0\n  PORT := port_host.c",
        )
    return {variant.name: place / variant.name for variant in bundle.manifest.variants}


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new, 1))


def verify(bundle: Bundle, variant: str, folder: Path, data: Dataset) -> VariantParity:
    options = TargetOptions(device="host", built=folder)
    report = verify_programs(bundle, [bundle.variant(variant)], C, recorded_reference(bundle, data), options)
    assert report.passed == report.variants[0].passed
    return report.variants[0]


def wrong_weight(folder: Path) -> None:
    """Change the weight of the first unit's largest input in the last layer."""
    text = (folder / "model.c").read_text()
    start = text.index("{\n", text.index("weights2[")) + 2
    end = text.index(",", start)
    value = text[start:end]
    other = str(int(value) ^ 64) if "." not in value else f"({value} + 0.5f)"
    (folder / "model.c").write_text(text[:start] + other + text[end:])


def model(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: change(folder / "model.c", old, new)


INTEGER_FAULTS: dict[str, Callable[[Path], None]] = {
    "dropped bias": model("sums[j] * multiplier + (int32_t)MODEL_LOAD32(l->biases + first + j)", "sums[j] * multiplier"),
    "one wrong weight": wrong_weight,
    "rounded half up": model("- 1 + ((value >> shift) & 1)) >> shift", ") >> shift"),
    "rounded towards 0": model("value = (value + ((uint32_t)1 << (shift - 1)) - 1 + ((value >> shift) & 1)) >> shift", "value >>= shift"),
    "saturating accumulation": model(
        "sums[j] = (sums[j] & keep) + SUM(INT8);",
        "sums[j] = (sums[j] & keep) + SUM(INT8); sums[j] = sums[j] > 32767 ? 32767 : sums[j];",
    ),
    "activations wrap at 255": model("value < 255 ? value : 255", "value & 255"),
    "ReLU missing": model("t > 0 ? (uint32_t)t : 0", "(uint32_t)(t < 0 ? -t : t)"),
    "last input skipped": model("for (; filled < INPUTS; ++filled) {", "for (filled = 0; filled < INPUTS; ++filled) {"),
}  # fmt: skip
FLOAT_FAULTS: dict[str, Callable[[Path], None]] = {
    "dropped bias": model("sums[j] = biases[j] + positive", "sums[j] = biases[0] * 0 + positive"),
    "one wrong weight": wrong_weight,
    "ReLU missing": model("} else if (x > 0.0f) {", "} else if (x != 0.0f) {"),
    "first input skipped": model("positive * weights[j]", "0 * positive * weights[j]"),
}
CASES = [("int8-exact", name, plant) for name, plant in INTEGER_FAULTS.items()]
CASES += [("fp32", name, plant) for name, plant in FLOAT_FAULTS.items()]


@pytest.mark.parametrize("variant", ["int8-exact", "fp32"])
def test_an_untouched_folder_passes(bundle: Bundle, folders: dict[str, Path], digits: Dataset, variant: str) -> None:
    found = verify(bundle, variant, folders[variant], digits)
    assert (found.passed, found.reason, found.flips, found.images) == (True, "", 0, 360)
    assert (found.max_abs_error == 0) == (variant == "int8-exact")


@pytest.mark.parametrize(("variant", "fault", "plant"), CASES, ids=[f"{variant}: {name}" for variant, name, _ in CASES])
def test_a_fault_is_reported(
    bundle: Bundle,
    folders: dict[str, Path],
    digits: Dataset,
    tmp_path: Path,
    variant: str,
    fault: str,
    plant: Callable[[Path], None],
) -> None:
    folder = shutil.copytree(folders[variant], tmp_path / "c")
    plant(folder)
    found = verify(bundle, variant, folder, digits)
    assert not found.passed
    assert "logits differ" in found.reason or "predictions differ" in found.reason, f"{fault}: {found.reason}"


def golden(bundle: Bundle, folder: Path, rows: slice) -> None:
    """Rewrite golden.h with other golden images and their right logits: a self-test that passes, of other images."""
    network = read_network(bundle.file(bundle.variant("int8-exact")), "int8-exact")
    images = bundle.golden.images[rows]
    (folder / "golden.h").write_text(golden_header(network, images, network_logits(network, images)))


@pytest.mark.parametrize(
    ("rows", "reason"), [(slice(1, 17), "runs other images"), (slice(0, 15), "runs 15 golden images, expected 16")]
)
def test_a_golden_set_that_is_off_by_one_is_reported(
    bundle: Bundle, folders: dict[str, Path], digits: Dataset, tmp_path: Path, rows: slice, reason: str
) -> None:
    folder = shutil.copytree(folders["int8-exact"], tmp_path / "c")
    golden(bundle, folder, rows)
    found = verify(bundle, "int8-exact", folder, digits)
    assert (found.passed, found.flips) == (False, 0)
    assert reason in found.reason


def test_golden_logits_of_the_next_image_are_reported(
    bundle: Bundle, folders: dict[str, Path], digits: Dataset, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["int8-exact"], tmp_path / "c")
    text = (folder / "golden.h").read_text()
    start = text.index("golden_logits")
    rows = re.findall(r"\{-?\d[^{}]*\}", text[start:])
    shifted = text[start:].replace(rows[0], "@").replace(rows[1], rows[0]).replace("@", rows[1])
    (folder / "golden.h").write_text(text[:start] + shifted)
    found = verify(bundle, "int8-exact", folder, digits)
    assert not found.passed
    assert "FAILED at image 0" in found.reason


@pytest.mark.slow
def test_the_command_reports_a_fault_with_1(bundle: Bundle, folders: dict[str, Path], tmp_path: Path) -> None:
    """One line on standard error; the report on standard output is complete."""
    folder = shutil.copytree(folders["int8-exact"], tmp_path / "c")
    INTEGER_FAULTS["dropped bias"](folder)
    done = mnist_edge(
        "verify", bundle.folder, "--target", "c", "--variant", "int8-exact", "--built", folder, "--json", cwd=tmp_path
    )
    assert done.code == 1
    assert "does not predict as" in done.err
    assert done.json["passed"] is False


def test_a_folder_is_of_one_variant(bundle: Bundle, folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="was generated from one variant"):
        verify_target(bundle.folder, "c", built=folders["fp32"])


def test_the_sha256_of_the_self_test_is_that_of_the_bundle(bundle: Bundle, folders: dict[str, Path]) -> None:
    """What an owner of a board compares: the line of the self-test states the hash of the reference's logits."""
    network = read_network(bundle.file(bundle.variant("int8-exact")), "int8-exact")
    rows = np.r_[0:12, len(bundle.golden.images) - 16 : len(bundle.golden.images) - 12]
    expected = logits_sha256(network_logits(network, bundle.golden.images[rows]))
    with C.open(folders["int8-exact"], "host", 60) as program:
        test = program.self_test()
    assert test is not None
    assert (test.images, test.sha256) == (16, expected)


def test_a_logit_beyond_the_bound_of_float32_is_reported(bundle: Bundle) -> None:
    """A hundredth of the tolerance of `exact`, where rounding explains less; NaN; and an integer network has no bound."""
    fp32, images = bundle.file(bundle.variant("fp32")), bundle.golden.images[:40]
    logits = network_logits(read_network(fp32, "fp32"), images)
    assert beyond_bound(fp32, [(images, logits)]) == ""
    for error in (0.01, np.nan):
        wrong = logits.copy()
        wrong[7, 3] += error
        assert "a logit of image 7 is beyond" in beyond_bound(fp32, [(images[:5], logits[:5]), (images, wrong)])
    assert beyond_bound(bundle.file(bundle.variant("int8-exact")), [(images, logits + 1)]) is None
