"""Keep finished blocks beside the output, and join them in order at the end."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnist_edge.errors import UsageError
from mnist_edge.files import (
    ensure_folder,
    explaining_os_errors,
    locked,
    remove_leftovers,
    replacing,
    write_atomic,
)
from mnist_edge.records.scoring import ScorePlan
from mnist_edge.scoring.part import COMPRESSION, schema_of
from mnist_edge.scoring.plan import Block

PLAN = "plan.json"


@dataclass
class Totals:
    """What was counted over all rows of an output.

    Attributes:
        correct: images whose label is the stated one.
        unreadable, refused: files that are no image; other images whose label is not accepted.
    """

    rows: int = 0
    correct: int = 0
    unreadable: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Parts:
    """The finished blocks of an unfinished output, a file each in a folder beside it."""

    folder: Path
    plan: ScorePlan

    def finished(self, blocks: tuple[Block, ...]) -> set[int]:
        """Return the numbers of the blocks whose file is complete; what is damaged is removed, and scored again."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found, schema = set(), schema_of(self.plan)
        for block in blocks:
            path = self._path(block.number)
            try:  # every value, as a flipped bit may leave the file readable
                table = pq.read_table(path, page_checksum_verification=True)
            except FileNotFoundError:
                continue
            except (OSError, pa.ArrowException):
                table = schema.empty_table()
            if len(table) == block.stop - block.start and table.schema.equals(schema, check_metadata=True):
                found.add(block.number)
            else:
                path.unlink()
        return found

    def keep(self, number: int, content: bytes) -> None:
        """Write a finished block, atomically."""
        write_atomic(self._path(number), content)

    def join(self, blocks: tuple[Block, ...], output: Path) -> Totals:
        """Write all blocks into one file, in order, a row group each; the file is replaced atomically.

        Raises:
            UnavailableError: the disk is full, or the folder is read-only.
        """
        import pyarrow.parquet as pq

        totals = Totals()
        schema = schema_of(self.plan)
        with replacing(output) as staged, pq.ParquetWriter(staged, schema, compression=COMPRESSION) as writer:
            for block in blocks:
                table = pq.read_table(self._path(block.number), schema=schema)
                writer.write_table(table, row_group_size=max(1, len(table)))
                totals.rows += len(table)
                if self.plan.labelled:
                    right = table["label"].to_numpy() == table["label_true"].to_numpy()
                    totals.correct += int(right.sum())
                if self.plan.kind == "photos":
                    readable, accepted = table["readable"].to_numpy(), table["accepted"].to_numpy()
                    totals.unreadable += int((~readable).sum())
                    totals.refused += int((readable & ~accepted).sum())
        return totals

    @property
    def kept(self) -> bool:
        """Whether a block is finished."""
        return any(self.folder.glob("*.parquet"))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"


@contextlib.contextmanager
def open_parts(output: Path, plan: ScorePlan) -> Iterator[Parts]:
    """Open the folder of finished blocks of an output, and lock it; it is removed once the block ends well.

    Raises:
        UsageError: it holds blocks of another plan.
        UnavailableError: another process holds it, or it cannot be written to.
    """
    folder = output.with_name(f"{output.name}.parts")
    ensure_folder(folder)
    with locked(folder):
        remove_leftovers(folder)
        _require_same(folder, plan)
        write_atomic(folder / PLAN, json.dumps(plan.to_json(), indent=2).encode())
        parts = Parts(folder, plan)
        try:
            yield parts
        except BaseException:
            if not parts.kept:  # there is nothing to continue
                shutil.rmtree(folder, ignore_errors=True)
            raise
        with explaining_os_errors(folder):
            shutil.rmtree(folder)


def _require_same(folder: Path, plan: ScorePlan) -> None:
    """Raise UsageError where a folder of finished blocks is of another plan; name what differs."""
    try:
        known = json.loads((folder / PLAN).read_bytes())
    except FileNotFoundError:
        known = None
    except ValueError:
        known = {}
    stated = json.loads(json.dumps(plan.to_json()))
    if known is None and not any(folder.iterdir()):
        return
    known = known if isinstance(known, dict) else {}
    differing = [key for key, value in stated.items() if known.get(key) != value]
    if differing:
        raise UsageError(
            f"{folder} holds an unfinished run with another {', '.join(differing)}",
            hint=f"continue that one, name another --output, or remove {folder}",
        )
