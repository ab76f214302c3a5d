"""Reports as tables, one module per report."""
