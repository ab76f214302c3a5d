"""What `inspect` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from mnist_edge.records.inspection import BundleInspectReport, InspectReport, Sides, TensorInfo
from mnist_edge.reporting.tables.format import facts_table

UNKNOWN = "unknown"


def inspect_table(report: InspectReport) -> RenderableType:
    """Return the facts of a model and a row for each layer; of a bundle, a row for each variant."""
    if isinstance(report, BundleInspectReport):
        return _variants_table(report)
    facts = {
        "inputs": ", ".join(map(_tensor, report.inputs)),
        "outputs": ", ".join(map(_tensor, report.outputs)),
        "opset": "-" if report.opset is None else str(report.opset),
        "parameters": _count(report.parameters),
        "multiplications": _count(report.multiplications),
        "operators": _operators(report.operators),
        **report.metadata,
    }
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("operator", overflow="fold")
    for heading in ("output", "parameters", "multiplications"):
        table.add_column(heading, justify="right")
    for layer in report.layers:
        figures = (_count(layer.parameters), _count(layer.multiplications))
        table.add_row(layer.name, layer.operator, _sides(layer.shape), *figures)
    shown = facts_table(str(report.model), facts)
    return Group(shown, table) if report.layers else shown


def _variants_table(report: BundleInspectReport) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title=str(report.model), title_justify="left")
    table.add_column("variant", no_wrap=True)
    for heading in ("layers", "parameters", "multiplications", "opset"):
        table.add_column(heading, justify="right")
    table.add_column("operators")
    for name, found in report.variants.items():
        opset = "-" if found.opset is None else str(found.opset)
        figures = (str(len(found.layers)), _count(found.parameters), _count(found.multiplications), opset)
        table.add_row(name, *figures, _operators(found.operators))
    return table


def _tensor(value: TensorInfo) -> str:
    return f"{value.name} {value.dtype} {_sides(value.shape)}"


def _sides(shape: Sides | None) -> str:
    if shape is None:
        return UNKNOWN
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _operators(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
