"""The mapping: which tables, keys, columns, words and names fit, and what is said where they do not."""

from __future__ import annotations

import datetime
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, mapped_column

from pooltable import Words
from pooltable.errors import DatabaseUnavailable, MappingError
from pooltable.table.states import Done, Finish
from tests.table.places import ends


def drained(place, table):
    """Runs every row through claim, read and finish, and returns the keys in their order."""
    lease = place.lease(table)
    seen = []
    while claims := lease.claim(2):
        assert all(row is not None for row in lease.read(claims))
        seen += [claim.key for claim in claims]
        assert set(ends(lease.done(*claims))) == {"done"}
    lease.close()
    return seen


# ---- what is not there


def test_a_table_that_is_not_there_is_named_with_the_nearest(place):
    place.video()
    with pytest.raises(MappingError, match=r"table 'vido' is not in .*; there is 'video'"):
        place.table("vido").prepare()


def test_an_empty_database_says_that_it_has_no_tables(place):
    with pytest.raises(MappingError, match="no tables"):
        place.table("video").prepare()


def test_columns_that_are_not_there_are_named_with_the_nearest(place):
    place.video()
    with pytest.raises(MappingError, match=r"no column 'captoin' for write; there is 'caption'"):
        place.table("video", write=("captoin",)).prepare()
    with pytest.raises(MappingError, match=r"no column 'state' for status; .*name yours with --status or status="):
        place.table("video", status="state").prepare()
    with pytest.raises(MappingError, match="no column 'kee' for key"):
        place.table("video", key="kee").prepare()


def test_a_mistake_in_where_or_order_by_is_told_before_anything_is_made(place):
    place.video()
    with pytest.raises(MappingError, match=r"where='nope = 1' does not work"):
        place.table("video", where="nope = 1").prepare()
    with pytest.raises(MappingError, match=r"order_by='nope'"):
        place.table("video", order_by="nope").prepare()
    assert "pooltable_job" not in sa.inspect(place.engine).get_table_names()


def test_roles_that_cannot_be_one_column_are_refused(place):
    place.video()
    with pytest.raises(MappingError, match="is the status"):
        place.table("video", write=("status",)).prepare()
    with pytest.raises(MappingError, match="is the key"):
        place.table("video", result="id").prepare()


# ---- keys


@pytest.mark.parametrize(
    "column, values",
    [
        ("BIGINT", [-5, 3, 2**62]),
        ("SMALLINT", [1, 2, 3]),
        ("VARCHAR(40)", ["", "a' \"b%s", "\u00e4\U0001f600 \\"]),
        ("CHAR(8)", ["a", "bb", "ccc"]),
        ("DATE", [datetime.date(2024, 1, 1), datetime.date(2024, 2, 1), datetime.date(1900, 1, 1)]),
    ],
)
def test_keys_of_every_type_that_compares_exactly(place, column, values):
    place.script(f"CREATE TABLE job_list (k {column} NOT NULL PRIMARY KEY, status VARCHAR(10))")
    for value in values:
        place.sql(
            "INSERT INTO job_list VALUES (:k, 'PENDING')",
            k=str(value) if place.kind == "sqlite" and "DATE" in column else value,
        )
    table = place.table("job_list")
    assert len(drained(place, table)) == 3
    assert table.counts().done == 3
    for value in values:
        assert table.entry(value).ended == "done"


def test_a_key_of_uuids(place):
    kind = {"sqlite": "CHAR(36)", "postgresql": "UUID", "mariadb": "UUID"}[place.kind]
    place.script(f"CREATE TABLE orders (pk {kind} PRIMARY KEY, status VARCHAR(10))")
    values = [uuid.uuid4() for _ in range(5)]
    for value in values:
        place.sql("INSERT INTO orders VALUES (:k, 'PENDING')", k=str(value))
    table = place.table("orders")
    assert len(drained(place, table)) == 5
    assert table.entry(values[0]).ended == table.entry(str(values[1])).ended == "done"
    assert table.requeue(values[:2]) == 2


