"""Everything that is printed or drawn: lines, tables, progress and figures."""
