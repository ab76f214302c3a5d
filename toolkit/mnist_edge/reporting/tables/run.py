"""What `run` prints."""

from __future__ import annotations

from rich.console import RenderableType

from mnist_edge.records.run import RunReport
from mnist_edge.reporting.tables.bench import headline
from mnist_edge.reporting.tables.format import facts_table, percent


def run_table(report: RunReport) -> RenderableType:
    """The whole main job on one screen."""
    (variant,) = report.export.variants[:1]
    (parity,) = report.verify.variants[:1]
    ours = next(row for row in report.bench.results if row.engine == "onnxruntime")
    facts = {"latency": headline(ours)}
    if report.bench.notes:
        facts["note"] = "; ".join(report.bench.notes)
    error = "-" if parity.max_abs_error is None else f"{parity.max_abs_error:.1e}"
    return facts_table(
        "mnist-edge run",
        {
            "dataset": report.train.dataset,
            "accuracy": f"{percent(report.train.test_accuracy)} (PyTorch), {percent(parity.accuracy.variant if parity.accuracy else None)} (onnxruntime)",
            "training": f"recipe {report.train.recipe}, {report.train.epochs} epochs in {report.train.seconds:.1f} s",
            "parity": f"{parity.flips} flips on {parity.images:,} images (rate at most {parity.flip_rate_upper95:.3%} "
            f"with 95 % confidence), largest logit error {error}",
            "size": f"{variant.bytes / 1e6:.2f} MB",
            **facts,
            "checkpoint": str(report.train.checkpoint),
            "loss curve": str(report.train.run / "loss.png"),
            "bundle": str(report.export.bundle),
        },
    )
