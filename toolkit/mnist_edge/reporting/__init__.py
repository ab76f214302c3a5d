"""The only rooms that speak to a person: lines, tables, progress, pictures."""
