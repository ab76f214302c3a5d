"""Synthetic photos of MNIST digits: ink on paper under 15 kinds of distortion, saved as JPEG. None is of a real camera."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist_edge.pixels import Images

Floats = NDArray[np.float32]
SHAPES = ((360, 480), (480, 360), (400, 400), (480, 640))
"""Heights and widths of the photos."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a photo is drawn from.

    Attributes:
        ink: share of ink of each pixel of the photo, (h, w), 0 to 1.
        paper, pen: their colours, RGB, 0 to 1.
        light: factor on each pixel, (h, w).
        lines: share of a printed line of each pixel, (h, w), and its colour.
        quality: of the JPEG.
        noise: standard deviation of the sensor's noise, 0 to 1.
        blur: standard deviation of the lens, in pixels.
    """

    ink: Floats
    paper: tuple[float, ...]
    pen: tuple[float, ...]
    light: Floats
    lines: Floats
    line_colour: tuple[float, ...] = (0.55, 0.65, 0.8)
    quality: int = 90
    noise: float = 0.01
    blur: float = 0.6
    warp: Callable[[Floats], Floats] | None = field(default=None)


def _stroke(digit: Images, side: int) -> Floats:
    """Return a digit of uint8 (28, 28) as ink with sharp edges, (side, side)."""
    large = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return np.asarray(np.clip((large - 0.4) * max(2.0, side / 56) + 0.5, 0, 1), dtype=np.float32)


def _scene(
    digit: Images, random: np.random.Generator, size: tuple[float, float] = (0.5, 0.95), *, middle: bool = False
) -> Scene:
    """Place a digit on plain paper; `size` is the range of the 28 pixels' side as a share of the photo's shorter side."""
    height, width = SHAPES[random.integers(len(SHAPES))]
    side = int(min(height, width) * random.uniform(*size))
    ink = np.zeros((height, width), np.float32)
    top, left = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
    if middle:
        top, left = (height - side) // 2, (width - side) // 2
    ink[top : top + side, left : left + side] = _stroke(digit, side)
    white = random.uniform(0.8, 0.98)
    dark = random.uniform(0.05, 0.3)
    tint = random.uniform(-0.04, 0.04, 3)
    return Scene(
        ink=ink,
        paper=tuple(np.clip(white + tint, 0, 1)),
        pen=tuple(np.clip(dark + random.uniform(-0.05, 0.15, 3), 0, 1)),
        light=np.full((height, width), random.uniform(0.75, 1), np.float32),
        lines=np.zeros((height, width), np.float32),
    )


def _grid(shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    return rows / shape[0], columns / shape[1]


def _soft_step(values: Floats, width: float) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values / width, -30, 30))), dtype=np.float32)


def _clouds(shape: tuple[int, ...], random: np.random.Generator, coarse: float) -> Floats:
    """Return smooth random values of mean 0 and deviation 1."""
    values = ndimage.gaussian_filter(random.normal(size=shape), coarse)
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float32)


def uneven_light(digit: Images, random: np.random.Generator) -> Scene:
    """A lamp at one side, and darker corners."""
    scene = _scene(digit, random)
    y, x = _grid(scene.light.shape)
    angle = random.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    corners = (x - 0.5) ** 2 + (y - 0.5) ** 2
    light = 0.65 + random.uniform(0.4, 0.65) * slope - random.uniform(0.2, 0.6) * corners
    return replace(scene, light=np.clip(light, 0.12, 1).astype(np.float32))


def hard_shadow(digit: Images, random: np.random.Generator) -> Scene:
    """The sharp shadow of a straight edge, or of a corner, across the digit."""
    scene = _scene(digit, random)
    y, x = _grid(scene.light.shape)
    rows, columns = np.nonzero(scene.ink > 0.5)
    pick = random.integers(len(rows))
    angle = random.uniform(0, 2 * np.pi)
    distance = np.cos(angle) * (x - x[0, columns[pick]]) + np.sin(angle) * (y - y[rows[pick], 0])
    if random.random() < 0.4:  # a corner
        other = angle + random.choice([-1, 1]) * random.uniform(1.2, 1.9)
        distance = np.minimum(
            distance, np.cos(other) * (x - x[0, columns[pick]]) + np.sin(other) * (y - y[rows[pick], 0])
        )
    depth = random.uniform(0.35, 0.7)
    shade = 1 - depth * _soft_step(distance, random.uniform(0.001, 0.012))
    return replace(scene, light=(scene.light * shade).astype(np.float32))


def perspective(digit: Images, random: np.random.Generator) -> Scene:
    """Paper seen from the side."""
    scene = _scene(digit, random, (0.5, 0.75), middle=True)
    tilt_x, tilt_y = random.uniform(0.2, 0.55, 2) * random.choice([-1, 1], 2)

    def warp(values: Floats) -> Floats:
        height, width = values.shape
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        u, v = x / width - 0.5, y / height - 0.5
        depth = 1 + tilt_x * u + tilt_y * v
        at = [(v / depth + 0.5) * height, (u / depth + 0.5) * width]
        return np.asarray(ndimage.map_coordinates(values, at, order=1, mode="nearest"), dtype=np.float32)

    return replace(scene, warp=warp)


def rotation(digit: Images, random: np.random.Generator) -> Scene:
    """Turned by 8 to 20 degrees."""
    angle = random.uniform(8, 20) * random.choice([-1, 1])
    scene = _scene(digit, random)
    rows, columns = np.nonzero(scene.ink > 0.5)
    centre = np.array([rows.mean(), columns.mean()])
    radians = np.deg2rad(angle)
    matrix = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])

    def warp(values: Floats) -> Floats:
        turned = ndimage.affine_transform(values, matrix, centre - matrix @ centre, order=1, mode="constant")
        return np.asarray(turned, dtype=np.float32)

    return replace(scene, warp=warp)


def blur(digit: Images, random: np.random.Generator) -> Scene:
    """Out of focus."""
    scene = _scene(digit, random)
    rows = np.nonzero(scene.ink.max(axis=1) > 0.5)[0]
    return replace(scene, blur=random.uniform(0.02, 0.055) * float(np.ptp(rows)))


def noise(digit: Images, random: np.random.Generator) -> Scene:
    """A dark room."""
    scene = _scene(digit, random)
    return replace(scene, noise=random.uniform(0.06, 0.12), light=scene.light * np.float32(random.uniform(0.5, 0.8)))


def low_contrast(digit: Images, random: np.random.Generator) -> Scene:
    """A hard pencil."""
    scene = _scene(digit, random)
    gap = random.uniform(0.14, 0.3)
    return replace(scene, pen=tuple(value - gap for value in scene.paper), noise=0.008)


def inverted(digit: Images, random: np.random.Generator) -> Scene:
    """Chalk on a board, with smears."""
    scene = _scene(digit, random)
    board = np.array([0.12, 0.2, 0.16]) * random.uniform(0.6, 1.4) if random.random() < 0.6 else np.full(3, 0.08)
    light = scene.light * (1 + 0.12 * _clouds(scene.light.shape, random, 20))
    chalk = random.uniform(0.65, 0.95)
    return replace(scene, paper=tuple(board), pen=(chalk, chalk, chalk), light=light.astype(np.float32))


def colours(digit: Images, random: np.random.Generator) -> Scene:
    """Coloured ink on coloured paper."""
    scene = _scene(digit, random)
    pens = [(0.75, 0.1, 0.15), (0.1, 0.2, 0.7), (0.05, 0.45, 0.2), (0.45, 0.1, 0.5), (0.85, 0.4, 0.05)]
    papers = [(0.98, 0.92, 0.6), (0.95, 0.75, 0.8), (0.7, 0.9, 0.75), (0.7, 0.85, 0.97), (0.9, 0.82, 0.68)]
    return replace(scene, pen=pens[random.integers(len(pens))], paper=papers[random.integers(len(papers))])


def lined_paper(digit: Images, random: np.random.Generator) -> Scene:
    """Ruled or squared paper, printed lighter than the ink."""
    scene = _scene(digit, random, (0.6, 0.95))
    height, width = scene.ink.shape
    step = int(min(height, width) * random.uniform(0.07, 0.2))
    lines = np.zeros_like(scene.ink)
    thick = int(random.integers(1, 3))
    for row in range(int(random.integers(step)), height, step):
        lines[row : row + thick] = 1
    if random.random() < 0.5:
        for column in range(int(random.integers(step)), width, step):
            lines[:, column : column + thick] = 1
    tilt = random.uniform(-3, 3)
    lines = np.asarray(ndimage.rotate(lines, tilt, reshape=False, order=1, mode="nearest"), dtype=np.float32)
    strength = random.uniform(0.35, 0.9)
    return replace(scene, lines=np.clip(lines, 0, 1) * np.float32(strength))


def jpeg(digit: Images, random: np.random.Generator) -> Scene:
    """Saved at a quality of 5 to 15."""
    return replace(_scene(digit, random), quality=int(random.integers(5, 16)))


def small(digit: Images, random: np.random.Generator) -> Scene:
    """A small digit anywhere in a large photo."""
    return _scene(digit, random, (0.12, 0.3))


def pen_width(digit: Images, random: np.random.Generator) -> Scene:
    """A fine liner or a felt pen."""
    scene = _scene(digit, random)
    rows = np.nonzero(scene.ink.max(axis=1) > 0.5)[0]
    unit = float(np.ptp(rows)) / 20
    if random.random() < 0.5:
        line = _thinned(scene.ink > 0.5)
        ink = ndimage.grey_dilation(
            line.astype(np.float32), footprint=_disc(max(3, round(unit * random.uniform(0.5, 1.1)) | 1))
        )
        ink = ndimage.gaussian_filter(ink, 0.7)
    else:
        size = round(unit * random.uniform(0.8, 1.6)) | 1
        ink = ndimage.grey_dilation(scene.ink, footprint=_disc(size))
    return replace(scene, ink=np.clip(ink, 0, 1).astype(np.float32))


def _disc(size: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    return np.asarray(x**2 + y**2 <= (size / 2) ** 2)


def _thinned(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the middle lines of a shape (Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", 1984)."""
    shape = shape.copy()
    while True:
        before = shape.sum()
        for step in range(2):
            grid = np.pad(shape, 1)
            height, width = shape.shape
            # The eight neighbours, clockwise from the one above.
            places = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
            around = np.stack([grid[y : y + height, x : x + width] for y, x in places])
            count = around.sum(axis=0)
            changes = (~around & np.roll(around, -1, axis=0)).sum(axis=0)
            up, right, down, left = around[::2]
            kept = (
                (up & right & down) | (right & down & left) if step == 0 else (up & right & left) | (up & down & left)
            )
            shape &= ~((count >= 2) & (count <= 6) & (changes == 1) & ~kept)
        if shape.sum() == before:
            return shape


