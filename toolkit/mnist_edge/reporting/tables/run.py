"""What `run` prints."""

from __future__ import annotations

from rich.console import Group, RenderableType

from mnist_edge.records.run import RunReport
from mnist_edge.reporting.tables.bench import headline
from mnist_edge.reporting.tables.format import facts_table, percent


def run_table(report: RunReport) -> RenderableType:
    """Return the result of every stage, then the latency and notes on it."""
    (variant,) = report.export.variants[:1]
    (parity,) = report.verify.variants[:1]
    onnxruntime = next(row for row in report.bench.results if row.engine == "onnxruntime")
    error = "-" if parity.max_abs_error is None else f"{parity.max_abs_error:.1e}"
    exported = percent(parity.accuracy.variant if parity.accuracy else None)
    facts = {
        "dataset": report.train.dataset,
        "accuracy": f"{percent(report.train.test_accuracy)} (PyTorch), {exported} (onnxruntime)",
        "training": f"recipe {report.train.recipe}, {report.train.epochs} epochs in {report.train.seconds:.1f} s",
        "flips": f"{parity.flips} of {parity.images:,} images; rate at most {parity.flip_rate_upper95:.3%} (95 % confidence)",
        "logit error": f"at most {error}",
        "size": f"{variant.bytes / 1e6:.2f} MB",
        "checkpoint": str(report.train.checkpoint),
        "loss curve": str(report.train.run / "loss.png"),
        "bundle": str(report.export.bundle),
    }
    return Group(facts_table("mnist-edge run", facts), headline(onnxruntime), *report.bench.notes)
