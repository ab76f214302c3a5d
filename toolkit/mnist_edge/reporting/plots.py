"""Pictures for people who would rather look than read. matplotlib is imported only when one is drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_edge.files import write_atomic
from mnist_edge.pixels import Images, Logits
from mnist_edge.records import BenchReport, EvalReport, SweepReport, VariantParity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, RED, GREEN = "#2563a8", "#d9822b", "#9aa5b1", "#c0392b", "#2e8b57"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, "black")
SHEET = 12


def loss_curve(run: Path, title: str) -> Path:
    """Draw `loss.png` of a run folder from its `loss.csv` and `history.csv`."""
    steps, losses = _columns(run / "loss.csv", "step", "loss")
    epochs, held = _columns(run / "history.csv", "epoch", "holdout_accuracy")
    figure = _figure(8, 4.2)
    axes = figure.subplots()
    axes.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8, label="loss of every 30th batch")
    window = max(1, len(losses) // 15)
    if len(losses) >= window > 1:
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(
            steps[window // 2 :][: len(smooth)], smooth, color=BLUE, linewidth=1.8, label=f"mean of {window} of them"
        )
    axes.set_yscale("log")
    for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_formatter(lambda value, _position: f"{value:.2g}")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.set_title(title, loc="left")
    axes.grid(visible=True, which="major", alpha=0.25)
    seen = ~np.isnan(held)
    if seen.any() and len(steps) > 1:
        per_epoch = (steps[-1] + 30) / epochs[-1]
        right = axes.twinx()
        right.plot(
            epochs[seen] * per_epoch,
            100 * held[seen],
            color=ORANGE,
            marker="o",
            markersize=3,
            label="held-out accuracy",
        )
        right.set_ylabel("held-out accuracy, %", color=ORANGE)
        right.annotate(
            f"{100 * held[seen][-1]:.2f} %", (epochs[seen][-1] * per_epoch, 100 * held[seen][-1]),
            xytext=(0, -16), textcoords="offset points", ha="right", color=ORANGE,
        )  # fmt: skip
    axes.legend(loc="center right", frameon=False)
    return _save(figure, run / "loss.png")


def sweep_plot(report: SweepReport, path: Path) -> Path:
    """Draw held-out accuracy over the learning rate: a point a trial, its colour the widths, its shape the batch size."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    colours = dict(zip(dict.fromkeys(trial.widths for trial in report.trials), cycle(COLOURS), strict=False))
    batches = sorted({trial.batch_size for trial in report.trials})
    shapes = dict(zip(batches, cycle("osD^vP"), strict=False))
    figure = _figure(8, 4.6)
    axes = figure.subplots()
    judged = [trial for trial in report.trials if trial.holdout_accuracy is not None]
    for trial in judged:
        mean, *spread = (100 * value for value in (trial.holdout_accuracy or 0, *trial.accuracies))
        colour = colours[trial.widths]
        axes.plot([trial.lr, trial.lr], [min(spread), max(spread)], color=colour, linewidth=1, alpha=0.5)
        axes.plot(trial.lr, mean, shapes[trial.batch_size], color=colour, markersize=6, alpha=0.85)
    for trial in report.trials:
        if trial.failure:  # it has no accuracy: on the lower edge
            axes.plot(trial.lr, 0.02, "x", color=RED, transform=axes.get_xaxis_transform())
    keys = [
        Line2D([], [], color=colour, label="widths " + ",".join(map(str, widths))) for widths, colour in colours.items()
    ]
    keys += [
        Line2D([], [], color=GREY, marker=shape, linestyle="", label=f"batch {batch}")
        for batch, shape in shapes.items()
    ]
    keys += [Line2D([], [], color=RED, marker="x", linestyle="", label="failed")] * (len(judged) < len(report.trials))
    axes.set_xscale("log")
    rates = [trial.lr for trial in report.trials]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(rates) > 5 * min(rates) else range(1, 10)))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"accuracy on {report.holdout_images:,} held-out images, %")
    axes.set_title(f"{report.dataset}, recipe {report.recipe}: mean and range over seeds", loc="left")
    axes.grid(visible=True, alpha=0.25)
    figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8)
    return _save(figure, path)


