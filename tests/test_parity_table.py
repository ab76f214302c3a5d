"""What `verify` prints: a summary first, and tables that fit 80 columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.records.data import Dataset
from mnist_edge.records.verification import Certificate, ParityReport
from mnist_edge.reporting.plots.margins import SHOWN, margin_sheet
from mnist_edge.reporting.tables.parity import parity_table
from mnist_edge.verification.reference import recorded_reference
from mnist_edge.verification.verify import VerifyOptions, verify_bundle


@pytest.fixture(scope="module")
def report(two_variant_bundle: Path, digits: Dataset) -> ParityReport:
    bundle = load_bundle(two_variant_bundle)
    return verify_bundle(bundle, recorded_reference(bundle, digits), VerifyOptions(max_drop=0.05, layers=True))


def printed(report: ParityReport, width: int = 80) -> list[str]:
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(parity_table(report))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_first_line_is_the_result(report: ParityReport) -> None:
    """One variant with its bound and its error, several with their flips; a reader of one line knows enough."""
    one = dataclasses.replace(report, variants=report.variants[:1])
    first = printed(one, 160)[0]
    assert first.startswith(
        "passed: 0 flips in 360 images (rate at most 0.829% with 95 % confidence), largest logit error"
    )
    assert printed(report)[0] == "passed: fp32: 0 flips in 360 images; int8: 0 flips in 360 images"
    failed = dataclasses.replace(report.variants[1], passed=False, flips=7, reason="why")
    lines = printed(dataclasses.replace(report, passed=False, variants=(report.variants[0], failed)))
    assert lines[0] == "FAILED: fp32: 0 flips in 360 images; int8: 7 flips in 360 images"
    assert "int8: why" in lines


def test_no_row_of_a_table_wraps_at_80_columns(report: ParityReport) -> None:
    """Every variant and every layer is one line, with its most important columns first; long names are shortened."""
    long = dataclasses.replace(
        report.variants[1], name="distilled-student-of-another-architecture", max_abs_error=1.2e-06, flips=9_999
    )
    lines = printed(dataclasses.replace(report, variants=(*report.variants, long)))
    rows = [line for line in lines if line.split()[:1] == ["fp32"] or line.split()[:1] == ["int8"]]
    assert [row.split()[:3] for row in rows] == [["fp32", "passed", "0"], ["int8", "passed", "0"]]
    assert all(len(line) <= 80 for line in lines)
    (header,) = [line for line in lines if line.split()[:2] == ["variant", "verdict"]]
    assert header.split()[2:] == ["flips", "max", "error", "accuracy", "loss", "<=", "certified"]
    (named,) = [line for line in lines if "…" in line and "passed" in line]
    assert "passed" in named
    assert "9999" in named
    layers = [line for line in lines if line.split()[1:2] in (["pre-activations"], ["activations"], ["output"])]
    assert len(layers) == 5 + 2 * 6
    headers = [line.split() for line in lines if line.split()[:2] == ["layer", "outputs"]]
    assert all(header == ["layer", "outputs", "drift", "allowed", "tensor"] for header in headers)


def test_a_model_with_weights_of_its_own_is_reported_by_its_accuracy(report: ParityReport) -> None:
    """No error; the lines say what counted, and whose predictions a certificate is about."""
    own = dataclasses.replace(
        report.variants[1],
        requirement="accuracy",
        max_abs_error=None,
        max_relative_error=None,
        margins=None,
        certificate=Certificate(arithmetic="fp32", certified=1.0, largest_bound=0.0, uncertified=()),
    )
    lines = printed(dataclasses.replace(report, variants=(own,)), 160)
    assert lines[0].startswith("passed: 0 flips in 360 images")
    assert "int8: a model with weights of its own; only its accuracy counts" in lines
    assert any(line.startswith("int8: 360 of its own 360 predictions are certain on every") for line in lines)


def test_the_figure_has_readable_captions(report: ParityReport, digits: Dataset, tmp_path: Path) -> None:
    """As SVG its texts can be read: every image with number, prediction and margin, and what the colours mean."""
    flipped = dataclasses.replace(
        report.variants[1].margins.small[0],  # type: ignore[union-attr]
        predicted=(report.variants[1].margins.small[0].predicted + 1) % 10,  # type: ignore[union-attr]
    )
    margins = dataclasses.replace(report.variants[1].margins, small=(flipped,))  # type: ignore[type-var]
    variants = (report.variants[0], dataclasses.replace(report.variants[1], margins=margins))
    logits = (digits.test_labels[:SHOWN, None] == range(10)).astype("float32")
    path = margin_sheet(variants, range(SHOWN), digits.test_images[:SHOWN], logits, tmp_path / "sheet.svg")
    text = path.read_text()
    for piece in ("Grey frame", "Orange", "Red", "fp32: largest logit error", "int8: largest logit error"):
        assert piece in text, piece
    assert text.count("<!-- image ") == 24
