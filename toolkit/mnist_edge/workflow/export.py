"""Export a checkpoint to a published bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_edge.contract import OPSET, InputKind, Normalization
from mnist_edge.workflow.folders import EXPORTED, newest_run
from mnist_edge.workflow.suspicion import suspect_normalization

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
    normalization: Normalization | None = None,
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
        normalization: of the pixels that a state_dict was trained on; folded into the graph for `uint8`.
        notify: takes one plain line about what happens.

    Raises:
        CheckFailedError: the exported graph does not predict as PyTorch; the previous bundle stays.
        BadFileError, UnavailableError, UsageError: as the stages raise them.
    """
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
    from mnist_edge.training.state_dict import read_model

    source = run or newest_run()
    loaded = read_model(source, normalization)
    for note in loaded.notes:
        notify(note)
    data = load_dataset(dataset or loaded.dataset or "mnist", data_dir, notify)
    target = output or EXPORTED / data.name
    newest = "" if run else ", the newest run,"
    notify(f"exporting {source}{newest} to {target}")
    suspect_normalization(loaded, data, notify)
    request = ExportRequest(
        model=loaded.network,
        dataset=data,
        output=target,
        input=input_kind,
        opset=opset,
        normalization=loaded.normalization,
    )
    report = export_bundle(request, notify)
    for name, reason in report.dropped.items():
        notify(f"dropped the variant {name}: {reason}")
    return report
