"""A page on this machine for people who try a bundle: draw, paste, upload or photograph a digit."""
