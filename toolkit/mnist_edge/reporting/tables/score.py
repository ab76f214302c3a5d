"""What `score` prints: what was written, and how fast."""

from __future__ import annotations

from rich.console import Group, RenderableType

from mnist_edge.records.scoring import ScoreReport


def score_table(report: ScoreReport) -> RenderableType:
    """Return the result as a few lines."""
    plan = report.plan
    lines = [f"wrote {report.output}: {plan.images:,} images, scored by {plan.variant} of {report.model}"]
    if report.accuracy is not None:
        lines.append(f"accuracy {report.accuracy:.2%}")
    if plan.kind == "photos":
        accepted = plan.images - report.unreadable - report.refused
        lines.append(f"{accepted:,} accepted, {report.refused:,} refused, {report.unreadable:,} no image")
    if report.resumed:
        lines.append(f"{report.resumed:,} were scored by an earlier run")
    if report.images_per_second is not None:
        where = "here" if report.address is None else f"on {report.address}"
        lines.append(
            f"{report.images_per_second:,.0f} images a second by {report.workers} workers {where}, "
            f"in {report.seconds:.1f} s"
        )
    return Group(*lines)
