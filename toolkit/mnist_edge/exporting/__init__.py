"""Export: from a trained network to a bundle that passed verification. May import torch and onnx."""
