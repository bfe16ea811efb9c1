"""How much memory there is, how much of it a worker has for itself, and sizes as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path("/sys/fs/cgroup")


def limits_of(memory: Any) -> tuple[int | None, int | None]:
    """The soft and the hard limit in bytes, from one size or two. Raises ValueError for what is no size."""
    soft, hard = memory if isinstance(memory, tuple) and len(memory) == 2 else (memory, None)
    return _size_of(soft), _size_of(hard)


def _size_of(size: Any) -> int | None:
    if size is None or (type(size) is int and size > 0):
        return size
    from pooltable.config import BY_NAME
    from pooltable.errors import SettingError

    try:
        return int(BY_NAME["memory"].read(size, "memory"))
    except SettingError:
        raise ValueError(f'memory must be a size such as 4000000000, "4GB" or "512MiB", not {size!r}') from None


def private_memory(pid: int) -> int | None:
    """The bytes that a process shares with no other: what one more like it would cost. None if unknown.

    A forked process has most pages in common with the one it came from; they count for nobody.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rows:
            return sum(int(row.split()[1]) for row in rows if row.startswith((b"Private_Dirty:", b"Swap:"))) * 1024
    except (OSError, ValueError, IndexError):
        return None


def available_memory() -> int | None:
    """The bytes that this process and its children may still take, by the machine and by its control groups; None if
    unknown."""
    found = [size for size in (_of_the_machine(), *_of_the_groups()) if size is not None]
    return max(0, min(found)) if found else None


def _of_the_machine() -> int | None:
    try:
        return _field(Path("/proc/meminfo"), "MemAvailable:") * 1024
    except (OSError, ValueError):
        return None


def _of_the_groups() -> Iterator[int | None]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for folder in _up(_ROOT, path):
                yield _left(folder, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in _up(_ROOT / "memory", path):
                yield _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _up(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it, whose limits hold for it too."""
    folder = root / path.strip("/")
    return [folder, *[above for above in folder.parents if above == root or root in above.parents]]


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """What the group's limit leaves; files that the kernel keeps only because there is room do not count as used."""
    try:
        most = int((folder / limit).read_text())  # "max" is no number
        return most - int((folder / usage).read_text()) + _field(folder / "memory.stat", cache)
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int:
    with path.open(encoding="ascii") as rows:
        for row in rows:
            words = row.split()
            if words and words[0] == name:
                return int(words[1])
    raise ValueError(name)
