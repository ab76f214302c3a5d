"""Proof that an exported variant decides as PyTorch does. Never torch: PyTorch's answers come as arrays."""
