"""The bundle folder: model files, golden inputs with reference outputs, and a manifest with the sha256 of each."""
