"""How many digits `predict` reads in synthetic photos, and how many images without a digit it refuses.

No image is of a real camera. Photos: 15 kinds of distortion, each with 100 MNIST test digits that are not among the
golden images of the bundle. An answer is right only if it is accepted and correct: a refusal counts as an error.
Images without a digit: 50 kinds, one each; right if refused. Beside it, the whole photo resized to 28x28 (inverted where
it is mostly bright), whatever the model says of it. Neither the seed nor any test digit was used during development.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.common import mnist_folder, report, row, target
from benchmarks.foreign_images import KINDS as FOREIGN
from benchmarks.foreign_images import foreign_image
from benchmarks.synthetic_photos import KINDS as DISTORTIONS
from benchmarks.synthetic_photos import photo_of
from mnist_edge.bundle.golden import GOLDEN_IMAGES
from mnist_edge.data.image_file import read_image
from mnist_edge.data.photo import PreparedPhoto, prepare_photo
from mnist_edge.data.sources import load_dataset, load_test_set
from mnist_edge.files import write_atomic
from mnist_edge.pixels import Images
from mnist_edge.reporting.preview import PreviewRow, draw_row, preview
from mnist_edge.workflow.predict import DigitReader, open_reader

SEED = 20261126
DIGITS = 100
VARIANTS = ("student-6k", "fp32")
DEVELOPMENT_SEED = 1
FIGURE_SEED = 4
FIGURE = {"hard shadow": 5, "paper on a table": 2, "ruled or squared paper": 8}
"""Kinds and digits of the figure in docs/predict.md."""
SHOWN = 10
"""Photos of a kind on the contact sheet."""


def test_digits() -> tuple[Images, Images]:
    """Return the test digits of MNIST that are no golden images."""
    data = load_test_set("mnist", mnist_folder(), may_download=False)
    return data.test_images[GOLDEN_IMAGES:], data.test_labels[GOLDEN_IMAGES:]


def held_out_digits() -> tuple[Images, Images]:
    """Return the training digits that the recipe `fast` holds out, to develop with."""
    from mnist_edge.exporting.variants.kind import selection_split
    from mnist_edge.training.recipes import find_recipe

    split = selection_split(load_dataset("mnist", mnist_folder()), find_recipe("fast"))
    if split is None:
        raise RuntimeError("MNIST has images to hold out")
    return split.images[0 : len(split.labels)], split.labels


def plain(grey: Images) -> Images:
    """Return a photo resized to 28x28, white on black."""
    small = np.asarray(Image.fromarray(grey).resize((28, 28), Image.Resampling.BOX))
    return small if small.mean() < 128 else 255 - small


def photos(images: Images, labels: Images, seed: int, each: int) -> Iterator[tuple[str, int, Images, PreparedPhoto]]:
    """Yield kind, label, photo and what is prepared from it."""
    random = np.random.default_rng(seed)
    for kind in DISTORTIONS:
        for index in random.choice(len(labels), each, replace=False):
            grey = read_image(photo_of(kind, images[index], random), kind)
            yield kind, int(labels[index]), grey, prepare_photo(grey)
        print(f"  {kind}", file=sys.stderr, flush=True)


def foreign(seed: int) -> Iterator[tuple[str, Images, PreparedPhoto]]:
    """Yield kind, image and what is prepared from it."""
    random = np.random.default_rng(seed + 1)
    for kind in FOREIGN:
        grey = read_image(foreign_image(kind, random), kind)
        yield kind, grey, prepare_photo(grey)


def share(values: list[bool]) -> list[float]:
    """Return the share of a list that is true, as the one round that `common.row` expects."""
    return [float(np.mean(values))]


class Figures:
    """What one variant answered."""

    def __init__(self, reader: DigitReader) -> None:
        self.reader = reader
        self.right: dict[str, list[bool]] = {}
        self.refused: list[bool] = []
        self.wrong: list[bool] = []
        self.any_right: list[bool] = []
        self.plain: list[bool] = []
        self.accepted_foreign: list[str] = []

    def add(self, kind: str, label: int, grey: Images, prepared: PreparedPhoto) -> bool:
        """Predict a photo; return whether the answer is right."""
        found = self.reader.predict(kind, prepared)
        correct = found.label == str(label)
        self.right.setdefault(kind, []).append(found.accepted and correct)
        self.refused.append(not found.accepted)
        self.wrong.append(found.accepted and not correct)
        self.any_right.append(correct)
        resized = self.reader.model.classifier.logits(plain(grey)[None]).argmax()
        self.plain.append(int(resized) == label)
        return found.accepted and correct

    def add_foreign(self, kind: str, prepared: PreparedPhoto) -> None:
        """Predict an image without a digit."""
        if self.reader.predict(kind, prepared).accepted:
            self.accepted_foreign.append(kind)

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures as rows of a result."""
        name = self.reader.model.variant.name
        accepted = 1 - float(np.mean(self.refused))
        return [
            *(row(f"{name}: {kind}", "of 1 right", share(right)) for kind, right in self.right.items()),
            row(f"{name}: all photos", "of 1 right", share([one for kind in self.right.values() for one in kind])),
            row(f"{name}: refused", "of 1", share(self.refused)),
            row(f"{name}: accepted and wrong", "of 1", share(self.wrong)),
            row(f"{name}: wrong among the accepted", "of 1", [float(np.mean(self.wrong)) / accepted]),
            row(f"{name}: right if nothing were refused", "of 1", share(self.any_right)),
            row(f"{name}: a plain resize", "of 1 right", share(self.plain)),
            row(f"{name}: images without a digit refused", "of 50", [float(len(FOREIGN) - len(self.accepted_foreign))]),
        ]

    def targets(self) -> list[dict[str, Any]]:
        """Return what the figures should be."""
        name = self.reader.model.variant.name
        everything = [one for kind in self.right.values() for one in kind]
        return [
            target(f"{name}: all photos", share(everything), at_least=0.97),
            target(f"{name}: hard shadows", share(self.right["hard shadow"]), at_least=0.9),
            target(
                f"{name}: images without a digit refused",
                [float(len(FOREIGN) - len(self.accepted_foreign))],
                at_least=float(len(FOREIGN)),
            ),
        ]


