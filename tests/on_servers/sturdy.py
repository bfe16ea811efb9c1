"""The tests' servers with commits that survive the death of the server, for tests that kill it."""

from __future__ import annotations

from tests.servers import MariaDB, PostgreSQL, Server


class SturdyPostgreSQL(PostgreSQL):
    """Its log is written with every commit anyhow; without fsync only a power cut could lose it."""


class SturdyMariaDB(MariaDB):
    def command(self) -> list[str]:
        # Written at every commit, flushed once a second: enough for a server that is killed.
        return [*super().command(), "--innodb-flush-log-at-trx-commit=2"]


STURDY: dict[str, type[Server]] = {"postgresql": SturdyPostgreSQL, "mariadb": SturdyMariaDB}
