"""`python -m tests.fuzz`: mutated inputs for every parser; exit 1 where one crashes, hangs or reads a forgery."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.runner import run_target
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run, print a line a parser, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each parser")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--only", action="append", help="a parser's name; may be repeated")
    parser.add_argument("--output", type=Path, help="also write the counts into this JSON file")
    options = parser.parse_args()
    chosen = [target for target in TARGETS if not options.only or target.name in options.only]
    seeds = range(options.seed, options.seed + options.inputs)
    found = {}
    with ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        for target, outcome in zip(chosen, pool.map(lambda target: run_target(target, seeds), chosen), strict=True):
            refused = ", ".join(f"{count} {name}" for name, count in outcome.refused.most_common())
            print(
                f"{target.name}: {outcome.inputs} inputs, {outcome.read} read, refused: {refused or 'none'}, "
                f"{len(outcome.failures)} FAILURES" if outcome.failures else
                f"{target.name}: {outcome.inputs} inputs, {outcome.read} read, refused: {refused or 'none'}",
                flush=True,
            )  # fmt: skip
            for seed, reason in list(outcome.failures.items())[:10]:
                print(f"  seed {seed}: {reason}", flush=True)
            found[target.name] = {
                "inputs": outcome.inputs, "read": outcome.read, "refused": dict(outcome.refused),
                "failures": {str(seed): reason for seed, reason in outcome.failures.items()},
            }  # fmt: skip
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(counts["failures"] for counts in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
