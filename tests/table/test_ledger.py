"""Who holds a row, and what claims remember: by hand set back, lost answers, odd keys, restored numbers."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from typing import Any

import pytest

from pooltable import Retry, Words
from pooltable.errors import DatabaseError, DatabaseUnavailable, MappingError
from pooltable.outcomes import Stored
from pooltable.table import statements
from pooltable.table.database import Connection
from pooltable.table.records import keys_of_text
from pooltable.table.statements import Statements
from pooltable.table.states import Again, Done, Finish, Released
from tests.table.places import Place, Watched, ends, lost_once


def records(place: Place, columns: str = "ended") -> list[Any]:
    found = place.sql(f"SELECT {columns} FROM pooltable_video_claims ORDER BY number")
    return found if "," in columns else [row[0] for row in found]


# ---- what is kept


def test_rows_that_return_at_their_first_attempt_leave_a_place_in_their_claim_and_nothing_else(place):
    table = place.video(5, write=("caption",))
    lease = place.lease(table)
    lease.done(*lease.claim(3), value="text")
    lease.finish(Finish(claim, Released()) for claim in lease.claim(2))
    kept = [("[1,2,3]", "ddd", 0, None), ("[4,5]", "ll", 0, None)]
    assert records(place, "row_keys, ended, left_open, known") == kept
    assert place.value("SELECT count(*) FROM pooltable_video_entry") == 0
    entry = table.entry(2)
    assert (entry.ended, entry.attempt, entry.seconds, entry.worker) == ("done", 1, 0.5, 0)
    assert entry.idempotency_key == f"{lease.id}-1-1"
    assert table.entry(4) is None


def test_a_row_with_an_entry_is_known_to_its_next_claim_and_the_others_are_not(place):
    table = place.video(3)
    lease = place.lease(table)
    lease.again(*lease.claim(1), pause=0)
    claims = lease.claim(3)
    told = [(claim.key[0], claim.attempt, claim.fails) for claim in sorted(claims)]
    assert told == [(1, 2, 1), (2, 1, 0), (3, 1, 0)]
    known = json.loads(records(place, "known")[1])
    assert list(known.values()) == [[2, 1, 0, 0, f"{lease.id}-1-0"]]
    lease.done(*claims)
    assert table.entry(1).ended == "done"
    assert place.value("SELECT count(*) FROM pooltable_video_entry") == 1


def test_a_claim_of_many_rows_stays_open_for_the_one_that_is_left(place):
    lease = place.lease(place.video(300))
    claims = lease.claim(300)
    lease.done(*claims[:7], *claims[8:])
    assert records(place, "left_open, closed_at") == [(1, None)]
    assert lease.beat().open == {claims[7].claim_no}
    lease.done(claims[7])
    assert records(place, "left_open") == [0]


def test_more_rows_than_a_claim_takes_are_taken_by_several(place, monkeypatch):
    monkeypatch.setattr("pooltable.table.lease.MOST_ROWS", 4)
    lease = place.lease(place.video(10))
    claims = lease.claim(10)
    assert [len(letters) for letters in records(place)] == [4, 4, 2]
    assert set(ends(lease.done(*claims))) == {"done"}


def test_a_row_without_an_entry_is_looked_for_in_no_claim_whose_keys_only_contain_its_digits(place, monkeypatch):
    table = place.video(35)
    lease = place.lease(table)
    for size in (1, 1, 1, 1, 1, 1, 3, 3, 3, 20):
        lease.done(*lease.claim(size))
    read = []
    keys_of_text = statements.keys_of_text
    monkeypatch.setattr(statements, "keys_of_text", lambda text: read.append(text) or keys_of_text(text))
    for key, listed in ((1, 1), (3, 1), (7, 1), (8, 1), (9, 1), (15, 1), (16, 1), (35, 1), (36, 0)):
        read.clear()
        entry = table.entry(key)
        assert (len(read), entry is not None) == (listed, listed == 1), key


@pytest.mark.parametrize(
    "kind, keys",
    [
        ("BIGINT", [2**63 - 1, -(2**63)]),
        ("VARCHAR(60)", ["it's", 'a "quote"', "back\\slash", "two\nlines", "100%_", "[1,2]", "", "ключ", "{}", "a,b"]),
        ("DATE", ["2024-02-29", "1999-12-31"]),
        ("DECIMAL(12, 3)", ["1.500", "-7.125"]),
    ],
)
def test_keys_of_every_type_come_back_from_a_claim_as_they_were(place, monkeypatch, kind, keys):
    place.script(f"CREATE TABLE video (id {kind} PRIMARY KEY, status VARCHAR(10))")
    for key in keys:
        place.sql("INSERT INTO video VALUES (:key, 'PENDING')", key=key)
    table = place.table("video")
    lease = place.lease(table)
    lost_once(monkeypatch)
    with pytest.raises(DatabaseUnavailable):
        lease.claim(20)
    # Read back from the record.
    claims = lease.claim(20)
    assert len(claims) == len(keys)
    place.claims.update(claim.key for claim in claims)
    assert set(ends(lease.done(*claims))) == {"done"}
    assert all(table.entry(claim.key).ended == "done" for claim in claims)
    # A rescuer reads them, too.
    table.requeue([claim.key for claim in claims])
    dead = place.lease(table)
    dead.claim(20)
    place.process_gone(dead)
    assert lease.rescue(Retry()).pending == len(keys)


@pytest.mark.parametrize(
    "database, kind, keys",
    [
        ("postgresql", "INET", ["10.0.0.1", "10.0.0.0/8", "::1"]),
        ("postgresql", "CIDR", ["10.0.0.0/8", "::/0"]),
        ("postgresql", "TIME", ["00:00", "23:59:59.999999"]),
        ("postgresql", "TIMESTAMPTZ", ["2024-02-29 12:00:00.5+02"]),
        ("postgresql", "UUID", ["00000000-0000-4000-8000-000000000001"]),
        ("postgresql", "BYTEA", ["\\x00ff"]),
        ("mariadb", "TIME(6)", ["-838:59:59", "00:00:00.000001"]),
        ("mariadb", "DATETIME(6)", ["2024-02-29 12:00:00.5"]),
        ("mariadb", "VARBINARY(20)", ["\\x00"]),
        ("mariadb", "UUID", ["00000000-0000-4000-8000-000000000001"]),
    ],
)
def test_keys_of_a_servers_own_types_come_back_from_a_claim_as_they_were(request, database, kind, keys):
    place = request.getfixturevalue(database)
    place.script(f"CREATE TABLE video (id {kind} PRIMARY KEY, status VARCHAR(10))")
    for key in keys:
        mark = f"CAST(:key AS {kind})" if database == "postgresql" else ":key"
        place.sql(f"INSERT INTO video VALUES ({mark}, 'PENDING')", key=key)
    table = place.table("video")
    lease = place.lease(table)
    dead = place.lease(table)
    dead.claim(20)
    place.process_gone(dead)
    assert lease.rescue(Retry()).pending == len(keys)
    claims = lease.claim(20)
    assert keys_of_text(records(place, "row_keys")[1]) == [claim.key for claim in claims]
    assert set(ends(lease.done(*claims))) == {"done"}
    assert all(table.entry(claim.key).ended == "done" for claim in claims)


def test_a_key_whose_values_cannot_be_remembered_is_refused_in_one_line(postgresql):
    postgresql.script(
        "CREATE TABLE video (id INT4RANGE PRIMARY KEY, status VARCHAR(10))",
        "INSERT INTO video VALUES (int4range(1, 5), 'PENDING')",
    )
    lease = postgresql.lease(postgresql.table("video"))
    with pytest.raises(MappingError, match=r"Range.*use a whole number"):
        lease.claim(1)
    assert postgresql.value("SELECT status FROM video") == "PENDING"


def test_a_composite_key_comes_back_from_a_claim(place):
    place.script("CREATE TABLE part (a INTEGER, b VARCHAR(20), status VARCHAR(10), PRIMARY KEY (a, b))")
    place.sql("INSERT INTO part VALUES (1, :odd, 'PENDING'), (1, 'z', 'PENDING')", odd='x,"y')
    table = place.table("part")
    dead, lease = place.lease(table), place.lease(table)
    dead.claim(2)
    place.process_gone(dead)
    assert lease.rescue(Retry()).pending == 2
    assert set(ends(lease.done(*lease.claim(2)))) == {"done"}


def test_a_row_that_ends_while_it_is_looked_up_is_found(place, monkeypatch):
    table = place.video(1)
    lease = place.lease(table)
    claim = lease.one()
    claims_of = Statements.claims_of

    def late(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Statements, "claims_of", claims_of)
        lease.fail(claim)
        return claims_of(*arguments, **options)

    monkeypatch.setattr(Statements, "claims_of", late)
    assert table.entry(1).ended == "failed"


# ---- who holds a row


def test_a_row_set_back_by_hand_and_claimed_again_by_the_same_runner_belongs_to_the_newer_claim(place):
    lease = place.lease(place.video(2, write=("caption",)))
    older, other = lease.claim(2)
    place.sql("UPDATE video SET status = 'PENDING' WHERE id = 1")
    newer = lease.one()
    assert lease.beat().open == {other.claim_no, newer.claim_no}
    # Both ends in one exchange, the older first.
    both = [(older, "old"), (newer, "new")]
    fates = lease.finish([Finish(claim, Done(Stored(("caption",), (text,)))) for claim, text in both])
    assert ends(fates) == ["fenced", "done"]
    assert place.value("SELECT caption FROM video WHERE id = 1") == "new"
    lease.done(other)


@pytest.mark.parametrize("first", ["older", "newer"])
@pytest.mark.parametrize("touched", [False, True])
def test_a_row_set_back_by_hand_and_claimed_by_another_belongs_to_it_whoever_ends_first(place, first, touched):
    table = place.video(1, write=("caption",))
    one, two = place.lease(table), place.lease(table)
    older = one.one()
    place.sql("UPDATE video SET status = 'PENDING'")
    newer = two.one()
    if touched:
        place.sql("UPDATE video SET content = 'edited'")
    told = {}
    for which in (first, "newer" if first == "older" else "older"):
        lease, claim = (one, older) if which == "older" else (two, newer)
        told[which] = ends(lease.done(claim, value=which))
    assert told == {"older": ["fenced"], "newer": ["done"]}
    assert place.sql("SELECT status, caption FROM video") == [("DONE", "newer")]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_row_set_back_by_hand_twice_belongs_to_the_newest_claim_whatever_order_the_others_end_in(place, newest_first):
    table = place.video(1, write=("caption",))
    one, two = place.lease(table), place.lease(table)
    older = []
    for _ in range(2):
        older.append(one.one())
        place.sql("UPDATE video SET status = 'PENDING'")
    newest = two.one()
    if newest_first:
        older.reverse()
    # Both in one exchange.
    assert ends(one.done(*older, value="older")) == ["fenced", "fenced"]
    assert place.statuses() == {1: "DOING"}
    assert ends(two.done(newest, value="newest")) == ["done"]
    assert place.sql("SELECT status, caption FROM video") == [("DONE", "newest")]


def test_a_row_set_back_by_hand_whose_newer_claim_died_is_rescued_for_it_alone(place):
    table = place.video(1)
    one, two, three = (place.lease(table) for _ in range(3))
    older = one.one()
    place.sql("UPDATE video SET status = 'PENDING'")
    two.one()
    place.process_gone(two)
    rescue = three.rescue(Retry())
    assert (rescue.pending, rescue.runners) == (1, (two.id,))
    assert ends(one.done(older)) == ["fenced"]
    assert place.statuses() == {1: "PENDING"}
    assert table.entry(1).rescued == 1


def test_a_row_set_back_by_hand_that_is_just_being_claimed_gets_no_entry_from_its_older_claim(served, monkeypatch):
    table = served.video(1)
    one, two = served.lease(table), served.lease(table)
    older = one.one()
    served.sql("UPDATE video SET status = 'PENDING'")
    told = []
    insert = Statements.insert_record

    def meanwhile(*arguments: Any) -> int:
        # Its row is locked by the newer claim, which has seen that there is no entry.
        told.extend(ends(one.done(older)))
        return insert(*arguments)

    monkeypatch.setattr(Statements, "insert_record", meanwhile)
    newer = two.one()
    monkeypatch.undo()
    assert told == ["locked"]
    assert ends(one.done(older)) == ["fenced"]
    assert ends(two.done(newer)) == ["done"]
    entry = table.entry(1)
    assert (entry.ended, entry.runner, entry.idempotency_key) == ("done", two.id, newer.idempotency_key)


def test_a_row_that_was_set_back_by_hand_before_its_dead_runner_was_found_costs_no_rescue(place):
    table = place.video(1)
    dead, lease = place.lease(table), place.lease(table)
    claim = dead.one()
    place.sql("UPDATE video SET status = 'PENDING'")
    place.process_gone(dead)
    lease.rescue(Retry())
    again = lease.one()
    assert (again.attempt, again.rescued, again.idempotency_key) == (2, 0, claim.idempotency_key)
    lease.done(again)


def test_two_jobs_on_one_table_never_write_each_others_rows(place):
    table = place.video(4)
    other = place.table("video", job="other", words=Words("DONE", "LOOKING", "SEEN", "UNSEEN"))
    one, two = place.lease(table), place.lease(other)
    claims = one.claim(4)
    assert two.claim(4) == []
    one.done(*claims[:2])
    assert set(ends(two.done(*two.claim(4)))) == {"done"}
    one.done(*claims[2:])
    assert place.statuses() == {1: "SEEN", 2: "SEEN", 3: "DONE", 4: "DONE"}
    place.foreign_doing = None


def test_numbers_that_come_again_after_a_restore_fool_nobody(place):
    table = place.video(4)
    old = place.lease(table)
    claim = old.one()
    (number,) = records(place, "number")
    # The server forgot that claim, and gives its number to another runner's.
    place.sql("DELETE FROM pooltable_video_claims")
    place.sql("UPDATE video SET status = 'PENDING'")
    new = place.lease(table)
    taken = new.one()
    place.sql(f"UPDATE pooltable_video_claims SET number = {number}")
    new._lease._claims.records[1] = new._lease._claims.records[1]._replace(number=number)
    assert ends(old.done(claim)) == ["fenced"]
    assert ends(new.done(taken)) == ["done"]


def test_a_claim_with_the_number_of_one_that_the_server_forgot_is_not_taken_for_it(place):
    table = place.video(3)
    one, two, three = (place.lease(table) for _ in range(3))
    claims = one.claim(2)
    two.one()
    one.beat()  # it has read what the second claim lists
    (_, number) = records(place, "number")
    # The server forgot the second claim. Row 1 is set back by hand, and its newer claim gets that number.
    place.sql("DELETE FROM pooltable_video_claims WHERE number = :number", number=number)
    place.sql("UPDATE video SET status = 'PENDING' WHERE id IN (1, 3)")
    newer = three.one()
    assert newer.key == claims[0].key
    place.sql("UPDATE pooltable_video_claims SET number = :number WHERE number >= :number", number=number)
    three._lease._claims.records[1] = three._lease._claims.records[1]._replace(number=number)
    assert ends(one.done(*claims)) == ["fenced", "done"]
    assert ends(three.done(newer)) == ["done"]


def test_a_counter_that_is_behind_is_pushed_forward_by_the_next_start(postgresql):
    table = postgresql.video(3)
    lease = postgresql.lease(table)
    lease.done(*lease.claim(1))
    # As after logical replication, which carries rows and no counter.
    postgresql.sql("UPDATE pooltable_video_claims SET number = 1000")
    lease = postgresql.lease(table)
    lease.done(*lease.claim(1))
    assert records(postgresql, "number") == [1000, 1001]


def test_a_row_that_ends_while_foreign_ones_are_counted_is_not_counted(place, monkeypatch):
    table = place.video(3)
    lease = place.lease(table)
    claims = lease.claim(2)
    place.sql("UPDATE video SET status = 'DOING' WHERE id = 3")
    place.foreign_doing = 1
    held_keys = Statements.held_keys

    def ended(s: Statements, c: Any) -> Any:
        lease.done(*claims)
        monkeypatch.undo()
        return held_keys(s, c)

    monkeypatch.setattr(Statements, "held_keys", ended)
    assert table.foreign_doing() == 1


@pytest.mark.parametrize("job", ["it's", 'the "best"', "100%", "Über"])
def test_a_job_may_have_any_name(place, job):
    lease = place.lease(place.video(1, job=job))
    assert ends(lease.done(lease.one())) == ["done"]


# ---- answers that are lost


def test_a_release_by_hand_before_the_lost_claim_is_read_back_is_seen(place, monkeypatch):
    table = place.video(3)
    lease = place.lease(table)
    lost_once(monkeypatch)
    with pytest.raises(DatabaseUnavailable):
        lease.claim(3)
    place.sql("UPDATE video SET status = 'PENDING' WHERE id = 2")
    claims = lease.claim(3)
    place.counts_claims = False
    # The lost claim still lists row 2, which waits and is not claimed before its own end was told.
    told = dict(zip([claim.key[0] for claim in claims], ends(lease.done(*claims)), strict=True))
    assert {told[1], told[3]} == {"done"}
    lease.done(*lease.claim(3))
    assert set(place.statuses().values()) == {"DONE"}


def test_an_exchange_whose_answer_is_lost_is_told_by_the_next_one(place, monkeypatch):
    table = place.video(6)
    lease = place.lease(table)
    claims = lease.claim(3)
    verdicts = [Done(), Again(0.0, "E", "bad"), Done()]
    finishes = [Finish(claim, verdict, 0.1, 0) for claim, verdict in zip(claims, verdicts, strict=True)]
    lost_once(monkeypatch)
    with pytest.raises(DatabaseUnavailable):
        lease.exchange(finishes, 2)
    answer = lease.exchange(finishes, 2)
    place.counts_claims = False
    assert ends(answer.fates) == ["done", "retry", "done"]
    assert len(answer.claims) == 2
    assert set(ends(lease.done(*answer.claims))) == {"done"}
    assert table.entry(1).attempt == 1


def test_an_end_that_did_not_get_through_is_written_though_a_later_exchange_wrote_others_of_its_claim(
    place, monkeypatch
):
    lease = place.lease(place.video(3))
    claims = lease.claim(3)
    commit = Connection.commit

    def cut(connection: Connection) -> None:
        connection.rollback()
        raise DatabaseUnavailable("cut off before the commit")

    monkeypatch.setattr(Connection, "commit", cut)
    with pytest.raises(DatabaseUnavailable):
        lease.done(*claims)
    monkeypatch.setattr(Connection, "commit", commit)
    assert ends(lease.done(claims[1])) == ["done"]
    assert ends(lease.done(*claims[::2])) == ["done", "done"]
    assert set(place.statuses().values()) == {"DONE"}
    assert records(place) == ["ddd"]


# ---- versions


def test_side_tables_of_the_form_before_are_refused_with_the_statements_that_drop_them(place):
    table = place.video(1)
    table.prepare()
    place.sql("UPDATE pooltable_job SET version = 1")
    place.script("CREATE TABLE pooltable_video (id INTEGER PRIMARY KEY)")
    with pytest.raises(MappingError, match=r"form 1.*DROP TABLE .*pooltable_video.*DELETE FROM") as caught:
        place.table("video").prepare()
    drop, delete = str(caught.value).split(" run: ")[1].rstrip(";").split("; ")
    place.script(drop, delete)
    lease = place.lease(place.table("video"))
    lease.done(lease.one())


def test_a_runner_that_lives_when_the_form_is_raised_ends_with_one_clear_line(place):
    lease = place.lease(place.video(2))
    claim = lease.one()
    place.sql("UPDATE pooltable_job SET version = 99")
    for verb in (lambda: lease.claim(1), lambda: lease.done(claim), lease.beat):
        with pytest.raises(DatabaseError, match="form 99") as caught:
            verb()
        assert "\n" not in str(caught.value)
    lease.close()
    place.sql("UPDATE pooltable_job SET version = 2")
    assert place.statuses() == {1: "PENDING", 2: "PENDING"}


# ---- costs that stay flat


def test_due_rows_that_are_done_by_hand_do_not_stand_in_the_way(place):
    lease = place.lease(place.video(1000))
    lease.again(*lease.claim(900), pause=3600)
    place.sql("UPDATE video SET status = 'DONE' WHERE id <= 900")
    place.due_now()
    claimed = []
    for _ in range(12):
        claims = lease.claim(100)
        claimed += [claim.key[0] for claim in claims]
        lease.done(*claims)
    assert sorted(claimed) == list(range(901, 1001))
    assert place.value("SELECT count(*) FROM pooltable_video_entry WHERE not_before IS NOT NULL") == 0


# ---- threads against the database, with a token in each row as the judge


def token_on_claim(place: Place) -> None:
    """Each change to DOING gives the row a new token, and each end is noted with the token that it met."""
    place.script(
        "ALTER TABLE video ADD COLUMN token VARCHAR(40)",
        "CREATE TABLE ends (id INTEGER, token VARCHAR(40), caption VARCHAR(100))",
    )
    if place.kind == "sqlite":
        place.script(
            "CREATE TRIGGER claimed AFTER UPDATE OF status ON video WHEN new.status = 'DOING' BEGIN"
            " UPDATE video SET token = lower(hex(randomblob(16))) WHERE id = new.id; END",
            "CREATE TRIGGER ended AFTER UPDATE OF status ON video WHEN old.status = 'DOING' AND new.status = 'DONE'"
            " BEGIN INSERT INTO ends VALUES (old.id, old.token, new.caption); END",
        )
    elif place.kind == "postgresql":
        place.script(
            "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.status = 'DOING' THEN"
            " new.token = gen_random_uuid(); ELSIF old.status = 'DOING' AND new.status = 'DONE' THEN INSERT INTO ends"
            " VALUES (old.id, old.token, new.caption); END IF; RETURN new; END $$",
            "CREATE TRIGGER judged BEFORE UPDATE OF status ON video FOR EACH ROW EXECUTE FUNCTION judge()",
        )
    else:
        place.script(
            "CREATE TRIGGER judged BEFORE UPDATE ON video FOR EACH ROW BEGIN IF new.status = 'DOING' AND old.status"
            " <> 'DOING' THEN SET new.token = uuid(); ELSEIF old.status = 'DOING' AND new.status = 'DONE' THEN"
            " INSERT INTO ends VALUES (old.id, old.token, new.caption); END IF; END"
        )


@pytest.mark.timeout(120)
def test_runners_a_rescuer_and_a_person_at_a_few_rows_never_write_an_end_of_another_claim(place, monkeypatch):
    place.counts_claims = False
    table = place.video(12, write=("caption",))
    token_on_claim(place)
    tokens: dict[str, str] = {}
    insert = Statements.insert_record

    def noted(s: Statements, c: Any, runner: str, no: int, turn: int, keys: Any, known: Any) -> int:
        """The tokens of the rows, read where they are locked, under the names of their claims."""
        number = insert(s, c, runner, no, turn, keys, known)
        among, values = s.keys_in(keys)
        found = dict(c.all(f"SELECT id, token FROM video WHERE {among}", values))
        tokens.update({f"{runner}-{no}-{place}": found[key[0]] for place, key in enumerate(keys)})
        return number

    monkeypatch.setattr(Statements, "insert_record", noted)
    over = threading.Event()
    errors: list[BaseException] = []
    told: defaultdict[str, int] = defaultdict(int)

    def runner(seed: int) -> None:
        chance = random.Random(seed)
        lease = Watched(table.open_lease(poll=0.0), place)
        held: list[Finish] = []
        while not over.is_set():
            chance.shuffle(held)
            some, held = held[: chance.randint(0, 4)], held[4:]
            answer = lease.exchange(some, chance.randint(0, 4))
            for fate in answer.fates:
                told[fate.end or fate.why or ""] += 1
            held += [end for end, fate in zip(some, answer.fates, strict=True) if fate.why == "locked"]
            for claim in answer.claims:
                no, at = divmod(claim.claim_no, 1 << 20)
                good = Done(Stored(("caption",), (f"{lease.id}-{no}-{at}",)))
                held.append(Finish(claim, good if chance.random() < 0.8 else Again(0.0, "E", "bad"), 0.1, 0))
            if chance.random() < 0.03:
                lease.rescue(Retry(rescued=1000))
            if chance.random() < 0.02:
                held = []  # it forgets them: the next beat gives them back
                open_ = lease.beat().open
                lease.reopened((), open_, Retry(rescued=1000))
        lease.close()

    def person() -> None:
        chance = random.Random(1)
        while not over.is_set():
            key = chance.randint(1, 12)
            change = chance.choice(["status = 'PENDING'", "status = 'DONE', caption = NULL", "content = 'touched'"])
            place.sql(f"UPDATE video SET {change} WHERE id = :key", key=key)
            time.sleep(0.001)

    def robber() -> None:
        """Takes rows of runners that live, as from one whose lease seemed to have run out."""
        lease = table.open_lease(poll=0.0)
        while not over.is_set():
            place.sql("UPDATE pooltable_runner SET pid_started = '1' WHERE id <> :id", id=lease.id)
            lease.rescue(Retry(rescued=1000))
            over.wait(0.05)
        lease.close()

    def watched(work: Any, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                errors.append(error)
                over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [*(watched(runner, seed) for seed in range(3)), watched(person), watched(robber)]
    deadline = time.monotonic() + 60.0
    while told["done"] < 150 or told["fenced"] < 10:
        if over.wait(0.05) or time.monotonic() > deadline:
            break
    over.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert told["done"] >= 150, dict(told)
    assert told["fenced"] >= 10, dict(told)
    found = place.sql("SELECT id, token, caption FROM ends WHERE caption IS NOT NULL")
    assert len(found) >= 150
    assert [end for end in found if tokens[end[2]] != end[1]] == []
    place.fates.clear()
    # Nothing hangs in the air: what is DOING is foreign, or is rescued and run.
    last = place.lease(table)
    last.rescue(Retry(rescued=1000))
    while claims := last.claim(20):
        last.done(*claims)
    place.foreign_doing = table.look().foreign_doing
    assert place.foreign_doing == 0
