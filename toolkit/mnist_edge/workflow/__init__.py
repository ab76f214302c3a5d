"""The stages as plain functions that print nothing: what `cli/` calls, and a user of the Python package."""