def folds(digit: Images, random: np.random.Generator) -> Scene:
    """Paper that was folded once or twice, and crumpled."""
    scene = _scene(digit, random)
    y, x = _grid(scene.light.shape)
    light = scene.light * (1 + 0.03 * _clouds(scene.light.shape, random, 12))
    for _ in range(int(random.integers(1, 3))):
        angle = random.uniform(0, np.pi)
        distance = np.cos(angle) * (x - random.uniform(0.3, 0.7)) + np.sin(angle) * (y - random.uniform(0.3, 0.7))
        light = light * (1 - random.uniform(0.08, 0.2) * _soft_step(distance, 0.004))
        light = light * (1 - random.uniform(0.05, 0.15) * np.exp(-((distance / 0.006) ** 2)))
    return replace(scene, light=light.astype(np.float32))


def table(digit: Images, random: np.random.Generator) -> Scene:
    """A sheet that does not fill the photo, on a darker table."""
    scene = _scene(digit, random, (0.45, 0.7))
    rows, columns = np.nonzero(scene.ink > 0.5)
    height, width = scene.ink.shape
    margin = 0.06 * min(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    sides = [rows.min() - y, y - rows.max(), columns.min() - x, x - columns.max()]
    away = np.zeros_like(scene.light)
    grain = random.uniform(0.15, 0.4) + 0.03 * _clouds(scene.light.shape, random, 3)
    for side in random.permutation(4)[: random.integers(1, 4)]:
        slant = random.uniform(-0.06, 0.06) * ((x - width / 2) if side < 2 else (y - height / 2))
        outside = _soft_step(sides[side] + slant - margin - 0.04 * min(height, width), 0.8)
        away = np.maximum(away, outside)
    return replace(scene, light=np.asarray(scene.light * (1 - away * (1 - grain)), dtype=np.float32))


KINDS: dict[str, Callable[[Images, np.random.Generator], Scene]] = {
    "uneven light": uneven_light,
    "hard shadow": hard_shadow,
    "perspective": perspective,
    "rotation": rotation,
    "blur": blur,
    "noise": noise,
    "low contrast": low_contrast,
    "inverted": inverted,
    "coloured ink and paper": colours,
    "ruled or squared paper": lined_paper,
    "JPEG artefacts": jpeg,
    "small and off-centre": small,
    "thin or thick pen": pen_width,
    "folded paper": folds,
    "paper on a table": table,
}


def photograph(scene: Scene, random: np.random.Generator) -> bytes:
    """Return the photo of a scene as JPEG."""
    ink = scene.ink if scene.warp is None else scene.warp(scene.ink)
    lines = scene.lines if scene.warp is None else scene.warp(scene.lines)
    paper, pen, line = (np.asarray(colour, np.float32) for colour in (scene.paper, scene.pen, scene.line_colour))
    grain = 1 + 0.012 * _clouds(ink.shape, random, 1.2)
    surface = paper * (1 - lines[..., None]) + line * lines[..., None]
    surface = surface * grain[..., None]
    image = (surface * (1 - ink[..., None]) + pen * ink[..., None]) * scene.light[..., None]
    image = ndimage.gaussian_filter(image, (scene.blur, scene.blur, 0))
    image = image + random.normal(0, scene.noise, image.shape)
    picture = Image.fromarray(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=scene.quality)
    return buffer.getvalue()


def photo_of(kind: str, digit: Images, random: np.random.Generator) -> bytes:
    """Return a photo of a digit of uint8 (28, 28), of one of KINDS, as JPEG."""
    return photograph(KINDS[kind](digit, random), random)
