"""`mnist-edge verify`: compare a bundle with PyTorch's recorded outputs, on a machine that needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_edge.cli.options import (
    DataDir,
    Json,
    NormalizeModel,
    Timeout,
    choices,
    dataset_option,
    refuse_given,
    require_plot,
)
from mnist_edge.cli.recording import Keep, recording, result_name
from mnist_edge.cli.remote import On, refuse_options, words_for
from mnist_edge.contract import ArithmeticName, Optimization, ProviderName, TargetName
from mnist_edge.errors import UsageError

if TYPE_CHECKING:
    from mnist_edge.records.verification import ParityReport
    from mnist_edge.verification.reference import ReferenceOutputs


def verify(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="Bundle folder, or any ONNX file. Default: the newest in exported/.")
    ] = None,
    *,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Variant of the bundle; repeatable. Default: all.")
    ] = None,
    target: Annotated[
        TargetName | None, typer.Option(help="Verify what is generated for this target, instead of the ONNX files.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Device of --target; see docs/targets.md. Default: the target's first."),
    ] = None,
    built: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|FILE", help="Verify what export --target made before, instead of a new one."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Run only the first test images, on a slow device of --target.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Compare with this run folder, checkpoint or .pth, run in PyTorch now, or ONNX file."),
    ] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Check these logits of another runtime instead of running a model: see docs/verify.md.",
        ),
    ] = None,
    provider: Annotated[
        ProviderName | None,
        typer.Option(help="Execution provider of the deployment; no other is used. Default: as tuned, else cpu."),
    ] = None,
    optimization: Annotated[
        Optimization | None, typer.Option(help="Graph optimisation level of onnxruntime. Default: as tuned, else all.")
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA round fp32 products to TF32; the model is then lossy.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of onnxruntime. Default: as tuned, else 1.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Further batch sizes to check, separated by commas; 1, 2, 3, 7, 64 and all are always checked."
        ),
    ] = None,
    arithmetic: Annotated[
        ArithmeticName | None,
        typer.Option(help="Arithmetic that predictions are certified for: see docs/verify.md. Default: fp32."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare layer by layer, also where the logits agree.")
    ] = False,
    max_accuracy_drop: Annotated[
        float,
        typer.Option(
            min=0, max=100, help="Accuracy in percentage points that a variant may lose, unless it must be exact."
        ),
    ] = 0.1,
    dataset: Annotated[
        str | None,
        dataset_option("A folder may hold any number of test images. Default: what the model was made with."),
    ] = None,
    normalize: NormalizeModel = None,
    timeout: Timeout = 60.0,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="PUBLIC.pem", help="First check that the bundle was signed with the private key of this one."
        ),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Signature for --key. Default: <bundle>.sig beside the folder.")
    ] = None,
    on: On = None,
    data_dir: DataDir = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the images with the smallest margins.")] = None,
    json: Json = False,
) -> None:
    """Check hashes, logits, every prediction and accuracy. Exit 1 if a check fails, 3 if a byte was changed."""
    from mnist_edge.cpus import require_cpus
    from mnist_edge.records.settings import DEFAULT_SETTINGS
    from mnist_edge.reporting.console import say, say_next, status
    from mnist_edge.runtime.session import require_provider
    from mnist_edge.verification.verify import VerifyOptions
    from mnist_edge.workflow.folders import newest_bundle
    from mnist_edge.workflow.remote import verify_on
    from mnist_edge.workflow.verify import verify_path, verify_target

    require_plot(plot)
    chosen = model or newest_bundle(say)
    _check_signature(chosen, key, signature)
    if target is not None:
        shared = {"model", "variant", "key", "signature", "timeout", "dataset", "data_dir", "plot", "json"}
        refuse_options(context, "--target", {*shared, "target", "device", "built", "images"})
        with recording(chosen, result_name("verify", context)) as keep, status(f"verifying {built or chosen}"):
            report, reference = verify_target(
                chosen,
                target,
                device=device,
                variants=variant or (),
                built=built,
                images=images,
                timeout=timeout,
                dataset=dataset,
                data_dir=data_dir,
                notify=say,
            )
            keep(report)
        _show(report, reference, plot, json=json)
        say_next("bench", chosen, as_json=json)
        return
    refuse_given("without --target", "--target c, or leave out --{}", device=device, built=built, images=images)
    if outputs is None and on is None:  # with recorded outputs nothing is run, and onnxruntime is not needed
        require_provider(provider or "cpu")
        require_cpus(threads or 1)
    if tf32 and provider != "cuda":
        raise UsageError("--tf32 is an option of CUDA", hint="--provider cuda, or leave it out")
    if outputs is not None:
        run_options = {
            "provider": provider,
            "batch": batch,
            "layers": layers,
            "threads": threads,
            "arithmetic": arithmetic,
        }
        refuse_given("on recorded outputs", "leave out --{}, or --outputs", **run_options)
    options_of_session = {"provider": provider, "threads": threads, "optimization": optimization, "tf32": tf32 or None}
    named = {name: value for name, value in options_of_session.items() if value is not None}
    options = VerifyOptions(
        session=DEFAULT_SETTINGS.with_named(named),
        named=named,
        batches=() if batch is None else choices(batch, "--batch"),
        max_drop=max_accuracy_drop / 100,
        layers=layers,
        normalization=normalize,
        timeout=timeout,
        arithmetic=arithmetic,
    )
    if on is not None:
        words = words_for(
            context,
            here={"model", "variant", "key", "signature", "provider", "dataset", "data_dir", "on", "plot", "json"},
            there={"optimization", "tf32", "threads", "batch", "layers", "max_accuracy_drop", "timeout", "arithmetic"},
        )
        with recording(chosen, result_name("verify", context)) as keep, status(f"verifying {chosen} on {on}"):
            report, reference = verify_on(
                on,
                chosen,
                words,
                provider=provider,
                variants=variant or (),
                dataset=dataset,
                data_dir=data_dir,
                notify=say,
            )
            keep(report)
    else:
        with recording(chosen, result_name("verify", context)) as keep, status(f"verifying {chosen}"):
            report, reference = verify_path(
                chosen, against, options, dataset, data_dir, say, variants=variant or (), outputs=outputs
            )
            if against is None:
                _keep_own(keep, report)
    _show(report, reference, plot, json=json)
    say_next("bench", chosen, *(("--on", on) if on else ()), as_json=json)


def _keep_own(keep: Keep, report: ParityReport) -> None:
    """Keep a result, unless it is of a set that the user gave: `report` shows what holds for the bundle's own."""
    if report.own_test_set:
        keep(report)


