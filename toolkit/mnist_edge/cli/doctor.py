"""`mnist-edge doctor`: what this machine has, and the commands that install what it lacks."""

from __future__ import annotations

from mnist_edge.cli.options import DataDir, Json


def doctor(*, data_dir: DataDir = None, json: Json = False) -> None:
    """Show CPU features, installed extras, providers, GPU and data, and the command for each thing that is missing."""
    from mnist_edge.diagnosis import diagnose
    from mnist_edge.reporting.console import emit
    from mnist_edge.reporting.tables.doctor import doctor_table

    emit(diagnose(data_dir), json, doctor_table)
