"""The command line `mnist-edge`: its commands, with a summary and examples of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mnist_edge.cli.bench import bench
from mnist_edge.cli.compare import compare
from mnist_edge.cli.demo import demo
from mnist_edge.cli.doctor import doctor
from mnist_edge.cli.evaluate import evaluate
from mnist_edge.cli.export import export
from mnist_edge.cli.inspect import inspect
from mnist_edge.cli.predict import predict
from mnist_edge.cli.report import report
from mnist_edge.cli.run import run
from mnist_edge.cli.score import score
from mnist_edge.cli.sign import sign
from mnist_edge.cli.sweep import sweep
from mnist_edge.cli.train import train
from mnist_edge.cli.tune import tune
from mnist_edge.cli.variants import variants
from mnist_edge.cli.verify import verify
from mnist_edge.contract import VERSION
from mnist_edge.errors import UsageError

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


def _add(name: str, function: Callable[..., None], summary: str, *examples: str) -> None:
    """Add a command; its help ends with the examples, one a line."""
    lines = "\n".join(f"  mnist-edge {name} {example}".rstrip() for example in examples)
    epilog = f"\b\nExamples:\n{lines}"  # click keeps the lines of a paragraph that begins with \b
    app.command(name, short_help=summary, epilog=epilog)(function)


_add("run", run, "Train, export, verify and time in one go.", "--dataset digits", "--recipe best --provider cuda")
_add(
    "train",
    train,
    "Train a classifier, or resume an interrupted run.",
    "--dataset digits",
    "--widths 64,32 --run runs/small",
    "--resume runs/small",
)
_add(
    "sweep",
    sweep,
    "Search for learning rate, batch size and widths.",
    "--dataset digits --trials 10 --widths 64,32 --widths 100",
)
_add(
    "eval",
    evaluate,
    "Report accuracy, calibration and the confusion matrix.",
    "runs/mnist --plot confusion.png",
    "model.onnx --normalize unit",
)
_add(
    "export",
    export,
    "Export to ONNX, and publish only what agrees with PyTorch.",
    "--run runs/mnist",
    "--run runs/small --output exported/small --input float",
    "--variant fp16 --variant int8",
)
_add("variants", variants, "List the variants that export can make.", "", "--json")
_add(
    "verify",
    verify,
    "Compare a bundle or ONNX file with its reference.",
    "exported/mnist",
    "model.onnx --against other.onnx",
)
_add(
    "bench",
    bench,
    "Measure latency and throughput on this device.",
    "exported/mnist --batch 1,64 --output result.json",
    "exported/mnist --scenario server --rate 500",
)
_add(
    "tune",
    tune,
    "Choose the best variant for this device.",
    "exported/mnist --max-accuracy-drop 0.1",
    "exported/mnist --objective size --max-accuracy-drop 0",
)
_add(
    "report",
    report,
    "Write everything measured of a bundle into one page.",
    "exported/mnist",
    "exported/mnist --format markdown --output README.md",
)
_add(
    "inspect",
    inspect,
    "Show layers, parameters and operators of a model.",
    "exported/mnist",
    "exported/mnist --variant fp32",
    "model.onnx --json",
)
_add("sign", sign, "Sign a bundle with a private key.", "exported/mnist --key private.pem")
_add(
    "score",
    score,
    "Score any number of images, here or on a Ray cluster.",
    "photos --output scores.parquet",
    "FOLDER --output scores.parquet --address 10.0.0.1:6379",
)
_add("compare", compare, "Compare two results of bench.", "before.json after.json --tolerance 10")
_add(
    "predict",
    predict,
    "Read the digit in a photo.",
    "photo.jpg --preview preview.png",
    "scans/ --csv predictions.csv",
)
_add(
    "demo",
    demo,
    "Serve a page here to draw or photograph a digit.",
    "exported/mnist",
    "exported/mnist --port 0 --open",
)
_add("doctor", doctor, "Show what this machine has, and how to get what it lacks.", "", "--json")


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"mnist-edge {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has printed it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train a digit classifier, export it to ONNX, verify it against PyTorch, and measure it on your device."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(UsageError.exit_code)
