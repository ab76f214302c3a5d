"""Deformed pictures: each by its own draws, exactly as much as the recipe says, and the same after a resume."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mnist_edge.ranks import Rank
from mnist_edge.records.data import Dataset
from mnist_edge.training.augment import AFFINE, KNOTS, Deformer
from mnist_edge.training.feed import Feed
from mnist_edge.training.loop import split
from mnist_edge.training.recipes import Recipe, find_recipe

CPU = torch.device("cpu")
STILL = {"shift": 0, "rotation": 0.0, "scaling": 0.0, "shear": 0.0, "elastic": 0.0}


def recipe(**changes: Any) -> Recipe:
    return dataclasses.replace(find_recipe("best"), **(STILL | changes))


def deformed(images: Tensor, uniform: dict[int, float], normal: Tensor | None = None, **changes: Any) -> Tensor:
    """Deform with draws that are 0 but where named."""
    draws = torch.zeros(len(images), AFFINE)
    for place, value in uniform.items():
        draws[:, place] = value
    bent = torch.zeros(len(images), 2 * KNOTS**2) if normal is None else normal
    return Deformer(recipe(**changes), CPU).deform(images, draws, bent)


@pytest.fixture
def images(digits: Dataset) -> Tensor:
    return torch.tensor(digits.train_images[:50])


def test_no_draw_leaves_a_picture_as_it_is(images: Tensor) -> None:
    """Deformation starts from the picture itself: 0 degrees, no shift, no bend."""
    still = deformed(images, {}, shift=2, rotation=10.0, scaling=0.1, shear=0.1, elastic=1.0)
    assert torch.allclose(still, images.float(), atol=0.01)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, 2), (-2, 2)])
def test_a_shift_is_by_whole_pixels_of_the_recipe(right: int, down: int, images: Tensor) -> None:
    """The largest draw moves a picture by `shift` pixels; background comes in."""
    moved = deformed(images, {4: -right / 2, 5: -down / 2}, shift=2)
    expected = np.zeros((50, 28, 28))
    source = images.numpy()[:, max(0, -down) : 28 - max(0, down), max(0, -right) : 28 - max(0, right)]
    expected[:, max(0, down) : 28 + min(0, down), max(0, right) : 28 + min(0, right)] = source
    assert np.allclose(moved.numpy(), expected, atol=0.02)


def test_a_quarter_turn_is_numpys(images: Tensor) -> None:
    """The largest draw turns by `rotation` degrees about the middle."""
    turned = deformed(images, {0: 1.0}, rotation=90.0)
    assert np.allclose(turned.numpy(), np.rot90(images.numpy(), axes=(1, 2)), atol=0.05)


def test_a_stretch_is_about_the_middle(images: Tensor) -> None:
    """Looking at twice the width shows the picture at half its width: the middle half of each row holds it."""
    small = deformed(images, {1: 1.0}, scaling=1.0)
    assert small[:, :, :6].abs().max() < 1e-3
    assert small[:, :, 22:].abs().max() < 1e-3
    assert float(small.sum()) == pytest.approx(float(images.float().sum()) / 2, rel=0.05)


def test_a_bend_is_as_large_as_the_recipe_says() -> None:
    """At a knot the picture comes from `elastic` pixels times the draw away, and between knots from in between."""
    normal = torch.zeros(1, 2, KNOTS, KNOTS)
    normal[0, 0] = 1.0  # every knot one unit to the right: a plain shift
    ramp = torch.arange(28.0).repeat(28, 1)[None]
    bent = deformed(ramp, {}, normal.reshape(1, -1), elastic=1.5)
    assert torch.allclose(bent[0, :, 4:24], ramp[0, :, 4:24] + 1.5, atol=1e-3)


def test_each_picture_has_its_own_draws_of_the_right_size() -> None:
    """Uniform from -1 to 1 and normal, seeded, none shared between pictures."""
    deformer = Deformer(recipe(), CPU)
    uniform, normal = deformer.draw(4000, torch.Generator().manual_seed(3))
    assert uniform.abs().max() <= 1
    assert float(uniform.std()) == pytest.approx(3**-0.5, rel=0.05)
    assert float(normal.mean()) == pytest.approx(0, abs=0.01)
    assert float(normal.std()) == pytest.approx(1, rel=0.01)
    again = deformer.draw(4000, torch.Generator().manual_seed(3))
    assert torch.equal(uniform, again[0])
    assert torch.equal(normal, again[1])
    assert len({tuple(row) for row in uniform.tolist()}) == 4000


def test_an_epoch_can_be_entered_in_the_middle(digits: Dataset) -> None:
    """A resumed run sees the very pictures that it would have seen: bit for bit from any step."""
    best = find_recipe("best")
    chosen, _ = split(digits, best)
    feed = Feed(digits.train_images, digits.train_labels, chosen, best, CPU, Rank())
    whole = [pixels for pixels, _ in feed.epoch(torch.Generator().manual_seed(1), from_step=0)]
    rest = [pixels for pixels, _ in feed.epoch(torch.Generator().manual_seed(1), from_step=5)]
    assert len(whole) == len(rest) + 5
    # The blocks are cut elsewhere, and a product may be added up in another order then.
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(whole[5:], rest, strict=True))
    other = [pixels for pixels, _ in feed.epoch(torch.Generator().manual_seed(2), from_step=0)]
    assert not torch.equal(whole[0], other[0])
    assert all(float(pixels.abs().max()) <= 1.0001 for pixels in whole)
