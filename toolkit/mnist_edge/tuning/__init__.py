"""Choose a variant and its session settings on this machine."""
