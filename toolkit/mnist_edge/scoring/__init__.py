"""Score any number of images on Ray: block by block, each finished one kept, in order at the end."""
