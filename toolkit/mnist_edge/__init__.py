"""Train a small digit classifier, export it to ONNX, verify it and time it.

The names of `__all__` are the Python API; docs/python.md has examples. Each is imported when it is first used, so that
`import mnist_edge` costs nothing and needs no optional package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mnist_edge import contract

__version__ = contract.VERSION

if TYPE_CHECKING:
    from mnist_edge.errors import MnistEdgeError
    from mnist_edge.records.tuning import Limits
    from mnist_edge.workflow.bench import bench
    from mnist_edge.workflow.evaluate import evaluate
    from mnist_edge.workflow.export import export
    from mnist_edge.workflow.inspect import inspect
    from mnist_edge.workflow.model import Model, Predictions, load
    from mnist_edge.workflow.sign import sign
    from mnist_edge.workflow.train import train
    from mnist_edge.workflow.tune import TuneRequest, tune
    from mnist_edge.workflow.verify import verify

__all__ = [
    "Limits",
    "MnistEdgeError",
    "Model",
    "Predictions",
    "TuneRequest",
    "__version__",
    "bench",
    "evaluate",
    "export",
    "inspect",
    "load",
    "sign",
    "train",
    "tune",
    "verify",
]

_MODULES = {
    "Limits": "records.tuning",
    "MnistEdgeError": "errors",
    "Model": "workflow.model",
    "Predictions": "workflow.model",
    "TuneRequest": "workflow.tune",
    "load": "workflow.model",
    **{
        name: f"workflow.{name}"
        for name in ("bench", "evaluate", "export", "inspect", "sign", "train", "tune", "verify")
    },
}
"""Where each name of the API is defined."""

if not TYPE_CHECKING:  # a type checker must report a name that does not exist

    def __getattr__(name: str) -> object:
        """Import a name of the API when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