def contact_sheet(rows: list[tuple[str, Images, PreparedPhoto, str]], path: Path) -> None:
    """Draw each image with its prepared digit and a mark."""
    side, columns = 120, 10
    sheet = Image.new("L", (columns * side, -(-len(rows) // columns) * (side + 46)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, (_, grey, prepared, mark) in enumerate(rows):
        left, top = number % columns * side, number // columns * (side + 46)
        image = Image.fromarray(grey)
        image.thumbnail((side - 6, side - 6))
        sheet.paste(image, (left, top))
        if prepared.image is not None:
            sheet.paste(Image.fromarray(prepared.image).resize((42, 42)), (left, top + side))
        draw.text((left + 46, top + side + 10), mark, fill=0)
    sheet.save(path)


def figure(bundle: Path, path: Path) -> None:
    """Draw the figure of docs/predict.md: three photos of held-out digits."""
    reader, random = open_reader(bundle, VARIANTS[0]), np.random.default_rng(FIGURE_SEED)
    images, labels = held_out_digits()
    rows = []
    for kind, digit in FIGURE.items():
        grey = read_image(photo_of(kind, images[random.choice(np.flatnonzero(labels == digit))], random), kind)
        prepared = prepare_photo(grey)
        prediction = reader.predict(kind, prepared)
        shown = PreviewRow(prediction=prediction, grey=grey, box=prepared.box, prepared=prepared.image)
        rows.append(draw_row(shown))
    write_atomic(path, preview(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundle", type=Path, nargs="?", default=Path("exported/mnist"), help="with the variants fp32 and student-6k"
    )
    parser.add_argument("--sheet", type=Path, help="also draw a contact sheet into this file (.png)")
    parser.add_argument(
        "--development", action="store_true", help="held-out training digits, another seed, no result file"
    )
    parser.add_argument("--figure", type=Path, help="only draw the figure of docs/predict.md into this file (.png)")
    options = parser.parse_args()
    if options.figure:
        figure(options.bundle, options.figure)
        return
    images, labels = held_out_digits() if options.development else test_digits()
    seed = DEVELOPMENT_SEED if options.development else SEED
    figures = [Figures(open_reader(options.bundle, name)) for name in VARIANTS]
    shown: list[tuple[str, Images, PreparedPhoto, str]] = []
    counts: dict[str, int] = {}
    for kind, label, grey, prepared in photos(images, labels, seed, DIGITS):
        right = [one.add(kind, label, grey, prepared) for one in figures]
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= SHOWN:
            shown.append((kind, grey, prepared, f"{label}" if right[0] else f"{label} ERR"))
    for kind, grey, prepared in foreign(seed):
        for one in figures:
            one.add_foreign(kind, prepared)
        shown.append((kind, grey, prepared, "ACCEPTED" if kind in figures[0].accepted_foreign else ""))
    if options.sheet:
        contact_sheet(shown, options.sheet)
    for one in figures:
        print(f"{one.reader.model.variant.name} accepted: {', '.join(one.accepted_foreign)}", file=sys.stderr)
    rows = [entry for one in figures for entry in one.rows()]
    if options.development:
        for entry in rows:
            print(f"{entry['what']:<60} {entry['median']:.4f}")
        return
    accepted = "; ".join(
        f"{one.reader.model.variant.name} accepted {', '.join(one.accepted_foreign)}" for one in figures
    )
    report(
        "photos",
        measured=f"{__doc__} Seed {seed}. Of the images without a digit, {accepted}.",
        rows=rows,
        targets=[entry for one in figures for entry in one.targets()],
    )


if __name__ == "__main__":
    main()