def test_a_composite_key(place):
    place.script(
        "CREATE TABLE page (book VARCHAR(20) NOT NULL, number INTEGER NOT NULL, text VARCHAR(50), status VARCHAR(10),"
        " PRIMARY KEY (book, number))"
    )
    for book in ("a", "b"):
        for number in range(4):
            place.sql("INSERT INTO page VALUES (:b, :n, 'x', 'PENDING')", b=book, n=number)
    table = place.table("page")
    assert table.fields == ("book", "number", "text")
    assert drained(place, table) == [(book, number) for book in "ab" for number in range(4)]
    assert table.entry(("a", "3")).key == ("a", 3)
    assert table.row(("b", 0)).text == "x"


def test_a_composite_key_in_a_mixed_order(place):
    place.script(
        "CREATE TABLE page (book VARCHAR(20) NOT NULL, number INTEGER NOT NULL, status VARCHAR(10), PRIMARY KEY (book,"
        " number))"
    )
    for book in ("a", "b"):
        for number in range(4):
            place.sql("INSERT INTO page VALUES (:b, :n, 'PENDING')", b=book, n=number)
    table = place.table("page", order_by="number DESC, book")
    assert drained(place, table) == [(book, number) for number in (3, 2, 1, 0) for book in "ab"]


def test_a_unique_key_serves_where_there_is_no_primary_key(place):
    place.script("CREATE TABLE files (path VARCHAR(100) NOT NULL UNIQUE, label VARCHAR(10) UNIQUE, status VARCHAR(10))")
    place.sql("INSERT INTO files (path, status) VALUES ('/a', 'PENDING'), ('/b', 'PENDING')")
    table = place.table("files")
    assert table.key == ("path",)
    assert drained(place, table) == [("/a",), ("/b",)]


def test_another_unique_key_may_be_named(place):
    place.script("CREATE TABLE files (id INTEGER PRIMARY KEY, path VARCHAR(100) NOT NULL UNIQUE, status VARCHAR(10))")
    place.sql("INSERT INTO files VALUES (1, '/b', 'PENDING'), (2, '/a', 'PENDING')")
    assert drained(place, place.table("files", key="path")) == [("/a",), ("/b",)]


@pytest.mark.parametrize(
    "columns, options, message",
    [
        ("id INTEGER, status VARCHAR(10)", {}, "neither a primary key nor a unique key"),
        ("id INTEGER UNIQUE, status VARCHAR(10)", {}, "may be NULL: make it NOT NULL"),
        ("id INTEGER UNIQUE, status VARCHAR(10)", {"key": "id"}, "may be NULL"),
        ("id INTEGER PRIMARY KEY, n INTEGER, status VARCHAR(10)", {"key": "n"}, "nothing keeps n unique"),
        ("id DOUBLE PRECISION PRIMARY KEY, status VARCHAR(10)", {}, "do not compare exactly"),
        ("status VARCHAR(10) PRIMARY KEY, n INTEGER", {}, "part of the key"),
    ],
)
def test_keys_that_cannot_work_are_refused_with_advice(place, columns, options, message):
    place.script(f"CREATE TABLE t ({columns})")
    with pytest.raises(MappingError, match=message):
        place.table("t", **options).prepare()


def test_a_view_is_refused_with_advice(place):
    place.video(1)
    place.script("CREATE VIEW waiting AS SELECT * FROM video WHERE status = 'PENDING'")
    place.tables.clear()
    with pytest.raises(MappingError, match="is a view; give the table under it"):
        place.table("waiting").prepare()


# ---- status


