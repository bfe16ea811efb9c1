"""How many cores this process may really use."""

from __future__ import annotations

import math
import os

from pooltable.cgroups import groups, read


def usable_cores() -> int:
    """The cores this process may use, at least 1: the affinity mask, cut by the cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min((quota for group in groups("cpu") if (quota := _quota(*group))), default=None)
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _quota(version: int, folder: str) -> float | None:
    """Cores' worth of time that a group grants; None without a limit."""
    try:
        if version == 2:
            quota, period = read(f"{folder}/cpu.max").split()
        else:
            quota, period = read(f"{folder}/cpu.cfs_quota_us"), read(f"{folder}/cpu.cfs_period_us")
        return int(quota) / int(period) if int(quota) > 0 else None  # "max" is no number
    except (OSError, ValueError):
        return None
