"""What the lease asks of PostgreSQL: sets of rows go as arrays, one statement for each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any

from pooltable.events import Key
from pooltable.table.database import Connection
from pooltable.table.mapping import Column
from pooltable.table.statements import Statements, Update, Write
from pooltable.table.states import Status

_NUMBERS = {int, float}


class PostgresStatements(Statements):
    """What PostgreSQL runs."""

    opening_now = "now()"

    # Not FOR UPDATE, which would leave out every row that an open transaction refers to by a foreign key.
    lock_rows_free = " FOR NO KEY UPDATE SKIP LOCKED"

    def value(self, column: Column) -> str:
        return f"%s::{column.cast}" if column.cast else "%s"

    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        return self.key_among, _columns(keys, self.width)

    def certain(self, condition: str) -> str:
        """A condition that the planner takes to hold for every other row.

        Where rows are found by a list of keys, it would often conclude from statistics that a single row is DOING, and
        begin there: going through the whole list for each of a thousand.
        """
        return f"CASE WHEN {condition} THEN TRUE ELSE FALSE END"

    def build(self) -> None:
        m, n, d = self.mapping, self.names, self.dialect
        arrays = ", ".join(f"%s::{column.cast}[]" for column in m.key)
        if self.width == 1:
            self.key_among = f"{self.keys} = ANY({arrays})"
        else:
            self.key_among = f"({self.keys}) IN (SELECT * FROM unnest({arrays}))"
        self.in_key_order = f" ORDER BY {self.keys}"
        super().build()
        # `now` is the time at which the transaction began, as everything in it is dated.
        job = f"FROM {n.jobs} WHERE job = %s)"
        # By the order of the index, because the planner would rather read all of a table that it thinks small.
        first = f"(SELECT not_before FROM {self.e} WHERE not_before IS NOT NULL ORDER BY not_before LIMIT 1)"
        head = (
            f"SELECT 0, (SELECT paused_at IS NOT NULL {job}, (SELECT version {job}, coalesce({first} <= now(), false)"
        )
        self.sql_opening = f"{head}, {d.epoch('expires_at - now()')} FROM {n.runners} WHERE id = %s FOR UPDATE"
        self.sql_opening_without = head
        self.arrays = arrays
        self.k = [f"k{i}" for i in range(self.width)]
        self.row_is_x = " AND ".join(f"{c.sql} = pt_x.{name}" for c, name in zip(m.key, self.k, strict=True))
        self.array_columns = {c.name for c in self.known_columns.values() if c.cast.endswith("[]")}
        self._value_texts: dict[tuple[Status, tuple[str, ...]], str] = {}
        facts = (
            "runner_id text, claim_no bigint, attempt integer, round text, ended text, fails integer, lost integer,"
            " rescued integer, seconds float8, worker integer, error_kind text, error text, log text, pause float8"
        )
        kinds = [part.rsplit(" ", 1) for part in facts.split(", ")]
        given = ", ".join([arrays, *(f"%s::{kind}[]" for _, kind in kinds)])
        names = [name for name, _ in kinds[:-1]]
        changed = [*names, "not_before", "finished_at"]
        self.sql_write_entries = (
            f"INSERT INTO {self.e} ({self.entry_keys}, {', '.join(names)}, not_before, claimed_at, finished_at)"
            f" SELECT {', '.join(['pt_x.' + name for name in (*self.k, *names)])}, now() + make_interval(secs =>"
            f" pt_x.pause), now() - make_interval(secs => coalesce(pt_x.seconds, 0)), now() FROM unnest({given}) AS"
            f" pt_x({', '.join([*self.k, *names, 'pause'])}) ON CONFLICT ({self.entry_keys}) DO UPDATE SET"
            f" {', '.join(f'{name} = excluded.{name}' for name in changed)}"
        )
        self.sql_update_records = (
            f"UPDATE {self.r} AS pt_r SET ended = pt_x.ended, left_open = pt_x.left_open, turn = coalesce(pt_x.turn,"
            " pt_r.turn), times = coalesce(pt_x.times, pt_r.times), closed_at = CASE WHEN pt_x.left_open = 0 THEN now()"
            " END FROM unnest(%s::bigint[], %s::text[], %s::integer[], %s::bigint[], %s::text[])"
            " AS pt_x(number, ended, left_open, turn, times) WHERE pt_r.number = pt_x.number"
        )

    def write_values(self, c: Connection, status: Status, columns: tuple[str, ...], writes: Sequence[Write]) -> int:
        if self.array_columns.intersection(columns) and len(writes) > 1:
            # Arrays of arrays cannot be taken apart again by unnest: a row that gets one goes alone.
            return sum(self.write_values(c, status, columns, [write]) for write in writes)
        values, alone = [], []
        for name, column in zip(columns, zip(*(write.values for write in writes), strict=True), strict=True):
            if name in self.array_columns:
                alone.append(column[0])
            else:
                values.append(array(column))
        keys = _columns([write.claim.key for write in writes], self.width)
        return c.run(self._sql_values(status, columns), (*alone, *keys, *values))

    def _sql_values(self, status: Status, columns: tuple[str, ...]) -> str:
        text = self._value_texts.get((status, columns))
        if text is None:
            known = [self.known_columns[name] for name in columns]
            together = [column for column in known if column.name not in self.array_columns]
            alone = [column for column in known if column.name in self.array_columns]
            vs = [f"v{i}" for i in range(len(together))]
            sets = ", ".join(
                [
                    self.set_word[status],
                    *(f"{column.bare} = %s::{column.cast}" for column in alone),
                    *(f"{column.bare} = pt_x.{v}" for column, v in zip(together, vs, strict=True)),
                ]
            )
            arrays = ", ".join([self.arrays, *(f"%s::{column.cast}[]" for column in together)])
            text = (
                f"UPDATE {self.t} SET {sets} FROM unnest({arrays}) AS pt_x({', '.join([*self.k, *vs])}) WHERE"
                f" {self.row_is_x} AND {self.certain(self.is_word[Status.DOING])}"
            )
            self._value_texts[status, columns] = text
        return text

    def write_entries(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> None:
        # The same row twice in one statement is refused by ON CONFLICT; the later end is the one that counts.
        last = {write.claim.key: write for write in writes}
        rows = [(*self.entry_values(runner, write), write.pause or None) for write in last.values()]
        columns = map(array, zip(*rows, strict=True))
        c.run(self.sql_write_entries, (*_columns(list(last), self.width), *columns))

    def update_records(self, c: Connection, updates: Sequence[Update]) -> None:
        columns = zip(*((u.number, u.ended, u.left_open, u.turn, u.times) for u in updates), strict=True)
        c.run(self.sql_update_records, tuple(map(array, columns)))


def _columns(keys: Sequence[Key], width: int) -> list[str | list[Any]]:
    """Keys turned into the columns that unnest takes."""
    return [array([key[i] for key in keys]) for i in range(width)]


def array(values: Iterable[Any]) -> str | list[Any]:
    """An array as the database takes it.

    The driver asks anew for every value how it is written, which takes longer than all else that a row needs here, so
    the plain types are written at once. What is mixed goes as text, which the column's type reads again.
    """
    values = list(values)
    kinds = set(map(type, values))
    if kinds == {int}:
        return "{" + str(values)[1:-1] + "}"
    kinds -= {NoneType}
    if kinds <= _NUMBERS:
        return "{" + ",".join(["NULL" if value is None else repr(value) for value in values]) + "}"
    if len(kinds) == 1 and kinds != {str}:
        return values
    quoted = ["NULL" if value is None else _quoted(str(value)) for value in values]
    return "{" + ",".join(quoted) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
