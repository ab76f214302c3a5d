"""Frozen records that the stages exchange, one module per stage."""
