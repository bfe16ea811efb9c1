"""Pruning, and what doctor finds."""

from __future__ import annotations

from pooltable.table.upkeep import CLOCK_SKEW
from tests.table.places import ends


def test_prune_removes_old_finished_entries_and_those_of_rows_that_are_gone_and_no_others(place):
    table = place.video(8)
    lease = place.lease(table)
    claims = lease.claim(8)
    lease.done(claims[0], claims[1])
    lease.fail(claims[2])
    lease.again(claims[3], pause=3600)
    lease.release(claims[4])
    place.shift(1000, "finished_at", table="pooltable_video", where="id <> 2")
    place.sql("DELETE FROM video WHERE id = 5")
    place.sql("DELETE FROM video WHERE id = 6")
    place.counts_claims = False
    assert table.prune(older_than=500) == 3
    left = {key for key in range(1, 9) if table.entry(key) is not None}
    assert left == {2, 4, 6, 7, 8}
    assert ends(lease.done(*claims[5:])) == ["vanished", "done", "done"]


def test_prune_forgets_runners_that_stopped_long_ago(place):
    table = place.video(1)
    old, new = place.lease(table), place.lease(table)
    old.close()
    new.close()
    place.shift(1000, "stopped_at", where=f"id = '{old.id}'")
    table.prune(older_than=500)
    assert place.sql("SELECT id FROM pooltable_runner") == [(new.id,)]


def test_doctor_finds_nothing_in_a_healthy_table(place):
    table = place.video(1)
    table.create_index()
    assert table.findings() == []
    table.prepare()
    assert table.findings() == []


def test_doctor_names_a_missing_index_and_foreign_rows_with_their_remedies(place):
    table = place.video(2)
    place.sql("UPDATE video SET status = 'DOING'")
    place.foreign_doing = 2
    found = {finding.what: finding for finding in table.findings()}
    assert found["index missing"].remedy.startswith("CREATE INDEX")
    assert "release --foreign" in found["foreign doing rows"].remedy
    assert CLOCK_SKEW > 0


def test_doctor_names_row_level_security(postgresql):
    table = postgresql.video(1)
    postgresql.script("ALTER TABLE video ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in [finding.what for finding in table.findings()]


def test_doctor_names_the_journal_mode_and_large_rows_of_a_sqlite_file(sqlite):
    table = sqlite.video(1)
    sqlite.sql("UPDATE video SET content = :c", c="x" * 2_000_000)
    sqlite.sql("PRAGMA journal_mode = DELETE")
    assert {"journal mode", "large rows"} <= {finding.what for finding in table.findings()}
