"""Tells a process from the copies that are forked off it, and ends a copy that comes back to our code.

    worker    own() -> a word that reads 1  -- the function forks -->  the same word reads 0
    copy      leave(error): what it printed is written, os._exit

A function may fork in ways that Python is not told of, such as `fork` of the C library. So the kernel tells: it wipes
the page of the word in every copy. To read it costs a tenth of what it costs to ask for the process id.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, which Python's mmap module does not know

_word: Any = bytearray(1)


def own() -> Any:
    """Its item 0 is 1 in this process, and 0 in every copy that is forked off it from now on."""
    global _word
    if not _word[0]:
        _word = _new_word()
    return _word


def _new_word() -> Any:
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # before Linux 4.14; then Python tells of what it forks itself
            page.madvise(_WIPE_ON_FORK)
    page[0] = 1
    return memoryview(page)


class EndsCopies:
    """In the block runs code of the user's, and a copy of this process that it forks off ends with the block."""

    __slots__ = ("_own",)

    def __enter__(self) -> None:
        self._own = own()

    def __exit__(self, kind: object, error: BaseException | None, frames: object) -> None:
        if not self._own[0]:
            leave(error)


def _forked() -> None:
    _word[0] = 0


os.register_at_fork(after_in_child=_forked)


def flush() -> None:
    """Write out what was printed and is kept in a buffer."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def leave(error: BaseException | None) -> NoReturn:
    """End this copy of a process as a program ends: by what it returned (None) or raised. No exit handlers run, for
    they are those of the process that it was forked off."""
    code = 1
    try:
        code = _exit_code(error)
    finally:
        try:
            flush()
        finally:
            os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        import traceback

        # The first frame is ours.
        frames = error.__traceback__ and (error.__traceback__.tb_next or error.__traceback__)
        traceback.print_exception(type(error), error, frames)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
