"""CPython's own tests of multiprocessing.Pool, run against pooltable.Pool.

They come with the interpreter, in its `test` package, which some distributions leave out.
"""

from __future__ import annotations

import multiprocessing
import threading
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

import pooltable

METHODS = multiprocessing.get_all_start_methods()

# What does not apply, and why.
NOT_APPLICABLE = {
    "test_release_unused_processes": "counts the calls of context.Process; worker processes here are made another way, "
    "and test_faults.py tests the same with a fork that fails",
}

try:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from test import _test_multiprocessing as cpython
except ImportError:
    cpython = None  # type: ignore[assignment]

needs_cpython = pytest.mark.skipif(cpython is None, reason="CPython's own tests: its `test` package is not installed")
CLASSES = ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime", "TestPoolNotLeakOnFailure")


def names() -> list[tuple[str, str]]:
    if cpython is None:
        return [("all", "all")]
    loader = unittest.TestLoader()
    return [(kind, name) for kind in CLASSES for name in loader.getTestCaseNames(getattr(cpython, kind))]


def _pool(*args: Any, **kwargs: Any) -> pooltable.Pool:
    return pooltable.Pool(*args, **kwargs)


def _case(kind: str) -> type[unittest.TestCase]:
    base = getattr(cpython, kind)
    mixin = () if issubclass(base, unittest.TestCase) else (unittest.TestCase,)
    return type(
        kind,
        (base, *mixin),
        {"TYPE": "processes", "Pool": staticmethod(_pool), "__module__": __name__, "__qualname__": f"Cases.{kind}"},
    )


class Cases:
    """CPython's test cases with our pool, by name, because a method of one of them is sent to a worker."""


if cpython is not None:
    for each in CLASSES:
        setattr(Cases, each, _case(each))


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each start method, kind and name.

    What a call gives back does not depend on how its worker was started: the tests of `_TestPool` take the methods in
    turns, and with --everything each takes all. Deaths, recycling and leaks do depend on it.
    """
    if "name" not in metafunc.fixturenames:
        return
    everything = metafunc.config.getoption("everything")
    cases = []
    for number, (kind, name) in enumerate(names()):
        methods = METHODS if everything or kind != "_TestPool" else [METHODS[number % len(METHODS)]]
        cases += [pytest.param(method, kind, name, id=f"{method}-{kind}-{name}") for method in methods]
    metafunc.parametrize(("method", "kind", "name"), cases, indirect=["method"])


@needs_cpython
def test_of_cpython(method: str, kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NOT_APPLICABLE:
        pytest.skip(f"CPython's {name}: {NOT_APPLICABLE[name]}")
    monkeypatch.setattr(multiprocessing, "Pool", _pool)
    threads = set(threading.enumerate())
    result = unittest.TestResult()
    unittest.TestSuite([getattr(Cases, kind)(name)]).run(result)
    for _, text in (*result.errors, *result.failures):
        pytest.fail(text, pytrace=False)
    if result.skipped:
        pytest.skip(f"CPython's {name}: {result.skipped[0][1]}")
    assert result.testsRun == 1
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= threads
