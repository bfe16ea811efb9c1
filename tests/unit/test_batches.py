"""One batch, run in this thread: which error means what, and what travels."""

from __future__ import annotations

import pickle

import pytest

from pooltable import batches, tasks
from pooltable.outcomes import Failure, Stored
from pooltable.pool import engine


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def in_caption(value):
    return ("caption",), (value,)


def stored(value):
    return Stored(("caption",), (value,))


def run(task, *contents, **options):
    spec = tasks.Spec(task, ("id", "content"), 1, batch=len(contents), **{"store": in_caption, **options})
    ends = batches.run_batch_here(spec, tuple(((key, text), 1, "") for key, text in enumerate(contents, 1)))
    return [end.ended for end in ends]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("anything"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ... Failed to allocate memory for requested buffer"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_every_librarys_way_to_say_that_memory_ran_out_is_known_and_ruins_no_worker(error):
    assert tasks.is_out_of_memory(error)

    def two_at_most(rows):
        if len(rows) > 2:
            raise error
        return [len(rows)] * len(rows)

    assert run(two_at_most, *"abcd") == [stored(2)] * 4


@pytest.mark.parametrize("error", [ValueError("no memory of that"), KeyError(1), SystemExit(1)], ids=repr)
def test_other_errors_are_not_taken_for_it(error):
    assert not tasks.is_out_of_memory(error)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (["one", "two"], "returned 2 results for 3 rows"),
        (["one"] * 5, "returned 5 results for 3 rows"),
        (iter("abcd"), "returned more results for 3 rows"),
        ("abc", "returned a str for 3 rows"),
        ({1: "a", 2: "b", 3: "c"}, "returned a dict for 3 rows"),
        (7, "returned a int for 3 rows"),
    ],
)
def test_what_is_no_list_of_that_length_fails_every_row(returned, told):
    outcomes = run(lambda rows: returned, *"abc")
    for outcome in outcomes:
        assert isinstance(outcome, Failure)
        assert outcome.how == "unstorable"
        assert told in outcome.reason


@pytest.mark.parametrize("returned", [("a", "b"), map(str.lower, "AB"), dict.fromkeys("ab").keys()])
def test_any_other_row_of_two_values_will_do_or_is_refused_for_having_no_order(returned):
    outcomes = run(lambda rows: returned, "x", "y")
    ordered = not isinstance(returned, type({}.keys()))
    assert outcomes == [stored("a"), stored("b")] if ordered else isinstance(outcomes[0], Failure)


class Unloadable:
    def __reduce__(self):
        return int, ("no number",)


def test_a_value_that_does_not_reach_its_callback_is_the_trouble_of_its_own_row():
    values = ["good", {"a": 1}, lambda: None, Unloadable()]
    good, dictionary, local, unloadable = pickle.loads(
        pickle.dumps(run(lambda rows: values, *"abcd", store=None, carries=(True, False)))
    )
    assert good == Stored(value="good")
    assert dictionary.value.load() == {"a": 1}
    assert (local.how, unloadable.how) == ("unstorable", "unstorable")
    assert "cannot be given to the callback" in local.reason
    assert "no number" in unloadable.reason


def test_an_error_travels_in_words_and_for_a_callback_as_its_pickle():
    def fails(rows):
        raise KeyError("where")

    (alone,) = run(fails, "x")
    assert (alone.kind, alone.how, alone.error) == ("KeyError", "raised", None)
    assert "in fails" in alone.detail
    assert "run_batch" not in alone.detail
    (carried,) = run(fails, "x", carries=(False, True))
    arrived = engine.rebuild(pickle.loads(pickle.dumps(carried)).error)
    assert isinstance(arrived, KeyError)
    assert "in fails" in str(arrived.__cause__)


def unpacks(row):
    _key, content = row
    return content


@pytest.mark.parametrize(
    "task", [lambda row: row.content, lambda row: row["content"], unpacks], ids=["attribute", "item", "unpacked"]
)
def test_a_function_for_one_row_fails_with_the_remedy(task):
    for outcome in run(task, *"abc"):
        assert outcome.kind == "TaskError"
        assert "leave out --batch" in outcome.reason


def three_columns(rows):
    return [content for key, content, more in rows]


@pytest.mark.parametrize(
    "task",
    [
        three_columns,
        lambda rows: [row.text for row in rows],
        lambda rows: list(rows)["a"],
        lambda rows: int("x"),
    ],
    ids=["unpacked rows", "no such column", "another list", "another error"],
)
def test_any_other_error_stays_as_it_is(task):
    (outcome,) = run(task, "a")
    assert outcome.kind in ("AttributeError", "TypeError", "ValueError")
