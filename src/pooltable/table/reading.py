"""Reads rows and entries, outside transactions: what tasks get, what status and failures show."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pooltable import notebook
from pooltable.events import Key
from pooltable.rows import Row, key_text
from pooltable.table.database import Connection
from pooltable.table.kinds import is_kind
from pooltable.table.records import HELD, RETURNED, time_at
from pooltable.table.statements import Statements, Traced
from pooltable.table.states import Status

READ_AT_ONCE = 200
SAMPLED_AT_ONCE = 16
SAMPLED_BYTES = 64 * 2**20
NEWEST = 10_000  # claims that are looked at first for a row without an entry
COUNTED = 1000  # how many pending rows are counted where a bound will do


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows are in each state; `other` hold words that are none of ours.

    `waiting` are pending rows that are not due yet, and `next_due` the seconds until the first of them is. `open` says
    how many rows each runner holds.
    """

    pending: int = 0
    doing: int = 0
    done: int = 0
    failed: int = 0
    other: int = 0
    waiting: int = 0
    next_due: float | None = None
    paused: bool = False
    open: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.pending + self.doing + self.done + self.failed + self.other

    def _repr_html_(self) -> str:
        shown = {name: getattr(self, name) for name in ("pending", "doing", "done", "failed")}
        shown |= {name: count for name in ("other", "waiting") if (count := getattr(self, name))}
        remark = notebook.paragraph("the job is paused") if self.paused else ""
        return notebook.table(list(shown), [list(shown.values())]) + remark


@dataclass(frozen=True, slots=True)
class Entry:
    """What pooltable remembers of a row. Times are seconds since 1970 by the database's clock.

    `status` is the state of the row now, "other" for a word that is none of ours, "missing" when the row is gone.
    `ended` is None while the entry is open. The first line of `error` is the reason.
    """

    key: Key
    status: str
    runner: str
    claim_no: int
    attempt: int
    ended: str | None
    fails: int
    lost: int
    rescued: int
    not_before: float | None
    claimed_at: float
    finished_at: float | None
    seconds: float | None
    worker: int | None
    kind: str
    error: str
    log: str
    idempotency_key: str

    @property
    def reason(self) -> str:
        return self.error.split("\n", 1)[0]


class WholeRow(NamedTuple):
    """A row with its status and the columns that take what a task returns; `state` is what its status word stands for,
    "other" for a word that is none of ours."""

    row: Row
    state: str


