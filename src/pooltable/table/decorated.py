"""Runs the user's own part of a column's type where the task runs: SQLAlchemy's `TypeDecorator.process_bind_param`.

what the task returned --Decorated, in the worker--> what the type underneath takes --conversion.py--> plain value
                                                 --that type's own processor, in the runner--> the driver's value
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

Decorators = tuple["sa.TypeDecorator[Any]", ...]


@dataclass(frozen=True)
class Inner:
    """What a column's type consists of: the user's decorators, the outermost first, the type under them, and
    SQLAlchemy's own way from a value of that to the driver. `dialect` is its name."""

    decorators: Decorators
    dialect: str
    type: sa.types.TypeEngine[Any]
    bind: Callable[[Any], Any] | None


def inner_of(implementation: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Inner | None:
    """Of a column's type for that dialect; None where nothing in it is the user's, or not in this form."""
    decorators: list[sa.TypeDecorator[Any]] = []
    while isinstance(implementation, sa.TypeDecorator):
        if type(implementation).bind_processor is not sa.TypeDecorator.bind_processor:
            return None
        decorators.append(implementation)
        implementation = implementation.impl_instance
    if not decorators:
        return None
    name = f"{dialect.name}+{dialect.driver}"
    return Inner(tuple(decorators), name, implementation, implementation.bind_processor(dialect))


class Decorated:
    """What the decorators of a column make of a value, the outermost first; it travels to the workers."""

    def __init__(self, decorators: Decorators, dialect: str) -> None:
        self._decorators = decorators
        self._dialect_name = dialect

    def __call__(self, value: Any) -> Any:
        for decorator in self._decorators:
            value = decorator.process_bind_param(value, self._dialect)
        return value

    @cached_property
    def _dialect(self) -> sa.Dialect:
        return sa.make_url(f"{self._dialect_name}://").get_dialect()()

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        # By value where no worker could import the class.
        return _unpacked, (cloudpickle.dumps(self._decorators), self._dialect_name)

    @property
    def travels(self) -> bool:
        """Whether it can be sent to a worker at all."""
        try:
            self.__reduce__()
        except Exception:  # whatever the user's class holds, and raises
            return False
        return True


def _unpacked(decorators: bytes, dialect: str) -> Decorated:
    import cloudpickle

    return Decorated(cloudpickle.loads(decorators), dialect)
