"""Compare models with their references. Imports no torch: PyTorch's outputs are passed in as arrays."""
