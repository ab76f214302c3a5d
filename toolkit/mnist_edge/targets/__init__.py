"""Programs that are generated from a variant, and other runtimes of it; each opens as a `Predictor`."""
