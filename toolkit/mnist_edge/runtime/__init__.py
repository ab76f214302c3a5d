"""Open and run models in onnxruntime on exactly the requested provider. Never imports torch."""