class Entries(list[Entry]):
    """A list of entries, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        def told(entry: Entry) -> list[object]:
            key = key_text(entry.key)
            return [key, entry.attempt, _at(entry.finished_at), entry.seconds, entry.reason or entry.kind]

        return notebook.table(["key", "attempt", "when", "seconds", "reason"], map(told, self))


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class Reader:
    """What can be read of a job, given a connection."""

    def __init__(self, statements: Statements) -> None:
        self._s = s = statements
        d, e = s.dialect, s.dialect.epoch
        self._columns = (*s.mapping.key, *s.mapping.columns)
        self._fields = s.mapping.fields
        reads = [(i, column.read) for i, column in enumerate(self._columns) if column.read is not None]
        self._reads = tuple(reads)
        self._make = Row.maker(self._fields)
        state = " ".join(f"WHEN {s.is_word[state]} THEN '{state.value}'" for state in Status)
        self._state = f"CASE {state} ELSE 'other' END"
        within = f" WHERE (\n{s.mapping.where}\n)" if s.mapping.where else ""
        self._sql_counts = f"SELECT {self._state}, count(*) FROM {s.t}{within} GROUP BY 1"
        pending = f"SELECT 1 AS one FROM {s.t} WHERE {s.is_word[Status.PENDING]}{s.has_key}{s.scope} LIMIT {COUNTED}"
        self._sql_pending = f"SELECT count(*) FROM ({pending}) AS pt_some"
        self._sql_next_due = (
            f"SELECT {e('pt_e.not_before')} - {e(d.now)} FROM {s.e} AS pt_e WHERE pt_e.not_before IS NOT NULL AND"
            f" {s.its_row}"
            " ORDER BY pt_e.not_before LIMIT 1"
        )
        self._sql_waiting = f"SELECT count(*) FROM {s.e} AS pt_e WHERE pt_e.not_before > {d.now} AND {s.its_row}"
        self._sql_paused = f"SELECT paused_at FROM {s.names.jobs} WHERE job = {s.mark}"
        times = [e(f"pt_e.{name}") for name in ("not_before", "claimed_at", "finished_at")]
        self._sql_entries = (
            f"SELECT {s.e_keys}, (SELECT {self._state} FROM {s.t} WHERE {s.same}), pt_e.runner_id, pt_e.claim_no,"
            " pt_e.attempt, pt_e.ended,"
            f" pt_e.fails, pt_e.lost, pt_e.rescued, {', '.join(times)}, pt_e.seconds, pt_e.worker, pt_e.error_kind,"
            " pt_e.error, pt_e.log, pt_e.round"
            f" FROM {s.e} AS pt_e"
        )

    # ---- rows

    def rows(self, c: Connection, keys: Sequence[Key]) -> list[Row | None]:
        """The rows with those keys, in their order; None for one that is gone."""
        found: dict[Key, tuple[Any, ...]] = {}
        width = self._s.width
        for at in range(0, len(keys), READ_AT_ONCE):
            sql, values = self._s.keys_in(keys[at : at + READ_AT_ONCE])
            found |= {row[:width]: row for row in c.all(f"{self._s.sql_read} WHERE {sql}", values)}
        make = self._make if not self._reads else self._converted
        got = (found.get(key) or self._alone(c, key) for key in keys)
        return [None if values is None else make(values) for values in got]

    def whole_row(self, c: Connection, key: Key) -> WholeRow | None:
        s = self._s
        m = s.mapping
        # The status is its word as the table has it, and not what a type of SQLAlchemy makes of it.
        written = (replace(m.status, read=None), *m.write, *([m.result] if m.result else []))
        columns = list({column.name: column for column in (*self._columns, *written)}.values())
        listed = ", ".join(column.sql for column in columns)
        found = c.first(f"SELECT {self._state}, {listed} FROM {s.t} WHERE {s.row_is}", key)
        if found is None:
            return None
        values = [
            value if column.read is None else column.read(value)
            for column, value in zip(columns, found[1:], strict=True)
        ]
        return WholeRow(Row(tuple(column.name for column in columns), tuple(values)), found[0])

    def sample(self, c: Connection, count: int) -> list[Row]:
        """Up to so many rows that wait, or where none does, that are done."""
        s = self._s
        found: list[Row] = []
        for state in (Status.PENDING, Status.DONE):
            keys = c.all(f"SELECT {s.keys} FROM {s.t} WHERE {s.is_word[state]}{s.has_key}{s.scope} LIMIT {int(count)}")
            size = 0
            for at in range(0, len(keys), SAMPLED_AT_ONCE):
                rows = [row for row in self.rows(c, keys[at : at + SAMPLED_AT_ONCE]) if row is not None]
                found += rows
                size += sum(len(value) for row in rows for value in row if isinstance(value, str | bytes))
                if size > SAMPLED_BYTES:
                    break
            if found:
                break
        return found

    def try_out(self, c: Connection) -> None:
        """Reads no row: raises where the statement itself does not work any more."""
        c.all(f"{self._s.sql_read} WHERE 1 = 0")

    def _alone(self, c: Connection, key: Key) -> tuple[Any, ...] | None:
        # Equal for the database is not always equal for Python: another case under a collation that ignores it.
        return c.first(f"{self._s.sql_read} WHERE {self._s.row_is}", key)

    def _converted(self, values: tuple[Any, ...]) -> Row:
        converted = list(values)
        for at, read in self._reads:
            converted[at] = read(values[at])
        return self._make(tuple(converted))

    # ---- counts

    def pending(self, c: Connection) -> int:
        """How many rows are PENDING, counted up to a bound."""
        return int(c.all(self._sql_pending)[0][0])

    def next_due(self, c: Connection) -> float | None:
        """Seconds until the first row under back-off is due, 0 when one is due now; None when there is none."""
        row = c.first(self._sql_next_due)
        return None if row is None else max(0.0, float(row[0]))

    def counts(self, c: Connection, entries: bool) -> Counts:
        """`entries` False: nobody has made the side tables yet."""
        states: dict[str, Any] = {str(state): int(count) for state, count in c.all(self._sql_counts)}
        if not entries:
            return Counts(**states)
        paused = c.first(self._sql_paused, (self._s.job,))
        return Counts(
            **states,
            waiting=int(c.all(self._sql_waiting)[0][0]),
            next_due=self.next_due(c),
            paused=paused is not None and paused[0] is not None,
            open=self._s.holders(c),
        )

    # ---- entries

    def entry(self, c: Connection, key: Key) -> Entry | None:
        """What is remembered of a row: its entry, or the claim that it returned in, or that holds it now."""
        return self._entered(c, key) or self._claimed(c, key)

    def _entered(self, c: Connection, key: Key) -> Entry | None:
        row = c.first(f"{self._sql_entries} WHERE {self._s.e_is}", key)
        return None if row is None else self._entry(row)

    def _claimed(self, c: Connection, key: Key) -> Entry | None:
        # As the row spells its key, which may be another type or case for Python than what was asked for.
        key = c.first(f"SELECT {self._s.keys} FROM {self._s.t} WHERE {self._s.row_is}", key) or key
        # The newest claims first, because that is where a row is most often looked for, and a look at all takes longer.
        traced = self._s.claims_of(c, key, limit=1, newest=NEWEST) or self._s.claims_of(c, key, limit=1)
        if not traced:
            return None
        if traced[0].letter in (HELD, RETURNED):
            return self._traced(c, key, traced[0])
        # Where it ended between the two questions, its entry is there by now.
        return self._entered(c, key)

    def _traced(self, c: Connection, key: Key, traced: Traced) -> Entry:
        claim = traced.record.claim(traced.place)
        seconds, worker = time_at(traced.times, traced.place)
        return Entry(
            key=key,
            status=self._s.state(c, key),
            runner=traced.record.runner,
            claim_no=claim.claim_no,
            attempt=claim.attempt,
            ended="done" if traced.letter == RETURNED else None,
            fails=claim.fails,
            lost=claim.lost,
            rescued=claim.rescued,
            not_before=None,
            claimed_at=traced.claimed_at,
            finished_at=traced.closed_at if traced.letter == RETURNED else None,
            seconds=seconds,
            worker=worker,
            kind="",
            error="",
            log="",
            idempotency_key=claim.idempotency_key,
        )

    def failures(self, c: Connection, limit: int, kind: str | None, run: str | None) -> list[Entry]:
        """Entries of rows that are FAILED now, or stuck, the newest first."""
        s = self._s
        of_kind, values = is_kind(c, s, kind)
        where = (
            f"pt_e.ended IN ('failed', 'stuck') AND EXISTS (SELECT 1 FROM {s.t} WHERE {s.same} AND"
            f" ({s.is_word[Status.FAILED]} OR {s.is_word[Status.DOING]})){of_kind}"
        )
        if run is not None:
            where, values = f"{where} AND pt_e.runner_id LIKE {s.mark}", [*values, f"{run}%"]
        sql = f"{self._sql_entries} WHERE {where} ORDER BY pt_e.finished_at DESC LIMIT {int(limit)}"
        return Entries(self._entry(row) for row in c.all(sql, values))

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        w = self._s.width
        status, runner, claim_no, attempt, ended, fails, lost, rescued, *rest = row[w:]
        not_before, claimed_at, finished_at, seconds, worker, kind, error, log, round_ = rest
        return Entry(
            key=row[:w],
            status=status or "missing",
            runner=runner,
            claim_no=claim_no,
            attempt=attempt,
            ended=ended,
            fails=fails,
            lost=lost,
            rescued=rescued,
            not_before=_seconds(not_before),
            claimed_at=float(claimed_at),
            finished_at=_seconds(finished_at),
            seconds=seconds,
            worker=worker,
            kind=kind or "",
            error=error or "",
            log=log or "",
            idempotency_key=round_,
        )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)
