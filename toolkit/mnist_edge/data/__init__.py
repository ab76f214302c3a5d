"""Datasets: found, downloaded, read and checked, without torch."""
