"""Name the fault in a layer from its values alone.

Each check undoes one known fault. The first that brings the layer back to the reference, to within the drift that its
precision explains, names the symptom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import SIDE

Floats = NDArray[np.float64]
Finding = tuple[str, str]
"""Name of a symptom, and a sentence about it."""
FLOAT16_MAX = 65504.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tensor that drifts: N images, U units.

    Attributes:
        found, expected: float64 (N, U), the model's and the reference's.
        allowed: drift that the precision explains.
        layer_input: float64 (N, F), input of the model's own product; None for activations and outputs.
        weight: float64 (F, U) or None.
        other_weights: those of the other layers, by number.
        black, white: rows of the all-black and the all-white image, where they are among the N.
    """

    found: Floats
    expected: Floats
    allowed: float
    layer_input: Floats | None = None
    weight: Floats | None = None
    other_weights: dict[int, Floats] | None = None
    black: int | None = None
    white: int | None = None


def drift(found: Floats, expected: Floats) -> float:
    """Return the error of the worst unit, root mean square over images, relative to all units of the reference.

    Args:
        found, expected: float64 (N, U); NaN or infinite values in `found`, or another shape, give infinity.
    """
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    counted = Drift()
    counted.add(found, expected)
    return counted.value


class Drift:
    """The same of finite values of equal shape, added part by part."""

    def __init__(self) -> None:
        self._images = 0
        self._errors: Floats = np.zeros(1)  # sums of squares, of each unit
        self._scale = 0.0

    def add(self, found: Floats, expected: Floats) -> None:
        """Add the next images, float64 (n, U), at least one."""
        self._images += len(found)
        self._errors = self._errors + np.sum((found - expected) ** 2, axis=0)
        self._scale += float(np.mean(expected**2, axis=1).sum())

    @property
    def value(self) -> float:
        """Of all images that were added."""
        scale = max(float(np.sqrt(self._scale / self._images)), 1e-12)
        return float(np.sqrt(self._errors.max() / self._images)) / scale


def symptom(case: Case) -> Finding:
    """Return the name of the fault in a tensor that drifts, and a sentence about it."""
    if case.found.shape != case.expected.shape:
        return "other shape", f"it has {case.found.shape[1]} units, the reference {case.expected.shape[1]}"
    for check in (_not_finite, _saturation, _activation, _order, _weights, _normalisation, _scale_or_shift, _few_units):
        finding = check(case)
        if finding is not None:
            return finding
    return (
        "other weights",
        "no scale, shift or order of its units explains the error: it has other weights, or weights in another order",
    )


def _explains(case: Case, undone: Floats) -> bool:
    return drift(undone, case.expected) <= case.allowed


def _not_finite(case: Case) -> Finding | None:
    if np.isfinite(case.found).all():
        return None
    if np.isnan(case.found).any() and not np.isinf(case.found).any():
        units = np.flatnonzero(np.isnan(case.found).any(axis=0))
        return "not a number", f"{_units(units, case)} NaN"
    return "overflow", f"its values become infinite; the reference's largest is {np.abs(case.expected).max():.3g}"


def _saturation(case: Case) -> Finding | None:
    """Detect values that are clipped: several equal the largest one, and the reference exceeds it there."""
    for sign, side in ((1, "above"), (-1, "below")):
        found, expected = sign * case.found, sign * case.expected
        limit = found.max()
        at_limit = found >= limit - 1e-6 * abs(limit)
        if limit <= 0 or at_limit.sum() <= 3:
            continue
        if limit == FLOAT16_MAX:
            return "saturation", f"{at_limit.mean():.1%} of its values are the largest of float16, {sign * limit:g}"
        reached = (expected[at_limit] >= limit * (1 - case.allowed)).mean() > 0.9
        if reached and expected.max() > limit * (1 + 2 * case.allowed):
            detail = f"{at_limit.mean():.1%} of its values are {sign * limit:.4g}, the reference goes {side} it"
            return "saturation", detail
    return None


def _activation(case: Case) -> Finding | None:
    if (case.found < 0).any() and (case.expected >= 0).all() and _explains(case, np.maximum(case.found, 0)):
        return "missing activation", "it has negative values where the reference has 0: its ReLU is missing"
    clipped = np.maximum(case.expected, 0)
    if (case.expected < 0).any() and drift(case.found, clipped) <= case.allowed:
        return "doubled activation", "its negative values are 0: it has a ReLU where the reference has none"
    return None


def _order(case: Case) -> Finding | None:
    """Detect the same units in another order."""
    # (U, U): mean square difference of every unit of the reference from every unit of the model.
    gaps = ((case.expected[:, :, None] - case.found[:, None, :]) ** 2).mean(axis=0)
    order = gaps.argmin(axis=1)
    if len(set(order.tolist())) < len(order) or not _explains(case, case.found[:, order]):
        return None
    moved = np.flatnonzero(order != np.arange(len(order)))
    if len(moved) == 2:
        return "permutation", f"units {moved[0]} and {moved[1]} are swapped"
    return "permutation", f"{len(moved)} of its {len(order)} units are in another order"


def _weights(case: Case) -> Finding | None:
    """Recompute the pre-activations with corrected weights, or a corrected image."""
    for name, detail, product in _corrections(case):
        bias = (case.expected - product).mean(axis=0)  # (U,): any bias, as only the weights are in question
        if _explains(case, product + bias):
            return name, detail
    return None


