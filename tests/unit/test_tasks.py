"""Finding the task by its name, and refusing what can never be run on a row."""

from __future__ import annotations

import functools
import sys

import pytest

from pooltable import TaskError, current, tasks


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Write a module `app_<n>` into the current folder and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    written = iter(range(100))

    def write(text):
        name = f"app_{tmp_path.name}_{next(written)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def test_a_task_is_found_by_module_and_name(app):
    name = app("class Model:\n    @staticmethod\n    def predict(row): return 7\n")
    assert tasks.load(f"{name}:Model.predict")(None) == 7


def test_a_wrong_name_is_told_with_the_nearest_one(app):
    name = app("def mission(row): pass\n")
    with pytest.raises(TaskError, match=f"did you mean {name}:mission"):
        tasks.load(f"{name}:misson")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("mission", "app:mission"),
        (":mission", "app:mission"),
        ("app.py:mission", "write the module, such as app:mission"),
        ("src/app.py:mission", r"such as src\.app:mission"),
        ("no_such_module_at_all:mission", "there is no module 'no_such_module_at_all'"),
    ],
)
def test_a_path_that_names_nothing_says_how_to_write_it(path, told):
    with pytest.raises(TaskError, match=told):
        tasks.load(path)


def test_a_module_that_fails_to_import_says_where(app):
    name = app("import os\nraise RuntimeError('no licence')\n")
    with pytest.raises(TaskError, match=rf"importing {name} failed at .*{name}\.py:2: RuntimeError: no licence"):
        tasks.load(f"{name}:mission")


def test_a_syntax_error_says_where(app):
    name = app("def mission(row):\n    return (\n")
    with pytest.raises(TaskError, match=rf"{name}\.py:2"):
        tasks.load(f"{name}:mission")


def test_a_module_that_needs_a_missing_package_names_the_package(app):
    name = app("import no_such_package_at_all\n")
    with pytest.raises(TaskError, match="needs the module 'no_such_package_at_all', which is not installed"):
        tasks.load(f"{name}:mission")


def test_what_is_no_function_is_refused(app):
    name = app("mission = 7\n")
    with pytest.raises(TaskError, match="is no function but int"):
        tasks.load(f"{name}:mission")


async def coroutine(row):
    return None


class AsyncCallable:
    async def __call__(self, row):
        return None


def generator(row):
    yield row


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (coroutine, r"asyncio\.run"),
        (AsyncCallable(), r"asyncio\.run"),
        (functools.partial(coroutine), r"asyncio\.run"),
        (generator, "yield"),
        (lambda: None, "cannot be called with one row"),
        (lambda one, two: None, "cannot be called with one row"),
        ("app:mission", "must be a function"),
    ],
)
def test_what_can_never_be_run_on_a_row_is_refused_with_the_remedy(task, told):
    with pytest.raises(TaskError, match=told):
        tasks.check(task)


@pytest.mark.parametrize("task", [lambda row: None, lambda row, model=None: None, print, functools.partial(max, 1)])
def test_whatever_takes_one_row_is_taken(task):
    tasks.check(task)


def test_current_is_known_only_inside_a_task():
    with pytest.raises(RuntimeError, match="only inside a task"):
        current()


def test_an_initializer_knows_its_worker_and_no_row():
    seen = []
    tasks.prepare_worker(tasks.Spec(print, ("id",), 1, lambda: seen.append(current())))
    assert (seen[0].key, seen[0].attempt, seen[0].worker) == ((), 0, 0)
    assert seen[0].threads >= 1


def test_a_task_knows_its_row_and_attempt():
    seen = []
    tasks.prepare_worker(tasks.Spec(lambda row: seen.append((row, current())), ("id", "content"), 1))
    tasks.run_row((7, "a.mp4"), 3, "video:7:1")
    row, attempt = seen[0]
    assert row.content == "a.mp4"
    assert (attempt.key, attempt.attempt, attempt.idempotency_key) == ((7,), 3, "video:7:1")
    with pytest.raises(RuntimeError):
        current()


def test_onnx_options_keep_a_session_to_the_threads_of_its_worker():
    onnxruntime = pytest.importorskip("onnxruntime")
    options = tasks.Current((1,), 1, "key", 0, 3, None).onnx_options()
    assert isinstance(options, onnxruntime.SessionOptions)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_onnx_options_without_the_library_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        tasks.Current((1,), 1, "key", 0, 3, None).onnx_options()
