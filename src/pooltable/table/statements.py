"""The statements of the hot path, made once for a table and run inside the transactions of lease.py.

What every database says alike is here; sqlite.py, postgres.py and mysql.py complete it. In the texts, `t` is the user's
table under its own name (so that the user's own conditions mean what they say) and `e` the entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pooltable.events import Key
from pooltable.table import schema
from pooltable.table.database import Connection
from pooltable.table.dialects import Dialect
from pooltable.table.mapping import Column, Mapping
from pooltable.table.states import Claim, Ended, Found, Status


class Picked(NamedTuple):
    """A row that may be claimed: locked, where the database locks rows. `entry` is what the side table knew of it."""

    key: Key
    position: tuple[Any, ...]  # its values of the order's columns
    entry: tuple[Any, ...] = ()


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
    kind: str
    reason: str
    detail: str
    log: str


class Opening(NamedTuple):
    """What each transaction of a lease learns first."""

    now: Any  # what the statements of this transaction take as the time
    paused: bool
    left: float | None  # seconds until the lease runs out, negative after that; None: its row is gone
    due: bool  # whether a back-off is over


class Statements:
    """What the lease asks of the database, inside a transaction. Subclasses are the databases."""

    rows_of_values = ""  # what stands before a list of rows in brackets
    # `now`, paused, due and left, with the runner's row locked; and without `left`, where it has no row.
    sql_opening: str
    sql_opening_without: str
    # Whether a row waits: what a claim looks for, without locks and with nothing to carry.
    sql_waits: str
    sql_waits_behind: str
    opening_now: str  # how `Opening.now` is said in a later statement of its transaction: by its value, or a function

    def __init__(self, mapping: Mapping, job: str, dialect: Dialect) -> None:
        self.mapping, self.job, self.dialect = mapping, job, dialect
        self.names = schema.names_for(mapping, job, dialect)
        self.mark = dialect.mark
        self.t = mapping.sql
        self.e = self.names.entries
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
        self.behind, self._behind_at = self._behind()
        self._write_texts: dict[tuple[Status, tuple[str, ...]], str] = {}
        self.build()

    def build(self) -> None:
        """Makes the texts; a subclass adds its own."""
        d, n, mark = self.dialect, self.names, self.mark
        word_of = " ".join(f"WHEN {self.is_word[state]} THEN '{state.value}'" for state in Status)
        self.sql_state = f"SELECT CASE {word_of} ELSE 'other' END FROM {self.t} WHERE {self.row_is}"
        self.sql_entry = f"SELECT runner_id, claim_no, ended, error_kind, error FROM {self.e} WHERE {self.entry_is}"
        self.sql_close = (
            f"UPDATE {self.e} SET ended = {mark}, finished_at = {d.now}, error_kind = {mark}, error = {mark}"
            f" WHERE {self.entry_is} AND runner_id = {mark} AND claim_no = {mark} AND ended IS NULL"
        )
        self.sql_forget = f"DELETE FROM {self.e} WHERE {self.entry_is} AND runner_id = {mark} AND claim_no = {mark}"
        self.sql_mine = f"SELECT claim_no FROM {self.e} WHERE ended IS NULL AND runner_id = {mark}"
        claimed = (
            f"SELECT {self.entry_keys}, claim_no, attempt, fails, lost, rescued, round FROM {self.e}"
            f" WHERE ended IS NULL AND runner_id = {mark} AND claim_no >= {mark}"
        )
        self.sql_claimed = f"{claimed} ORDER BY claim_no"
        self.sql_claimed_again = f"{claimed} AND attempt > 1"
        self.sql_beat = f"UPDATE {n.runners} SET expires_at = {d.later(mark)}, stopped_at = NULL WHERE id = {mark}"
        self.its_row = (
            f"EXISTS (SELECT 1 FROM {self.t} WHERE {self.same} AND {self.is_word[Status.PENDING]}{self.scope})"
        )
        self.sql_next_due = (
            f"SELECT {d.epoch('pt_e.not_before')} - {d.epoch(d.now)} FROM {self.e} AS pt_e"
            f" WHERE pt_e.not_before > {self.opening_now} AND {self.its_row} ORDER BY pt_e.not_before LIMIT 1"
        )
        self.sql_runner = f"SELECT 1 FROM {n.runners} WHERE id = {mark}"
        self.sql_end = self._end_of_order()
        self.sql_read = f"SELECT {', '.join(c.sql for c in (*self.mapping.key, *self.mapping.columns))} FROM {self.t}"

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

    def asking(self, condition: str) -> tuple[str, str]:
        """The questions whether there is a row like this, from the start of the order and behind a position."""
        # In the order of the claims, because its index is then the way to the first one, whatever a planner thinks of
        # how many there are.
        head, tail = f"SELECT 1 FROM {self.t} WHERE {condition}", f" ORDER BY {self.mapping.order.sql} LIMIT 1"
        return head + tail, head + self.behind + tail

    def behind_values(self, position: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(position[i] for i in self._behind_at)

    def sql_write(self, status: Status, columns: tuple[str, ...]) -> str:
        """Sets the word and columns of a row that still holds the DOING word."""
        text = self._write_texts.get((status, columns))
        if text is None:
            known = {c.name: c for c in (*self.mapping.write, *((self.mapping.result,) if self.mapping.result else ()))}
            sets = [self.set_word[status], *(f"{known[name].bare} = {self.value(known[name])}" for name in columns)]
            text = f"UPDATE {self.t} SET {', '.join(sets)} WHERE {self.row_is} AND {self.is_word[Status.DOING]}"
            self._write_texts[status, columns] = text
        return text

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

    # ---- what each database does in its own way

    def opening(self, c: Connection, runner: str) -> Opening:
        """What a transaction of this runner learns, with a lock on the runner's row where there are such locks."""
        return self._opening(c, c.first(self.sql_opening, (self.job, runner)))

    def opening_unlocked(self, c: Connection, runner: str) -> Opening | None:
        """As `opening`, for another runner's row; None where somebody else has it locked."""
        row = c.first(f"{self.sql_opening} SKIP LOCKED", (self.job, runner))
        return None if row is None and self.knows(c, runner) else self._opening(c, row)

    def _opening(self, c: Connection, row: tuple[Any, ...] | None) -> Opening:
        now, paused, due, left = row or (*c.all(self.sql_opening_without, (self.job,))[0], None)
        return Opening(now, bool(paused), left, bool(due))

    def due(self, c: Connection, count: int, now: Any) -> list[Picked]:
        """Rows whose back-off is over, those that waited longest first."""
        raise NotImplementedError

    def next_due(self, c: Connection, now: Any) -> float | None:
        """Seconds until the first row under back-off is due that was not due yet at `now`; None when there is none."""
        row = c.first(self.sql_next_due, (now,) if self.opening_now == self.mark else ())
        return None if row is None else max(0.0, float(row[0]))

    def waiting_sql(self, count: int) -> tuple[str, Sequence[Any]]:
        """What `waiting` asks from the start of the order, and its values."""
        raise NotImplementedError

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[Picked]:
        """Pending rows in order, behind the position `after`, without those that are under back-off."""
        raise NotImplementedError

    def waits(self, c: Connection, after: tuple[Any, ...] | None) -> bool:
        """Whether a row waits, behind the position `after`, that is not under back-off."""
        if after is None:
            return c.first(self.sql_waits) is not None
        return c.first(self.sql_waits_behind, self.behind_values(after)) is not None

    def take(
        self, c: Connection, runner: str, picked: Sequence[Picked], first: int, now: Any
    ) -> tuple[list[Claim], int]:
        """Opens the entries of picked rows under claim numbers from `first` up, and sets the DOING word in their rows.

        Returns the claims, and how many rows really changed.
        """
        raise NotImplementedError

    def write(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> set[int] | None:
        """Writes rows and entries together, where both still belong to the claim; the claim numbers written, None for
        all."""
        raise NotImplementedError

    # ---- what all do alike

    def find(self, c: Connection, key: Key) -> tuple[Found, str, str]:
        """What stands in row and entry now, with the entry's kind of error and its text."""
        state = c.first(self.sql_state, key)
        entry = c.first(self.sql_entry, key) or (None, 0, None, "", "")
        row: Any = state[0] if state else "missing"
        return Found(row, *entry[:3]), entry[3] or "", entry[4] or ""

    def close_entry(
        self, c: Connection, runner: str, claim: Claim, ended: Ended, kind: str = "", error: str = ""
    ) -> None:
        c.run(self.sql_close, (ended, kind or None, error or None, *claim.key, runner, claim.claim_no))

    def forget_entry(self, c: Connection, runner: str, claim: Claim) -> None:
        c.run(self.sql_forget, (*claim.key, runner, claim.claim_no))

    def mine(self, c: Connection, runner: str) -> list[int]:
        """The claim number of each open entry of a runner."""
        return [number for (number,) in c.all(self.sql_mine, (runner,))]

    def claimed(self, c: Connection, runner: str, first: int) -> list[Claim]:
        """The open claims of a runner with numbers from `first` up: what a lost transaction did, if it got through."""
        w = self.width
        return [Claim(row[:w], *row[w:]) for row in c.all(self.sql_claimed, (runner, first))]

    def end_of_order(self, c: Connection) -> tuple[Any, ...] | None:
        return c.first(self.sql_end)

    def knows(self, c: Connection, runner: str) -> bool:
        """Whether the runner's row is there, locked or not."""
        return c.first(self.sql_runner, (runner,)) is not None

    def beat(self, c: Connection, runner: str, seconds: float) -> bool:
        """Renews the lease; False when its row is gone."""
        return c.run(self.sql_beat, (seconds, runner)) > 0
