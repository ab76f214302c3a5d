"""Search over training settings, evaluated on images held out of training."""
