"""onnxruntime, asked plainly and checked: the provider asked for is the provider used. Never torch."""