@pytest.mark.parametrize(
    "column, words, first",
    [
        ("INTEGER", Words(0, 1, 2, 3), "0"),
        ("INTEGER", Words("0", "1", "2", "-1"), "0"),
        ("VARCHAR(10)", Words(None, "WORK", "OK", "BAD"), "NULL"),
        ("CHAR(10)", Words("NEW", "WORK", "OK", "BAD"), "'NEW'"),
        ("VARCHAR(40)", Words('it\'s 100%s \\ "new"', "%(x)s", "{ok}", "b?d :x"), None),
        ("VARCHAR(10)", Words("\u5f85\u529e", "\u505a", "\u5b8c", "\u574f"), None),
        ("SMALLINT", Words(None, 1, 2, 3), "NULL"),
    ],
)
def test_words_of_every_kind(place, column, words, first):
    place.script(f"CREATE TABLE t (id INTEGER PRIMARY KEY, status {column})")
    for i in range(1, 6):
        place.sql(
            "INSERT INTO t VALUES (:i, :w)",
            i=i,
            w=None if first == "NULL" else int(first) if first == "0" else words.pending,
        )
    table = place.table("t", words=words)
    lease = place.lease(table)
    one, two, three, *_ = lease.claim(5)
    lease.done(one)
    lease.fail(two)
    lease.release(three)
    counts = table.counts()
    assert (counts.pending, counts.doing, counts.done, counts.failed) == (1, 2, 1, 1)
    pending = [word for word in table.look().words if str(word) == str(words.pending)]
    assert len(pending) == 1
    table.create_index()
    lease.close()


def test_an_enum_holds_the_words(place):
    if place.kind == "postgresql":
        place.script("CREATE TYPE state AS ENUM ('NEW', 'WORK', 'OK', 'BAD')")
        kind = "state"
    else:
        kind = "ENUM('NEW', 'WORK', 'OK', 'BAD')" if place.kind == "mariadb" else "VARCHAR(4)"
    place.script(f"CREATE TABLE t (id INTEGER PRIMARY KEY, status {kind} NOT NULL)")
    place.sql("INSERT INTO t VALUES (1, 'NEW'), (2, 'NEW')")
    table = place.table("t", words=Words("NEW", "WORK", "OK", "BAD"))
    table.create_index()
    assert drained(place, table) == [(1,), (2,)]
    if place.kind != "sqlite":
        with pytest.raises(MappingError, match="is not one of the values"):
            place.table("t").prepare()


@pytest.mark.parametrize(
    "column, words, message",
    [
        ("INTEGER", Words(), "give whole numbers"),
        ("VARCHAR(5)", Words(), "longer than 'status' can hold"),
        ("VARCHAR(10) NOT NULL", Words(pending=None), "NOT NULL"),
    ],
)
def test_words_that_the_column_cannot_hold_are_refused(place, column, words, message):
    place.script(f"CREATE TABLE t (id INTEGER PRIMARY KEY, status {column})")
    with pytest.raises(MappingError, match=message):
        place.table("t", words=words).prepare()


# ---- names


