"""A short run of the fuzz suite: `make fuzz` runs 10,000 inputs a parser."""

from __future__ import annotations

import pytest

from tests.fuzz.runner import run_target
from tests.fuzz.targets import TARGETS, Target

INPUTS = 200


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_mutated_file_crashes_hangs_or_is_read_as_what_it_is_not(target: Target) -> None:
    """Every file that a user may be given ends in a record or in one printable line; a hash is never passed by."""
    outcome = run_target(target, range(1_000_000, 1_000_000 + INPUTS))
    assert outcome.failures == {}
    assert outcome.read + sum(outcome.refused.values()) == INPUTS
    assert outcome.refused  # the mutations do reach the checks
