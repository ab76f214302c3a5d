"""Run mutated inputs through a parser in worker processes that may crash, hang or run out of memory.

A worker writes the seed it is at into a file before each input: where it dies, its parent knows of what, records it
and starts another at the next seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mnist_edge.errors import BadFileError, CheckFailedError, MnistEdgeError
from mnist_edge.reporting.console import emit_error
from tests.fuzz.targets import TARGETS, Target

MEMORY_BYTES = 6 * 2**30
HANG_S = 30
START_S = 180
"""Until the first input: a worker imports torch, on a machine that may be busy."""
MAKING = threading.Lock()
"""PyTorch exports one model at a time."""


@dataclass
class Outcome:
    """What became of the inputs of one target: how many were read, refused, and the failures by seed."""

    inputs: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)


def run_target(target: Target, seeds: range) -> Outcome:
    """Feed the inputs of these seeds to a target."""
    outcome = Outcome()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        log, place = Path(scratch, "log"), Path(scratch, "seed")
        log.touch()
        sound = Path(scratch, "sound")
        sound.mkdir()
        with MAKING:
            target.make(sound)
        target.read(shutil.copytree(sound, Path(scratch, "read once")))
        first = seeds.start
        while first < seeds.stop:
            place.write_text("")
            process = context.Process(target=_work, args=(target.name, first, seeds.stop, scratch))
            process.start()
            _wait(process, place)
            last = int(place.read_text() or first)
            if process.exitcode == 0:
                break
            reason = "hangs" if process.exitcode == -signal.SIGKILL else f"ends the process with {process.exitcode}"
            outcome.failures[last] = reason
            first = last + 1
        for line in log.read_text().splitlines():
            seed, kind, detail = json.loads(line)
            if kind == "failure":
                outcome.failures[seed] = detail
            elif kind == "read":
                outcome.read += 1
            else:
                outcome.refused[detail] += 1
    outcome.inputs = len(seeds)
    return outcome


def _wait(process: multiprocessing.process.BaseProcess, place: Path) -> None:
    """Wait for a worker, and kill it where it stays at one input."""
    seen, since = place.read_text(), time.monotonic()
    while process.is_alive():
        process.join(0.2)
        now = place.read_text()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > (HANG_S if seen else START_S):
            process.kill()
            process.join()


def _work(name: str, first: int, stop: int, scratch: str) -> None:
    target = next(target for target in TARGETS if target.name == name)
    sound = Path(scratch, "sound")
    data, right = (sound / target.file).read_bytes(), target.read(sound)
    # The journal is written to by whoever reads it: each case gets a copy of its own.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    case = Path(scratch, "case")
    with Path(scratch, "log").open("a", buffering=1) as log:
        for seed in range(first, stop):
            Path(scratch, "seed").write_text(str(seed))
            shutil.rmtree(case, ignore_errors=True)
            shutil.copytree(sound, case)
            changed = target.change(data, random.Random(seed))
            (case / target.file).write_bytes(changed)
            log.write(json.dumps([seed, *_judge(target, case, right, changed == data)]) + "\n")


def _judge(target: Target, case: Path, right: str, same: bool) -> tuple[str, str]:
    try:
        found = target.read(case)
    except MnistEdgeError as error:
        if not isinstance(error, BadFileError | CheckFailedError) and error.exit_code not in (2, 4):
            return "failure", f"ends with {error.exit_code}: {error.message[:200]}"
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown):
            emit_error(error, as_json=False)
        line = shown.getvalue().removesuffix("\n")
        if not line.isprintable():
            return "failure", f"its message is not one printable line: {line[:200]!r}"
        return "refused", type(error).__name__
    except BaseException as error:  # noqa: BLE001 - what must not happen is what is looked for
        return "failure", f"{type(error).__name__}: {str(error)[:200]}"
    if target.sealed and not same and found != right:
        return "failure", "a changed file was read as other content"
    return "read", ""
