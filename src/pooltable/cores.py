"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """The cores this process may use, at least 1: the affinity mask, cut by the cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _cgroup_quota() -> float | None:
    """Cores' worth of time that the control group grants, from version 2 or version 1; None without a limit."""
    try:
        # A cgroup namespace shows a container its own group at the root; outside, the process's own path is read.
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += [_quota_v2(folder) for folder in _up(Path("/sys/fs/cgroup"), path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(folder) for folder in _up(Path("/sys/fs/cgroup/cpu"), path)]
    return min((quota for quota in quotas if quota), default=None)


def _up(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it, whose limits hold for it too."""
    folder = root / path.strip("/")
    return [folder, *[above for above in folder.parents if above == root or root in above.parents]]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None
