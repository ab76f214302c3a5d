"""What went wrong in a layer, read from its figures alone: each known fault leaves its own mark.

Every test asks the same question: does undoing this fault bring the layer back to the reference, to
what its precision explains? The first that does names the symptom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_edge.contract import SIDE, Precision

Floats = NDArray[np.float64]
Finding = tuple[str, str]
FLOAT16_MAX = 65504.0
ALLOWED: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1, "int4": 0.5, "int2": 1.0}
"""Drift (see `drift`) that a precision explains. Seen on the seed's network: 3e-6 in fp32,
1.2e-3 in fp16, 0.04 in int8 quantised by tensor; a weight matrix scaled by 1.2 gives 0.2. In the logits int8 gives 0.01."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A stage that drifts: N images, U units.

    Attributes:
        found, expected: float64 (N, U), the model's and the reference's.
        allowed: the drift that its precision explains.
        fed: float64 (N, F), what the model's own product was fed; None for a stage of activations.
        weight: float64 (F, U) or None; `others` are those of the other layers, by number.
        black, white: rows of the all-black and the all-white image, where they are among the N.
    """

    found: Floats
    expected: Floats
    allowed: float
    fed: Floats | None = None
    weight: Floats | None = None
    others: dict[int, Floats] | None = None
    black: int | None = None
    white: int | None = None


def drift(found: Floats, expected: Floats) -> float:
    """Error of the worst unit, root mean square over images, over that of all units of the reference.

    Args:
        found, expected: float64 (N, U); NaN or infinite values in `found` give infinity.
    """
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    scale = max(float(np.sqrt(np.mean(expected**2))), 1e-12)
    return float(np.sqrt(np.mean((found - expected) ** 2, axis=0)).max()) / scale


def symptom(case: Case) -> Finding:
    """Name what is wrong with a stage and say it in a sentence."""
    if case.found.shape != case.expected.shape:
        return "other shape", f"it has {case.found.shape[1]} units, the reference {case.expected.shape[1]}"
    for test in (_not_finite, _saturation, _activation, _order, _weights, _normalisation, _scale_or_shift, _few_units):
        finding = test(case)
        if finding is not None:
            return finding
    return (
        "other weights",
        "no rescaling, shift or order of its units explains the error: its weights are others, or lie in another order",
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
    """The largest value stands on a plateau that the reference goes beyond."""
    for sign, side in ((1, "above"), (-1, "below")):
        found, expected = sign * case.found, sign * case.expected
        limit = found.max()
        at_limit = found >= limit - 1e-6 * abs(limit)
        if limit <= 0 or at_limit.sum() <= 3:
            continue
        if limit == FLOAT16_MAX:
            return "saturation", f"{at_limit.mean():.1%} of its values stand at the end of float16, {sign * limit:g}"
        reached = (expected[at_limit] >= limit * (1 - case.allowed)).mean() > 0.9
        if reached and expected.max() > limit * (1 + 2 * case.allowed):
            told = f"{at_limit.mean():.1%} of its values stand at {sign * limit:.4g}, the reference goes {side} it"
            return "saturation", told
    return None


def _activation(case: Case) -> Finding | None:
    if (case.found < 0).any() and (case.expected >= 0).all() and _explains(case, np.maximum(case.found, 0)):
        return "missing activation", "it has negative values where the reference has 0: its ReLU is missing"
    clipped = np.maximum(case.expected, 0)
    if (case.expected < 0).any() and drift(case.found, clipped) <= case.allowed:
        return "doubled activation", "its negative values are 0: a ReLU stands where the reference has none"
    return None


def _order(case: Case) -> Finding | None:
    """The same units in another order."""
    gaps = ((case.expected[:, :, None] - case.found[:, None, :]) ** 2).mean(axis=0)
    order = gaps.argmin(axis=1)
    if len(set(order.tolist())) < len(order) or not _explains(case, case.found[:, order]):
        return None
    moved = np.flatnonzero(order != np.arange(len(order)))
    if len(moved) == 2:
        return "permutation", f"units {moved[0]} and {moved[1]} are exchanged"
    return "permutation", f"{len(moved)} of its {len(order)} units are in another order"


def _weights(case: Case) -> Finding | None:
    """Recompute the sums with the weights, or the picture, put right."""
    for name, told, sums in _corrections(case):
        bias = (case.expected - sums).mean(axis=0)  # whatever the bias: only the weights are asked about
        if _explains(case, sums + bias):
            return name, told
    return None


def _corrections(case: Case) -> Iterator[tuple[str, str, Floats]]:
    fed, weight = case.fed, case.weight
    if fed is None or weight is None or fed.shape[1] != len(weight):
        return
    if weight.shape[0] == weight.shape[1]:
        yield "transposition", "its square weight matrix is transposed", fed @ weight.T
    told = "its weights lie in the order of the transposed matrix"
    yield "transposition", told, fed @ np.ascontiguousarray(weight.T).reshape(weight.shape)  # stored (out, in)
    yield "transposition", told, fed @ weight.reshape(weight.shape[::-1]).T  # stored (in, out)
    for number, other in (case.others or {}).items():
        if other.shape == weight.shape:
            yield "swapped layers", f"it fits the weights of layer {number}: the two are swapped", fed @ other
    if fed.shape[1] == SIDE * SIDE:
        pictures = fed.reshape(-1, SIDE, SIDE)
        turned: dict[str, Callable[[Floats], Floats]] = {
            "transposed": lambda p: p.swapaxes(1, 2),
            "mirrored": lambda p: p[:, :, ::-1],
            "upside down": lambda p: p[:, ::-1],
        }
        for told, undo in turned.items():
            yield f"image {told}", f"it is fed the image {told}", undo(pictures).reshape(fed.shape) @ weight


def _normalisation(case: Case) -> Finding | None:
    """In a first layer, a wrong normalisation is a pixel `x` taken for `scale * x + shift`, for every unit the same.

    With the sums of a black and of a white image, both can be solved for: the sums are affine in the pixels.
    """
    if case.black is None or case.white is None:
        return None
    dark, step = case.expected[case.black], case.expected[case.white] - case.expected[case.black]
    columns = np.stack([(case.expected - dark).ravel(), np.broadcast_to(step, case.expected.shape).ravel()], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(columns, (case.found - dark).ravel(), rcond=None)
    fitted = dark + scale * (case.expected - dark) + shift * step
    if drift(case.found, fitted) > case.allowed * max(1.0, abs(scale)):
        return None
    if abs(scale + 1) < 0.01 and abs(shift - 1) < 0.01:
        return "inverted pixels", "it takes 255 - x for a pixel x"
    if abs(scale * 255 - 1) < 0.01:
        return "normalisation", "its pixels are divided by 255 once too often"
    told = f"{scale:.4g} x {'-' if shift < 0 else '+'} {abs(255 * shift):.4g}"
    return "normalisation", f"a pixel x of 0 to 255 counts as {told}"


def _scale_or_shift(case: Case) -> Finding | None:
    """One factor for all units, an offset for each: weights scaled, biases changed, or a zero point moved."""
    centred, target = case.found - case.found.mean(axis=0), case.expected - case.expected.mean(axis=0)
    power = float((target**2).sum())
    slope = float((centred * target).sum()) / power if power > 0 else 1.0
    offset = case.found.mean(axis=0) - slope * case.expected.mean(axis=0)
    if slope < 1e-3 and drift(case.found, np.broadcast_to(offset, case.found.shape)) <= case.allowed:
        return "constant", "it gives the same values for every image"
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
    """The error of one unit that is proportional to one of its inputs: that weight was changed."""
    if case.fed is None or case.weight is None or case.fed.shape[1] != len(case.weight):
        return None
    error = case.found[:, unit] - case.expected[:, unit]
    power = (case.fed**2).sum(axis=0)
    change = np.divide(case.fed.T @ error, power, out=np.zeros_like(power), where=power > 0)
    left = ((error[:, None] - case.fed * change) ** 2).sum(axis=0)
    place = int(left.argmin())
    if left[place] > 1e-4 * (error**2).sum():
        return None
    now, right = case.weight[place, unit], case.weight[place, unit] - change[place]
    if abs(now + right) <= 1e-3 * abs(now):
        return "flipped sign", f"the sign of weight {place} of unit {unit} is flipped"
    return "one weight", f"weight {place} of unit {unit} is {now:.4g}, not {right:.4g}"


def _units(units: NDArray[np.intp], case: Case) -> str:
    if len(units) == 1:
        return f"unit {units[0]} of {case.found.shape[1]} is"
    return f"{len(units)} of its {case.found.shape[1]} units are"
