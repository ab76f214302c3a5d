"""Images without a digit, or with more than one: 50 kinds, drawn with random sizes, places, colours and noise."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Floats = NDArray[np.float64]
Path = list[tuple[float, float]]
Draw = Callable[[ImageDraw.ImageDraw, np.random.Generator], None]
SIDE = 400
PEN = 12
INK = 40


def _noise(random: np.random.Generator, coarse: float) -> Floats:
    values = ndimage.gaussian_filter(random.normal(size=(SIDE, SIDE)), coarse, mode="wrap")
    return np.asarray((values - values.mean()) / values.std())


def _axes() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return y, x


def _lines(step: int, *, columns: bool) -> Floats:
    paper = np.full((SIDE, SIDE), 235.0)
    paper[::step] = 150
    if columns:
        paper[:, ::step] = 150
    return paper


def _folded(random: np.random.Generator) -> Floats:
    _, x = _axes()
    return 230 - 45.0 * (x > random.uniform(0.3, 0.7)) + 3 * _noise(random, 15)


def _lamp(random: np.random.Generator) -> Floats:
    y, x = _axes()
    return 240 - 260 * ((x - random.uniform(0, 1)) ** 2 + (y - random.uniform(0, 1)) ** 2)


def _shadowed(random: np.random.Generator) -> Floats:
    y, x = _axes()
    return np.asarray(230 - 110.0 * (x + random.uniform(-0.5, 0.5) * y > random.uniform(0.3, 0.7)))


def _on_table(random: np.random.Generator) -> Floats:
    y, x = _axes()
    sheet = (x > random.uniform(0.1, 0.3)) & (y < random.uniform(0.6, 0.9))
    return np.where(sheet, 230.0, 60 + 8 * _noise(random, 2))


def _pink_noise(random: np.random.Generator) -> Floats:
    spectrum = np.fft.fft2(random.normal(size=(SIDE, SIDE)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = 1
    values = np.fft.ifft2(spectrum / frequency).real
    return np.asarray(127 + 50 * (values - values.mean()) / values.std())


def _bricks(random: np.random.Generator) -> Floats:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    row = y // 40
    mortar = (y % 40 < 5) | ((x + 40 * (row % 2)) % 80 < 5)
    return np.where(mortar, 200.0, 120 + 10 * _noise(random, 2))


def _wood(random: np.random.Generator) -> Floats:
    y, x = _axes()
    return np.asarray(140 + 30 * np.sin(60 * (x + 0.05 * _noise(random, 40) + 0.02 * np.sin(6 * y))))


def _waves(random: np.random.Generator) -> Floats:
    y, x = _axes()
    return np.asarray(128 + 90 * np.sin(random.uniform(30, 60) * (x + 0.5 * y)))


def _checkers(random: np.random.Generator) -> Floats:
    step = int(random.integers(25, 60))
    y, x = np.mgrid[0:SIDE, 0:SIDE] // step
    return np.where((x + y) % 2, 230.0, 40.0)


def _landscape(random: np.random.Generator) -> Floats:
    y, x = _axes()
    hills = 0.55 + 0.1 * np.sin(7 * x + random.uniform(0, 6)) + 0.05 * np.sin(19 * x)
    return np.where(y > hills, 80 + 12 * _noise(random, 3), 220 - 60 * y)


def _room(random: np.random.Generator) -> Floats:
    y, x = _axes()
    back = (np.abs(x - 0.5) < 0.25) & (np.abs(y - 0.45) < 0.2)
    floor = y - 0.5 > np.abs(x - 0.5) * 0.8
    return np.where(back, 200.0, np.where(floor, 110.0, 165.0)) + 2 * _noise(random, 1)


def _leaves(random: np.random.Generator) -> Floats:
    return np.asarray(110 + 60 * np.sign(_noise(random, 6)) * np.abs(_noise(random, 3)) ** 0.5)


def _code(random: np.random.Generator) -> Floats:
    cells = random.integers(0, 2, (21, 21)) * 255.0
    image = np.full((SIDE, SIDE), 255.0)
    image[47:353, 47:353] = np.kron(cells, np.ones((15, 15)))[:306, :306]
    return image


def _bars(random: np.random.Generator) -> Floats:
    image = np.full((SIDE, SIDE), 255.0)
    stripes = np.repeat(random.integers(0, 2, 60), 5) * 255.0
    image[120:280, 50:350] = stripes
    return image


SURFACES: dict[str, Callable[[np.random.Generator], Floats]] = {
    "white": lambda random: np.full((SIDE, SIDE), 250.0),
    "black": lambda random: np.full((SIDE, SIDE), 4.0),
    "grey": lambda random: np.full((SIDE, SIDE), random.uniform(60, 190)),
    "paper": lambda random: 225 + 3 * _noise(random, 1.5),
    "noisy paper": lambda random: 200 + 18 * _noise(random, 0.1),
    "paper under a lamp": _lamp,
    "paper with a shadow": _shadowed,
    "folded paper": _folded,
    "crumpled paper": lambda random: 215 + 12 * _noise(random, 10),
    "ruled paper": lambda random: _lines(int(random.integers(30, 60)), columns=False),
    "squared paper": lambda random: _lines(int(random.integers(20, 50)), columns=True),
    "sheet on a table": _on_table,
    "static": lambda random: random.uniform(0, 255, (SIDE, SIDE)),
    "clouds": _pink_noise,
    "bricks": _bricks,
    "wood": _wood,
    "stripes": _waves,
    "chessboard": _checkers,
    "landscape": _landscape,
    "empty room": _room,
    "leaves": _leaves,
    "matrix code": _code,
    "barcode": _bars,
}


def _text(words: str, size: int) -> Draw:
    def draw(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
        height = size * random.uniform(0.8, 1.1)
        font = ImageFont.load_default(height)
        on.multiline_text((SIDE / 2, SIDE / 2), words, font=font, fill=INK, anchor="mm", align="center")

    return draw


def _strokes(*paths: Path, width: int = PEN) -> Draw:
    def draw(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
        side = random.uniform(180, 300)
        left, top = random.uniform(40, SIDE - 40 - side, 2)
        for path in paths:
            points = [(left + side * x + random.normal(0, 2), top + side * y + random.normal(0, 2)) for x, y in path]
            on.line(points, fill=INK, width=width, joint="curve")

    return draw


def _circle(x: float, y: float, radius: float, first: float = 0, last: float = 360) -> list[tuple[float, float]]:
    angles = np.deg2rad(np.linspace(first, last, 40))
    return [(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles]


def _scribble(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    points = np.cumsum(random.normal(0, 45, (40, 2)), axis=0)
    points = 60 + 280 * (points - points.min(axis=0)) / np.ptp(points, axis=0)
    on.line([tuple(point) for point in points], fill=INK, width=8, joint="curve")


def _dots(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    for x, y in random.uniform(30, SIDE - 30, (25, 2)):
        on.ellipse((x - 8, y - 8, x + 8, y + 8), fill=INK)


def _blot(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    x, y = random.uniform(140, 260, 2)
    for dx, dy in random.normal(0, 30, (12, 2)):
        on.ellipse((x + dx - 45, y + dy - 45, x + dx + 45, y + dy + 45), fill=INK)


def _square(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    side = random.uniform(120, 240)
    left, top = random.uniform(40, SIDE - 40 - side, 2)
    on.rectangle((left, top, left + side, top + side), fill=INK)


def _digits(on: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    number = "".join(map(str, random.integers(0, 10, 4)))
    on.text((SIDE / 2, SIDE / 2), number, font=ImageFont.load_default(130), fill=INK, anchor="mm")


FACE: list[Path] = [
    _circle(0.5, 0.5, 0.48),
    _circle(0.32, 0.38, 0.06),
    _circle(0.68, 0.38, 0.06),
    _circle(0.5, 0.55, 0.25, 20, 160),
]
HOUSE: list[Path] = [
    [(0.1, 1), (0.1, 0.45), (0.5, 0), (0.9, 0.45), (0.9, 1), (0.1, 1)],
    [(0.4, 1), (0.4, 0.65), (0.6, 0.65), (0.6, 1)],
]
STAR: list[Path] = [[(0.5 + 0.5 * np.sin(4 * np.pi * i / 5), 0.5 - 0.5 * np.cos(4 * np.pi * i / 5)) for i in range(6)]]
TREE: list[Path] = [
    [(0.5, 1), (0.5, 0.3)],
    [(0.5, 0.7), (0.1, 0.4)],
    [(0.5, 0.6), (0.9, 0.3)],
    [(0.5, 0.4), (0.25, 0.05)],
    [(0.5, 0.4), (0.7, 0)],
]
HASH: list[Path] = [[(0.33, 0), (0.33, 1)], [(0.67, 0), (0.67, 1)], [(0, 0.33), (1, 0.33)], [(0, 0.67), (1, 0.67)]]
SPIRAL: list[Path] = [[(0.5 + 0.024 * t * np.cos(t), 0.5 + 0.024 * t * np.sin(t)) for t in np.linspace(0, 20, 150)]]
HEART: list[Path] = [
    [
        (
            0.5 + 0.03 * 16 * np.sin(t) ** 3,
            0.45 - 0.03 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)),
        )
        for t in np.linspace(0, 6.3, 80)
    ]
]

DRAWINGS: dict[str, Draw] = {
    "letter A": _text("A", 260),
    "letter H": _text("H", 260),
    "letter K": _text("K", 260),
    "letter M": _text("M", 240),
    "letter R": _text("R", 260),
    "letter W": _text("W", 240),
    "letter X": _text("X", 260),
    "at sign": _text("@", 240),
    "ampersand": _text("&", 260),
    "percent sign": _text("%", 240),
    "word": _text("hello", 110),
    "page of text": _text("The quick brown\nfox jumps over\nthe lazy dog and\nruns into the wood\nto sleep there.", 42),
    "number of four digits": _digits,
    "smiling face": _strokes(*FACE),
    "house": _strokes(*HOUSE),
    "star": _strokes(*STAR),
    "tree": _strokes(*TREE),
    "hash sign": _strokes(*HASH),
    "cross": _strokes([(0.5, 0), (0.5, 1)], [(0, 0.5), (1, 0.5)]),
    "spiral": _strokes(*SPIRAL),
    "heart": _strokes(*HEART),
    "arrow": _strokes([(0, 0.5), (1, 0.5)], [(0.65, 0.2), (1, 0.5), (0.65, 0.8)]),
    "triangle": _strokes([(0.5, 0), (1, 1), (0, 1), (0.5, 0), (0.52, 0.04)]),
    "scribble": _scribble,
    "dots": _dots,
    "blot": _blot,
    "filled square": _square,
}


def foreign_image(kind: str, random: np.random.Generator) -> bytes:
    """Return an image of a kind of SURFACES or DRAWINGS as JPEG."""
    if kind in SURFACES:
        image = SURFACES[kind](random)
    else:
        sheet = Image.new("L", (SIDE, SIDE), 228)
        DRAWINGS[kind](ImageDraw.Draw(sheet), random)
        image = ndimage.gaussian_filter(np.asarray(sheet, dtype=np.float64), 0.8) + 2 * _noise(random, 1.2)
    picture = Image.fromarray(np.rint(np.clip(image, 0, 255)).astype(np.uint8))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=88)
    return content.getvalue()


KINDS = (*SURFACES, *DRAWINGS)
