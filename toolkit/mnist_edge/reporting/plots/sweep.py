"""sweep.png: held-out accuracy over the learning rate."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

from mnist_edge.records.sweep import SweepReport
from mnist_edge.reporting.plots.figure import COLOURS, GREY, RED, new_figure, save_figure


def sweep_plot(report: SweepReport, path: Path) -> Path:
    """Draw held-out accuracy over the learning rate.

    A point is a trial: its colour stands for the widths, its shape for the batch size, the line for the range over seeds.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    colours = dict(zip(dict.fromkeys(trial.widths for trial in report.trials), cycle(COLOURS), strict=False))
    batches = sorted({trial.batch_size for trial in report.trials})
    shapes = dict(zip(batches, cycle("osD^vP"), strict=False))
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    evaluated = [trial for trial in report.trials if trial.holdout_accuracy is not None]
    for trial in evaluated:
        mean, *spread = (100 * value for value in (trial.holdout_accuracy or 0, *trial.accuracies))
        colour = colours[trial.widths]
        axes.plot([trial.lr, trial.lr], [min(spread), max(spread)], color=colour, linewidth=1, alpha=0.5)
        axes.plot(trial.lr, mean, shapes[trial.batch_size], color=colour, markersize=6, alpha=0.85)
    for trial in report.trials:
        if trial.failure:  # without an accuracy: on the lower edge
            axes.plot(trial.lr, 0.02, "x", color=RED, transform=axes.get_xaxis_transform())
    axes.margins(y=0.1)
    keys = [
        Line2D([], [], color=colour, label="widths " + ",".join(map(str, widths))) for widths, colour in colours.items()
    ]
    keys += [
        Line2D([], [], color=GREY, marker=shape, linestyle="", label=f"batch {batch}")
        for batch, shape in shapes.items()
    ]
    keys += [Line2D([], [], color=RED, marker="x", linestyle="", label="failed")] * (
        len(evaluated) < len(report.trials)
    )
    rates = [trial.lr for trial in report.trials]
    low, high = min(rates), max(rates)
    axes.set_xscale("log")
    margin = max(1.1, (high / low) ** 0.05)  # on both sides, so that no point lies on the frame
    axes.set_xlim(low / margin, high * margin)
    subs = (1,) if high > 500 * low else (1, 2, 5) if high > 5 * low else range(1, 10)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"accuracy on {report.holdout_images:,} held-out images, %")
    axes.set_title(
        f"{report.dataset}, recipe {report.recipe}: mean and range over {len(report.seeds)} seeds", loc="left"
    )
    axes.grid(visible=True, alpha=0.25)
    figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8)
    return save_figure(figure, path)
