"""Portable C99 from a network, with its self-test, for computers and microcontrollers."""
