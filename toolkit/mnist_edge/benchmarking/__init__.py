"""Timings that can be compared: fresh processes, interleaved rounds, surroundings beside every figure."""
