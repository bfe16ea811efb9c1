"""Which devices there are, and what a worker must have in its environment to see the one that it was given.

Asked of the system, never of a library: one that has started a device in this process could not be used in a forked
one any more.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

# A driver that hangs must not hang whoever makes a pool.
_PATIENCE = 20.0


class Device(NamedTuple):
    """One device: its name, its name inside the worker that has it, and the environment that shows it no other."""

    name: str
    name_inside: str
    environment: dict[str, str]


def devices_of(wanted: str | Iterable[str] | None) -> tuple[Device, ...]:
    """The devices by name: "cuda:0,cuda:1", or a list of names, or "auto" for every CUDA device there is.

    They are numbered as CUDA numbers them in this process. Raises ValueError for one that is not there.
    """
    if wanted is None:
        return ()
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    names = [name.strip() for name in names if name.strip()]
    if names == ["auto"]:
        there = cuda_devices()
        if not there:
            raise ValueError('devices="auto" finds no CUDA device on this machine' + _hidden())
        return tuple(_cuda(f"cuda:{number}", one) for number, one in enumerate(there))
    if not names:
        raise ValueError(f'devices must name devices, such as "cuda:0,cuda:1" or "auto", not {wanted!r}')
    there = cuda_devices() if any(name.partition(":")[0] == "cuda" for name in names) else []
    return tuple(_device(name, there) for name in names)


def _device(name: str, there: list[str]) -> Device:
    kind, _, number = name.partition(":")
    if kind == "cuda":
        number = number or "0"
        if number.isdigit() and int(number) < len(there):
            return _cuda(name, there[int(number)])
        if not number.isdigit() and number in there:  # by its UUID, where CUDA_VISIBLE_DEVICES has UUIDs
            return _cuda(name, number)
        known = ", ".join(f"cuda:{number}" for number in range(len(there)))
        found = f"there are {known}" if len(there) > 1 else f"there is only {known}" if there else "there is none"
        raise ValueError(f"there is no device {name!r} on this machine: {found}" + _hidden())
    if name == "auto" or not re.fullmatch(r"[a-z]+(:\d+)?", name):
        raise ValueError(f'a device is named like "cuda:0" or "cpu", not {name!r}')
    return Device(name, name, {"CUDA_VISIBLE_DEVICES": ""} if kind == "cpu" else {})


def _cuda(name: str, visible: str) -> Device:
    # A worker that sees one CUDA device finds it under the number 0.
    return Device(name, "cuda:0", {"CUDA_VISIBLE_DEVICES": visible})


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"


def cuda_devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES must hold for each CUDA device that this process may use, in CUDA's order."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(_count())]
    there = [part.strip() for part in visible.split(",")]
    # CUDA itself stops at the first entry that it does not know, such as -1.
    end = next((place for place, part in enumerate(there) if not part or part.startswith("-")), len(there))
    return there[:end]


def _count() -> int:
    try:
        nodes = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    except OSError:
        nodes = []
    # Inside a container the nodes may have any numbers; CUDA numbers from 0 what it finds.
    return len(nodes) or _count_by_driver()


def _count_by_driver() -> int:
    """Devices without a node of their own, as under WSL."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0
