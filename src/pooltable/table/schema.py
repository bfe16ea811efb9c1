"""The side tables: what pooltable must remember, beside the user's table and in the same schema.

    pooltable_job            one row for each job: which table, key and words it means, and whether it is paused
    pooltable_runner         one row for each start of a runner: its lease, and how to tell whether its process lives
    pooltable_<job>_claims   one record for each claim of a handful of rows, and what became of each (records.py)
    pooltable_<job>_entry    one entry for each row that once ended otherwise than by returning at its first attempt,
                             keyed as the user's table is

The text made here is what `init --print` shows, so a person may run it where pooltable may not create tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pooltable.table.dialects import Dialect
    from pooltable.table.mapping import Mapping

# The form of the side tables. 1 had an entry for every row, and no records of claims.
VERSION = 2

# 63 bytes is what PostgreSQL keeps of a name; the others keep 64 characters or more.
LONGEST_NAME = 63

_OWN = frozenset(
    {"runner_id", "claim_no", "attempt", "round", "ended", "fails", "lost", "rescued", "not_before", "claimed_at"}
    | {"finished_at", "seconds", "worker", "error_kind", "error", "log"}
)


def shortened(name: str) -> str:
    """The name, cut and made unique again by a hash where a database would cut it silently."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: LONGEST_NAME - 9].decode(errors="ignore") + "_" + digest


def entry_table(job: str) -> str:
    """The name of a job's table of entries."""
    return shortened(f"pooltable_{job}_entry")


def claims_table(job: str) -> str:
    """The name of a job's table of claims. (`pooltable_<job>_claim` is the index over the user's table.)"""
    return shortened(f"pooltable_{job}_claims")


@dataclass(frozen=True)
class Names:
    """Quoted names of the side tables of one job; `key` are the columns of its entries that hold the user's key."""

    jobs: str
    runners: str
    claims: str
    entries: str
    entries_before: str  # the table of the form before, which is dropped by hand
    key: tuple[str, ...]
    open_index: str
    due_index: str
    failed_index: str
    claim_index: str


def names_for(mapping: Mapping, job: str, dialect: Dialect) -> Names:
    quote = dialect.quote

    def qualified(name: str) -> str:
        return f"{quote(mapping.schema)}.{quote(name)}" if mapping.schema else quote(name)

    return Names(
        jobs=qualified("pooltable_job"),
        runners=qualified("pooltable_runner"),
        claims=qualified(claims_table(job)),
        entries=qualified(entry_table(job)),
        entries_before=qualified(shortened(f"pooltable_{job}")),
        # A user's key column may be called as one of our own columns.
        key=tuple(quote(f"key_{c.name}" if c.name.lower() in _OWN else c.name) for c in mapping.key),
        open_index=shortened(f"pooltable_{job}_open"),
        due_index=shortened(f"pooltable_{job}_due"),
        failed_index=shortened(f"pooltable_{job}_failed"),
        claim_index=claim_index_name(job),
    )


