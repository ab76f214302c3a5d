"""Small networks on integers for tests, and their logits in plain Python integers, written apart from the product."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from mnist_edge.integer_network import IntegerLayer, IntegerNetwork


def dense_network(seed: int, widths: tuple[int, ...] = (32, 16), bits: int = 8) -> IntegerNetwork:
    """784-32-16-10 with random weights that pass `check_network`, and shifts at which activations are 0 to 255."""
    random = np.random.default_rng(seed)
    layers, inputs, largest = [], 784, {8: 64, 4: 7}[bits]
    for outputs in (*widths, 10):
        weight = random.integers(-largest, largest + 1, (outputs, inputs, 1, 1)).astype(np.int8)
        if inputs == 784:
            weight[:, random.random(784) < 0.6] = 0
        shift = int(np.log2(largest * np.sqrt(inputs)))
        layers.append(layer(weight, bits, np.ones(outputs), random.integers(-5000, 5000, outputs), shift, 1, 1))
        inputs = outputs
    return IntegerNetwork(layers=tuple(layers))


def saturating_network() -> IntegerNetwork:
    """784-10 in 8 bits with pairs of weights that int16 cannot hold: on white images x86 without VNNI saturates.

    `integer_graph` writes it although `check_network` refuses it. Only the fused form goes wrong, and only there.
    """
    weight = np.zeros((10, 784, 1, 1), np.int8)
    weight[:, 100:104] = 127
    return IntegerNetwork(layers=(layer(weight, 8, np.ones(10), np.arange(10), 0, 1, 1),))


def conv_network(seed: int) -> IntegerNetwork:
    """Two convolutions and a last layer over the whole map, 4-bit weights with multipliers, strides 2 and 1."""
    random = np.random.default_rng(seed)
    layers, size, channels = [], 28, 1
    for outputs, kernel, stride in ((4, 5, 2), (6, 3, 2), (10, 5, 1)):
        weight = random.integers(-7, 8, (outputs, channels, kernel, kernel)).astype(np.int8)
        multiplier = random.integers(1, 33, outputs)
        bias = random.integers(-20000, 20000, outputs)
        layers.append(layer(weight, 4, multiplier, bias, 9, stride, size))
        size, channels = (size - kernel) // stride + 1, outputs
    return IntegerNetwork(layers=tuple(layers))


def layer(weight, bits, multiplier, bias, shift, stride, size) -> IntegerLayer:
    return IntegerLayer(
        weight=weight,
        bits=bits,
        multiplier=np.asarray(multiplier, np.int32),
        bias=np.asarray(bias, np.int32),
        shift=shift,
        stride=stride,
        size=size,
    )


def plain_logits(network: IntegerNetwork, image: np.ndarray) -> list[float]:
    """Logits of one image, with loops over Python integers and fractions; `round` of a Fraction is half to even."""
    first = network.layers[0]
    pixels = [int(value) for value in image.flatten()]
    area = first.size**2
    maps = [pixels[start : start + area] for start in range(0, len(pixels), area)]
    for number, one in enumerate(network.layers, 1):
        outputs, channels, kernel, _ = one.weight.shape
        side = (one.size - kernel) // one.stride + 1
        made = []
        for output in range(outputs):
            weights = one.weight[output].tolist()
            row = []
            for y in range(side):
                for x in range(side):
                    total = 0
                    for channel in range(channels):
                        for i in range(kernel):
                            for j in range(kernel):
                                place = (y * one.stride + i) * one.size + x * one.stride + j
                                total += weights[channel][i][j] * maps[channel][place]
                    row.append(Fraction(total * int(one.multiplier[output]) + int(one.bias[output]), 2**one.shift))
            made.append(row)
        if number == len(network.layers):
            return [float(value) for row in made for value in row]
        maps = [[min(max(round(value), 0), 255) for value in row] for row in made]
    raise AssertionError
