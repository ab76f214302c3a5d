"""The workshop's first half: recipes, the loop, checkpoints. May import torch."""
