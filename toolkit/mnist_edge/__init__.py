"""Train a small digit classifier, export it to ONNX, prove it, time it, ship it."""

__version__ = "0.1.0"
