"""Kinds of variants, one module each. Listing them imports neither torch nor onnx."""