@pytest.mark.parametrize(
    "name",
    [
        'a "quoted" one',
        "dots.and.more",
        "per%cent%s %(x)s",
        "{braces} :colon ?",
        "select",
        "back`tick'quote",
        "\u5f71\u7247",
        "x" * 63,
        "job",
        "runner",
        "Upper Case",
    ],
)
def test_tables_and_columns_of_every_name(place, name):
    metadata = sa.MetaData()
    length = {"type_": sa.String(20)}
    other = name[:60] + "_2"
    table = sa.Table(
        name,
        metadata,
        sa.Column(name, sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(other, **length),
        sa.Column("status", sa.String(10)),
        sa.Column("out", sa.String(20)),
    )
    metadata.create_all(place.engine)
    with place.engine.begin() as connection:
        connection.execute(table.insert(), [{name: i, other: "x", "status": "PENDING"} for i in range(3)])
    tasks = place.table(name, write=(other, "out"))
    tasks.create_index()
    lease = place.lease(tasks)
    claims = lease.claim(2)
    assert lease.read(claims)[1][name] == 1
    assert ends(lease.finish(Finish(claim, Done({other: "y", "out": "z"})) for claim in claims)) == ["done"] * 2
    assert tasks.counts().done == 2
    assert tasks.entry(1).ended == "done"
    assert tasks.requeue([1]) == 1
    assert tasks.look().index_sql is None
    lease.close()


@pytest.mark.parametrize("key", ["attempt", "ended", "runner_id", "Error", "log"])
def test_a_key_column_may_be_named_as_one_of_our_own(place, key):
    place.script(f"CREATE TABLE t ([{key}] INTEGER PRIMARY KEY, worker INTEGER, status VARCHAR(10))")
    place.sql("INSERT INTO t VALUES (1, 5, 'PENDING'), (2, 6, 'PENDING')")
    table = place.table("t")
    assert drained(place, table) == [(1,), (2,)]
    assert table.entry(2).key == (2,)


def test_a_table_is_found_by_its_name_before_its_dot_is_taken_for_a_schema(place):
    place.script("CREATE TABLE [main.t] (id INTEGER PRIMARY KEY, status VARCHAR(10))")
    assert place.table("main.t").name == "main.t"


# ---- columns


def test_a_task_gets_every_column_but_status_and_those_it_writes(place):
    assert place.video(write=("caption",), result="score").fields == ("id", "content", "number")


def test_a_task_gets_just_the_columns_that_are_named_after_the_key(place):
    assert place.video(columns=("number", "content", "id")).fields == ("id", "number", "content")
    assert place.table("video", columns=()).fields == ("id",)


# ---- SQLAlchemy's own


def test_a_mapped_class_says_its_table_and_types(place):
    class Base(DeclarativeBase):
        pass

    class Video(Base):
        __tablename__ = "video"
        id = mapped_column(sa.Uuid, primary_key=True)
        made = mapped_column(sa.DateTime)
        facts = mapped_column(sa.JSON)
        status = mapped_column(sa.String(10))
        touched = mapped_column(sa.Integer, default=0, onupdate=99)

    Base.metadata.create_all(place.engine)
    key = uuid.uuid4()
    with sa.orm.Session(place.engine) as session:
        session.add(Video(id=key, made=datetime.datetime(2024, 5, 6, 7, 8), facts={"a": [1]}, status="PENDING"))
        session.commit()
    table = place.table(Video, write=("facts",))
    lease = place.lease(table)
    claims = lease.claim(1)
    (row,) = lease.read(claims)
    assert (row.id, row.made, row.touched) == (key, datetime.datetime(2024, 5, 6, 7, 8), 0)
    lease.done(*claims, value={"facts": {"b": [2, None]}})
    with sa.orm.Session(place.engine) as session:
        video = session.get(Video, key)
        assert (video.facts, video.status, video.touched) == ({"b": [2, None]}, "DONE", 0)
    assert table.entry(key).ended == "done"


def test_an_engine_of_the_users_own_serves_as_well(place):
    engine = sa.create_engine(place.url)
    place.video(2)
    table = place.table("video")
    from pooltable import TaskTable

    own = TaskTable(engine, "video")
    assert own.counts().pending == 2
    lease = own.open_lease()
    assert len(lease.claim(2)) == 2
    lease.close()
    engine.dispose()
    assert table.counts().pending == 2


def test_an_engine_whose_listener_leaves_a_transaction_open_serves_as_well(served):
    from pooltable import TaskTable

    served.video(2)
    engine = sa.create_engine(served.url, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "connect")
    def set_up(raw, record):
        cursor = raw.cursor()
        cursor.execute("SELECT 1")
        cursor.close()

    lease = TaskTable(engine, "video").open_lease()
    assert len(lease.claim(2)) == 2
    lease.close()


def test_something_that_is_no_table_is_refused(place):
    with pytest.raises(MappingError, match="neither a table's name nor"):
        place.table(42).prepare()


# ---- jobs


def test_two_status_columns_are_two_jobs_on_one_table(place):
    place.script("CREATE TABLE t (id INTEGER PRIMARY KEY, decode VARCHAR(10), infer VARCHAR(10))")
    place.sql("INSERT INTO t VALUES (1, 'PENDING', 'PENDING'), (2, 'PENDING', 'PENDING')")
    decode = place.table("t", job="decode", status="decode")
    infer = place.table("t", job="infer", status="infer")
    one, two = place.lease(decode), place.lease(infer)
    claims = one.claim(5)
    assert len(two.claim(5)) == 2
    one.done(*claims)
    assert place.sql("SELECT decode, infer FROM t") == [("DONE", "DOING")] * 2
    assert decode.counts().done == infer.counts().doing == 2
    two.close()


def test_stages_chain_by_words(place):
    place.video(3)
    decode = place.table("video", job="decode", words=Words("PENDING", "DECODING", "DECODED", "FAILED"))
    infer = place.table("video", job="infer", words=Words("DECODED", "INFERRING", "DONE", "FAILED"))
    one, two = place.lease(decode), place.lease(infer)
    assert two.claim(5) == []
    one.done(*one.claim(2))
    claims = two.claim(5)
    assert len(claims) == 2
    two.done(*claims)
    one.done(*one.claim(1))
    assert place.statuses() == {1: "DONE", 2: "DONE", 3: "DECODED"}
    place.foreign_doing = None


def test_a_job_that_has_claimed_a_row_is_refused_with_another_mapping(place):
    lease = place.lease(place.video(2))
    lease.done(lease.one())
    lease.close()
    for options in ({"words": Words(doing="WORKING")}, {"status": "content"}):
        with pytest.raises(MappingError, match="the job 'video' is known here with"):
            place.table("video", **options).prepare()
    looked_before = place.table("video", words=Words(doing="WORKING"))
    assert looked_before.counts().pending == 1
    with pytest.raises(MappingError, match="the job 'video' is known here with"):
        looked_before.prepare()
    place.table("video", job="other", words=Words(doing="WORKING")).prepare()


@pytest.mark.parametrize(
    "options",
    [
        {"words": Words(pending=None)},
        {"words": Words(None, "new", "ok", "bad")},
        {"status": "state", "words": Words("NEW", None, "OK", "BAD")},
        {"key": "code", "words": Words(pending=None)},
    ],
)
def test_a_job_that_has_claimed_nothing_takes_any_other_mapping(place, options):
    place.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, code VARCHAR(9) NOT NULL UNIQUE, status VARCHAR(9), state VARCHAR(9))"
    )
    place.sql("INSERT INTO t VALUES (1, 'a', NULL, 'NEW'), (2, 'b', NULL, 'NEW')")
    place.table("t").prepare()
    table = place.table("t", **options)
    assert (table.look().pending, table.look().known) == (2, False)
    assert table.prepare() != []
    assert place.table("t", **options).prepare() == []
    assert table.look().known
    lease = place.lease(table)
    lease.done(*lease.claim(3))
    lease.close()
    assert table.counts().done == 2
    place.foreign_doing = None


