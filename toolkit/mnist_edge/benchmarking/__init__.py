"""Comparable timings: fresh processes in interleaved rounds, and the environment recorded with every result."""
