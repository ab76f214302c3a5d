"""`mnist-edge verify`: hold a bundle against PyTorch's answers, on a machine that needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import DataDir, Json, newest_with
from mnist_edge.contract import ProviderName
from mnist_edge.errors import SurroundingsError

if TYPE_CHECKING:
    from mnist_edge.bundle import Bundle
    from mnist_edge.records import Dataset, ParityReport


def verify(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the newest in exported/.")] = None,
    *,
    provider: Annotated[ProviderName, typer.Option(help="The one that will be deployed; no other is used.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime.")] = 1,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this run folder, checkpoint or .pth, live in PyTorch.")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Check hashes, logits and every decision of a bundle. Exit 1 if anything differs, 3 if a byte was changed."""
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables import parity_table

    report = verify_stage(bundle or newest_bundle(), provider, threads, against, data_dir)
    emit(report, json, parity_table)
    if not report.passed:
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in report.variants if v.reason)
        say(f"mnist-edge: {report.bundle} does not decide as PyTorch does: {reasons}")
        raise typer.Exit(1)


def verify_stage(
    folder: Path, provider: ProviderName, threads: int, against: Path | None, data_dir: Path | None
) -> ParityReport:
    """Verify on the golden inputs, and on the test set where it is at hand."""
    from mnist_edge.bundle import load_bundle
    from mnist_edge.runtime.session import require_provider
    from mnist_edge.verification.verify import golden_reference, reference_on_test_set, verify_bundle

    require_provider(provider)
    bundle = load_bundle(folder)
    dataset = _test_set(bundle, data_dir)
    if against is None:
        golden = golden_reference(bundle)
        test_set = None if dataset is None else reference_on_test_set(bundle, dataset)
        said = "PyTorch's answers in golden.npz"
    else:
        from mnist_edge.training.checkpoint import read_model
        from mnist_edge.training.model import reference_logits

        model, _ = read_model(against)
        golden = golden_reference(bundle, reference_logits(model, bundle.golden.images))
        live = None if dataset is None else reference_logits(model, dataset.test_images)
        test_set = None if dataset is None else reference_on_test_set(bundle, dataset, live)
        said = f"PyTorch, live, {against}"
    return verify_bundle(bundle, provider, golden, test_set, said, threads)


def _test_set(bundle: Bundle, data_dir: Path | None) -> Dataset | None:
    """The bundle's dataset where it is at hand; a device need not have it, and nothing is downloaded."""
    from mnist_edge.data.sources import load_dataset
    from mnist_edge.reporting.console import say

    try:
        return load_dataset(bundle.manifest.dataset, data_dir, may_download=False)
    except SurroundingsError as error:
        if data_dir is not None:
            raise
        say(f"only the golden inputs are compared: {error.message}")
        return None


def newest_bundle() -> Path:
    """Return the bundle in `exported/` whose manifest was written last; errors as `newest_with`."""
    from mnist_edge.bundle import MANIFEST
    from mnist_edge.cli.export import EXPORTED

    return newest_with(MANIFEST, EXPORTED, "mnist-edge export, or name a bundle folder")