def test_a_job_that_has_run_takes_another_mapping_when_told_so_and_says_what_changes(place):
    lease = place.lease(place.video(3))
    lease.done(*lease.claim(2))
    lease.close()
    place.sql("UPDATE video SET status = 'NEW' WHERE status = 'PENDING'")
    table = place.table("video", words=Words("NEW", None, "DONE", "FAILED"))
    assert table.prepare(again=True) == ["words PENDING, DOING, DONE, FAILED -> NEW, NULL, DONE, FAILED"]
    assert (table.counts().done, table.entry(1).ended) == (2, "done")
    lease = place.lease(table)
    lease.done(*lease.claim(3))
    lease.close()
    assert set(place.statuses().values()) == {"DONE"}
    place.foreign_doing = None


def test_a_job_that_has_run_takes_another_table_and_forgets_the_rows_of_the_old_one(place):
    lease = place.lease(place.video(3, job="work"))
    lease.fail(*lease.claim(3))
    lease.close()
    place.script("CREATE TABLE clip (code VARCHAR(20) PRIMARY KEY, status VARCHAR(10))")
    place.sql("INSERT INTO clip VALUES ('a', 'PENDING')")
    table = place.table("clip", job="work")
    assert table.look().pending == 1
    changes = table.prepare(again=True)
    assert changes[:2] == ["table video -> clip", "key id -> code"]
    assert "is gone" in changes[2]
    lease = place.lease(table)
    lease.done(lease.one())
    lease.close()
    assert table.entry("a").ended == "done"
    place.foreign_doing = None