def _corrections(case: Case) -> Iterator[tuple[str, str, Floats]]:
    """Yield symptom, sentence and the product (N, U) without that fault."""
    layer_input, weight = case.layer_input, case.weight
    if layer_input is None or weight is None or layer_input.shape[1] != len(weight):
        return
    if weight.shape[0] == weight.shape[1]:
        yield "transposition", "its square weight matrix is transposed", layer_input @ weight.T
    detail = "its weights are in the order of the transposed matrix"
    # The file stores (out, in) or (in, out); in either case the bytes were read with the sides swapped.
    yield "transposition", detail, layer_input @ np.ascontiguousarray(weight.T).reshape(weight.shape)
    yield "transposition", detail, layer_input @ weight.reshape(weight.shape[::-1]).T
    for number, other in (case.other_weights or {}).items():
        if other.shape == weight.shape:
            yield "swapped layers", f"the weights of layer {number} fit: the two are swapped", layer_input @ other
    if layer_input.shape[1] == SIDE * SIDE:
        images = layer_input.reshape(-1, SIDE, SIDE)
        undo: dict[str, Callable[[Floats], Floats]] = {
            "transposed": lambda p: p.swapaxes(1, 2),
            "mirrored": lambda p: p[:, :, ::-1],
            "upside down": lambda p: p[:, ::-1],
        }
        for change, inverse in undo.items():
            restored = inverse(images).reshape(layer_input.shape)
            yield f"image {change}", f"its input is the image {change}", restored @ weight


def _normalisation(case: Case) -> Finding | None:
    """Detect a first layer that reads pixels `x`, 0 to 1, as `scale * x + shift`, the same for every unit.

    Pre-activations z are affine in the pixels, so with z of a black and of a white image,
    `z(scale * x + shift) = z(black) + scale * (z(x) - z(black)) + shift * (z(white) - z(black))`:
    linear in both unknowns, which least squares over all images and units solves for.
    """
    if case.black is None or case.white is None:
        return None
    dark, step = case.expected[case.black], case.expected[case.white] - case.expected[case.black]  # (U,) each
    # (N * U, 2), against (N * U,).
    columns = np.stack([(case.expected - dark).ravel(), np.broadcast_to(step, case.expected.shape).ravel()], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(columns, (case.found - dark).ravel(), rcond=None)
    fitted = dark + scale * (case.expected - dark) + shift * step
    if drift(case.found, fitted) > case.allowed * max(1.0, abs(scale)):
        return None
    if abs(scale + 1) < 0.01 and abs(shift - 1) < 0.01:
        return "inverted pixels", "it reads a pixel x as 255 - x"
    if abs(scale * 255 - 1) < 0.01:
        return "normalisation", "its pixels are divided by 255 twice"
    value = f"{scale:.4g} x {'-' if shift < 0 else '+'} {abs(255 * shift):.4g}"
    return "normalisation", f"it reads a pixel x of 0 to 255 as {value}"


def _scale_or_shift(case: Case) -> Finding | None:
    """Fit one factor for all units and an offset for each: scaled weights, changed biases, or a wrong zero point."""
    centred, target = case.found - case.found.mean(axis=0), case.expected - case.expected.mean(axis=0)
    power = float((target**2).sum())
    # Least squares of `found = slope * expected + offset` with one slope and an offset (U,).
    slope = float((centred * target).sum()) / power if power > 0 else 1.0
    offset = case.found.mean(axis=0) - slope * case.expected.mean(axis=0)
    if slope < 1e-3 and drift(case.found, np.broadcast_to(offset, case.found.shape)) <= case.allowed:
        return "constant", "its values are the same for every image"
    if drift(case.found, slope * case.expected + offset) > case.allowed * max(1.0, abs(slope)):
        return None
    if abs(slope - 1) > case.allowed:
        return "scale", f"its weights are scaled by {slope:.4g}"
    scale = max(float(np.sqrt(np.mean(case.expected**2))), 1e-12)
    moved = np.flatnonzero(np.abs(offset) > case.allowed * scale)
    return (
        "shift",
        f"{_units(moved, case)} shifted, at most by {np.abs(offset).max():.3g}: a bias or zero point is wrong",
    )


def _few_units(case: Case) -> Finding | None:
    count = case.found.shape[1]
    wrong = np.flatnonzero([drift(case.found[:, [u]], case.expected[:, [u]]) > case.allowed for u in range(count)])
    if len(wrong) == 1:
        return _one_weight(case, int(wrong[0])) or ("few units", f"{_units(wrong, case)} wrong, the others are right")
    if 0 < len(wrong) <= count // 20:
        return "few units", f"{_units(wrong, case)} wrong, the others are right"
    return None


def _one_weight(case: Case, unit: int) -> Finding | None:
    """Detect one changed weight: the error of a unit is then proportional to one of its inputs.

    Each of the F inputs is fitted to the error separately; the one with the smallest residual belongs to that weight.
    """
    layer_input = case.layer_input
    if layer_input is None or case.weight is None or layer_input.shape[1] != len(case.weight):
        return None
    error = case.found[:, unit] - case.expected[:, unit]  # (N,)
    power = (layer_input**2).sum(axis=0)  # (F,)
    change = np.divide(layer_input.T @ error, power, out=np.zeros_like(power), where=power > 0)
    residual = ((error[:, None] - layer_input * change) ** 2).sum(axis=0)  # (F,)
    place = int(residual.argmin())
    if residual[place] > 1e-4 * (error**2).sum():
        return None
    now, right = case.weight[place, unit], case.weight[place, unit] - change[place]
    if abs(now + right) <= 1e-3 * abs(now):
        return "flipped sign", f"the sign of weight {place} of unit {unit} is flipped"
    return "one weight", f"weight {place} of unit {unit} is {now:.4g}, not {right:.4g}"


def _units(units: NDArray[np.intp], case: Case) -> str:
    if len(units) == 1:
        return f"unit {units[0]} of {case.found.shape[1]} is"
    return f"{len(units)} of its {case.found.shape[1]} units are"
