"""What `doctor` asks of PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pooltable.table.checkup import ANSWER_SECONDS, LOCK_SECONDS, LONG_TRANSACTION, Checkup, Plan, long_transaction
from pooltable.table.finding import Finding, error, ok, warning
from pooltable.table.notify import Triggers, channel


class PostgresCheckup(Checkup):
    def begin(self) -> None:
        # For this transaction alone, so that it works through a pooler; three statements in one message.
        self.c.run(
            f"BEGIN; SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; SET LOCAL statement_timeout = '{ANSWER_SECONDS}s'"
        )

    def own_checks(self) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
        return [
            ("row-level security", self.row_security),
            ("isolation level", self.isolation),
            ("durability", self.durability),
            ("notify", self.notify),
        ]

    def server(self) -> Iterator[Finding]:
        ((version,),) = self.c.all("SHOW server_version")
        yield ok("server", f"PostgreSQL {version}")

    def read_only(self) -> Iterator[Finding]:
        replica, read_only = self.c.all("SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")[
            0
        ]
        if replica:
            yield error("read only", "this server is a replica", "give --db the URL of the primary server")
        elif read_only:
            set_off = "SET default_transaction_read_only = off"
            remedy = f"{set_off}; ALTER ROLE {self._me()} {set_off}"
            yield error("read only", "transactions are read-only by default", remedy)

    def _me(self) -> str:
        return str(self.c.all("SELECT quote_ident(current_user)")[0][0])

    def role(self) -> str:
        return self._me()

    def may_create(self) -> bool | None:
        ((may,),) = self.c.all("SELECT has_schema_privilege(%s, 'CREATE')", (self.m.schema,))
        return bool(may)

    def _relation(self) -> str:
        return self.s.dialect.plain(self.m.sql)

    def row_security(self) -> Iterator[Finding]:
        hidden = self.s.dialect.hidden(self.c, self.m)
        if hidden:
            what, _, remedy = hidden.partition(": ")
            yield error("row-level security", what, remedy)
            return
        ((active,),) = self.c.all("SELECT row_security_active(to_regclass(%s))", (self._relation(),))
        if active:
            detail = f"is on for {self.m.name!r}: rows that {self._me()} may not see or change are not run"
            yield warning("row-level security", detail, f"if that is not meant: ALTER ROLE {self._me()} BYPASSRLS")

    def isolation(self) -> Iterator[Finding]:
        # That of our own transactions, which take the default.
        ((level,),) = self.c.all("SHOW transaction_isolation")
        if level == "read committed":
            yield ok("isolation level", level)
        else:
            detail = f"is {level!r} by default: runners get in each other's way, and claims are tried again and again"
            remedy = f"ALTER ROLE {self._me()} SET default_transaction_isolation = 'read committed'"
            yield warning("isolation level", detail, remedy)

    def durability(self) -> Iterator[Finding]:
        ((commit,),) = self.c.all("SHOW synchronous_commit")
        if commit == "off":
            detail = "synchronous_commit is off: a server that crashes forgets claims and ends that were written"
            yield warning("durability", detail, f"ALTER ROLE {self._me()} SET synchronous_commit = on")

    def notify(self) -> Iterator[Finding]:
        triggers = Triggers(self.s)
        there = triggers.there(self.c)
        if not there:
            yield ok("notify", "not set up, so idle runners ask whether rows wait; to be told: pooltable init --notify")
        elif not triggers.are_there(self.c):
            yield warning("notify", f"of its triggers only {min(there)} is there", "pooltable init --notify")
        else:
            told = f"runners are told of new rows on {channel(self.s)!r}"
            cost = self._cost_of_notify(triggers)
            if cost is not None:
                told += (
                    f"; an INSERT takes {cost:.0f} us longer by it (measured, and undone), a claim and an end nothing"
                )
            yield ok("notify", told)

    def _cost_of_notify(self, triggers: Triggers) -> float | None:
        """Microseconds; None where this role may not insert."""
        ((may,),) = self.c.all("SELECT has_table_privilege(to_regclass(%s), 'INSERT')", (self._relation(),))
        if not may:
            return None
        status = self.m.status.bare
        # It fires for no rows as well.
        sql = f"INSERT INTO {self.m.sql} ({status}) SELECT {status} FROM {self.m.sql} WHERE false"
        times = []
        for _ in range(10):
            ((found,),) = self.c.all(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            fired = (json.loads(found) if isinstance(found, str) else found)[0].get("Triggers", ())
            times += [1000 * one["Time"] for one in fired if one["Trigger Name"] == triggers.inserted]
        return min(times, default=None)

    def plan(self, sql: str, values: Sequence[Any]) -> Plan:
        ((found,),) = self.c.all(f"EXPLAIN (FORMAT JSON) {sql}", values)
        nodes = list(_nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"]))
        index = None
        for node in nodes:
            if node.get("Alias") == self.m.name:
                index = next((n["Index Name"] for n in _nodes(node) if "Index Name" in n), None)
        return Plan(index, any("Sort" in node["Node Type"] for node in nodes))

    def transactions(self) -> Iterator[Finding]:
        rows = self.c.all(
            "SELECT pid::text, extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(nullif("
            "application_name, ''), 'no name') FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            " UNION ALL SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8, '' FROM pg_prepared_xacts"
            " WHERE database = current_database() ORDER BY 2 DESC LIMIT 1"
        )
        for who, seconds, name in rows:
            if seconds > LONG_TRANSACTION and name:
                remedy = f"end it, or: SELECT pg_terminate_backend({who})"
                yield long_transaction(f"process {who} ({name})", seconds, remedy)
                return
            if seconds > LONG_TRANSACTION:
                yield long_transaction(f"the prepared transaction {who!r}", seconds, f"ROLLBACK PREPARED '{who}'")
                return
        ((sees_all,),) = self.c.all("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")
        seen = "" if sees_all else " among those of this role; others can be seen with pg_read_all_stats"
        yield ok("long transaction", f"none{seen}")

    def trigger_names(self) -> list[str]:
        # 16 is the bit of UPDATE in a trigger's type.
        rows = self.c.all(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND NOT tgisinternal AND tgenabled <> 'D'"
            " AND tgtype & 16 <> 0 UNION ALL SELECT rulename FROM pg_rewrite WHERE ev_class = to_regclass(%s)"
            " AND ev_type = '2'",
            (self._relation(), self._relation()),
        )
        # Ours is not called for what claims and ends do: its condition is false then.
        return [str(name) for (name,) in rows if name != Triggers(self.s).pending]

    def generated(self) -> list[str]:
        rows = self.c.all(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attgenerated <> ''",
            (self._relation(),),
        )
        return [str(name) for (name,) in rows]


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part)
