"""What workers do before the module of the task is imported, for rows in processes of ours and in somebody else's."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from pooltable import SettingError, TaskTable, Workers, WorkerStartError, run

MODELS = """
import registry

if not registry.ready:
    raise RuntimeError("the registry is not ready")

def mission(row):
    return row.content.upper()
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A module with a task that can be imported only after `registry:prepare` was called, as it was here."""
    (tmp_path / "registry.py").write_text("ready = False\n\ndef prepare():\n    global ready\n    ready = True\n")
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("registry", "models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("registry").prepare()
    return importlib.import_module("models")


def table(videos):
    return TaskTable(videos.url, "video", write=("caption",))


def test_the_setup_of_the_workers_is_done_before_the_task_is_imported(videos, models):
    videos.add("a", "b")
    workers = Workers(setup="registry:prepare", context="spawn")
    assert run(models.mission, table(videos), processes=1, workers=workers).done == 2
    assert videos.sql("SELECT caption FROM video") == [("A",), ("B",)]


def test_the_processes_of_somebody_elses_executor_are_set_up_too(videos, models):
    videos.add("a", "b")
    prepare = importlib.import_module("registry").prepare
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert run(models.mission, table(videos), executor=executor, workers=Workers(setup=prepare)).done == 2


def test_without_it_the_run_ends_with_what_the_import_raised(videos, models, caplog):
    videos.add("a")
    with pytest.raises(WorkerStartError, match="the registry is not ready"):
        run(models.mission, table(videos), processes=2, workers=Workers(context="spawn"))
    assert caplog.text.count("Traceback") == 1
    assert "no worker can be started: no worker" not in caplog.text


@pytest.mark.parametrize("setup", ["prepare", 7])
def test_a_setup_that_names_no_function_is_refused_before_anything_is_done(setup):
    with pytest.raises(SettingError, match="setup"):
        Workers(setup=setup)
