"""PyTorch eager as the baseline of timings: what a user runs without exporting."""
