"""Reports as tables for a person."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records import (
    BenchReport,
    DoctorReport,
    EpochRecord,
    EvalReport,
    ExportReport,
    ParityReport,
    RunReport,
    TrainReport,
)


def percent(share: float | None) -> str:
    """A fraction of 1 as a percentage; a dash for None."""
    return "-" if share is None else f"{share:.2%}"


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """One line an epoch, for standard error while training."""
    held = "" if record.holdout_accuracy is None else f"  held-out accuracy {percent(record.holdout_accuracy)}"
    return f"epoch {record.epoch:>3} of {epochs}  loss {record.loss:.4f}{held}  {record.seconds:.1f} s"


def train_table(report: TrainReport) -> RenderableType:
    """What training came to."""
    return _facts(
        "train",
        {
            "dataset": report.dataset,
            "recipe": f"{report.recipe}, {report.epochs} epochs on {report.device}",
            "test accuracy": percent(report.test_accuracy),
            "time": f"{report.seconds:.1f} s ({report.seconds_per_epoch:.2f} s an epoch)",
            "checkpoint": str(report.checkpoint),
        },
    )


def eval_table(report: EvalReport) -> RenderableType:
    """Accuracy, per-class figures and the confusion matrix."""
    facts = _facts(
        "eval",
        {
            "model": str(report.model),
            "dataset": f"{report.dataset}, {report.images:,} test images",
            "accuracy": percent(report.accuracy),
        },
    )
    table = Table(box=box.SIMPLE, title="rows: the label; columns: the decision")
    for heading in ("class", "images", "recall", "precision", *(row.label for row in report.per_class)):
        table.add_column(heading, justify="right")
    for row, counts in zip(report.per_class, report.confusion, strict=True):
        cells = [str(count) if count else "." for count in counts]
        table.add_row(row.label, str(row.images), percent(row.recall), percent(row.precision), *cells)
    return Group(facts, table)


def export_table(report: ExportReport) -> RenderableType:
    """What was published."""
    files = {f"{v.name}": f"{v.file}, {v.bytes / 1e6:.2f} MB, sha256 {v.sha256[:16]}" for v in report.variants}
    facts = _facts("export", {"bundle": str(report.bundle), "accuracy": percent(report.accuracy), **files})
    return Group(facts, parity_table(report.parity))


def parity_table(report: ParityReport) -> RenderableType:
    """One line a variant, the reasons of failures and the ties below."""
    table = Table(box=box.SIMPLE, title=f"held against {report.reference} on {report.provider}")
    for heading in ("variant", "images", "flips", "flip rate <= (95 %)", "max error", "accuracy", "ties", "verdict"):
        table.add_column(heading, justify="left" if heading in {"variant", "verdict"} else "right")
    for v in report.variants:
        table.add_row(
            v.name,
            f"{v.images:,}",
            str(v.flips),
            f"{v.flip_rate_upper95:.3%}",
            "-" if v.max_abs_error is None else f"{v.max_abs_error:.2g}",
            percent(v.accuracy),
            str(len(v.ties)),
            "passed" if v.passed else "FAILED",
        )
    lines = [f"{v.name}: {v.reason}" for v in report.variants if v.reason]
    lines += [
        f"{v.name}: image {tie.image} is a tie: PyTorch says {tie.reference}, it says {tie.decided}, margin {tie.margin:.2g}"
        for v in report.variants
        for tie in v.ties
    ]
    if not report.test_set:
        lines.append(f"only the golden inputs were compared: the {report.dataset} test set is not at hand")
    return Group(table, *lines)


def bench_table(report: BenchReport) -> RenderableType:
    """One line a candidate, the surroundings and notes below."""
    provider = report.results[0].provider
    table = Table(box=box.SIMPLE, title=f"{report.model} on {provider}: microseconds a run, single-stream")
    names = ("engine", "variant")
    figures = ("batch", "threads", "samples", "p50", "p90", "p99", "images/s", "cold ms", "MB", "of torch")
    for heading in (*names, *figures):
        table.add_column(heading, justify="left" if heading in names else "right", no_wrap=heading not in names)
    for row in report.results:
        table.add_row(
            row.engine,
            row.variant,
            str(row.batch),
            str(row.threads),
            f"{row.samples:,}",
            *(_micro(value) for value in (row.p50_us, row.p90_us, row.p99_us)),
            f"{row.throughput_per_s:,.0f}",
            f"{row.cold_start_ms:.1f}",
            f"{row.peak_rss_mb:.0f}",
            "-" if row.ratio_to_torch is None else f"x{row.ratio_to_torch:.2f}",
        )
    env = report.environment
    where = f"{env['cpu']}, {env['cores']} cores, load {env['load_1min']}; " + ", ".join(
        f"{name} {version}" for name, version in env["versions"].items()
    )
    return Group(table, where, *report.notes)


def doctor_table(report: DoctorReport) -> RenderableType:
    """What was found, and for each thing missing the command that mends it."""
    table = Table(box=box.SIMPLE)
    for heading in ("", "what", "found", "to mend it"):
        table.add_column(heading, overflow="fold")
    for finding in report.findings:
        table.add_row("ok" if finding.ok else "--", finding.subject, finding.found, finding.mend)
    return table


def run_table(report: RunReport) -> RenderableType:
    """The whole main job on one screen."""
    (variant,) = report.export.variants[:1]
    (parity,) = report.verify.variants[:1]
    ours = next(row for row in report.bench.results if row.engine == "onnxruntime")
    latency = f"p50 {_micro(ours.p50_us)} us at batch {ours.batch}, {ours.threads} thread"
    if ours.ratio_to_torch is not None:
        latency += f"; {1 / ours.ratio_to_torch:.2f} times as fast as PyTorch eager"
    error = "-" if parity.max_abs_error is None else f"{parity.max_abs_error:.1e}"
    return _facts(
        "mnist-edge run",
        {
            "dataset": report.train.dataset,
            "accuracy": f"{percent(report.train.test_accuracy)} (PyTorch), {percent(parity.accuracy)} (onnxruntime)",
            "training": f"recipe {report.train.recipe}, {report.train.epochs} epochs in {report.train.seconds:.1f} s",
            "parity": f"{parity.flips} flips on {parity.images:,} images (rate at most {parity.flip_rate_upper95:.3%} "
            f"with 95 % confidence), largest logit error {error}",
            "size": f"{variant.bytes / 1e6:.2f} MB",
            "latency": latency,
            "checkpoint": str(report.train.checkpoint),
            "loss curve": str(report.train.run / "loss.png"),
            "bundle": str(report.export.bundle),
        },
    )


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _micro(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
