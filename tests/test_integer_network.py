"""The reference of integer networks: equal to plain Python integers; what could overflow or saturate is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_networks import conv_network, dense_network, layer, plain_logits

from mnist_edge.errors import CheckFailedError
from mnist_edge.integer_network import IntegerNetwork, check_network, integer_logits, rounded_shift
from mnist_edge.pixels import logits_sha256
from mnist_edge.records.data import Dataset


@pytest.mark.parametrize("network", [dense_network(1), dense_network(2, (), bits=4), conv_network(3)])
def test_the_reference_computes_what_plain_integers_give(network: IntegerNetwork, digits: Dataset) -> None:
    """Multiplier, bias, rounding, clipping, strides and the order of channels, bit for bit; and batches do not matter."""
    check_network(network)
    images = np.concatenate(
        [digits.test_images[:2], np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)]
    )
    expected = np.array([plain_logits(network, image) for image in images])
    found = integer_logits(network, images)
    assert found.dtype == np.float32
    assert found.tolist() == expected.tolist()
    assert len(np.unique(expected)) > 20  # the control: not all clipped
    many = np.concatenate([images] * 200)
    assert integer_logits(network, many).tolist() == expected.tolist() * 200
    assert integer_logits(network, images[:0]).shape == (0, 10)


@given(st.integers(-(2**24) + 1, 2**24 - 1), st.integers(0, 30))
def test_a_shift_rounds_half_to_even(value: int, shift: int) -> None:
    """As `round` of an exact fraction: ties, negative values and a shift of 0 included."""
    assert rounded_shift(np.array([value]), shift).tolist() == [round(Fraction(value, 2**shift))]


def test_ties_go_to_the_even_neighbour() -> None:
    assert rounded_shift(np.array([-6, -2, 2, 6, 10]), 2).tolist() == [-2, 0, 0, 2, 2]


def changed(**fields: Any) -> IntegerNetwork:
    """A network whose first layer has other fields."""
    network = dense_network(1)
    return dataclasses.replace(network, layers=(dataclasses.replace(network.layers[0], **fields), *network.layers[1:]))


def with_weights(*values: int) -> np.ndarray:
    weight = np.zeros((32, 784, 1, 1), np.int8)
    weight[3, 2 : 2 + len(values), 0, 0] = values
    return weight


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"weight": with_weights(65, 64)}, "layer 1: output 3: a pair of products may reach 32895, at most 32767"),
        ({"weight": with_weights(-65, -64)}, "layer 1: output 3: a pair of products may reach 32895"),
        ({"weight": np.full((32, 784, 1, 1), 85, np.int8)}, "a sum may reach 1[0-9]{7}, which float32 cannot hold"),
        ({"bias": np.full(32, -(2**24), np.int32)}, "a sum may reach"),
        ({"bias": np.full(32, -(2**31), np.int32)}, "a sum may reach"),
        ({"weight": with_weights(-128)}, "a weight of 128, at most 127 with 8 bits"),
        ({"bits": 4}, "a weight of 64, at most 7 with 4 bits"),
        ({"bits": 2}, "at most 0 with 2 bits"),
        ({"multiplier": np.zeros(32, np.int32)}, "multipliers below 1"),
        ({"multiplier": np.ones(31, np.int32)}, "multipliers below 1, or not one for each"),
        ({"bias": np.zeros(31, np.int32)}, "weights"),
        ({"shift": 31}, "shift 31 is not 0 to 30"),
        ({"shift": -1}, "shift -1"),
        ({"weight": np.zeros((32, 783, 1, 1), np.int8)}, "it takes 783 maps of size 1, the layer before it returns 784"),
        ({"size": 0}, "kernel 1 with stride 1 on a map of size 0"),
        ({"stride": 0}, "kernel 1 with stride 0"),
    ],
)  # fmt: skip
def test_what_is_not_exact_everywhere_is_refused(fields: dict[str, Any], problem: str) -> None:
    """Saturation in int16, sums that float32 rounds, and shapes that do not fit; the message names the place."""
    check_network(dense_network(1))
    with pytest.raises(CheckFailedError, match=problem):
        check_network(changed(**fields))


@pytest.mark.parametrize("values", [(64, 64), (127, -127), (-64, -64), (1, 127), (0, 127, 127, 0)])
def test_pairs_that_fit_pass(values: tuple[int, ...]) -> None:
    """The limit is on pairs of one sign, and on those of inputs 2i and 2i + 1 alone."""
    check_network(changed(weight=with_weights(*values)))


def test_a_network_must_end_in_ten_logits() -> None:
    network = dense_network(1)
    with pytest.raises(CheckFailedError, match="16 outputs, expected 10"):
        check_network(IntegerNetwork(layers=network.layers[:-1]))
    with pytest.raises(CheckFailedError, match="no layers"):
        check_network(IntegerNetwork(layers=()))


def test_convolutions_may_have_pairs_but_no_large_sums() -> None:
    """A convolution runs in floats, where nothing saturates."""
    first = layer(np.full((10, 1, 28, 28), 7, np.int8), 4, np.ones(10), np.zeros(10), 0, 1, 28)
    check_network(IntegerNetwork(layers=(first,)))
    with pytest.raises(CheckFailedError, match="a sum may reach 16793280"):
        check_network(IntegerNetwork(layers=(dataclasses.replace(first, multiplier=np.full(10, 12, np.int32)),)))


def test_logits_are_hashed_as_little_endian_floats_row_by_row() -> None:
    """What a program in any language can compute: written apart from the product."""
    logits = np.arange(20, dtype=np.float32).reshape(2, 10) / 8
    expected = hashlib.sha256(struct.pack("<20f", *(value / 8 for value in range(20)))).hexdigest()
    assert logits_sha256(logits) == expected
    assert logits_sha256(np.asfortranarray(logits)) == expected
    assert logits_sha256(logits.astype(">f4")) == expected
