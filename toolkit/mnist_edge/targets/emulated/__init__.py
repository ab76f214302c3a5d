"""onnxruntime on emulated CPUs."""
