"""What a user has without exporting: PyTorch eager, timed in a process of its own."""
