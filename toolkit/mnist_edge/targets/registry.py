"""The targets by name."""

from __future__ import annotations

from mnist_edge.contract import TargetName
from mnist_edge.errors import UsageError
from mnist_edge.targets.c99.target import C99
from mnist_edge.targets.emulated.target import ONNXRUNTIME
from mnist_edge.targets.target import Target
from mnist_edge.targets.triton.target import TRITON
from mnist_edge.targets.web.target import ONNXRUNTIME_WEB, WEB

REGISTRY: dict[TargetName, Target] = {
    target.name: target for target in (C99, WEB, TRITON, ONNXRUNTIME, ONNXRUNTIME_WEB)
}


def find_device(target: Target, device: str | None) -> str:
    """Return the device of a target, its first one by default.

    Raises:
        UsageError: it has no such device; lists those that it has.
    """
    if device is None:
        return target.devices[0]
    if device not in target.devices:
        raise UsageError(
            f"target {target.name} has no device {device!r}; it has {', '.join(target.devices)}",
            hint=f"--device {target.devices[0]}",
        )
    return device