def test_a_change_that_would_lose_an_open_row_is_refused_and_any_other_is_made(place):
    lease = place.lease(place.video(2))
    lease.one()
    place.process_gone(lease)
    place.lapse(lease)
    for options in ({"words": Words(doing="WORKING")}, {"status": "caption"}):
        with pytest.raises(MappingError, match=r"1 of its rows are open, which would be lost.*pooltable release"):
            place.table("video", **options).prepare(again=True)
    table = place.table("video", words=Words(done="OK"))
    assert table.prepare(again=True) == ["words PENDING, DOING, DONE, FAILED -> PENDING, DOING, OK, FAILED"]
    assert table.release() == 1
    assert place.table("video", words=Words(doing="WORKING")).prepare(again=True) != []
    place.foreign_doing = None


def test_a_job_whose_runner_lives_keeps_its_mapping(place):
    lease = place.lease(place.video(2))
    for again in (False, True):
        with pytest.raises(MappingError, match=r"a runner works on it: stop that first"):
            place.table("video", words=Words(pending=None)).prepare(again=again)
    lease.close()
    place.table("video", words=Words(pending=None)).prepare()


def test_two_that_set_a_job_up_differently_at_once_do_not_both_run(place):
    one = place.video(2)
    one.prepare()
    place.table("video", words=Words(pending=None)).prepare()
    with pytest.raises(MappingError, match=r"known here with words NULL, .*, since a moment ago"):
        one.open_lease()
    assert place.sql("SELECT count(*) FROM pooltable_runner") == [(0,)]
    place.foreign_doing = None


def test_the_index_for_claims_is_made_again_where_it_serves_another_column_word_or_order(place):
    place.video(3).create_index()
    for options in (
        {"words": Words(pending=None)},
        {"words": Words(pending="NEW")},
        {"words": Words(pending="NEW"), "status": "caption"},
    ):
        table = place.table("video", **options)
        made = table.create_index()
        assert made is not None or (place.kind == "mariadb" and "status" not in options), options
        assert table.create_index() is None


# ---- the database itself


@pytest.mark.parametrize(
    "url, message",
    [
        ("videos.db", "sqlite:///videos.db"),
        ("oracle://x/y", "not a database that pooltable knows"),
        ("sqlite+aiosqlite:///x.db", "write the URL as sqlite://"),
        ("://", "cannot be read"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_a_database_that_cannot_work_is_refused_with_the_remedy(url, message):
    from pooltable import TaskTable

    with pytest.raises(MappingError, match=message):
        TaskTable(url, "video")


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@127.0.0.1:1/x", "mysql://me:hunter2@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_reached_is_told_without_its_password(url):
    from pooltable import TaskTable

    with pytest.raises(DatabaseUnavailable) as caught:
        TaskTable(url, "video").prepare()
    assert "127.0.0.1" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["e", "pt", "b", "x", "pooltable", "some", "t", "k0"])
def test_tables_named_as_we_might_name_things_ourselves(place, name):
    place.script(
        f"CREATE TABLE [{name}] ([{name}] INTEGER PRIMARY KEY, k0 INTEGER, claim_no INTEGER, status VARCHAR(10))"
        if name != "k0"
        else "CREATE TABLE k0 (id INTEGER PRIMARY KEY, k1 INTEGER, claim_no INTEGER, status VARCHAR(10))"
    )
    place.script(f"INSERT INTO [{name}] VALUES (1, 1, 1, 'PENDING'), (2, 1, 1, 'PENDING')")
    table = place.table(name, write=("claim_no",), where=place.quoted(f"claim_no < 5 AND [{name}].status <> 'x'"))
    lease = place.lease(table)
    lease.again(*lease.claim(1), pause=3600)
    place.due_now(f"pooltable_{name}_entry")
    assert set(ends(lease.done(*lease.claim(5), value={"claim_no": 3}))) == {"done"}
    assert table.counts().done == 2
    assert table.prune(-1.0).old == 1
