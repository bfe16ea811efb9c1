"""The statements of the hot path, made once for a table and run inside the transactions of lease.py.

What every database says alike is here; sqlite.py, postgres.py and mysql.py complete it. In the texts, `t` is the user's
table under its own name (so that the user's own conditions mean what they say), `e` the entries, `r` the records of
claims.

Locks are always taken in the same order: the runner's row, records of claims by number, the user's rows in the order of
their keys, entries. The user's rows are only locked where nobody else holds them, so that nobody who holds a record
waits for a user's transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from pooltable.events import Key
from pooltable.table import schema
from pooltable.table.database import Connection
from pooltable.table.dialects import Dialect
from pooltable.table.mapping import Column, Mapping
from pooltable.table.records import (
    Known,
    Name,
    Record,
    held,
    keys_as_text,
    keys_of_text,
    known_as_text,
    known_of_text,
    patterns_of_key,
)
from pooltable.table.states import ROUND_OVER, Claim, Ended, Status

Item = TypeVar("Item")


class Write(NamedTuple):
    """A finish as it is written: the row's word and columns, and the whole of its entry's end."""

    claim: Claim
    end: Ended
    status: Status
    columns: tuple[str, ...]
    values: tuple[Any, ...]
    fails: int
    lost: int
    pause: float | None
    seconds: float | None
    worker: int | None
    kind: str = ""
    reason: str = ""
    detail: str = ""
    log: str = ""
    remembered: bool = False  # has an entry in any case: it did not just return, and was started


class Opened(NamedTuple):
    """What the database says of a record, locked where there are such locks."""

    number: int
    runner: str
    no: int
    turn: int
    ended: str


class Update(NamedTuple):
    """How a record is written again. `turn` None: by somebody else than its runner."""

    number: int
    ended: str
    left_open: int
    turn: int | None
    times: str | None


class Traced(NamedTuple):
    """A claim that took a row: where the row stands in it, its letter, and seconds since 1970."""

    record: Record
    place: int
    letter: str
    claimed_at: float
    closed_at: float | None
    times: str | None


class Opening(NamedTuple):
    """What each transaction of a lease learns first."""

    now: Any  # what the statements of this transaction take as the time
    paused: bool
    left: float | None  # seconds until the lease runs out, negative after that; None: its row is gone
    due: bool  # whether a back-off is over
    version: int | None  # the form of the side tables; None: the job is not known any more


class Statements:
    """What the lease asks of the database, inside a transaction. Subclasses are the databases."""

    rows_of_values = ""  # what stands before a list of rows in brackets
    lock = " FOR UPDATE"
    lock_rows_free = " FOR UPDATE SKIP LOCKED"  # of the user's rows: those that nobody else holds
    lock_free = " FOR UPDATE SKIP LOCKED"
    # `now`, paused, version, due and left, with the runner's row locked; and without `left`, where it has no row.
    sql_opening: str
    sql_opening_without: str
    opening_now: str  # how `Opening.now` is said in a later statement of its transaction: by its value, or a function

    def __init__(self, mapping: Mapping, job: str, dialect: Dialect) -> None:
        self.mapping, self.job, self.dialect = mapping, job, dialect
        self.names = schema.names_for(mapping, job, dialect)
        self.mark = dialect.mark
        self.t = mapping.sql
        self.e = self.names.entries
        self.r = self.names.claims
        status, words = mapping.status.sql, mapping.words
        self.is_word = {state: self._equals(status, words.of(state)) for state in Status}
        self.set_word = {state: f"{mapping.status.bare} = {dialect.literal(words.of(state))}" for state in Status}
        self.scope = f" AND (\n{mapping.where}\n)" if mapping.where else ""
        self.keys = ", ".join(column.sql for column in mapping.key)
        self.row_is = " AND ".join(f"{column.sql} = {self.value(column)}" for column in mapping.key)
        self.entry_keys = ", ".join(self.names.key)
        self.entry_is = " AND ".join(
            f"{name} = {self.value(column)}" for name, column in zip(self.names.key, mapping.key, strict=True)
        )
        self.e_is = " AND ".join(
            f"pt_e.{name} = {self.value(column)}" for name, column in zip(self.names.key, mapping.key, strict=True)
        )
        self.e_keys = ", ".join(f"pt_e.{name}" for name in self.names.key)
        self.same = " AND ".join(
            f"{column.sql} = pt_e.{name}" for name, column in zip(self.names.key, mapping.key, strict=True)
        )
        # A primary key of SQLite may hold NULLs, and such a row cannot be named in any later statement.
        self.has_key = "".join(f" AND {column.sql} IS NOT NULL" for column in mapping.key if column.nullable)
        nullable = [f"{column.sql} IS NULL" for column in mapping.key if column.nullable]
        self.lacks_key = f" AND ({' OR '.join(nullable)})" if nullable else ""
        self.positions = ", ".join(column.sql for column in mapping.order.columns or ())
        self.width = len(mapping.key)
        self.known_columns = {c.name: c for c in (*mapping.write, *((mapping.result,) if mapping.result else ()))}
        self.behind, self._behind_at = self._behind()
        self.build()

    def build(self) -> None:
        """Makes the texts; a subclass adds its own."""
        d, n, mark = self.dialect, self.names, self.mark
        pending = self.is_word[Status.PENDING]
        word_of = " ".join(f"WHEN {self.is_word[state]} THEN '{state.value}'" for state in Status)
        self.sql_state = f"SELECT CASE {word_of} ELSE 'other' END FROM {self.t} WHERE {self.row_is}"
        self.sql_beat = f"UPDATE {n.runners} SET expires_at = {d.later(mark)}, stopped_at = NULL WHERE id = {mark}"
        self.its_row = f"EXISTS (SELECT 1 FROM {self.t} WHERE {self.same} AND {pending}{self.scope})"
        self.sql_next_due = (
            f"SELECT {d.epoch('pt_e.not_before')} - {d.epoch(d.now)} FROM {self.e} AS pt_e"
            f" WHERE pt_e.not_before > {self.opening_now} AND {self.its_row} ORDER BY pt_e.not_before LIMIT 1"
        )
        self.sql_runner = f"SELECT 1 FROM {n.runners} WHERE id = {mark}"
        self.sql_end = self._end_of_order()
        self.sql_read = f"SELECT {', '.join(c.sql for c in (*self.mapping.key, *self.mapping.columns))} FROM {self.t}"
        # ---- claims
        self.sql_opened = f"SELECT number, runner_id, no, turn, ended FROM {self.r}"
        self.sql_record = f"SELECT number, runner_id, no, row_keys, known, ended, turn FROM {self.r}"
        self.sql_newer = f"SELECT number, runner_id, no FROM {self.r} WHERE closed_at IS NULL AND number > {mark}"
        self.sql_mine = (
            f"SELECT no, ended FROM {self.r} WHERE closed_at IS NULL AND number >= {mark} AND runner_id = {mark}"
        )
        self.sql_insert_record = (
            f"INSERT INTO {self.r} (runner_id, no, turn, claimed_at, size, left_open, row_keys, known, ended)"
            f" VALUES ({mark}, {mark}, {mark}, {d.now}, {mark}, {mark}, {mark}, {mark}, {mark})"
        )
        self.sql_update_record = (
            f"UPDATE {self.r} SET ended = {mark}, left_open = {mark}, turn = coalesce({mark}, turn), times ="
            f" coalesce({mark}, times), closed_at = CASE WHEN {mark} = 0 THEN {d.now} END WHERE number = {mark}"
        )
        # ---- entries
        # The facts of an entry that do not depend on the database's clock, in the order of `entry_values`.
        self.facts = [
            "runner_id",
            "claim_no",
            "attempt",
            "round",
            "ended",
            "fails",
            "lost",
            "rescued",
            "seconds",
            "worker",
            "error_kind",
            "error",
            "log",
        ]
        self.sql_entry_clear = f"UPDATE {self.e} SET not_before = NULL WHERE {self.entry_is}"
        self.sql_entry_open = (
            f"UPDATE {self.e} SET not_before = NULL, ended = NULL, runner_id = {mark}, claim_no = {mark}, attempt ="
            f" {mark}, fails = {mark}, lost = {mark}, rescued = {mark}, round = {mark}, claimed_at = {d.now} WHERE"
            f" {self.entry_is}"
        )
        self.sql_forget = f"DELETE FROM {self.e} WHERE {self.entry_is}"
        self.sql_known = (
            f"SELECT {self.keys}, pt_e.attempt, pt_e.fails, pt_e.lost, pt_e.rescued, pt_e.round, pt_e.ended,"
            f" {self.e_keys} FROM {self.t} JOIN {self.e} AS pt_e ON {self.same} WHERE "
        )
        # A due row that is not PENDING any more must not stand in the way for ever, so it is taken, too; one that is
        # out of scope is not ours to touch.
        due = f"pt_e.not_before <= {self.opening_now}"
        if self.scope:
            waits = f"SELECT 1 FROM {self.t} WHERE {self.same} AND {pending}"
            due += f" AND (NOT EXISTS ({waits}) OR EXISTS ({waits}{self.scope}))"
        self.sql_due = (
            f"SELECT {self.e_keys} FROM {self.e} AS pt_e WHERE {due} ORDER BY pt_e.not_before LIMIT \0{self.lock_free}"
        )
        # ---- rows
        # A scalar subquery, because an anti-join over all entries would be read whole at each claim.
        under = "(SELECT pt_b.not_before FROM {} AS pt_b WHERE {}) IS NULL".format(
            self.e,
            " AND ".join(f"pt_b.{name} = {column.sql}" for name, column in zip(n.key, self.mapping.key, strict=True)),
        )
        positions = f", {self.positions}" if self.positions else ""
        head = f"SELECT {self.keys}{positions} FROM {self.t} WHERE {pending}{self.has_key} AND {under}{self.scope}"
        tail = f" ORDER BY {self.mapping.order.sql} LIMIT \0{self.lock_rows_free}"
        self.sql_waiting = head + tail
        self.sql_waiting_behind = head + self.behind + tail
        # Whether a row waits. In the order of the claims, because its index is then the way to the first one, whatever
        # a planner thinks of how many there are.
        head = f"SELECT 1 FROM {self.t} WHERE {pending}{self.has_key} AND {under}{self.scope}"
        tail = f" ORDER BY {self.mapping.order.sql} LIMIT 1"
        self.sql_waits = head + tail
        self.sql_waits_behind = head + self.behind + tail

    def _equals(self, sql: str, word: Any) -> str:
        return f"{sql} IS NULL" if word is None else f"{sql} = {self.dialect.literal(word)}"

    def _behind(self) -> tuple[str, tuple[int, ...]]:
        """The condition that a row comes after a position in the order, and which of the position's values it takes, in
        turn."""
        order = self.mapping.order
        columns = order.columns or ()
        if not columns:
            return "", ()
        down = order.descending
        if len(set(down)) == 1 and (len(columns) == 1 or self.dialect.row_comparison):
            sign = "<" if down[0] else ">"
            left, right = ", ".join(c.sql for c in columns), ", ".join(self.value(c) for c in columns)
            return (f" AND {left} {sign} {right}" if len(columns) == 1 else f" AND ({left}) {sign} ({right})"), tuple(
                range(len(columns))
            )
        # a past x, or a at x and b past y, ...; the bound on the first column alone is what an index can use.
        choices, taken = [], [0]
        for i, column in enumerate(columns):
            equal = [f"{c.sql} = {self.value(c)}" for c in columns[:i]]
            choices.append(" AND ".join([*equal, f"{column.sql} {'<' if down[i] else '>'} {self.value(column)}"]))
            taken += range(i + 1)
        bound = f"{columns[0].sql} {'<=' if down[0] else '>='} {self.value(columns[0])}"
        return f" AND {bound} AND ({' OR '.join(f'({choice})' for choice in choices)})", tuple(taken)

    def _end_of_order(self) -> str:
        """The position behind all waiting rows."""
        order = self.mapping.order
        if not order.columns:
            return ""
        turned = ", ".join(
            f"{c.sql}{'' if down else ' DESC'}" for c, down in zip(order.columns, order.descending, strict=True)
        )
        # Among all rows where the key is the order, because its index is there in any case; else among the pending
        # ones, because the index that claims need holds only those.
        plain = [c.name for c in order.columns] == [c.name for c in self.mapping.key]
        condition = "" if plain else f" WHERE {self.is_word[Status.PENDING]}"
        if plain and self.has_key:
            condition = f" WHERE {self.has_key.removeprefix(' AND ')}"
        return f"SELECT {self.positions} FROM {self.t}{condition} ORDER BY {turned} LIMIT 1"

    def behind_values(self, position: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(position[i] for i in self._behind_at)

    def value(self, column: Column) -> str:
        """The mark for a value of that column."""
        return self.mark

    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        """The condition that a row has one of the keys, and its values."""
        if self.width == 1:
            return f"{self.keys} IN ({', '.join([self.value(self.mapping.key[0])] * len(keys))})", [
                key[0] for key in keys
            ]
        one = f"({', '.join(self.value(column) for column in self.mapping.key)})"
        return f"({self.keys}) IN ({self.rows_of_values}{', '.join([one] * len(keys))})", [
            part for key in keys for part in key
        ]

    def among(self, keys: Sequence[Key]) -> Iterator[tuple[str, Sequence[Any]]]:
        """The same, in portions of as many keys as one statement takes."""
        for some in portions(keys, self.dialect.keys_at_once):
            yield self.keys_in(some)

    def certain(self, condition: str) -> str:
        """A condition on rows that are named by their keys, put so that it is not taken for a way to find them."""
        return condition

    # ---- the lease

    def opening(self, c: Connection, runner: str) -> Opening:
        """What a transaction of this runner learns, with a lock on the runner's row where there are such locks."""
        return self._opening(c, c.first(self.sql_opening, (self.job, self.job, runner)))

    def opening_unlocked(self, c: Connection, runner: str) -> Opening | None:
        """As `opening`, for another runner's row; None where somebody else has it locked."""
        row = c.first(f"{self.sql_opening} SKIP LOCKED", (self.job, self.job, runner))
        return None if row is None and self.knows(c, runner) else self._opening(c, row)

    def _opening(self, c: Connection, row: tuple[Any, ...] | None) -> Opening:
        now, paused, version, due, left = row or (*c.all(self.sql_opening_without, (self.job, self.job))[0], None)
        return Opening(now, bool(paused), left, bool(due), version)

    def knows(self, c: Connection, runner: str) -> bool:
        """Whether the runner's row is there, locked or not."""
        return c.first(self.sql_runner, (runner,)) is not None

    def beat(self, c: Connection, runner: str, seconds: float) -> bool:
        """Renews the lease; False when its row is gone."""
        return c.run(self.sql_beat, (seconds, runner)) > 0

    # ---- records of claims

    def numbers_in(self, numbers: Sequence[int]) -> tuple[str, Sequence[Any]]:
        """The condition that a record has one of the numbers, and its values."""
        # Numbers of our own, in SQL as they are: there are few at a time.
        return f"number IN ({', '.join(map(str, numbers))})", ()

    def holders(self, c: Connection) -> dict[str, int]:
        """How many rows the claims of each runner hold."""
        sql = f"SELECT runner_id, sum(left_open) FROM {self.r} WHERE closed_at IS NULL GROUP BY runner_id"
        return {str(runner): int(count) for runner, count in c.all(sql)}

    def held_keys(self, c: Connection) -> set[Key]:
        """The keys that open claims list."""
        found: set[Key] = set()
        for text, ended in c.all(f"SELECT row_keys, ended FROM {self.r} WHERE closed_at IS NULL"):
            keys = keys_of_text(text)
            found.update(keys[place] for place in held(ended))
        return found

    def lock_records(self, c: Connection, numbers: Sequence[int]) -> dict[int, Opened]:
        """The records as they stand, by number; locked where there are such locks."""
        among, values = self.numbers_in(numbers)
        found = c.all(f"{self.sql_opened} WHERE {among} ORDER BY number{self.lock}", values)
        return {row[0]: Opened._make(row) for row in found}

    def open_records(
        self, c: Connection, runner: str, first: int = 0, skip_locked: bool = False
    ) -> list[tuple[Record, str, int]]:
        """The open records of a runner from its count `first` up, by number, with the letters and turn of each."""
        sql = f"{self.sql_record} WHERE closed_at IS NULL AND runner_id = {self.mark} AND no >= {self.mark}"
        rows = c.all(f"{sql} ORDER BY number{self.lock_free if skip_locked else ''}", (runner, first))
        return [_record(row) for row in rows]

    def newer(self, c: Connection, number: int) -> list[Name]:
        """The open records with a greater number than this one."""
        return [Name._make(row) for row in c.all(self.sql_newer, (number,))]

    def keys_of_records(self, c: Connection, numbers: Sequence[int]) -> list[tuple[int, list[Key]]]:
        among, values = self.numbers_in(numbers)
        return [
            (number, keys_of_text(text))
            for number, text in c.all(f"SELECT number, row_keys FROM {self.r} WHERE {among}", values)
        ]

    def ended_of_records(self, c: Connection, numbers: Sequence[int]) -> dict[int, str]:
        """The letters of those that are open."""
        among, values = self.numbers_in(numbers)
        return dict(c.all(f"SELECT number, ended FROM {self.r} WHERE {among} AND closed_at IS NULL", values))

    def later(self, c: Connection, number: int, most: int) -> list[Name] | None:
        """All claims after this one, open or over; None where they are more than `most`."""
        sql = f"SELECT number, runner_id, no FROM {self.r} WHERE number > {self.mark} ORDER BY number LIMIT {most + 1}"
        found = [Name._make(row) for row in c.all(sql, (number,))]
        return found if len(found) <= most else None

    def claims_of(
        self, c: Connection, key: Key, after: int = 0, limit: int = 10, newest: int | None = None
    ) -> list[Traced]:
        """The claims that took a row, the newest first; `newest`: only so many of the newest claims are looked at."""
        # Found as text, which may stand inside another key as well; decoded afterwards.
        first, around = patterns_of_key(key)
        like = f"row_keys LIKE {self.mark} ESCAPE '!'"
        is_listed = f"{like} AND ({' OR '.join([like] * len(around))})" if around else like
        d = self.dialect
        times = f"{d.epoch('claimed_at')}, {d.epoch('closed_at')}"
        sql = (
            f"SELECT number, runner_id, no, row_keys, known, ended, turn, {times}, times FROM {self.r} WHERE number >"
            f" {self.mark} AND {is_listed} ORDER BY number DESC"
        )
        if newest is not None:
            (greatest,) = c.all(f"SELECT max(number) FROM {self.r}")[0]
            after = max(after, (greatest or 0) - newest)
        found = []
        for row in c.all(sql, (after, first, *around)):
            record, ended, _ = _record(row[:7])
            for place, listed in enumerate(record.keys):
                if listed == key:
                    found.append(Traced(record, place, ended[place], *row[7:]))
                    if len(found) == limit:
                        return found
        return found

    def mine(self, c: Connection, runner: str, number: int) -> list[tuple[int, str]]:
        """The count and letters of each open record of a runner, from that number up."""
        return [(no, ended) for no, ended in c.all(self.sql_mine, (number, runner))]

    def insert_record(
        self, c: Connection, runner: str, no: int, turn: int, keys: Sequence[Key], known: dict[int, Known]
    ) -> int:
        """Draws the number, which is the order of claims: only once the rows are locked."""
        size = len(keys)
        values = (runner, no, turn, size, size, keys_as_text(keys), known_as_text(known), "h" * size)
        return self.drawn(c, self.sql_insert_record, values)

    def drawn(self, c: Connection, sql: str, values: Sequence[Any]) -> int:
        """The number that an INSERT has drawn."""
        return int(c.all(f"{sql} RETURNING number", values)[0][0])

    def update_records(self, c: Connection, updates: Sequence[Update]) -> None:
        c.many(
            self.sql_update_record,
            [(u.ended, u.left_open, u.turn, u.times, u.left_open, u.number) for u in updates],
        )

    # ---- entries

    def due(self, c: Connection, count: int, now: Any) -> list[Key]:
        """Rows whose back-off is over, those that waited longest first; locked, where the database locks rows."""
        values = (now,) if self.opening_now == self.mark else ()
        keys = c.all(self.sql_due.replace("\0", str(count)), values)
        if not keys:
            return []
        # A row may spell its key otherwise than its entry, where 'a' and 'A' are the same.
        free = self.lock_rows(c, keys, Status.PENDING, self.scope)
        picked = [key for key in keys if key in free]
        if len(picked) < len(keys):
            picked += [key for key in free if key not in set(keys)]
            over = [key for key in keys if key not in free and self.state(c, key) != Status.PENDING.value]
            if over:
                c.many(self.sql_entry_clear, over)
        return picked

    def known(self, c: Connection, keys: Sequence[Key]) -> tuple[dict[Key, Known], dict[Key, Key]]:
        """What entries say of those rows that have one, for an attempt that begins; and how these spell their keys."""
        found: dict[Key, Known] = {}
        spelt: dict[Key, Key] = {}
        w = self.width
        for sql, values in self.among(keys):
            for row in c.all(self.sql_known + sql, values):
                key, (attempt, fails, lost, rescued, round_, ended) = row[:w], row[w : w + 6]
                # An entry that says open belongs to a claim that lost this row to somebody's hand.
                if ended in ROUND_OVER:
                    attempt = fails = lost = rescued = 0
                    round_ = ""
                found[key] = Known(attempt + 1, fails, lost, rescued, round_)
                spelt[key] = row[w + 6 :]
        return found, spelt

    def open_entries(self, c: Connection, runner: str, claims: Sequence[Claim], spelt: dict[Key, Key]) -> None:
        """Entries of rows that are claimed again say so until the end of the attempt."""
        c.many(
            self.sql_entry_open,
            [
                (
                    runner,
                    claim.claim_no,
                    claim.attempt,
                    claim.fails,
                    claim.lost,
                    claim.rescued,
                    claim.idempotency_key,
                    *spelt[claim.key],
                )
                for claim in claims
            ],
        )

    def write_entries(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> None:
        """Writes the whole of an entry: also of a row that had none, or lost it to a prune."""
        raise NotImplementedError

    def entry_values(self, runner: str, write: Write) -> tuple[Any, ...]:
        """What the entry of an end says, as `facts` names it."""
        claim = write.claim
        return (
            runner,
            claim.claim_no,
            claim.attempt,
            claim.idempotency_key,
            write.end,
            write.fails,
            write.lost,
            claim.rescued,
            write.seconds,
            write.worker,
            write.kind or None,
            write.detail or None,
            write.log or None,
        )

    def forget_entry(self, c: Connection, key: Key) -> None:
        c.run(self.sql_forget, key)

    # ---- rows

    def waiting_sql(self, count: int) -> tuple[str, Sequence[Any]]:
        """What `waiting` asks from the start of the order, and its values."""
        return self.sql_waiting.replace("\0", str(count)), ()

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[tuple[Any, ...]]:
        """Pending rows in order, behind the position `after`, without those that are under back-off, locked where the
        database locks rows: of each its key and then its position."""
        if after is None:
            return c.all(*self.waiting_sql(count))
        return c.all(self.sql_waiting_behind.replace("\0", str(count)), self.behind_values(after))

    def waits(self, c: Connection, after: tuple[Any, ...] | None) -> bool:
        """Whether a row waits, behind the position `after`, that is not under back-off."""
        if after is None:
            return c.first(self.sql_waits) is not None
        return c.first(self.sql_waits_behind, self.behind_values(after)) is not None

    def next_due(self, c: Connection, now: Any) -> float | None:
        """Seconds until the first row under back-off is due that was not due yet at `now`; None when there is none."""
        row = c.first(self.sql_next_due, (now,) if self.opening_now == self.mark else ())
        return None if row is None else max(0.0, float(row[0]))

    def end_of_order(self, c: Connection) -> tuple[Any, ...] | None:
        return c.first(self.sql_end)

    def lock_rows(self, c: Connection, keys: Sequence[Key], status: Status, scope: str = "") -> set[Key]:
        """Those of the keys whose rows hold the word, and that nobody else has locked; locked for us where there are
        such locks."""
        found: set[Key] = set()
        word = self.certain(self.is_word[status])
        for among, values in self.among(in_order(keys)):
            sql = f"SELECT {self.keys} FROM {self.t} WHERE {among} AND {word}{scope}"
            found.update(c.all(sql + self.in_key_order + self.lock_rows_free, values))
        return found

    in_key_order = ""

    def set_doing(self, c: Connection, keys: Sequence[Key]) -> int:
        """Sets the DOING word in locked rows; how many really changed."""
        pending = self.certain(self.is_word[Status.PENDING])
        return sum(
            c.run(f"UPDATE {self.t} SET {self.set_word[Status.DOING]} WHERE {among} AND {pending}", values)
            for among, values in self.among(keys)
        )

    def write_rows(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> int:
        """Sets the word, and these columns, in rows that are DOING; how many really changed."""
        if columns:
            return self.write_values(c, status, columns, writes)
        doing = self.certain(self.is_word[Status.DOING])
        return sum(
            c.run(f"UPDATE {self.t} SET {self.set_word[status]} WHERE {among} AND {doing}", values)
            for among, values in self.among([write.claim.key for write in writes])
        )

    def write_values(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> int:
        raise NotImplementedError

    def state(self, c: Connection, key: Key) -> str:
        """The state of a row, "other" for a word that is none of ours, "missing" where there is none."""
        row = c.first(self.sql_state, key)
        return str(row[0]) if row else "missing"


def _record(row: tuple[Any, ...]) -> tuple[Record, str, int]:
    number, runner, no, keys, known, ended, turn = row
    return Record(number, runner, no, keys_of_text(keys), known_of_text(known)), ended, turn


def portions(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    if len(items) <= size:
        yield items
        return
    for at in range(0, len(items), size):
        yield items[at : at + size]


def in_order(keys: Sequence[Key]) -> list[Key]:
    """As every writer takes them, so that two of them never wait for each other crosswise."""
    try:
        return sorted(keys)
    except TypeError:
        return sorted(keys, key=repr)
