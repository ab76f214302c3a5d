"""Generated C on microcontrollers in emulators: the same bytes as the reference in numpy, and a self-test that passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnist_edge.errors import UnavailableError
from mnist_edge.integer_network import IntegerNetwork
from mnist_edge.pixels import logits_sha256
from mnist_edge.targets.c99.devices import DEVICES, GOLDEN_ONLY, require_tools
from mnist_edge.targets.c99.measure import measure
from mnist_edge.targets.c99.networks import network_logits
from mnist_edge.targets.c99.program import open_program
from tests.test_c99 import NETWORKS, images, written

pytestmark = pytest.mark.slow
SMALL = {"conv int4", "mixed"}
"""Networks for 32 kB of flash, and no array over 32 kB."""
CASES = [(device, name) for device in DEVICES for name in NETWORKS if device not in GOLDEN_ONLY or name in SMALL]
MEASURED = [device for device in DEVICES if DEVICES[device].emulated and device not in GOLDEN_ONLY]


def need(device: str) -> None:
    try:
        require_tools(device)
    except UnavailableError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.mark.parametrize(("device", "name"), CASES)
def test_a_device_computes_what_the_network_does(device: str, name: str, tmp_path: Path) -> None:
    """Integers bit for bit, and their hash in the line that an owner of a board compares; float32 to rounding."""
    need(device)
    network, golden = NETWORKS[name], images(16)
    shown = golden if device in GOLDEN_ONLY else images(60)
    folder = written(network, tmp_path / "c")
    with open_program(folder, device, 60) as program:
        found, test = program.logits(shown), program.self_test()
    expected = network_logits(network, shown)
    assert test.images == 16
    if isinstance(network, IntegerNetwork):
        assert found.tobytes() == expected.tobytes()
        assert test.sha256 == logits_sha256(network_logits(network, golden))
    else:
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("device", MEASURED)
def test_instructions_and_stack_are_measured(device: str, tmp_path: Path) -> None:
    """The stack holds at least the buffers; a dense layer takes less than ten instructions a weight."""
    need(device)
    folder = written(NETWORKS["dense int8"], tmp_path / "c")
    found = measure(folder, device)
    assert 70 + 33 + 4 * 64 < found.stack_bytes < 1024
    assert 5_000 < found.instructions < 10 * (784 * 70 + 70 * 33 + 33 * 10)
    assert 784 * 70 < found.flash_bytes < 784 * 70 + 70 * 33 + 33 * 10 + 6 * 113 + 3000
