"""Train a small digit classifier, export it to ONNX, verify it and time it."""

__version__ = "0.1.0"
