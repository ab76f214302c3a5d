"""Reports as tables for a person."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records import (
    BenchReport,
    BenchRow,
    CompareReport,
    DoctorReport,
    EpochRecord,
    EvalReport,
    ExportReport,
    LayerReport,
    ParityReport,
    RunReport,
    SelfCheckReport,
    SweepReport,
    SweepTrial,
    TrainReport,
    VariantParity,
)

LISTED = 8
"""Images of one kind that a table lists; the JSON has them all."""


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


def trial_line(trial: SweepTrial, done: int, trials: int) -> str:
    """One line a trial, for standard error while a sweep is under way."""
    widths = ",".join(map(str, trial.widths))
    found = trial.failure or f"held-out accuracy {percent(trial.holdout_accuracy)}"
    return (
        f"trial {done:>3} of {trials}  lr {trial.lr:g}  batch {trial.batch_size}  widths {widths}  "
        f"{found}  {trial.seconds:.1f} s"
    )


def sweep_table(report: SweepReport) -> RenderableType:
    """Settings, best first, and the command that trains the best."""
    table = Table(box=box.SIMPLE, title=f"{report.dataset}, recipe {report.recipe}, {report.epochs} epochs a training")
    for heading in ("rank", "lr", "batch", "widths", "held-out", "over seeds", "seconds"):
        table.add_column(heading, justify="left" if heading == "widths" else "right", overflow="fold")
    for trial in report.trials:
        table.add_row(
            str(trial.rank),
            f"{trial.lr:g}",
            str(trial.batch_size),
            ",".join(map(str, trial.widths)),
            "FAILED" if trial.failure else percent(trial.holdout_accuracy),
            f"{100 * min(trial.accuracies):.2f}..{percent(max(trial.accuracies))}" if trial.accuracies else "-",
            f"{trial.seconds:.1f}",
        )
    judged = f"judged on {report.holdout_images:,} images held out of the training set (one is {1 / report.holdout_images:.2%})"
    lines = [f"rank {trial.rank} failed: {trial.failure}" for trial in report.trials if trial.failure]
    lines += [f"{judged}, mean over seeds {', '.join(map(str, report.seeds))}; no test image was used"]
    if report.running:
        lines.append(f"{report.running} trial(s) are still in the hands of other workers; the same command shows all")
    if report.command:
        lines.append(f"the best: {report.command}")
    return Group(table, *lines)


def eval_table(report: EvalReport) -> RenderableType:
    """Accuracy, per-class figures and the confusion matrix."""
    facts = _facts(
        "eval",
        {
            "model": str(report.model),
            "dataset": f"{report.dataset}, {report.images:,} test images",
            "accuracy": percent(report.accuracy),
            "negative log-likelihood": f"{report.negative_log_likelihood:.4f}",
            "calibration error": percent(report.calibration_error),
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
    """One line a variant; reasons of failures, accuracy, margins and layers below."""
    where = f"{report.provider}, optimization {report.optimization}, {report.threads} thread(s)"
    table = Table(box=box.SIMPLE, title=f"held against {report.reference} on {where}")
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
        f"  image {image.image}: margin {image.margin:.2g}, the reference says {image.reference}, it says {image.decided}"
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


def bench_table(report: BenchReport) -> RenderableType:
    """One line a candidate; what all have in common above, the scenario's own figures, surroundings and notes below."""
    rows = report.results
    provider = rows[0].provider
    alike = {name: len({getattr(row, name) for row in rows}) == 1 for name in ("variant", "threads")}
    common = [f"{report.model} on {provider}", rows[0].scenario.described]
    common += [rows[0].variant] if alike["variant"] else []
    common += [f"{rows[0].threads} thread(s)"] if alike["threads"] else []
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("what", min_width=11)
    for heading in ("batch", *(() if alike["threads"] else ("threads",)), "p50"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", min_width=9)
    for heading in ("p99", "images/s", "cold\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of torch", justify="right", min_width=12)
    for row in rows:
        table.add_row(
            _what(row, provider, alike["variant"]),
            str(row.batch),
            *(() if alike["threads"] else (str(row.threads),)),
            _micro(row.p50_us),
            _interval(row, "p50_us"),
            _micro(row.p99_us),
            f"{row.throughput_per_s:,.0f}",
            f"{row.cold_start_ms:,.0f}",
            "-" if row.ratio_to_torch is None else f"x{row.ratio_to_torch:.2f} {_interval(row, 'ratio_to_torch')}",
        )
    env = report.environment
    where = f"{env['cpu']}, {env['cores']} cores, load {env['load_1min']}; " + ", ".join(
        f"{name} {version}" for name, version in env["versions"].items()
    )
    lines = [line for row in rows for line in _scenario_lines(row)]
    outliers = sum(row.outliers for row in rows)
    lines.append(f"{outliers:,} of {sum(row.samples for row in rows):,} runs are far outliers; all are counted")
    if report.gpu_from_batch is not None:
        lines.append(f"the GPU beats the CPU from batch {report.gpu_from_batch}")
    heading = f"{', '.join(common)}: microseconds a request, [95 % interval]"
    return Group(heading, table, *([_profile_table(report)] if report.profile else []), *lines, where, *report.notes)


def _what(row: BenchRow, provider: str, alike: bool) -> str:
    """What a row is of, but for what the line above the table says."""
    extras = [f"on {row.provider}"] if row.provider != provider else []
    extras += ["CUDA graph"] if row.cuda_graph else []
    extras += [row.scenario.described] if row.scenario.name != "single-stream" else []
    return ", ".join([row.engine if alike else f"{row.engine} {row.variant}", *extras])


def _interval(row: BenchRow, name: str) -> str:
    if name not in row.intervals or (name == "ratio_to_torch" and row.engine == "torch"):
        return ""
    low, high = row.intervals[name]
    return f"[{low:.2f}, {high:.2f}]" if name == "ratio_to_torch" else f"[{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _scenario_lines(row: BenchRow) -> list[str]:
    lines = []
    if row.server is not None:
        s = row.server
        lines.append(
            f"batch {row.batch}, {row.threads} thread(s): {s.achieved_per_s:,.1f} requests a second of {s.asked_per_s:,.1f} "
            f"asked, busy {s.utilization:.0%}; service p50 {_micro(s.service_p50_us)} us, "
            f"wait p50 {_micro(s.wait_p50_us)}, p99 {_micro(s.wait_p99_us)} us"
        )
    if row.p999_us is not None:
        told = f"{row.engine} {row.variant}, batch {row.batch}, {row.threads} thread(s)"
        lines.append(f"{told}: p99.9 {_micro(row.p999_us)} {_interval(row, 'p999_us')} us")
    if row.transfers is not None:
        t = row.transfers
        lines.append(
            f"batch {row.batch}{', CUDA graph' if row.cuda_graph else ''}: host to device {_micro(t.host_to_device_us)}, "
            f"compute {_micro(t.compute_us)}, device to host {_micro(t.device_to_host_us)}, "
            f"whole {_micro(t.whole_us)} us ({t.explained:.0%} explained)"
        )
    return lines


def _profile_table(report: BenchReport) -> Table:
    table = Table(box=box.SIMPLE, title="time by operator, from onnxruntime's profile (which itself costs time)")
    for heading in ("operator", "provider", "us a run", "share"):
        table.add_column(heading, justify="right" if heading in {"us a run", "share"} else "left")
    for line in report.profile:
        table.add_row(line.operator, line.provider, _micro(line.us_per_run), f"{line.share:.1%}")
    return table


def compare_table(report: CompareReport) -> RenderableType:
    """One line a row that both results have; what cannot be ruled out, lost and added rows and the verdict below."""
    table = Table(box=box.SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("what", min_width=12, max_width=24)
    for heading in ("p50\nbefore", "\nafter", "effect"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("99 % interval", justify="right", min_width=9)
    table.add_column("verdict", min_width=9)
    table.add_column("p99", justify="right", min_width=7)
    for row in report.rows:
        verdict = f"{row.effect.verdict}{', BEYOND THE TOLERANCE' if row.beyond_tolerance else ''}"
        differs = f" (differs: {'; '.join(row.differences)})" if row.differences else ""
        table.add_row(
            row.what,
            _micro(row.baseline_p50_us),
            _micro(row.candidate_p50_us),
            f"{row.effect.ratio - 1:+.1%}",
            f"{row.effect.low - 1:+.1%} to {row.effect.high - 1:+.1%}",
            verdict + differs,
            " to ".join(_micro(p99) for p99 in (row.baseline_p99_us, row.candidate_p99_us)),
        )
    lines = [
        f"{row.what}: cannot rule out a slowdown of up to {row.not_ruled_out:.1%}; more --rounds narrows it"
        for row in report.rows
        if row.not_ruled_out is not None and not row.beyond_tolerance
    ]
    lines += [f"LOST, only in {report.baseline}: {what}" for what in report.lost]
    lines += [f"only in {report.candidate}: {what}" for what in report.added]
    return Group(
        f"{report.candidate} against {report.baseline}, microseconds a request; only p50 is judged, p99 is not",
        table,
        *lines,
        _compare_verdict(report),
    )


def _compare_verdict(report: CompareReport) -> str:
    slower = sum(row.beyond_tolerance for row in report.rows)
    undecided = sum(row.effect.verdict == "undecided" for row in report.rows)
    verdict = "passed (exit 0)" if report.passed else "FAILED (exit 1)"
    return (
        f"{verdict}: {slower} of {len(report.rows)} rows shown to be over {100 * report.tolerance:g} % slower, "
        f"{len(report.lost)} lost; {undecided} undecided, which fails nothing"
    )


def self_check_table(report: SelfCheckReport) -> RenderableType:
    """How often noise was called news."""
    widths = sorted(effect.high / effect.low - 1 for effect in report.effects)
    return _facts(
        "bench --self-check",
        {
            "model": report.model,
            "comparisons": f"{report.comparisons} of the same thing, {report.rounds} processes a side",
            "false alarms": f"{report.false_alarms} (rate at most {report.upper95:.1%} with 95 % confidence)",
            "interval": f"{widths[len(widths) // 2]:.1%} wide in the median",
            "verdict": "passed" if report.passed else "FAILED: the machine is too noisy to compare timings on",
        },
    )


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
            "accuracy": f"{percent(report.train.test_accuracy)} (PyTorch), {percent(parity.accuracy.variant if parity.accuracy else None)} (onnxruntime)",
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
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
