"""Search over settings, judged on what is held out of training."""
