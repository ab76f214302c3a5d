"""The report of a bundle as one HTML file, and its model card."""
