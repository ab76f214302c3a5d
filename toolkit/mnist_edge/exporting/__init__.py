"""The workshop's second half: from a trained network to a proven bundle. May import torch and onnx."""
