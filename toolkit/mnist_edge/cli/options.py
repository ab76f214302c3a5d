"""Options that several commands share, and the parsing of number lists."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_edge.contract import DATASET_CHOICES, Normalization
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.extras import install_hint

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder with the datasets (MNIST/raw/...). Default: $MNIST_EDGE_DATA, else the cache folder."
    ),
]
NORMALIZE_VALUES = "unit 0 to 1, seed -1 to 1, mnist mean 0 and deviation 1, raw 0 to 255."
NormalizeStateDict = Annotated[
    Normalization | None,
    typer.Option("--normalize", help=f"Pixel range that a .pth was trained on: {NORMALIZE_VALUES}"),
]
Timeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds that one run of an ONNX file may take before it is ended.")
]
NormalizeModel = Annotated[
    Normalization | None,
    typer.Option(
        "--normalize",
        help=f"Pixel range that a .pth or a float ONNX file expects, if it does not state it: {NORMALIZE_VALUES}",
    ),
]


def dataset_option(default: str = "") -> Any:
    """Return the option `--dataset`: a name, or a folder."""
    return typer.Option(
        metavar="NAME|FOLDER",
        help="mnist, fashion-mnist, kmnist, digits (needs no network), auto (mnist, else digits), or a folder of your "
        f"own digits as IDX files with MNIST's names. {default}".rstrip(),
        autocompletion=_complete_dataset,
    )


def _complete_dataset(incomplete: str) -> list[str]:
    """Return the dataset names and the folders that begin with `incomplete`."""
    folders = sorted(f"{path}/" for path in Path().glob(f"{incomplete}*") if path.is_dir())
    return [name for name in DATASET_CHOICES if name.startswith(incomplete)] + folders


def recipe_option() -> Any:
    """Return the option `--recipe`: a name, or a TOML file."""
    return typer.Option(
        metavar="NAME|FILE",
        help="fast (default), best (minutes), seed (100 epochs of plain SGD); for students student (default) and student-best; "
        "or a .toml file of your own.",
        autocompletion=_complete_recipe,
    )


def _complete_recipe(incomplete: str) -> list[str]:
    """Return the recipe names and the .toml files that begin with `incomplete`."""
    from mnist_edge.training.recipes import recipe_names

    files = map(str, sorted(Path().glob("*.toml")))
    return [name for name in (*recipe_names(), *files) if name.startswith(incomplete)]


def refuse_given(where: str, hint: str, **given: object) -> None:
    """Raise UsageError for an option that was given and has no effect.

    Args:
        where: it has none: "without --target".
        hint: what to do, with `{}` for the name of the option.
        given: values of options by name; None or False where one was not given.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise UsageError(f"--{name} has no effect {where}", hint=hint.format(name))


FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def require_output(path: Path | None, option: str) -> None:
    """Check, before any work is done, that a result can be written here; None stands for no file.

    Raises:
        UsageError: it would lie in a bundle, which holds only what its manifest names.
        UnavailableError: the place cannot be written to.
    """
    from mnist_edge.bundle.folder import is_bundle
    from mnist_edge.files import require_writable

    if path is None:
        return
    if is_bundle(path.parent):
        raise UsageError(
            f"{option} {path}: {path.parent} is a bundle, and would be refused with a file that its manifest does not name",
            hint=f"{option} {path.name}",
        )
    require_writable(path)


def require_plot(path: Path | None) -> None:
    """Check, before any work is done, that the figure of `--plot` can be drawn; None stands for no figure.

    Raises:
        UsageError: the name has another suffix.
        UnavailableError: matplotlib is not installed.
    """
    if path is None:
        return
    require_output(path, "--plot")
    if path.suffix not in FIGURE_SUFFIXES:
        raise UsageError(
            f"--plot {path}: expected a name that ends in {', '.join(FIGURE_SUFFIXES)}", hint="--plot plot.png"
        )
    if find_spec("matplotlib") is None:
        raise UnavailableError("--plot needs matplotlib, which is not installed", hint=install_hint("plots"))


def number_range(text: str, option: str) -> tuple[float, float]:
    """Parse `0.01:0.2`: two numbers above 0, the smaller first.

    Raises:
        UsageError: names the option.
    """
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not 0 < low < high < math.inf:
        raise UsageError(f"{option} {text}: expected LOW:HIGH, numbers above 0", hint=f"{option} 0.01:0.2")
    return low, high


def whole_numbers(text: str, option: str, *, least: int = 1, greatest: int = 2**31 - 1) -> tuple[int, ...]:
    """Parse `64,64,32`, in that order, into numbers of at least `least` and at most `greatest`.

    Raises:
        UsageError: names the option.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (least - 1,)
    if min(numbers) < least or max(numbers) > greatest:
        expected = f"whole numbers from {least} to {greatest}, separated by commas"
        raise UsageError(f"{option} {text}: expected {expected}", hint=f"{option} 1,64")
    return numbers


def choices(text: str, option: str, *, least: int = 1, greatest: int = 2**31 - 1) -> tuple[int, ...]:
    """Parse numbers as `whole_numbers` does and drop repeated ones."""
    return tuple(dict.fromkeys(whole_numbers(text, option, least=least, greatest=greatest)))
