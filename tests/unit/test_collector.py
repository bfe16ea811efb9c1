"""The garbage collector's threshold is the program's own again once no run is left."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pooltable.collector import THRESHOLD, looks_rarely


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_it_is_higher_until_the_last_run_has_ended() -> None:
    first, second = looks_rarely(), looks_rarely()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (THRESHOLD, 10, 10)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [(0, 10, 10), (5000, 20, 5)])
def test_what_a_program_chose_stays(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with looks_rarely():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own
    gc.set_threshold(700, 10, 10)
    with looks_rarely():
        gc.set_threshold(*own)
    assert gc.get_threshold() == own
