"""student-*-exact: a trained student on integers, whose logits are the same bytes on every runtime."""

from __future__ import annotations

from functools import partial
from typing import get_args

import numpy as np

from mnist_edge.contract import StudentName, variant_name
from mnist_edge.errors import CheckFailedError
from mnist_edge.exporting.variants.exact import exact_description, exact_model, hashes, require_images
from mnist_edge.exporting.variants.kind import Built, VariantContext, VariantKind
from mnist_edge.exporting.variants.student import own_selection, trained_student


def build(name: StudentName, context: VariantContext) -> Built:
    """Return a student on integers, calibrated on training images; the student is trained unless a run is found.

    Raises:
        UsageError: the bundle takes normalised pixels.
        BadFileError: too few training images of a class to calibrate with.
        CheckFailedError: it loses more accuracy than allowed against the student, or its file would not give the same
            bytes everywhere.
        StoppedError, UnavailableError: as `trained_student` raises them.
    """
    from mnist_edge.exporting.proof import selection_accuracy
    from mnist_edge.exporting.variants.calibration import SEED, calibration_set
    from mnist_edge.exporting.variants.integer_student import integer_student
    from mnist_edge.exporting.variants.student_graph import student_graph

    kind = KINDS_BY_NAME[name]
    require_images(kind.name, context)
    checkpoint, student = trained_student(name, context)
    recipe = checkpoint.settings.recipe
    images = np.concatenate(list(calibration_set(context.dataset, context.recipe).batches()))
    network = integer_student(student, images)
    model = exact_model(kind.name, network, context.opset, images)
    own = own_selection(name, recipe, context)
    selection = own or context.selection
    if selection is not None:
        before = selection_accuracy(student_graph(student, context.opset), selection)
        after = selection_accuracy(model, selection)
        if before - after > context.max_accuracy_drop:
            raise CheckFailedError(
                f"{kind.name} is right on {after:.2%} of the held-out images, the student on {before:.2%}",
                hint="a larger --max-accuracy-drop allows it",
            )
    made = {
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "seed": checkpoint.settings.seed,
        **exact_description(network),
        "calibration_images": len(images),
        "calibration_seed": SEED,
    }
    return Built(
        model=model,
        spec=kind.spec(context),
        made=made,
        selection=own,
        outputs_sha256=hashes(network, context.dataset),
    )


KINDS_BY_NAME = {
    name: VariantKind(
        name=f"{variant_name(name)}-exact",
        precision="int4",
        requirement="accuracy",
        advice=f"{variant_name(name)} with the same bytes on every runtime",
        build=partial(build, name),
    )
    for name in get_args(StudentName)
}
KINDS = tuple(KINDS_BY_NAME.values())
