"""A clock for what must not outlive its time, also while the machine sleeps."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Seconds since the machine was started; unlike the monotonic clock, this one goes on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)
