"""Devices that run the C program here: this computer, and microcontrollers in emulators. The Makefile has their flags."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnist_edge.errors import UnavailableError


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device.

    Attributes:
        tools: programs that it needs besides make, and the Debian package of each.
        seconds_per_image: that a run may take, besides its usual limit.
        emulated: whether it runs in an emulator.
    """

    tools: Mapping[str, str] = field(default_factory=dict)
    seconds_per_image: float = 0.005
    emulated: bool = False


_ARM = Device(
    tools={"arm-none-eabi-gcc": "gcc-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"},
    seconds_per_image=0.5,
    emulated=True,
)
_RISCV = Device(
    tools={"riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf", "qemu-system-riscv32": "qemu-system-misc"},
    seconds_per_image=0.5,
    emulated=True,
)
DEVICES: dict[str, Device] = {
    "host": Device(),
    "host-sanitized": Device(seconds_per_image=0.05),
    "cortex-m3": _ARM,
    "cortex-m4": _ARM,
    "cortex-m55": _ARM,
    "rv32imac": _RISCV,
    "avr": Device(tools={"avr-gcc": "gcc-avr avr-libc", "simavr": "simavr"}, seconds_per_image=5, emulated=True),
}
GOLDEN_ONLY = frozenset({"avr"})
"""Devices that run only the images of the self-test."""


def require_tools(device: str) -> None:
    """Check that everything is installed that a device needs.

    Raises:
        UnavailableError: names what is missing, and the Debian packages that contain it.
    """
    found = DEVICES[device].tools or {_host_compiler(): "gcc"}
    missing = {tool: package for tool, package in {"make": "make", **found}.items() if shutil.which(tool) is None}
    if missing:
        named = "CC" in os.environ and not DEVICES[device].tools and missing.keys() != {"make"}
        raise UnavailableError(
            f"device {device} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"unset CC, or install {' and '.join(missing)}" if named else _install(missing.values()),
        )


def compiler_hint() -> str:
    """Return what to do where the compiler of this computer refuses code that it should accept."""
    return "unset CC" if "CC" in os.environ else _install(["gcc", "libc6-dev"])


def _host_compiler() -> str:
    """Return the C compiler of this computer, which make takes from $CC."""
    words = os.environ.get("CC", "cc").split()
    if not words:
        raise UnavailableError("the variable CC names no compiler", hint="unset CC")
    return words[0]


def _install(packages: Iterable[str]) -> str:
    return f"apt-get install {' '.join(packages)}"
