"""How much memory there is, how much of it a worker has for itself, and sizes as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pooltable.cgroups import groups, read


def limits_of(memory: Any) -> tuple[int | None, int | None]:
    """The soft and the hard limit in bytes, from one size or two. Raises ValueError for what is no size."""
    if memory is None or (type(memory) is int and memory > 0):
        return memory, None
    from pooltable.config import BY_NAME
    from pooltable.errors import SettingError

    try:
        found = BY_NAME["memory"].read(memory, "memory")
    except SettingError:
        sizes = '4000000000, "4GB" or "512MiB", or two such as ("4GB", "6GB")'
        raise ValueError(f"memory must be a size such as {sizes}, not {memory!r}") from None
    return found if isinstance(found, tuple) else (found, None)


def size_text(size: int, limit: int) -> str:
    """A size in the unit in which its limit was most likely given: 400MB is 400 MB, and not 381 MiB."""
    return f"{size >> 20} MiB" if limit % (1 << 20) == 0 else f"{size // 10**6} MB"


def private_memory(pid: int) -> int | None:
    """The bytes that a process shares with no other: what one more like it would cost. None if unknown.

    A forked process has most pages in common with the one it came from; they count for nobody.
    """
    try:
        sizes = _mapped(pid)
        return sizes["Private_Dirty:"] + sizes["Swap:"]
    except (OSError, ValueError, KeyError):
        return None


def own_memory(pid: int | str) -> int | None:
    """The bytes of anonymous memory that a process shares with no other; None if unknown. Mapped files and buffers do
    not count."""
    try:
        sizes = _mapped(pid)
        # Each of the two holds what the other does not: pages that are shared, and buffers that nobody else has mapped.
        return min(sizes["Anonymous:"], sizes["Private_Dirty:"])
    except (OSError, ValueError, KeyError):
        return _anonymous(pid)


def over_limit(pid: int | str, limit: int) -> int | None:
    """The size of a process that has more memory for itself than `limit` bytes; None if it has not, or if unknown."""
    # The kernel counts all pages at no cost, but has to look at each to tell those that are shared.
    size = _anonymous(pid)
    if size is not None and size > limit:
        size = own_memory(pid)
    return size if size is not None and size > limit else None


def _mapped(pid: int | str) -> dict[str, int]:
    """The bytes of each kind of memory that a process has mapped."""
    sizes = {}
    for row in read(f"/proc/{pid}/smaps_rollup").splitlines()[1:]:
        name, size, *_ = row.split()
        sizes[name] = int(size) * 1024
    return sizes


def _anonymous(pid: int | str) -> int | None:
    try:
        return _field(f"/proc/{pid}/status", "RssAnon:") * 1024
    except (OSError, ValueError):
        return None


def available_memory() -> int | None:
    """The bytes that this process and its children may still take, by the machine and by its control groups; None if
    unknown."""
    found = [size for size in (_of_the_machine(), *_of_the_groups()) if size is not None]
    return max(0, min(found)) if found else None


def _of_the_machine() -> int | None:
    try:
        return _field("/proc/meminfo", "MemAvailable:") * 1024
    except (OSError, ValueError):
        return None


def _of_the_groups() -> Iterator[int | None]:
    for version, folder in groups("memory"):
        if version == 2:
            yield _left(folder, "memory.max", "memory.current", "inactive_file")
        else:
            yield _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(folder: str, limit: str, usage: str, cache: str) -> int | None:
    """What the group's limit leaves; files that the kernel keeps only because there is room do not count as used."""
    try:
        most = int(read(f"{folder}/{limit}"))  # "max" is no number
        return most - int(read(f"{folder}/{usage}")) + _field(f"{folder}/memory.stat", cache)
    except (OSError, ValueError):
        return None


def _field(path: str, name: str) -> int:
    for row in read(path).splitlines():
        words = row.split()
        if words and words[0] == name:
            return int(words[1])
    raise ValueError(name)
