"""What a worker does before the modules of its initializer and its calls are imported: `setup`."""

from __future__ import annotations

import importlib
import multiprocessing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pooltable import PoolExecutor, WorkerStartError
from tests.pool.conftest import MakePool

REGISTRY = "ready = False\n\ndef prepare():\n    global ready\n    ready = True\n"
MODELS = """
import registry

if not registry.ready:
    raise RuntimeError("the registry is not ready")

def load():
    pass

def answer():
    return 42
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that can be imported only after `registry:prepare` was called, as it was here."""
    (tmp_path / "registry.py").write_text(REGISTRY)
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("registry", "models"):
        monkeypatch.delitem(importlib.import_module("sys").modules, name, raising=False)
    importlib.import_module("registry").prepare()
    return importlib.import_module("models")


@pytest.mark.parametrize("setup", ["registry:prepare", "registry.prepare"])
def test_a_function_named_as_setup_is_called_before_the_initializer_is_imported(
    pool: MakePool, models: ModuleType, setup: str
) -> None:
    assert pool(1, models.load, setup=setup).apply(models.answer) == 42


def test_setup_may_be_the_function_itself(pool: MakePool, models: ModuleType) -> None:
    assert pool(1, models.load, setup=importlib.import_module("registry").prepare).apply(models.answer) == 42


def test_an_executor_takes_a_setup_too(models: ModuleType) -> None:
    with PoolExecutor(1, "spawn", initializer=models.load, setup="registry:prepare") as executor:
        assert executor.submit(models.answer).result() == 42


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="a start method of other systems"
)
def test_without_a_setup_the_error_says_which_module_was_too_early(pool: MakePool, models: ModuleType) -> None:
    with pytest.raises(WorkerStartError, match="the registry is not ready"):
        pool(1, models.load, context="forkserver").apply(models.answer)


def test_a_setup_that_is_not_there_is_the_error_of_the_start(pool: MakePool) -> None:
    with pytest.raises(WorkerStartError, match="no_such_module"):
        pool(1, setup="no_such_module:prepare").apply(len, ("",))


@pytest.mark.parametrize("setup", ["prepare", "app:", ":prepare", "app/prepare.py:go", 7])
def test_a_setup_that_names_no_function_is_refused(pool: MakePool, setup: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="setup"):
        pool(1, setup=setup)
