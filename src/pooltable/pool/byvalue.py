"""Functions and classes of a main module that workers cannot import: a notebook, the REPL, `python -c`.

They travel by value, with cloudpickle; pickle would send their names and the worker would not find them. All of them
that reach one worker share one globals dict there, the worker's own `__main__`, so that a model which the initializer
loads into a global is seen by the calls. A global that the worker itself has set is not overwritten by a later
arrival; one that the user changed in the notebook since is.
"""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar

import cloudpickle


class _Globals(dict[str, Any]):
    """Stands for the main module's globals in a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _globals, ()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    # With the standard library's reducers for what may be handed to a process that starts, such as connections.
    dispatch_table: ClassVar[Any] = ChainMap(
        ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        cloudpickle.Pickler.dispatch_table,
    )

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self._main = vars(sys.modules["__main__"])
        self.globals_ref[id(self._main)] = _Globals(__name__="__main__")

    def _dynamic_function_reduce(self, func: Any) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        if func.__globals__ is not self._main:
            return reduced
        return (*reduced[:5], _set_state)


def dumps(value: Any) -> bytes:
    """The value pickled, with whatever of the main module it needs."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


# What arrived, by name, so that a global which the worker has set itself can be told from it.
_arrived: dict[str, Any] = {}


def remember() -> None:
    """Called when a worker starts: what its main module has now may be replaced by what arrives."""
    _arrived.update(_globals())


def _globals() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


def _set_state(function: Any, state: Any) -> None:
    from cloudpickle.cloudpickle import _function_setstate

    rest, slots = state
    shared = function.__globals__
    missing = object()
    news = {}
    for name, value in slots["__globals__"].items():
        if shared.get(name, missing) is _arrived.get(name, missing):
            news[name] = _arrived[name] = value
    slots["__globals__"] = news
    _function_setstate(function, (rest, slots))
    # A function of the main module is itself one of its globals, and classes are looked up there when results are
    # pickled.
    name = function.__name__
    if "." not in function.__qualname__ and shared.get(name, missing) is _arrived.get(name, missing):
        shared[name] = _arrived[name] = function
