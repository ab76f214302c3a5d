"""`mnist-edge report`: everything that was measured of a bundle, in one file to hand over."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, dataset_option, require_output
from mnist_edge.errors import UnavailableError
from mnist_edge.records.handover import ReportFormat

if TYPE_CHECKING:
    from mnist_edge.records.handover import ReportReport

PAGE = Path("report.html")
CARD = "README.md"


def report(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the newest in exported/.")] = None,
    *,
    output: Annotated[
        Path | None, typer.Option(help="File. Default: report.html; for markdown <bundle>.results/README.md.")
    ] = None,
    format: Annotated[  # noqa: A002 - the field's word
        ReportFormat, typer.Option(help="html: one page for a browser. markdown: a model card for Hugging Face.")
    ] = "html",
    dataset: Annotated[str | None, dataset_option("Only for a bundle of your own digits.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write what the results beside a bundle show: training, predictions, parity, latency, and the choice of tune.

    Nothing is measured. What no current result shows is named, with the command that measures it.
    """
    from mnist_edge.bundle.results import results_folder
    from mnist_edge.reporting.console import emit, say, status
    from mnist_edge.reporting.tables.report import report_table
    from mnist_edge.workflow.folders import newest_bundle

    chosen = bundle or newest_bundle(say)
    target = output or (PAGE if format == "html" else results_folder(chosen) / CARD)
    require_output(target, "--output")
    with status(f"writing {target}"):
        written = write_report(chosen, target, format, dataset=dataset, data_dir=data_dir)
    emit(written, json, report_table)
    if format == "html" and not json:
        say(how_to_open(target))


def write_report(
    bundle: Path,
    output: Path,
    format: ReportFormat,  # noqa: A002
    *,
    dataset: str | None,
    data_dir: Path | None,
) -> ReportReport:
    """Write the report of a bundle.

    Raises:
        UnavailableError: matplotlib is not installed; the bundle, a result or the output cannot be read or written.
        BadFileError: the bundle or a result is damaged.
    """
    from mnist_edge.extras import install_hint
    from mnist_edge.files import write_atomic
    from mnist_edge.reporting.console import say
    from mnist_edge.workflow.report import gather_report

    if format == "html" and find_spec("matplotlib") is None:
        raise UnavailableError("report needs matplotlib, which is not installed", hint=install_hint("plots"))
    from mnist_edge.reporting.page.summary import summarise

    content = gather_report(bundle, dataset=dataset, data_dir=data_dir, notify=say)
    if format == "html":
        from mnist_edge.reporting.page.html import write_html

        data = write_html(content)
    else:
        from mnist_edge.reporting.page.card import write_card

        data = write_card(content)
    write_atomic(output, data)
    return summarise(content, output, format, len(data))


def how_to_open(page: Path) -> str:
    """Return the command that opens a page in the browser of this system, in a phrase."""
    opener = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
    return f"open it: {shlex.join([opener, str(page)])}"
