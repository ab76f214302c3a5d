"""Verify or time on another machine, over ssh: what is sent there, and its report as if it had been made here."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnist_edge.errors import BadFileError, UsageError

if TYPE_CHECKING:
    from mnist_edge.contract import ProviderName
    from mnist_edge.records.benchmark import BenchReport
    from mnist_edge.records.data import EvaluationSet
    from mnist_edge.records.verification import ParityReport
    from mnist_edge.verification.reference import ReferenceOutputs

Notify = Callable[[str], None]
MODEL, DATA = "model", "data"
"""Folders of what is sent, in the folder of a run there."""


def verify_on(
    on: str,
    folder: Path,
    options: Sequence[str] = (),
    *,
    provider: ProviderName | None = None,
    variants: Sequence[str] = (),
    dataset: str | None = None,
    data_dir: Path | None = None,
    notify: Notify = lambda _line: None,
) -> tuple[ParityReport, ReferenceOutputs]:
    """Verify a bundle on another machine; the test set is sent with it, where it is available here.

    Args:
        on: what ssh takes as a destination.
        folder: the bundle.
        options: further options of `mnist-edge verify`, as words of a command line.
        provider: execution provider there; None for those that the variants were tuned for.

    The other arguments, and what is returned, are those of `verify_folder`.
    """
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.records.verification import ParityReport
    from mnist_edge.remote.run import Job, run_there
    from mnist_edge.validation import validated
    from mnist_edge.workflow.verify import recorded_outputs

    if folder.is_file():
        raise UsageError(f"verify --on takes a bundle, {folder} is a file", hint="name a bundle folder")
    bundle = load_bundle(folder)
    chosen = bundle.select(variants)
    data, reference = recorded_outputs(bundle, dataset, data_dir, notify)
    providers = {provider} if provider else {variant.settings.provider for variant in chosen}
    words = ["verify", _sent_as(folder), "--json", *_provider_words(provider), *options]
    words += _variant_words(variants)
    files = _folder_files(folder)
    if data is not None:
        files |= _test_files(data)
        words += ["--dataset", f"./{_test_folder(data)}"] if data.name == "folder" else ["--data-dir", DATA]
    document = run_there(Job(on=on, words=tuple(words), files=files, extra=_extra(providers)), notify)
    if document.get("schema") != ParityReport.schema:
        raise BadFileError(f"{on} returned no report of verify, but {str(document)[:80]}")
    report = validated(ParityReport, document, Path(on), "run it again")
    return replace(report, model=str(folder), host=on), reference


def bench_on(
    on: str,
    model: Path,
    options: Sequence[str] = (),
    *,
    provider: ProviderName,
    variants: Sequence[str] = (),
    output: Path | None = None,
    notify: Notify = lambda _line: None,
) -> BenchReport:
    """Time a bundle or an ONNX file on another machine; arguments as `verify_on` and `workflow.bench.time_model`."""
    from mnist_edge.benchmarking.results import checked_result
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.files import require_regular_file, write_atomic
    from mnist_edge.remote.run import Job, run_there

    if model.is_dir():
        load_bundle(model).select(variants)
        files = _folder_files(model)
    else:
        require_regular_file(model, "an ONNX file")
        files = {_sent_as(model): model.read_bytes()}
    words = ("bench", _sent_as(model), "--json", *_provider_words(provider), *_variant_words(variants), *options)
    document = run_there(Job(on=on, words=words, files=files, extra=_extra({provider})), notify)
    report = replace(checked_result(document, Path(on)), model=str(model), host=on)
    if output is not None:
        write_atomic(output, (dumps(report.to_json(), indent=2, allow_nan=False) + "\n").encode())
    return report


def _sent_as(path: Path) -> str:
    """Return the path of a model there; its own name is kept, as results name an ONNX file by it."""
    return f"{MODEL}/{path.resolve().name or 'bundle'}"


def _folder_files(folder: Path) -> dict[str, bytes]:
    return {f"{_sent_as(folder)}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


def _test_files(data: EvaluationSet) -> dict[str, bytes]:
    """Return the two IDX files of a test set, compressed."""
    from mnist_edge.data.idx import idx_bytes
    from mnist_edge.data.layout import TEST_FILES

    values = zip(TEST_FILES, (data.test_images, data.test_labels), strict=True)
    return {f"{_test_folder(data)}/{name}.gz": gzip.compress(idx_bytes(array), 6, mtime=0) for name, array in values}


def _test_folder(data: EvaluationSet) -> str:
    from mnist_edge.data.sources import test_set_folder

    return f"{DATA}/{test_set_folder(data.name).as_posix()}"


def _provider_words(provider: ProviderName | None) -> tuple[str, ...]:
    return () if provider is None else ("--provider", provider)


def _variant_words(variants: Sequence[str]) -> list[str]:
    return [f"--variant={name}" for name in variants]


def _extra(providers: set[ProviderName]) -> Literal["cpu", "cuda"]:
    return "cuda" if "cuda" in providers else "cpu"
