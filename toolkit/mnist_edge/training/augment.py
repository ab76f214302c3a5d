"""Random affine and elastic deformation of whole batches, as tensors.

The idea, and why it pays for handwriting: Simard, Steinkraus and Platt, "Best Practices for
Convolutional Neural Networks Applied to Visual Document Analysis" (ICDAR 2003). Their smoothed random
field is drawn here at 7 x 7 knots and made smooth by bicubic interpolation, which is one small matrix product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnist_edge.contract import SIDE
from mnist_edge.training.recipes import Recipe

KNOTS = 7
AFFINE = 6
"""Uniform draws an image: angle, two scales, shear, two shifts."""


class Deformer:
    """Deform images with the settings of a recipe; all randomness is passed in as arguments."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        line = (torch.arange(SIDE, device=device) + 0.5) * 2 / SIDE - 1
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([columns.flatten(), rows.flatten(), torch.ones(SIDE**2, device=device)])
        knots = torch.eye(KNOTS**2, device=device).reshape(-1, 1, KNOTS, KNOTS)
        smooth = torch.nn.functional.interpolate(knots, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
        # (3 + 49, 784): where each pixel comes from is linear in an affine map and the displacements of the knots.
        self.basis = torch.cat([places, smooth.reshape(KNOTS**2, SIDE**2)])

    def draw(self, count: int, sampler: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw for `count` images: float32 (count, 6) from -1 to 1, and (count, 98) normal."""
        return (
            torch.rand(count, AFFINE, generator=sampler) * 2 - 1,
            torch.randn(count, 2 * KNOTS**2, generator=sampler),
        )

    def deform(self, images: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """Deform each image by its own draws.

        Args:
            images: uint8 or float (n, 28, 28), 0 to 255.
            uniform, normal: as `draw` gives them, on the images' device.

        Returns:
            float32 (n, 28, 28), 0 to 255; pixels from outside the image are background.
        """
        recipe, count = self.recipe, len(images)
        pixel = 2 / SIDE  # grid_sample measures from -1 to 1
        angle = uniform[:, 0] * math.radians(recipe.rotation)
        scale = 1 + uniform[:, 1:3] * recipe.scaling
        shear = uniform[:, 3] * recipe.shear
        cosine, sine = angle.cos(), angle.sin()
        row_x = torch.stack([cosine * scale[:, 0], shear * cosine - sine * scale[:, 1]], dim=1)
        row_y = torch.stack([sine * scale[:, 0], shear * sine + cosine * scale[:, 1]], dim=1)
        affine = torch.cat([torch.stack([row_x, row_y], dim=1), uniform[:, 4:6, None] * recipe.shift * pixel], dim=2)
        displacement = normal.reshape(count, 2, KNOTS**2) * (recipe.elastic * pixel)
        # One product for all images: with one of (784, 3) by (3, 2) for each, deforming took three times as long.
        places = torch.cat([affine, displacement], dim=2).flatten(0, 1) @ self.basis  # (2 n, 784): x and y
        grid = places.reshape(count, 2, SIDE, SIDE).permute(0, 2, 3, 1)
        return torch.nn.functional.grid_sample(
            images[:, None].float(), grid, padding_mode="zeros", align_corners=False
        )[:, 0]
