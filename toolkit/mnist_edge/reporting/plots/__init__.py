"""Figures, one module per figure."""
