"""What `verify` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.verification import LayerReport, ParityReport, VariantParity
from mnist_edge.reporting.tables.format import percent

LISTED = 8
"""Images of one kind that a table lists; the JSON has them all."""


def parity_table(report: ParityReport) -> RenderableType:
    """One line a variant; reasons of failures, accuracy, margins and layers below."""
    table = Table(box=box.SIMPLE, title=f"held against {report.reference} on {report.settings.described}")
    for heading in (
        "variant",
        "images",
        "flips",
        "flip rate <= (95 %)",
        "max error",
        "accuracy",
        "certified",
        "verdict",
    ):
        table.add_column(heading, justify="left" if heading in {"variant", "verdict"} else "right")
    for v in report.variants:
        table.add_row(
            v.name if v.name == v.precision else f"{v.name} ({v.precision})",
            f"{v.images:,}",
            str(v.flips),
            f"{v.flip_rate_upper95:.3%}",
            "-" if v.max_abs_error is None else f"{v.max_abs_error:.2g}",
            percent(None if v.accuracy is None else v.accuracy.variant),
            percent(None if v.margins is None else v.margins.certified),
            "passed" if v.passed else "FAILED",
        )
    lines = [f"{v.name}: {v.reason}" for v in report.variants if v.reason]
    for v in report.variants:
        if v.batches:
            lines.append(f"{v.name}: the golden inputs were run at batch {', '.join(map(str, v.batches))}")
        lines += [*_accuracy_lines(v), *_margin_lines(v)]
        if v.passed and v.layers is not None and v.layers.first is not None:
            lines.append(f"{v.name}: layer {v.layers.first} differs, {v.layers.detail}; it answers alike all the same")
    if not report.test_set:
        lines.append(f"only the golden inputs were compared, not the {report.dataset} test set")
    return Group(table, *lines, *(_layer_table(v) for v in report.variants if v.layers and v.layers.stages))


def _accuracy_lines(v: VariantParity) -> list[str]:
    a = v.accuracy
    if a is None:
        return []
    told = (
        f"{v.name}: accuracy {a.reference:.2%} to {a.variant:.2%} on {a.images:,} labelled images "
        f"({a.only_reference_right} lost, {a.only_variant_right} won; McNemar p = {a.mcnemar_p:.2g})"
    )
    told += f"; it loses at most {a.drop_upper95:.3%} (95 % confidence)"
    if v.precision == "fp32":
        return [told]
    return [f"{told}: {'not inferior' if a.non_inferior else 'NOT SHOWN to be as accurate'} at {a.max_drop:.2%}"]


def _margin_lines(v: VariantParity) -> list[str]:
    m = v.margins
    if m is None or not m.uncertified:
        return []
    shown = m.uncertified[:LISTED]
    lines = [
        f"{v.name}: {len(m.uncertified)} images have a margin of at most twice the largest error {m.error:.2g}"
        + (f"; {len(shown)} of them, all with --json:" if len(shown) < len(m.uncertified) else ":")
    ]
    return lines + [
        f"  image {image.image}: margin {image.margin:.2g}, the reference says {image.reference}, it says {image.predicted}"
        for image in shown
    ]


def _layer_table(v: VariantParity) -> Table:
    assert v.layers is not None
    table = Table(box=box.SIMPLE, title=f"{v.name}, layer by layer on {v.layers.images} images")
    for heading in ("layer", "stage", "tensor", "drift", "allowed", ""):
        table.add_column(heading, justify="right" if heading in {"layer", "drift", "allowed"} else "left")
    for stage in v.layers.stages:
        # Layers may be rescaled against each other, so that only the answers are owed.
        drifts = (
            ("drifts; passed, for its answers agree" if v.passed else "drifts") if LayerReport.drifts(stage) else ""
        )
        drift = "no number" if stage.drift is None else f"{stage.drift:.2g}"
        table.add_row(str(stage.layer), stage.stage, stage.tensor, drift, f"{stage.allowed:g}", drifts)
    return table
