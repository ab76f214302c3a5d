"""The scores of a block as a Parquet file: a row an image."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_edge.records.scoring import ScorePlan
from mnist_edge.scoring.plan import Block

if TYPE_CHECKING:
    import pyarrow

METADATA = b"mnist_edge"
"""Key of the plan in the file's metadata, as JSON."""
COMPRESSION = "zstd"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of n images of an IDX file.

    Attributes:
        labels: uint8 (n,), the predicted classes.
        probabilities: float32 (n,).
        stated: uint8 (n,), the right classes; None where the input states none.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    stated: NDArray[np.uint8] | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoScore:
    """Score of an image file.

    Attributes:
        name: of the file.
        label, probability: None where there is no digit, or no image.
        accepted: whether the label is to be trusted.
        reason: why not; empty where it is.
        readable: whether the file is an image.
    """

    name: str
    label: int | None
    probability: float | None
    accepted: bool
    reason: str
    readable: bool = True


def schema_of(plan: ScorePlan) -> pyarrow.Schema:
    """Return the columns of a plan's scores, with the plan itself as metadata."""
    import pyarrow as pa

    scored = [pa.field("label", pa.uint8()), pa.field("probability", pa.float32())]
    if plan.kind == "photos":
        told = [("accepted", pa.bool_()), ("reason", pa.string()), ("readable", pa.bool_())]
        columns = [pa.field("image", pa.string(), nullable=False), *scored, *(pa.field(*column) for column in told)]
    else:
        columns = [pa.field("image", pa.int64(), nullable=False), *scored]
    if plan.labelled:
        columns.append(pa.field("label_true", pa.uint8()))
    return pa.schema(columns, metadata={METADATA: json.dumps(plan.to_json(), sort_keys=True).encode()})


def part_bytes(plan: ScorePlan, block: Block, scores: Scores | tuple[PhotoScore, ...]) -> bytes:
    """Return the Parquet file of a block's scores; equal scores give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(scores, Scores):
        values = [np.arange(block.start, block.stop, dtype=np.int64), scores.labels, scores.probabilities]
        values += [] if scores.stated is None else [scores.stated]
    else:
        values = [
            [getattr(score, column) for score in scores]
            for column in ("name", "label", "probability", "accepted", "reason", "readable")
        ]
    schema = schema_of(plan)
    table = pa.Table.from_arrays(
        [pa.array(value, type=field.type) for value, field in zip(values, schema, strict=True)], schema=schema
    )
    file = io.BytesIO()
    pq.write_table(table, file, compression=COMPRESSION, row_group_size=max(1, len(table)), write_page_checksum=True)
    return file.getvalue()
