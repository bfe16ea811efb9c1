"""What tasks return, as it is stored: every kind of value into every kind of column, or a row that fails by name."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import uuid

import numpy
import pytest

from pooltable.table.states import Done, Finish
from tests.table.places import ends

TYPES = {
    "number": "INTEGER",
    "big": "BIGINT",
    "score": "DOUBLE PRECISION",
    "price": "NUMERIC(12, 4)",
    "label": "VARCHAR(10)",
    "text": "TEXT",
    "flag": "BOOLEAN",
    "day": "DATE",
    "moment": "TIMESTAMP",
    "data": "BLOB",
    "facts": "JSON",
    "must": "VARCHAR(10) NOT NULL DEFAULT 'x'",
}


@pytest.fixture
def store(place):
    """Stores values in one row and says how it ended and what stands there, for columns of every type."""
    types = dict(TYPES)
    if place.kind == "postgresql":
        types |= {"data": "BYTEA", "uid": "UUID", "facts": "JSONB"}
    elif place.kind == "mariadb":
        types |= {"moment": "DATETIME(6) NULL", "uid": "UUID", "data": "LONGBLOB"}
    else:
        types |= {"uid": "CHAR(36)"}
    columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
    place.script(f"CREATE TABLE t (id INTEGER PRIMARY KEY, status VARCHAR(10), {columns})")
    table = place.table("t", write=tuple(types))
    lease = place.lease(table)
    number = 0

    def store(value):
        nonlocal number
        number += 1
        table.add([{"id": number}])
        claim = lease.one()
        (fate,) = lease.done(claim, value=value)
        names = ", ".join(f"[{name}]" for name in value) if isinstance(value, dict) and value else "id"
        known = all(name in types for name in value) if isinstance(value, dict) else False
        row = place.sql(f"SELECT {names} FROM t WHERE id = {number}")[0] if known else ()
        return fate, row

    return store


@pytest.mark.parametrize(
    "column, value, stored",
    [
        ("number", 5, 5),
        ("number", True, 1),
        ("number", 3.0, 3),
        ("number", numpy.int64(7), 7),
        ("number", numpy.uint8(200), 200),
        ("number", numpy.array(9), 9),
        ("big", 2**62, 2**62),
        ("score", 0.5, 0.5),
        ("score", 3, 3.0),
        ("score", numpy.float32(0.5), 0.5),
        ("score", numpy.float64(0.25), 0.25),
        ("label", "a cat", "a cat"),
        ("label", numpy.str_("cat"), "cat"),
        ("label", 42, "42"),
        (
            "text",
            "\U0001f600 'quoted' \"double\" back\\slash %s {x} :y",
            "\U0001f600 'quoted' \"double\" back\\slash %s {x} :y",
        ),
        ("text", "", ""),
        ("text", "x" * 60_000, "x" * 60_000),
        ("flag", True, True),
        ("flag", numpy.bool_(False), False),
        ("data", b"\x00\xff\xfe", b"\x00\xff\xfe"),
        ("data", bytearray(b"abc"), b"abc"),
        ("price", decimal.Decimal("12.5"), decimal.Decimal("12.5")),
        ("price", 3, 3),
        ("score", None, None),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_values_arrive_as_they_are(store, column, value, stored):
    fate, (found,) = store({column: value})
    assert fate.end == "done", fate.reason
    assert (bytes(found) if isinstance(found, (bytearray, memoryview)) else found) == stored


@pytest.mark.parametrize(
    "column, value",
    [
        ("number", "abc"),
        ("number", 1.5),
        ("number", 2**70),
        ("number", [1]),
        ("number", numpy.array([1, 2])),
        ("score", "0.5"),
        ("score", True),
        ("price", decimal.Decimal("123456789.5")),
        ("label", "more than ten characters"),
        ("label", b"bytes"),
        ("label", ["list"]),
        ("label", {"a": 1}),
        ("text", "nul \0"),
        ("text", "surrogate \ud800"),
        ("flag", "yes"),
        ("flag", 7),
        ("day", "tomorrow"),
        ("moment", 12345),
        ("data", "text"),
        ("facts", {"a": math.nan}),
        ("facts", {"a": {1}}),
        ("facts", {"a": "nul \0"}),
        ("facts", {"a": "\ud800"}),
        ("uid", "not a uuid"),
        ("must", None),
        ("nowhere", 1),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_values_that_a_column_cannot_hold_fail_the_row_by_name(store, place, column, value):
    fate, _ = store({column: value})
    # SQLite has neither numbers of a fixed size nor UUIDs, and MariaDB no type for true and false.
    holds = (place.kind, column) in {("sqlite", "price"), ("sqlite", "uid")} or (place.kind, column, repr(value)) == (
        "mariadb",
        "flag",
        "7",
    )
    assert (fate.end, fate.kind) == (("done", "") if holds else ("failed", "CannotStore"))
    assert column in fate.reason or column in ("price", "uid") or holds
    good, _ = store({"number": 1})
    assert good.end == "done"


def test_dates_and_times_arrive_in_columns_of_their_types(store):
    day, moment = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30, 45, 123456)
    fate, found = store({"day": day, "moment": moment})
    assert fate.end == "done", fate.reason
    assert [str(part) for part in found] == [str(day), str(moment)]
    fate, found = store({"day": "2024-02-29", "moment": "2024-02-29T12:30:45.123456"})
    assert [str(part) for part in found] == [str(day), str(moment)]


def test_uuids_arrive(store):
    value = uuid.uuid4()
    fate, (found,) = store({"uid": value})
    assert fate.end == "done", fate.reason
    assert str(found) == str(value)


def test_whatever_has_a_form_in_json_arrives_in_a_column_for_it(store):
    value = {
        "boxes": numpy.array([[1.5, 2.0]]),
        "n": numpy.int32(3),
        "when": datetime.date(2024, 1, 2),
        "\u00e4": [None, True, "\U0001f600"],
    }
    fate, (found,) = store({"facts": value})
    assert fate.end == "done", fate.reason
    found = json.loads(found) if isinstance(found, str) else found
    assert found == {"boxes": [[1.5, 2.0]], "n": 3, "when": "2024-01-02", "\u00e4": [None, True, "\U0001f600"]}


def test_nan_and_infinity_are_stored_where_the_database_holds_them_and_named_where_not(store, place):
    nan, _ = store({"score": math.nan})
    infinity, _ = store({"score": numpy.float32("inf")})
    assert (nan.end, infinity.end) == {
        "sqlite": ("failed", "done"),
        "postgresql": ("done", "done"),
        "mariadb": ("failed", "failed"),
    }[place.kind]
    if place.kind == "sqlite":
        assert "NULL" not in nan.reason
        assert "cannot hold nan" in nan.reason


def test_rows_of_one_group_may_return_numbers_of_several_types(place):
    place.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, status VARCHAR(10), score DOUBLE PRECISION, price NUMERIC(10, 2))"
    )
    table = place.table("t", write=("score", "price"))
    table.add([{"id": i} for i in range(6)])
    lease = place.lease(table)
    values = [1, 2.5, numpy.float32(0.5), None, decimal.Decimal("1.25"), True]
    fates = lease.finish(Finish(c, Done({"score": v, "price": v})) for c, v in zip(lease.claim(6), values, strict=True))
    assert ends(fates) == ["done"] * 5 + ["failed"]
    assert [float(row[0]) if row[0] is not None else None for row in place.sql("SELECT score FROM t ORDER BY id")] == [
        1.0,
        2.5,
        0.5,
        None,
        1.25,
        None,
    ]


def test_arrays_of_postgresql_arrive_also_when_several_rows_return_them(postgresql):
    place = postgresql
    place.script("CREATE TABLE t (id INTEGER PRIMARY KEY, status VARCHAR(10), vector DOUBLE PRECISION ARRAY)")
    table = place.table("t", write=("vector",))
    table.add([{"id": i} for i in range(3)])
    lease = place.lease(table)
    fates = lease.finish(Finish(c, Done([0.5] * (c.key[0] + 1))) for c in lease.claim(3))
    assert ends(fates) == ["done"] * 3
    assert place.sql("SELECT vector FROM t ORDER BY id") == [([0.5],), ([0.5] * 2,), ([0.5] * 3,)]


# ---- what is returned, and how


def one(place, value, **options):
    table = place.video(1, **options)
    lease = place.lease(table)
    (fate,) = lease.done(lease.one(), value=value)
    return fate, place.sql("SELECT caption, score, number FROM video")[0]


def test_none_writes_only_the_status(place):
    place.video(1, write=("caption",), result="score")
    place.sql("UPDATE video SET caption = 'old'")
    lease = place.lease(place.tables[0])
    assert ends(lease.done(lease.one(), value=None)) == ["done"]
    assert place.value("SELECT caption FROM video") == "old"


def test_with_one_column_a_bare_value_will_do(place):
    assert one(place, "a cat", write=("caption",))[1] == ("a cat", None, None)


def test_with_several_columns_a_bare_value_fails_with_the_remedy(place):
    fate, _ = one(place, 5, write=("caption", "score"))
    assert fate.end == "failed"
    assert "mapping of caption, score" in fate.reason


def test_a_column_that_was_not_declared_fails_the_row_by_name(place):
    fate, row = one(place, {"caption": "x", "nmuber": 1}, write=("caption", "number"))
    assert fate.end == "failed"
    assert "'nmuber'" in fate.reason
    assert "write=" in fate.reason
    assert row == (None, None, None)


@pytest.mark.parametrize(
    "value, stored",
    [
        ("text", "text"),
        ({"a": 1}, '{"a": 1}'),
        ([1, None], "[1, null]"),
        (3, "3"),
        (True, "true"),
        (numpy.float64(0.5), "0.5"),
    ],
)
def test_a_result_column_takes_text_as_it_is_and_all_else_as_json(place, value, stored):
    assert one(place, value, result="caption")[1][0] == stored


def test_a_result_column_takes_what_the_columns_to_write_leave_over(place):
    fate, row = one(place, {"score": 0.5, "why": "sharp"}, write=("score",), result="caption")
    assert fate.end == "done", fate.reason
    assert row == ('{"why": "sharp"}', 0.5, None)


def test_a_value_that_goes_nowhere_is_dropped(place):
    fate, row = one(place, "dropped")
    assert fate.end == "done"
    assert row == (None, None, None)


def test_a_returned_exception_is_a_value_that_cannot_be_stored(place):
    fate, _ = one(place, ValueError("x"), write=("caption",))
    assert (fate.end, fate.kind) == ("failed", "CannotStore")


def test_a_value_whose_own_methods_raise_fails_its_row_alone(place):
    class Nasty:
        def __getattr__(self, name):
            raise RuntimeError("nasty")

        def __repr__(self):
            raise RuntimeError("nasty")

    fate, _ = one(place, Nasty(), write=("caption",))
    assert (fate.end, fate.kind) == ("failed", "CannotStore")


def test_members_of_an_enumeration_go_by_what_the_column_declares(place):
    import sqlalchemy as sa

    class Mood(enum.Enum):
        GOOD = "g"
        BAD = "b"

    metadata = sa.MetaData()
    table = sa.Table(
        "t",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("status", sa.String(10)),
        sa.Column("mood", sa.Enum(Mood, name="mood")),
    )
    metadata.create_all(place.engine)
    tasks = place.table(table, write=("mood",))
    tasks.add([{"id": 1}, {"id": 2}, {"id": 3}])
    lease = place.lease(tasks)
    fates = lease.finish(Finish(c, Done(v)) for c, v in zip(lease.claim(3), (Mood.BAD, "GOOD", "FINE"), strict=True))
    assert ends(fates) == ["done", "done", "failed"]
    with place.engine.connect() as connection:
        assert connection.execute(sa.select(table.c.mood).order_by(table.c.id)).scalars().all() == [
            Mood.BAD,
            Mood.GOOD,
            None,
        ]
    assert lease.read([]) == []
