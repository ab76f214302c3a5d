"""From a checkpoint to a published bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import OPSET, InputKind
from mnist_edge.workflow.folders import EXPORTED, newest_run

if TYPE_CHECKING:
    from mnist_edge.records.bundle import ExportReport


def export(
    *,
    run: Path | None = None,
    output: Path | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    input_kind: InputKind = "uint8",
    opset: int = OPSET,
    notify: Callable[[str], None] = lambda _line: None,
) -> ExportReport:
    """Export a trained network to ONNX, compare it with PyTorch, and publish it only if they agree.

    Args:
        run: run folder, checkpoint or .pth; None takes the newest run.
        output: bundle folder; None takes `exported/<dataset>`.
        dataset: a name or a folder; None takes the checkpoint's.
        data_dir: folder in which datasets are looked for first.
        input_kind: see `InputKind`.
        opset: ONNX operator set.
        notify: takes one plain line about what happens.

    Raises:
        CheckFailedError: the exported graph does not predict as PyTorch; the previous bundle stays.
        BadFileError, UnavailableError, UsageError: as the stages raise them.
    """
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
    from mnist_edge.training.checkpoint import read_model

    source = run or newest_run()
    model, trained_on = read_model(source)
    data = load_dataset(dataset or trained_on or "mnist", data_dir, notify)
    target = output or EXPORTED / data.name
    notify(f"exporting {source} to {target}")
    report = export_bundle(ExportRequest(model=model, dataset=data, output=target, input=input_kind, opset=opset))
    for name, reason in report.dropped.items():
        notify(f"dropped the variant {name}: {reason}")
    return report
