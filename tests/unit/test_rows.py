"""The row as a task gets it."""

from __future__ import annotations

import copy
import pickle

import pytest

from pooltable import Row


def test_a_row_is_a_tuple_with_names():
    row = Row(("id", "content"), (7, "a.mp4"))
    number, content = row
    assert (number, content) == (7, "a.mp4") == row
    assert row.content == row["content"] == row[1] == "a.mp4"


def test_columns_named_like_methods_of_a_tuple_are_reached_by_name():
    row = Row(("id", "count", "index", "fields"), (7, 3, 4, 5))
    assert (row["count"], row["index"], row["fields"]) == (3, 4, 5)


def test_a_row_survives_pickling():
    row = pickle.loads(pickle.dumps(Row(("id", "content"), (7, "a.mp4"))))
    assert row == (7, "a.mp4")
    assert row.content == "a.mp4"


def test_an_unknown_column_is_named_with_those_that_are_there():
    row = Row(("id", "content"), (7, "a.mp4"))
    with pytest.raises(AttributeError, match="no column 'contents'; it has id, content"):
        _ = row.contents
    with pytest.raises(KeyError, match="no column 'contents' here; there are id, content"):
        _ = row["contents"]


class Clip(Row):
    def name(self) -> str:
        return self.content.removesuffix(".mp4")


def test_a_class_of_ones_own_stays_one():
    clip = Clip(["id", "content"], (7, "a.mp4"))
    for same in (clip, pickle.loads(pickle.dumps(clip)), copy.deepcopy(clip), type(clip)(clip.fields, (7, "a.mp4"))):
        assert (isinstance(same, Clip), same.name(), same) == (True, "a", (7, "a.mp4"))


def test_the_text_of_a_row_names_its_columns():
    assert repr(Row(("id", "content"), (7, "a.mp4"))) == "Row(id=7, content='a.mp4')"
