"""Find, download, read and check datasets, without torch."""
