"""What an ONNX file of any origin holds: read in a process of its own, never run."""
