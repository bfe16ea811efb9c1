"""What `doctor` looks at: whether a run on this table would work, and work fast, without changing anything.

    Checkup --each check, in a transaction that is rolled back--> Findings

What needs another question for each database is in sqlite_checkup.py, postgres_checkup.py and mysql_checkup.py. A check
waits neither for a lock nor for an answer for long, and one that cannot be made says so and leaves the others alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from pooltable.table import jobs
from pooltable.table.database import Connection, Database
from pooltable.table.dialects import Trouble
from pooltable.table.finding import Finding, error, ok, warning
from pooltable.table.looking import INDEX_FROM, Look, Looker
from pooltable.table.rescue import Rescuer
from pooltable.table.rights import Right, deleting, held, needed
from pooltable.table.statements import Statements
from pooltable.table.states import Status, word_in_quotes
from pooltable.text import counted

LOCK_SECONDS = 2  # how long a check waits for a lock
ANSWER_SECONDS = 10  # and for its answer

# Seconds from which on an open transaction of somebody else makes every claim slow.
LONG_TRANSACTION = 60.0
CLOCK_SKEW = 5.0
CLAIMED = 100  # rows of the claim that is measured
SLOW_CLAIM = 0.1


class Plan(NamedTuple):
    """How the database would find the rows of a claim: by which index, None for none, and whether it sorts them."""

    by: str | None
    sorts: bool


class Checkup:
    """The checks that all databases have, and what they ask of each."""

    def __init__(self, c: Connection, s: Statements, database: Database, entries: bool) -> None:
        self.c, self.s, self.m = c, s, s.mapping
        self.database, self.entries = database, entries
        self.room = CLAIMED
        self.lacking = False  # a right that a run needs; what follows from that is not said again
        self.look: Look | None = None
        self._looker = Looker(s, database, entries)

    def findings(self) -> list[Finding]:
        self.bound()
        return [finding for what, check in self.checks() for finding in self._found(what, check)]

    def _found(self, what: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
        d = self.s.dialect
        try:
            self.begin()
            return list(check())
        except d.errors as failed:
            trouble = d.trouble(failed, self.c.raw)
            if trouble is Trouble.LOST:
                raise
            if trouble is Trouble.READ_ONLY:
                return []  # which is a finding of its own
            if trouble is Trouble.BUSY:
                return [self.busy(what, failed)]
            if self.lacking:
                return []
            return [warning(what, f"cannot be told: {d.said(failed)}", "run doctor as a role that may see it")]
        finally:
            if d.in_transaction(self.c.raw):
                self.c.rollback()

    def checks(self) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
        return [
            ("server", self.server),
            ("read only", self.read_only),
            ("privileges", self.privileges),
            ("job", self.job),
            ("status words", self.words),
            ("foreign doing rows", self.foreign),
            ("rows without a key", self.keyless),
            ("runners", self.runners),
            *self.own_checks(),
            ("index", self.index),
            ("claim", self.claim),
            ("long transaction", self.transactions),
            ("triggers", self.triggers),
            ("clock", self.clock),
        ]

    # ---- what each database does in its own way

    def bound(self) -> None:
        """Sees to it that no statement waits for long."""

    def begin(self) -> None:
        self.c.begin()

    def busy(self, what: str, failed: BaseException) -> Finding:
        said = self.s.dialect.said(failed)
        return warning(what, f"cannot be told, because others are in the way: {said}", "ask again when they have ended")

    def own_checks(self) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
        return []

    def server(self) -> Iterator[Finding]:
        raise NotImplementedError

    def read_only(self) -> Iterator[Finding]:
        raise NotImplementedError

    def may_create(self) -> bool | None:
        """Whether tables may be made here; None where that cannot be told."""
        raise NotImplementedError

    def role(self) -> str:
        """Who we are for the database, as GRANT takes it; "" where there are no rights."""
        return ""

    def plan(self, sql: str, values: Sequence[Any]) -> Plan:
        """How the database would run a query that reads the user's table under its own name."""
        raise NotImplementedError

    def transactions(self) -> Iterator[Finding]:
        raise NotImplementedError

    def trigger_names(self) -> list[str]:
        """The triggers on the user's table that an UPDATE fires."""
        raise NotImplementedError

    def generated(self) -> list[str]:
        """The columns of the user's table that an UPDATE of others changes as well."""
        return []

    # ---- what all have

    def privileges(self) -> Iterator[Finding]:
        role = self.role()
        if not role:
            return
        missing: dict[str, list[str]] = {}
        for right in needed(self.s, self.entries):
            if not self._has(right):
                missing.setdefault(right.on, []).append(right.what)
        plain = self.s.dialect.plain
        self.lacking = bool(missing)
        for on, rights in missing.items():
            listed = ", ".join(dict.fromkeys(rights))
            yield error("privileges", f"{plain(role)} lacks {listed} on {plain(on)}", self.grant(listed, on, role))
        if not self.entries:
            may = self.may_create()
            if may is False:
                yield error(
                    "privileges",
                    f"{plain(role)} may not make the side tables, which are not there yet",
                    "let somebody who may run what `pooltable init --print` shows",
                )
                return
            told = "may make the side tables" if may else "whether it may make the side tables cannot be told"
        elif not self._has(deleting(self.s.names.runners)):
            detail = f"{plain(role)} may not forget old runners, as `pooltable prune` does"
            yield warning("privileges", detail, self.grant("DELETE", self.s.names.runners, role))
            return
        else:
            told = "with the side tables"
        if not missing:
            yield ok("privileges", f"{plain(role)} has what a run needs; {told}")

    def grant(self, rights: str, on: str, role: str) -> str:
        return self.s.dialect.plain(f"GRANT {rights} ON {on} TO {role}")

    def _has(self, right: Right) -> bool:
        try:
            return held(self.c, right)
        finally:
            if self.s.dialect.in_transaction(self.c.raw):
                self.c.rollback()
            self.begin()

    def job(self) -> Iterator[Finding]:
        if not self.entries:
            yield ok("side tables", "not there yet; the first run, or `pooltable init`, makes them")
            return
        different = jobs.difference(self.c, self.s)
        if different:
            yield error(
                "job",
                different,
                "run with the mapping that the job was set up with, or change it: pooltable init --again",
            )
        paused = self.c.first(f"SELECT paused_at FROM {self.s.names.jobs} WHERE job = {self.s.mark}", (self.s.job,))
        if paused and paused[0] is not None:
            yield warning("paused", f"no rows of job {self.s.job!r} are taken", "pooltable resume")
        elif not different:
            yield ok("job", f"{self.s.job!r} is set up as asked")

    def words(self) -> Iterator[Finding]:
        self.look = look = self._looker.look(self.c)
        m = self.m
        shown = ", ".join(
            f"{word_in_quotes(word)}{f' ({n})' if n is not None else ''}" for word, n in look.words.items()
        )
        if look.no_pending:
            yield error(
                "status words",
                f"{m.name}.{m.status.name} holds {shown}; none is the pending word {word_in_quotes(m.words.pending)}",
                "name the word of rows that wait: --pending",
            )
        elif look.strange:
            strange = ", ".join(map(word_in_quotes, look.strange[:8]))
            detail = f"{m.name}.{m.status.name} holds {shown}; rows with {strange} are left alone"
            yield warning("status words", detail, "UPDATE them to one of the words, if they are meant to be run")
        else:
            yield ok("status words", f"{m.name}.{m.status.name} holds {shown}" if shown else "the table is empty")

    def foreign(self) -> Iterator[Finding]:
        if self.look and self.look.foreign_doing:
            yield warning(
                "foreign doing rows",
                f"{word_in_quotes(self.m.words.doing)}, but held by no runner:"
                f" {counted(self.look.foreign_doing, 'row')}",
                "if nothing else works on them: pooltable release --foreign",
            )

    def keyless(self) -> Iterator[Finding]:
        if self.look and self.look.keyless:
            key = ", ".join(column.name for column in self.m.key)
            yield warning(
                "rows without a key",
                f"waiting, but no run can take them: {counted(self.look.keyless, 'row')}",
                f"give each of them a value for {key} that no other row has, or delete them",
            )

    def runners(self) -> Iterator[Finding]:
        if not self.entries:
            return
        rescuer = Rescuer(self.s, "", 0.0)
        holders = self.s.holders(self.c)
        dead = sorted(rescuer.deaths(self.c, holders).dead & holders.keys())
        held = sum(holders.pop(runner) for runner in dead)
        if held:
            yield warning(
                "dead runners",
                f"{counted(held, 'row')} held by runners that are gone: {', '.join(dead[:5])}",
                "the next run takes them back, or at once: pooltable release",
            )
        if holders:
            yield ok("runners", f"{len(holders)} at work, with {counted(sum(holders.values()), 'row')}")

    def index(self) -> Iterator[Finding]:
        dialect = self.s.dialect
        for name in [index.name for index in dialect.indexes(self.c, self.m) if not index.valid]:
            drop = f"if nobody builds it now: {dialect.drop_index(self.m, name)}"
            yield warning("invalid index", f"{name} is being built, or its build was interrupted", drop)
        if self.m.order.columns is None:
            detail = "the order is an expression or may be NULL, so that each claim sorts all waiting rows"
            yield warning("index", detail, "order by plain columns that are NOT NULL")
            return
        missing = self._looker.index_sql(self.c)
        size = sum(count or INDEX_FROM + 1 for count in self.look.words.values()) if self.look else 0
        small = size <= INDEX_FROM
        if missing is not None and small:
            yield ok("index", f"none for claims yet, and a table this small needs none; later: {missing}")
        elif missing is not None:
            yield error("index missing", f"each claim reads through {self.m.name!r} to find waiting rows", missing)
        else:
            plan = self.plan(*self._claim_sql())
            serving = self._looker.serving(self.c)
            if plan.by in serving and not plan.sorts:
                yield ok("index", f"a claim reads {plan.by}")
            elif small:
                yield ok("index", f"{serving[0]} is there; the table is too small for it to matter")
            else:
                how = f"reads {plan.by or 'the whole table'}" + (" and sorts" if plan.sorts else "")
                yield warning("index not used", f"{serving[0]} is there, but a claim {how}", self.analyze())

    def analyze(self) -> str:
        return f"ANALYZE {self.s.dialect.plain(self.s.t)}"

    def _claim_sql(self) -> tuple[str, Sequence[Any]]:
        """The statement by which a claim finds waiting rows, and its values."""
        s = self.s
        if self.entries:
            return s.waiting_sql(CLAIMED)
        # Without entries nothing can be under back-off.
        head = f"SELECT {s.keys} FROM {s.t} WHERE {s.is_word[Status.PENDING]}{s.has_key}{s.scope}"
        return f"{head} ORDER BY {self.m.order.sql} LIMIT {CLAIMED}{s.dialect.skip_locked}", ()

    def claim(self) -> Iterator[Finding]:
        """A claim as a runner makes it; what it changed is rolled back at the end of the check."""
        c, s = self.c, self.s
        began = time.perf_counter()
        if self.entries:
            s.opening(c, "")
            keys = [row[: s.width] for row in s.waiting(c, self.room, None)]
            count = changed = len(keys)
            try:
                if keys:
                    changed = s.set_doing(c, keys)
                    s.insert_record(c, "doctor", 0, 0, keys, {})
            except s.dialect.errors as refused:
                if s.dialect.trouble(refused, c.raw) is not Trouble.REFUSED:
                    raise
                yield error("claim", f"the database refuses it: {s.dialect.said(refused)}", self._let_through())
                return
            if changed != count:
                detail = f"{count - changed} of {counted(count, 'row')} did not change: a trigger or rule is in the way"
                yield error("claim", detail, self._let_through())
                return
        else:
            sql, values = self._claim_sql()
            count = len(c.all(sql, values))
        seconds = time.perf_counter() - began
        detail = f"taking {counted(count, 'row')} takes {seconds * 1000:.1f} ms (measured, and undone)"
        if seconds > SLOW_CLAIM:
            yield warning("claim", detail, "see index, long transaction and triggers")
        else:
            yield ok("claim", detail)

    def _let_through(self) -> str:
        m, words = self.m, self.m.words
        move = f"from {word_in_quotes(words.pending)} to {word_in_quotes(words.doing)}"
        return f"let an UPDATE of {m.name}.{m.status.name} {move} through"

    def triggers(self) -> Iterator[Finding]:
        names = self.trigger_names()
        if names:
            detail = f"each claim and each end of a row fires {', '.join(sorted(set(names))[:8])}"
            yield warning("triggers", detail, "see that they are quick, and leave status and results as they are")
        generated = self.generated()
        if generated:
            yield ok("generated columns", f"{', '.join(generated)} change with each claim and each end of a row")

    def clock(self) -> Iterator[Finding]:
        before = time.time()
        ((there,),) = self.c.all(f"SELECT {self.s.dialect.epoch(self.s.dialect.now)}")
        skew = float(there) - (before + time.time()) / 2
        if abs(skew) > CLOCK_SKEW:
            detail = f"the database's clock and this host's are {skew:+.0f} s apart"
            yield warning("clock", detail, "leases go by the database's; set the clocks")


def long_transaction(who: str, seconds: float, remedy: str) -> Finding:
    detail = f"{who} has had a transaction open for {seconds:.0f} s: old rows pile up, and claims read them"
    return warning("long transaction", detail, remedy)


_CHECKUPS = {
    "sqlite": ("pooltable.table.sqlite_checkup", "SQLiteCheckup"),
    "postgresql": ("pooltable.table.postgres_checkup", "PostgresCheckup"),
    "mysql": ("pooltable.table.mysql_checkup", "MySQLCheckup"),
}


def checkup(c: Connection, s: Statements, database: Database, entries: bool) -> list[Finding]:
    """Everything that was looked at, and how it is."""
    module, name = _CHECKUPS[s.dialect.name]
    kind: type[Checkup] = getattr(import_module(module), name)
    return kind(c, s, database, entries).findings()
