"""What the lease asks of PostgreSQL: sets of rows go as arrays, one statement for each step.

Locks are always taken in the same order, the runner's row, the user's rows, the entries, and rows that others hold are
skipped, so that nobody waits for a user's transaction and no two of us wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pooltable.events import Key
from pooltable.table.database import Connection, Refused
from pooltable.table.mapping import Column
from pooltable.table.statements import Picked, Statements, Write
from pooltable.table.states import ROUND_OVER, Claim, Status

# What ends a round, as a list of SQL.
_OVER = ", ".join(f"'{ended}'" for ended in ROUND_OVER)


# How the entry of an attempt ends that returned, which needs no more than the first of the facts, and of any other.
_PLAIN = 3
_DONE = "ended = 'done', error_kind = NULL, error = NULL, log = NULL"
_ENDED = (
    "ended = pt_x.ended, fails = pt_x.fails, lost = pt_x.lost, rescued = pt_x.rescued, not_before = now() +"
    " make_interval(secs => pt_x.pause), error_kind = pt_x.error_kind, error = pt_x.error, log = pt_x.log"
)
_NUMBERS = {int, float}


def _opaque(condition: str) -> str:
    """A condition that the planner takes to hold for every other row.

    Where rows are found by a list of keys, it would often conclude from statistics that a single row is DOING, or a
    single entry open, and begin there: going through the whole list for each of a thousand.
    """
    return f"CASE WHEN {condition} THEN TRUE ELSE FALSE END"


class PostgresStatements(Statements):
    """What PostgreSQL runs."""

    opening_now = "now()"

    def value(self, column: Column) -> str:
        return f"%s::{column.cast}" if column.cast else "%s"

    def keys_in(self, keys: Sequence[Key]) -> tuple[str, Sequence[Any]]:
        return self.key_among, _columns(keys, self.width)

    def build(self) -> None:
        super().build()
        m, n, d = self.mapping, self.names, self.dialect
        pending, doing = self.is_word[Status.PENDING], self.set_word[Status.DOING]
        arrays = ", ".join(f"%s::{column.cast}[]" for column in m.key)
        if self.width == 1:
            self.key_among = f"{self.keys} = ANY({arrays})"
        else:
            self.key_among = f"({self.keys}) IN (SELECT * FROM unnest({arrays}))"
        lock = " FOR NO KEY UPDATE SKIP LOCKED"
        k = [f"k{i}" for i in range(self.width)]
        ks, x_ks = ", ".join(k), ", ".join(f"pt_x.{name}" for name in k)
        row_is_x = " AND ".join(f"{column.sql} = pt_x.{name}" for column, name in zip(m.key, k, strict=True))
        self.row_is_y = " AND ".join(f"{column.sql} = pt_y.{name}" for column, name in zip(m.key, k, strict=True))
        self.row_is_d = " AND ".join(f"{column.sql} = pt_d.{name}" for column, name in zip(m.key, k, strict=True))
        entry_is_x = " AND ".join(f"pt_e.{name} = pt_x.{at}" for name, at in zip(n.key, k, strict=True))
        # `now` is the time at which the transaction began, as everything in it is dated.
        paused = f"(SELECT paused_at IS NOT NULL FROM {n.jobs} WHERE job = %s)"
        # By the order of the index, because the planner would rather read all of a table that it thinks small.
        first = f"(SELECT not_before FROM {self.e} WHERE not_before IS NOT NULL ORDER BY not_before LIMIT 1)"
        head = f"SELECT 0, {paused}, coalesce({first} <= now(), false)"
        self.sql_opening = f"{head}, {d.epoch('expires_at - now()')} FROM {n.runners} WHERE id = %s FOR UPDATE"
        self.sql_opening_without = head
        self.sql_due = (
            f"SELECT {self.e_keys} FROM {self.e} AS pt_e WHERE pt_e.not_before <= now() AND {self.its_row}"
            " ORDER BY pt_e.not_before LIMIT \0 FOR UPDATE SKIP LOCKED"
        )
        self.sql_lock_pending = (
            f"SELECT {self.keys} FROM {self.t} WHERE {self.key_among} AND {pending}{self.scope}{lock}"
        )
        # A scalar subquery, because an anti-join over all entries would be read whole at each claim.
        under = "(SELECT pt_b.not_before FROM {} AS pt_b WHERE {}) IS NULL".format(
            self.e, " AND ".join(f"pt_b.{name} = {column.sql}" for name, column in zip(n.key, m.key, strict=True))
        )
        positions = f", {self.positions}" if self.positions else ""
        head = f"SELECT {self.keys}{positions} FROM {self.t} WHERE {pending}{self.has_key} AND {under}{self.scope}"
        tail = f" ORDER BY {m.order.sql} LIMIT \0{lock}"
        self.sql_waiting = head + tail
        self.sql_waiting_behind = head + self.behind + tail
        self.sql_waits, self.sql_waits_behind = self.asking(f"{pending}{self.has_key} AND {under}{self.scope}")
        keep = f"CASE WHEN pt_e.ended IN ({_OVER}) THEN {{}} ELSE {{}} END"
        self.sql_take = (
            f"WITH pt_x AS MATERIALIZED (SELECT * FROM unnest({arrays}, %s::bigint[]) AS pt_x({ks}, claim_no)),"
            f" pt_l AS (INSERT INTO {self.e} AS pt_e ({self.entry_keys}, runner_id, claim_no, attempt, round, fails,"
            " lost, rescued, claimed_at)"
            f" SELECT {x_ks}, %s::text, pt_x.claim_no, 1, %s::text || '-' || pt_x.claim_no, 0, 0, 0, now() FROM pt_x"
            f" ON CONFLICT ({self.entry_keys}) DO UPDATE SET runner_id = excluded.runner_id, claim_no ="
            " excluded.claim_no,"
            f" attempt = pt_e.attempt + 1, round = {keep.format('excluded.round', 'pt_e.round')}, fails ="
            f" {keep.format('0', 'pt_e.fails')},"
            f" lost = {keep.format('0', 'pt_e.lost')}, rescued = {keep.format('0', 'pt_e.rescued')}, ended = NULL,"
            " not_before = NULL,"
            " claimed_at = excluded.claimed_at RETURNING pt_e.claim_no, pt_e.attempt, pt_e.fails, pt_e.lost,"
            " pt_e.rescued, pt_e.round),"
            f" pt_u AS (UPDATE {self.t} SET {doing} FROM pt_x WHERE {row_is_x} AND {_opaque(pending)} RETURNING 1)"
            # Of rows that were never claimed before, which are most, everything is known but how many they are.
            " SELECT NULL, (SELECT count(*) FROM pt_l)::integer, (SELECT count(*) FROM pt_u)::integer, NULL, NULL, NULL"
            " UNION ALL SELECT * FROM pt_l WHERE attempt > 1"
        )
        facts = (
            "claim_no bigint, seconds float8, worker integer, ended text, fails integer, lost integer, rescued integer,"
            " pause float8, error_kind text, error text, log text"
        )
        self.facts = [part.rsplit(" ", 1) for part in facts.split(", ")]
        self.arrays, self.ks, self.entry_is_x = arrays, ks, entry_is_x
        self.is_doing = self.is_word[Status.DOING]
        self.written = {c.name: c for c in (*m.write, *((m.result,) if m.result else ()))}
        self.array_columns = {c.name for c in self.written.values() if c.cast.endswith("[]")}
        self._end_texts: dict[tuple[bool, Status, tuple[str, ...]], str] = {}

    def sql_ends(self, plain: bool, status: Status, columns: tuple[str, ...]) -> str:
        """Writes a group of ends alike: first the user's rows are locked, then the entries closed, then the rows
        written. Of plain ends all is said by the first few facts."""
        text = self._end_texts.get((plain, status, columns))
        if text is not None:
            return text
        m = self.mapping
        facts = self.facts[:_PLAIN] if plain else self.facts
        values = [self.written[name] for name in columns if name not in self.array_columns]
        vs = [f"v{i}" for i in range(len(values))]
        arrays = ", ".join([self.arrays, *(f"%s::{kind}[]" for _, kind in facts), *(f"%s::{c.cast}[]" for c in values)])
        names = ", ".join([self.ks, *(name for name, _ in facts), *vs])
        alone = [self.written[name] for name in columns if name in self.array_columns]
        sets = ", ".join(
            [
                self.set_word[status],
                *(f"{c.bare} = pt_d.{v}" for c, v in zip(values, vs, strict=True)),
                *(f"{c.bare} = %s::{c.cast}" for c in alone),
            ]
        )
        returned = ", ".join(f"pt_x.{name}" for name in [*self.ks.split(", "), "claim_no", *vs])
        fence = "pt_e.runner_id = %s AND pt_e.claim_no = pt_x.claim_no AND pt_e.ended IS NULL"
        text = (
            f"WITH pt_x AS MATERIALIZED (SELECT pt_y.* FROM unnest({arrays}) AS pt_y({names}) JOIN {self.t} ON"
            f" {self.row_is_y}"
            f" WHERE {_opaque(self.is_doing)} ORDER BY {self.keys} FOR NO KEY UPDATE OF {self.dialect.quote(m.name)}"
            " SKIP LOCKED),"
            f" pt_d AS (UPDATE {self.e} AS pt_e SET finished_at = now(), seconds = pt_x.seconds, worker = pt_x.worker,"
            f" {_DONE if plain else _ENDED}"
            f" FROM pt_x WHERE {self.entry_is_x} AND {_opaque(fence)} RETURNING {returned}),"
            f" pt_u AS (UPDATE {self.t} SET {sets} FROM pt_d WHERE {self.row_is_d} AND {_opaque(self.is_doing)}"
            " RETURNING pt_d.claim_no)"
            " SELECT (SELECT count(*) FROM pt_d)::integer, array_agg(claim_no) FROM pt_u"
        )
        self._end_texts[plain, status, columns] = text
        return text

    def due(self, c: Connection, count: int, now: Any) -> list[Picked]:
        keys = c.all(self.sql_due.replace("\0", str(count)))
        if not keys:
            return []
        locked = set(c.all(self.sql_lock_pending, _columns(keys, self.width)))
        # A row may spell its key otherwise than its entry, where 'a' and 'A' are the same.
        return [Picked(key, ()) for key in (*(key for key in keys if key in locked), *(locked - set(keys)))]

    def waiting_sql(self, count: int) -> tuple[str, Sequence[Any]]:
        return self.sql_waiting.replace("\0", str(count)), ()

    def waiting(self, c: Connection, count: int, after: tuple[Any, ...] | None) -> list[Picked]:
        if after is None:
            rows = c.all(*self.waiting_sql(count))
        else:
            rows = c.all(self.sql_waiting_behind.replace("\0", str(count)), self.behind_values(after))
        return [Picked(row[: self.width], row[self.width :]) for row in rows]

    def take(
        self, c: Connection, runner: str, picked: Sequence[Picked], first: int, now: Any
    ) -> tuple[list[Claim], int]:
        numbers = range(first, first + len(picked))
        keys = _columns([row.key for row in picked], self.width)
        (_, opened, changed, *_), *again = c.all(self.sql_take, (*keys, array(numbers), runner, runner))
        if opened != len(picked):
            return [], min(opened, changed)
        known = {row[0]: row for row in again}
        fresh = [
            Claim(row.key, number, 1, 0, 0, 0, f"{runner}-{number}")
            for number, row in zip(numbers, picked, strict=True)
        ]
        return [Claim(claim.key, *known.get(claim.claim_no, claim[1:])) for claim in fresh] if known else fresh, changed

    def write(self, c: Connection, runner: str, writes: Sequence[Write], now: Any) -> set[int] | None:
        groups: defaultdict[tuple[Any, ...], list[Write]] = defaultdict(list)
        for write in writes:
            # Arrays of arrays cannot be taken apart again by unnest: a row that gets one goes alone.
            alone = write.claim.claim_no if self.array_columns.intersection(write.columns) else None
            groups[write.end == "done", write.status, write.columns, alone].append(write)
        written: set[int] = set()
        for (plain, status, columns, _), group in groups.items():
            keys = _columns([write.claim.key for write in group], self.width)
            facts = map(array, zip(*((_plain_facts if plain else _facts)(write) for write in group), strict=True))
            values, arrays = [], []
            for name, column in zip(columns, zip(*(write.values for write in group), strict=True), strict=True):
                if name in self.array_columns:
                    arrays.append(column[0])
                else:
                    values.append(array(column))
            ((closed, changed),) = c.all(
                self.sql_ends(plain, status, columns), (*keys, *facts, *values, runner, *arrays)
            )
            if closed != len(changed or ()):
                raise Refused("the row did not change: a trigger leaves it alone")
            written.update(changed or ())
        return written


def _plain_facts(write: Write) -> tuple[Any, ...]:
    return write.claim.claim_no, write.seconds, write.worker


def _facts(write: Write) -> tuple[Any, ...]:
    return (
        *_plain_facts(write),
        write.end,
        write.fails,
        write.lost,
        write.claim.rescued,
        write.pause or None,
        write.kind or None,
        write.detail or None,
        write.log or None,
    )


def _columns(keys: Sequence[Key], width: int) -> list[str | list[Any]]:
    """Keys turned into the columns that unnest takes."""
    return [array([key[i] for key in keys]) for i in range(width)]


def array(values: Iterable[Any]) -> str | list[Any]:
    """An array as the database takes it.

    The driver asks anew for every value how it is written, which takes longer than all else that a row needs here, so
    the plain types are written at once. What is mixed goes as text, which the column's type reads again.
    """
    values = list(values)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= _NUMBERS:
        return "{" + ",".join(["NULL" if value is None else repr(value) for value in values]) + "}"
    if len(kinds) == 1 and kinds != {str}:
        return values
    quoted = ["NULL" if value is None else _quoted(str(value)) for value in values]
    return "{" + ",".join(quoted) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
