"""pooltable runs a function over the rows of a database table with a pool of worker processes.

The public names are exported lazily: `from pooltable import Pool` imports neither SQLAlchemy nor the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pooltable.crew import Workers as Workers
    from pooltable.errors import (
        CannotStore as CannotStore,
        CommandFailed as CommandFailed,
        DatabaseError as DatabaseError,
        DatabaseReadOnly as DatabaseReadOnly,
        DatabaseUnavailable as DatabaseUnavailable,
        Fail as Fail,
        Later as Later,
        MappingError as MappingError,
        PooltableError as PooltableError,
        RemoteError as RemoteError,
        ResultDropped as ResultDropped,
        SettingError as SettingError,
        TaskError as TaskError,
        TimeLimitExceeded as TimeLimitExceeded,
        UnguardedMain as UnguardedMain,
        UsageError as UsageError,
        WorkerError as WorkerError,
        WorkerLost as WorkerLost,
        WorkerStartError as WorkerStartError,
    )
    from pooltable.events import Event as Event, Summary as Summary
    from pooltable.pace import Pace as Pace
    from pooltable.pool.executor import PoolExecutor as PoolExecutor
    from pooltable.pool.pool import Pool as Pool
    from pooltable.pool.statistics import PoolStats as PoolStats, WorkerStats as WorkerStats
    from pooltable.rows import Row as Row
    from pooltable.runner import Runner as Runner, run as run
    from pooltable.table.states import Retry as Retry, Words as Words
    from pooltable.table.table import TaskTable as TaskTable
    from pooltable.tasks import current as current

_HOMES = {
    "Pool": "pooltable.pool.pool",
    "PoolExecutor": "pooltable.pool.executor",
    "PoolStats": "pooltable.pool.statistics",
    "WorkerStats": "pooltable.pool.statistics",
    "TaskTable": "pooltable.table.table",
    "Words": "pooltable.table.states",
    "Retry": "pooltable.table.states",
    "Runner": "pooltable.runner",
    "run": "pooltable.runner",
    "Pace": "pooltable.pace",
    "Workers": "pooltable.crew",
    "current": "pooltable.tasks",
    "Row": "pooltable.rows",
    "Event": "pooltable.events",
    "Summary": "pooltable.events",
    **dict.fromkeys(
        (
            "CannotStore",
            "CommandFailed",
            "DatabaseError",
            "DatabaseReadOnly",
            "DatabaseUnavailable",
            "Fail",
            "Later",
            "MappingError",
            "PooltableError",
            "RemoteError",
            "ResultDropped",
            "SettingError",
            "TaskError",
            "TimeLimitExceeded",
            "UnguardedMain",
            "UsageError",
            "WorkerError",
            "WorkerLost",
            "WorkerStartError",
        ),
        "pooltable.errors",
    ),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pooltable' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