def create_tables(mapping: Mapping, job: str, dialect: Dialect, key_types: Sequence[str]) -> list[str]:
    """The statements that make the side tables, each of which does nothing where its table is there."""
    names, quote, t = names_for(mapping, job, dialect), dialect.quote, dialect.types
    keys = [f"{name} {kind} NOT NULL" for name, kind in zip(names.key, key_types, strict=True)]
    inner = inner_claims = ""
    if not dialect.partial_indexes:
        # They cannot be made "if not exists" afterwards.
        inner_claims = f",\n    KEY {quote(names.open_index)} (closed_at, number)"
        inner = f",\n    KEY {quote(names.due_index)} (not_before)"
    return [
        f"""CREATE TABLE IF NOT EXISTS {names.jobs} (
    {quote("job")} {t["name"]} NOT NULL PRIMARY KEY,
    {quote("schema")} {t["name"]},
    {quote("table")} {t["name"]} NOT NULL,
    {quote("key")} {t["text"]} NOT NULL,
    {quote("status")} {t["name"]} NOT NULL,
    {quote("words")} {t["text"]} NOT NULL,
    {quote("version")} {t["integer"]} NOT NULL,
    {quote("paused_at")} {t["time"]}
){dialect.table_options}""",
        f"""CREATE TABLE IF NOT EXISTS {names.runners} (
    id {t["id"]} NOT NULL PRIMARY KEY,
    job {t["name"]} NOT NULL,
    name {t["name"]},
    host {t["name"]},
    boot_id {t["name"]},
    pid_namespace {t["name"]},
    pid {t["integer"]},
    pid_started {t["name"]},
    version {t["name"]},
    processes {t["integer"]},
    started_at {t["time"]} NOT NULL,
    expires_at {t["time"]} NOT NULL,
    stopped_at {t["time"]}
){dialect.table_options}""",
        f"""CREATE TABLE IF NOT EXISTS {names.claims} (
    number {dialect.counted},
    runner_id {t["id"]} NOT NULL,
    no {t["long"]} NOT NULL,
    turn {t["long"]} NOT NULL,
    claimed_at {t["time"]} NOT NULL,
    closed_at {t["time"]},
    size {t["integer"]} NOT NULL,
    left_open {t["integer"]} NOT NULL,
    row_keys {t["text"]} NOT NULL,
    known {t["text"]},
    ended {t["letters"]} NOT NULL,
    times {t["text"]}{inner_claims}
){dialect.claims_options}""",
        f"""CREATE TABLE IF NOT EXISTS {names.entries} (
    {("," + chr(10) + "    ").join(keys)},
    runner_id {t["id"]} NOT NULL,
    claim_no {t["long"]} NOT NULL,
    attempt {t["integer"]} NOT NULL,
    round {t["id"]} NOT NULL,
    ended {t["id"]},
    fails {t["integer"]} NOT NULL,
    lost {t["integer"]} NOT NULL,
    rescued {t["integer"]} NOT NULL,
    not_before {t["time"]},
    claimed_at {t["time"]} NOT NULL,
    finished_at {t["time"]},
    seconds {t["real"]},
    worker {t["integer"]},
    error_kind {t["name"]},
    error {t["text"]},
    log {t["text"]},
    PRIMARY KEY ({", ".join(names.key)}){inner}
){dialect.entry_options(mapping)}""",
    ]


def create_indexes(mapping: Mapping, job: str, dialect: Dialect) -> list[str]:
    """The indexes over the side tables: the open claims by number, entries under back-off by when they are due, and the
    failed ones by time.

    The open claims not by their runner, nor by what is left open of them: a column in the condition of an index keeps
    PostgreSQL from updating a record in place.
    """
    names = names_for(mapping, job, dialect)
    if not dialect.partial_indexes:
        return []
    wanted = [
        (names.open_index, names.claims, "number", "closed_at IS NULL"),
        (names.due_index, names.entries, "not_before", "not_before IS NOT NULL"),
        (names.failed_index, names.entries, "finished_at", "ended IN ('failed', 'stuck')"),
    ]
    return [
        dialect.create_index(name, mapping.schema, table, columns, condition)
        for name, table, columns, condition in wanted
    ]


def claim_index_name(job: str) -> str:
    return shortened(f"pooltable_{job}_claim")


def claim_index(mapping: Mapping, job: str, dialect: Dialect) -> str:
    """The statement that makes the index which a claim needs over the user's table: its order, over the pending rows
    only."""
    names = names_for(mapping, job, dialect)
    order = mapping.order
    columns = order.columns or mapping.key
    descending = order.descending or (False,) * len(columns)
    listed = ", ".join(f"{c.bare} DESC" if down else c.bare for c, down in zip(columns, descending, strict=True))
    if dialect.partial_indexes:
        word = dialect.literal(mapping.words.pending)
        condition = f"{mapping.status.bare} IS NULL" if word == "NULL" else f"{mapping.status.bare} = {word}"
        return dialect.online_index(names.claim_index, mapping.schema, mapping.sql, listed, condition)
    return dialect.online_index(names.claim_index, mapping.schema, mapping.sql, f"{mapping.status.bare}, {listed}", "")
