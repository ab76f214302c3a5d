"""What `verify` prints: one summary line, one row for each variant, then reasons, accuracy, margins and layers."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.verification import ParityReport, VariantParity
from mnist_edge.reporting.tables.format import percent

LISTED = 8
"""Images with small margins that are listed; the JSON has up to `records.verification.LISTED`."""


def parity_table(report: ParityReport) -> RenderableType:
    """Return the result for a terminal of 80 columns or more."""
    where = "each variant with its settings" if report.settings is None else f"on {report.settings.described}"
    where = f"outputs in {report.outputs}" if report.outputs is not None else where
    if report.target is not None:
        where = f"generated for {report.target}, on {report.device}"
    lines = [summary_line(report), f"compared with {report.reference}, {where}"]
    if report.host is not None and report.environment is not None:
        lines.append(f"run on {report.host}: {report.environment.get('cpu')}")
    details = [line for v in report.variants for line in _details(v, report)]
    if not report.test_set:
        details.append(f"only the golden inputs were compared, not the test set of {report.dataset}")
    layers = [_layer_table(v) for v in report.variants if v.layers is not None and v.layers.tensors]
    return Group(*lines, _variant_table(report), *details, *layers)


def summary_line(report: ParityReport) -> str:
    """Return the verdict and what it is based on: `passed: 0 flips in 10,000 images (rate at most 0.030% ...)`."""
    verdict = "passed" if report.passed else "FAILED"
    if len(report.variants) == 1:
        return f"{verdict}: {_flips(report.variants[0])}"
    return f"{verdict}: " + "; ".join(f"{v.name}: {v.flips} flips in {v.images:,} images" for v in report.variants)


def _flips(v: VariantParity) -> str:
    if v.max_abs_error is None and v.requirement != "accuracy":
        return "the model could not be compared"
    line = f"{v.flips} flips in {v.images:,} images (rate at most {v.flip_rate_upper95:.3%} with 95 % confidence)"
    if v.max_abs_error is not None:
        line += f", largest logit error {v.max_abs_error:.1e}"
    return line


def _variant_table(report: ParityReport) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    for heading in ("variant", "verdict", "flips", "max error", "accuracy", "loss <=", "certified"):
        table.add_column(
            heading,
            justify="left" if heading in {"variant", "verdict"} else "right",
            no_wrap=True,
            overflow="ellipsis",
            max_width=19 if heading == "variant" else None,
        )
    for v in report.variants:
        table.add_row(
            v.name if v.name == v.precision else f"{v.name} ({v.precision})",
            "passed" if v.passed else "FAILED",
            str(v.flips),
            "-" if v.max_abs_error is None else f"{v.max_abs_error:.2g}",
            percent(None if v.accuracy is None else v.accuracy.variant),
            "-" if v.accuracy is None else f"{v.accuracy.drop_upper95:.3%}",
            percent(None if v.certificate is None else v.certificate.certified),
        )
    return table


def _details(v: VariantParity, report: ParityReport) -> list[str]:
    lines = [f"{v.name}: {v.reason}"] if v.reason else []
    if len(report.variants) > 1 and v.max_abs_error is not None:
        lines.append(f"{v.name}: {_flips(v)}")
    if report.settings is None and v.settings is not None:
        lines.append(f"{v.name}: on {v.settings.described}")
    if v.reference not in {"", report.reference}:
        lines.append(f"{v.name}: compared with {v.reference}")
    if v.requirement == "accuracy":
        lines.append(f"{v.name}: a model with weights of its own; only its accuracy counts")
    if v.outputs_sha256 is not None:
        lines.append(f"{v.name}: logits sha256 {v.outputs_sha256[:16]}...")
    if v.batches:
        lines.append(f"{v.name}: golden inputs run at batch {', '.join(map(str, v.batches))}")
    if v.ties:
        lines.append(f"{v.name}: {v.ties} predictions changed where the reference's margin is within the tolerance")
    if report.target is not None and v.certificate_reason:
        lines.append(f"{v.name}: {v.certificate_reason}")
    certificate = [] if report.target is not None else _certificate_lines(v)
    lines += [*_accuracy_lines(v), *certificate, *_margin_lines(v)]
    if v.layers is not None and v.layers.detail and v.passed:
        where = "" if v.layers.first is None else f"layer {v.layers.first} differs, "
        still = "" if v.layers.first is None else "; the logits agree nevertheless"
        lines.append(f"{v.name}: {where}{v.layers.detail}{still}")
    return lines


def _accuracy_lines(v: VariantParity) -> list[str]:
    a = v.accuracy
    if a is None:
        return []
    line = (
        f"{v.name}: accuracy {a.reference:.2%} to {a.variant:.2%} on {a.images:,} labelled images "
        f"({a.only_reference_right} lost, {a.only_variant_right} won; McNemar p = {a.mcnemar_p:.2g})"
        f"; it loses at most {a.drop_upper95:.3%} (95 % confidence)"
    )
    if v.requirement == "exact":
        return [line]
    return [f"{line}: {'not inferior' if a.non_inferior else 'NOT SHOWN to be as accurate'} at {a.max_drop:.2%}"]


def _certificate_lines(v: VariantParity) -> list[str]:
    found = v.certificate
    if found is None:
        return [f"{v.name}: no certificate: {v.certificate_reason}"] if v.certificate_reason else []
    certain = round(v.images * found.certified)
    own = "its own " if v.requirement == "accuracy" else ""
    line = (
        f"{v.name}: {certain:,} of {own}{v.images:,} predictions are certain on every machine that computes in "
        f"{found.arithmetic}, in any order of summation (no logit is off by more than {found.largest_bound:.2g})"
    )
    if not found.uncertified:
        return [line]
    shown = found.uncertified[:LISTED]
    listed = (
        f"; the first {len(shown)} others, more with --json:"
        if len(shown) < len(found.uncertified)
        else "; the others:"
    )
    cases = [f"  image {case.image}: margin {case.margin:.2g}, bound {case.bound:.2g}" for case in shown]
    return [line + listed, *cases]


def _margin_lines(v: VariantParity) -> list[str]:
    m = v.margins
    if m is None or not m.small:
        return []
    shown = m.small[:LISTED]
    listed = f"; the smallest {len(shown)}, more with --json:" if len(shown) < len(m.small) else ":"
    return [
        f"{v.name}: {round(v.images * (1 - m.unaffected)):,} images have a margin of at most twice the largest error {m.error:.2g}{listed}",
        *(
            f"  image {image.image}: margin {image.margin:.2g}, reference {image.reference}, predicted {image.predicted}"
            for image in shown
        ),
    ]


def _layer_table(v: VariantParity) -> Table:
    assert v.layers is not None
    title = f"{v.name}, layer by layer on {v.layers.images} images"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for heading in ("layer", "outputs", "drift", "allowed", "", "tensor"):
        right = heading in {"layer", "drift", "allowed"}
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=24 if heading == "tensor" else None,
        )
    for tensor in v.layers.tensors:
        # Layers may be rescaled against each other without changing the logits: that is a difference, and no failure.
        note = ("differs" if v.passed else "drifts") if tensor.drifts else ""
        drift = "none" if tensor.drift is None else f"{tensor.drift:.2g}"
        table.add_row(str(tensor.layer), tensor.kind, drift, f"{tensor.allowed:g}", note, tensor.tensor)
    return table
