"""Each test of the pool runs under every start method that the system has."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pooltable import Pool, PoolExecutor

MakePool = Callable[..., Pool]
MakeExecutor = Callable[..., PoolExecutor]


@pytest.fixture(params=multiprocessing.get_all_start_methods())
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
