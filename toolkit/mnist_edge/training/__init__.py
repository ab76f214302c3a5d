"""Training: recipes, the loop, the steps and checkpoints. May import torch."""
