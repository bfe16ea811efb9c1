"""Each test of the pool runs under every start method that the system has.

Where a test looks at what the parent makes of calls and answers, its promise does not depend on how its workers were
started. Marked `any_start_method`, its cases take the methods in turns; with --everything each takes all.
"""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pooltable import Pool, PoolExecutor

MakePool = Callable[..., Pool]
MakeExecutor = Callable[..., PoolExecutor]


METHODS = multiprocessing.get_all_start_methods()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("everything"):
        return
    left = [item for item in items if item.get_closest_marker("any_start_method") and not _has_the_turn(item)]
    config.hook.pytest_deselected(items=left)
    for_now = set(items).difference(left)
    items[:] = [item for item in items if item in for_now]


def _has_the_turn(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    if not hasattr(item, "callspec") or "method" not in item.callspec.params:
        return True
    case = max((number for name, number in item.callspec.indices.items() if name != "method"), default=0)
    # One more after each round, so that a parameter of three values does not meet the same method each time.
    turn = zlib.crc32(str(item.originalname).encode()) + case + case // len(METHODS)
    return bool(item.callspec.params["method"] == METHODS[turn % len(METHODS)])


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pool(method: str) -> Iterator[MakePool]:
    """Makes pools under the start method of this test and ends them."""
    made: list[Pool] = []

    def make(processes: int = 2, *args: Any, **kwargs: Any) -> Pool:
        made.append(Pool(processes, *args, context=kwargs.pop("context", method), **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.terminate()
        each.join()


@pytest.fixture
def executor(method: str) -> Iterator[MakeExecutor]:
    """Makes executors under the start method of this test and shuts them down."""
    made: list[PoolExecutor] = []

    def make(processes: int = 2, **kwargs: Any) -> PoolExecutor:
        made.append(PoolExecutor(processes, method, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()