def _show(report: ParityReport, reference: ReferenceOutputs, plot: Path | None, *, json: bool) -> None:
    """Draw the figure, print the report, and exit with 1 where a check failed."""
    from mnist_edge.reporting.console import emit, say
    from mnist_edge.reporting.tables.parity import parity_table

    if plot is not None:
        from mnist_edge.reporting.plots.margins import SHOWN, margin_sheet
        from mnist_edge.verification.margins import nearest_images

        nearest = nearest_images(reference.counted, SHOWN)
        numbers = nearest.numbers.tolist()
        say(f"wrote {margin_sheet(report.variants, numbers, nearest.images, nearest.logits, plot)}")
    emit(report, json, parity_table)
    if not report.passed:
        failed = [v for v in report.variants if v.reason]
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in failed)
        compared = " and ".join(dict.fromkeys(v.reference or report.reference for v in failed))
        say(f"mnist-edge: {report.outputs or report.model} does not predict as {compared}: {reasons}")
        raise typer.Exit(1)


def _check_signature(bundle: Path, key: Path | None, signature: Path | None) -> None:
    """Check the signature of a bundle, if a key was given, before anything in the bundle is read."""
    from mnist_edge.reporting.console import say
    from mnist_edge.signature import check_signature

    if key is not None:
        say(f"{check_signature(bundle, key, signature)} is a valid signature of {bundle}")
    else:
        refuse_given("without --key", "--key PUBLIC.pem, or leave out --{}", signature=signature)
