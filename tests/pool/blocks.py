"""Large values, and what the tests of them run in workers; a module of its own for the reason of `calls.py`."""

from __future__ import annotations

import os
import pickle
import resource
from typing import Any


class Block:
    """An array as NumPy makes them: its memory is pickled out of band."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Block, (pickle.PickleBuffer(self.memory),)

    def view(self) -> memoryview:
        return memoryview(self.memory).cast("B")


def make(size: int, value: int) -> Block:
    return Block(bytearray([value]) * size)


def make_several(size: int, count: int) -> list[Block]:
    return [make(size, number) for number in range(count)]


def weigh(*blocks: Block) -> tuple[int, ...]:
    return tuple(len(block.view()) for block in blocks)


def fill(block: Block, value: int) -> Block:
    """Writes into its argument, which is its own."""
    view = block.view()
    view[:] = bytes([value]) * len(view)
    return block


def make_and_die(size: int) -> Block:
    os._exit(3)


def same(value: Any) -> Any:
    return value


def open_memory_files() -> int:
    folder = "/proc/self/fd"
    return sum("memfd:pooltable" in _target(f"{folder}/{name}") for name in os.listdir(folder))


def memory_files() -> set[int]:
    folder = "/proc/self/fd"
    names = [f"{folder}/{name}" for name in os.listdir(folder)]
    return {os.stat(name).st_ino for name in names if "memfd:pooltable" in _target(name)}


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


_taken: list[int] = []


def take_all_descriptors() -> None:
    """None is left to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _taken.append(soft)
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(number for number in numbers if number < 4096) + 1, hard))
    try:
        while True:
            _taken.append(os.dup(2))
    except OSError:
        pass


def give_descriptors_back() -> None:
    limit, *taken = _taken
    _taken.clear()
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