def evaluation(report: EvalReport, path: Path) -> Path:
    """Draw the confusion matrix, and beside it how far confidence can be trusted."""
    figure = _figure(11.2, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _confusion_matrix(report, left)
    _reliability(report, right)
    return _save(figure, path)


def _reliability(report: EvalReport, axes: Axes) -> None:
    """Accuracy over confidence; the area of a dot is its share of the images."""
    shares = np.array([row.images / report.images for row in report.reliability])
    confidence = [row.confidence for row in report.reliability]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as sure as right")
    axes.plot(confidence, [row.accuracy for row in report.reliability], color=BLUE, linewidth=1)
    axes.scatter(confidence, [row.accuracy for row in report.reliability], s=12 + 400 * shares, color=BLUE)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    axes.set_title(f"calibration error {report.calibration_error:.2%}", loc="left")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(loc="upper left", frameon=False)


def _confusion_matrix(report: EvalReport, axes: Axes) -> None:
    """The diagonal is told as recall, so that errors can be seen."""
    counts = np.array(report.confusion)
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=max(1, errors.max()))
    labels = [row.label for row in report.per_class]
    axes.set_xticks(range(len(labels)), labels, rotation=0 if max(map(len, labels)) < 3 else 60)
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            recall = report.per_class[row].recall
            axes.text(
                column,
                row,
                "-" if recall is None else f"{recall:.1%}",
                ha="center",
                va="center",
                color=GREY,
                fontsize=8,
            )
        elif count:
            dark = count > errors.max() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black")
    axes.set_xlabel("decision")
    axes.set_ylabel("label")
    axes.set_title(f"{report.dataset}: {report.accuracy:.2%} of {report.images:,} right", loc="left")


def margin_sheet(variants: Sequence[VariantParity], images: Images, logits: Logits, path: Path) -> Path:
    """Draw the images nearest to a change of decision, one row of pictures a variant.

    Args:
        variants: whose certificates are shown.
        images: uint8 (N, 28, 28), those the decisions were counted on.
        logits: float32 (N, 10), the reference's.
        path: of the picture.
    """
    top = np.sort(logits, axis=1)
    gaps = top[:, -1] - top[:, -2]
    nearest = np.argsort(gaps)[:SHEET]
    figure = _figure(1.1 * len(nearest), 1.75 * len(variants))
    grid = figure.subplots(len(variants), len(nearest), squeeze=False)
    for row, variant in zip(grid, variants, strict=True):
        open_cases = {} if variant.margins is None else {case.image: case for case in variant.margins.uncertified}
        for axes, image in zip(row, nearest, strict=True):
            reference = int(logits[image].argmax())
            case = open_cases.get(int(image))
            decided = reference if case is None else case.decided
            colour = GREY if case is None else (ORANGE if decided == reference else RED)
            axes.imshow(images[image], cmap="gray_r", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_color(colour)
                side.set_linewidth(1 if case is None else 3)
            said = f"{reference}" if decided == reference else f"{reference} → {decided}"
            axes.set_title(
                f"#{image}: {said}\n{gaps[image]:.2g}", fontsize=8, color="black" if case is None else colour
            )
        error = "none: it cannot be run" if variant.margins is None else f"{variant.margins.error:.2g}"
        row[0].set_ylabel(f"{variant.name}\nerror {error}", fontsize=8)
    figure.suptitle(
        "smallest margins; orange: the error seen could change the decision; red: it did", fontsize=9, x=0.01, ha="left"
    )
    return _save(figure, path)


def latencies(report: BenchReport, path: Path) -> Path:
    """Draw the share of requests answered within a time, a line a candidate, percentiles marked."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = _figure(8, 4.6)
    axes = figure.subplots()
    for row, colour in zip(report.results, cycle(COLOURS)):
        times = np.sort(np.concatenate([np.asarray(group) for group in row.run_us]))
        shares = np.arange(1, len(times) + 1) / len(times)
        label = f"{row.engine} {row.variant}, batch {row.batch}, {row.threads} thread(s), {row.scenario.described}"
        axes.step(times, shares, where="post", color=colour, linewidth=1.6, label=label)
        for share, value in ((0.5, row.p50_us), (0.9, row.p90_us), (0.99, row.p99_us)):
            if value is not None:
                axes.plot(value, share, "o", color=colour, markersize=4)
                axes.annotate(
                    f"p{100 * share:g} {value:,.4g}", (value, share), xytext=(5, -9), textcoords="offset points",
                    fontsize=7, color=colour,
                )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,.4g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("microseconds a request")
    axes.set_ylabel("share of requests answered")
    axes.set_ylim(0, 1.02)
    axes.set_title(f"{report.model}: {report.results[0].scenario.name}", loc="left")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    return figure


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    kind = path.suffix.lstrip(".") or "png"
    figure.savefig(buffer, format=kind, dpi=130, metadata={"Software": None} if kind == "png" else None)
    write_atomic(path, buffer.getvalue())
    return path


def _columns(path: Path, *names: str) -> list[np.ndarray]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in names]
