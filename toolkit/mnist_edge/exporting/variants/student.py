"""student-*: small convolutional networks with 4-bit weights of their own, which owe accuracy against the labels."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, get_args

from mnist_edge.contract import StudentName, variant_name
from mnist_edge.errors import UsageError
from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind, selection_split

if TYPE_CHECKING:
    from mnist_edge.records.data import SelectionSplit
    from mnist_edge.training.checkpoint import Checkpoint
    from mnist_edge.training.qat import QuantisedNetwork
    from mnist_edge.training.recipes import Recipe

ADVICE: dict[StudentName, str] = {
    "fast": "the fastest student at batch 1, and the least accurate",
    "3k": "at most 5 kB, trained anew",
    "6k": "at most 8 kB, trained anew",
    "12k": "at most 12.3 kB, trained anew",
    "40k": "at most 40 kB, trained anew",
}


def build(name: StudentName, context: VariantContext) -> Built:
    """Return a student's graph, trained here unless a finished run of it is found.

    Raises:
        UsageError: the bundle takes normalised pixels.
        CheckFailedError: the graph does not compute what PyTorch does.
        StoppedError, UnavailableError: as `trained_run` raises them.
    """
    from mnist_edge.exporting.proof import require_equal_logits
    from mnist_edge.exporting.variants.student_graph import encoding, student_graph
    from mnist_edge.training.model import reference_logits
    from mnist_edge.training.qat import deployed_network

    if context.input != "uint8":
        raise UsageError(f"{variant_name(name)} takes raw images, the bundle {context.input}", hint="leave --input out")
    checkpoint, network = trained_student(name, context)
    recipe = checkpoint.settings.recipe
    model = student_graph(network, context.opset)
    images = context.dataset.test_images
    expected = reference_logits(deployed_network(network), images, normalization="raw")
    require_equal_logits(variant_name(name), model, images, expected)
    made = {
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "seed": checkpoint.settings.seed,
        "encoding": encoding(network, context.opset),
        "weights": sum(layer.integers.size for layer in network.layers),
    }
    return Built(
        model=model, spec=KINDS_BY_NAME[name].spec(context), made=made, selection=own_selection(name, recipe, context)
    )


def trained_student(name: StudentName, context: VariantContext) -> tuple[Checkpoint, QuantisedNetwork]:
    """Return a finished run of the student, and its network as it is deployed.

    Raises:
        StoppedError, UnavailableError, CheckFailedError: as `trained_run` raises them.
    """
    from mnist_edge.training.student import Student, quantised_network

    checkpoint = _checkpoint(name, context)
    student = checkpoint.model()
    assert isinstance(student, Student)
    return checkpoint, quantised_network(student)


def own_selection(name: StudentName, recipe: Recipe, context: VariantContext) -> SelectionSplit | None:
    """Return the images to choose a student by where its run held fewer out: it was trained on some of the others."""
    if recipe.holdout >= context.recipe.holdout:
        return None
    selection = selection_split(context.dataset, recipe)
    if selection is None:
        context.notify(f"{variant_name(name)}: its run held no images out, so its held-out accuracy is too high")
    return selection


def _checkpoint(name: StudentName, context: VariantContext) -> Checkpoint:
    """Return a finished run of the student: the user's own, or one that is trained for the variant."""
    from mnist_edge.exporting.variants.trained import finished_run, trained_run
    from mnist_edge.training.recipes import settings_for
    from mnist_edge.training.student_shape import STUDENTS

    data = context.dataset
    settings = settings_for(
        "student",
        dataset=data.name,
        train_images=len(data.train_images),
        fingerprint=data.fingerprint,
        student=STUDENTS[name],
    )
    found = finished_run(context.user_runs / f"{data.name}-{variant_name(name)}", settings)
    if found is not None:
        recipe = found.settings.recipe
        context.notify(
            f"{variant_name(name)}: taking the finished run with the recipe {recipe.name}, {recipe.epochs} epochs"
        )
        return found
    # At least the images that the other variants are chosen by are held out.
    holdout = max(settings.recipe.holdout, context.recipe.holdout)
    settings = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, holdout=holdout))
    return trained_run(context.runs / variant_name(name), settings, data, variant_name(name), context.notify)


KINDS = tuple(
    VariantKind(
        name=variant_name(name),
        precision="int4",
        requirement="accuracy",
        advice=ADVICE[name],
        build=partial(build, name),
    )
    for name in get_args(StudentName)
)
KINDS_BY_NAME = dict(zip(get_args(StudentName), KINDS, strict=True))
