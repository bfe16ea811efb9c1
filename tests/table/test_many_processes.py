"""Several processes at one table: none is in another's way, and one that is killed loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count

import pytest

from pooltable import Retry
from tests.table.places import ends, wait_until

WORK = """
import sys
from pooltable import TaskTable, Retry
from pooltable.outcomes import Stored
from pooltable.table.states import Done, Finish
table = TaskTable(sys.argv[1], "video", write=("caption",))
lease = table.open_lease()
print("ready", flush=True)
ends = []
while True:
    answer = lease.exchange(ends, 7)
    # Between runners a lock may last for a moment: one looks at a row that another has just claimed.
    assert all(fate.end == "done" or fate.why == "locked" for fate in answer.fates), answer.fates
    locked = {fate.claim for fate in answer.fates if fate.why == "locked"}
    ends = [end for end in ends if end.claim in locked]
    ends += [Finish(claim, Done(Stored(("caption",), (lease.id,)))) for claim in answer.claims]
    for claim in answer.claims:
        print(claim.key[0], claim.attempt, flush=True)
    lease.rescue(Retry())
    if not ends and not lease.left().pending:
        break
lease.close()
"""


@pytest.fixture
def start(tmp_path, place, prepared):
    """Starts a process that does this at the place, with what it imports at hand where that can be."""
    numbers = count()

    def start(code):
        # One for each of them: who has just been started reads its own while the next one is written.
        script = tmp_path / f"work{next(numbers)}.py"
        script.write_text(code)
        arguments = [str(script), place.url]
        if prepared is None:
            return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
        return prepared.start(arguments, tmp_path, dict(os.environ), stdout=subprocess.PIPE, text=True)

    return start


@pytest.mark.timeout(120)
def test_many_processes_share_the_rows_and_none_runs_twice(place, start):
    table = place.video(600, write=("caption",))
    table.prepare()
    workers = [start(WORK) for _ in range(4)]
    seen: list[str] = []
    try:
        for worker in workers:
            out, _ = worker.communicate(timeout=100)
            assert worker.returncode == 0
            lines = out.splitlines()
            assert lines[0] == "ready"
            seen += lines[1:]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert sorted(seen) == sorted(f"{i} 1" for i in range(1, 601))
    assert set(place.statuses().values()) == {"DONE"}
    place.counts_claims = False


@pytest.mark.timeout(120)
def test_a_process_that_is_killed_is_rescued_at_once_and_its_rows_run_again(place, start):
    table = place.video(300, write=("caption",))
    table.prepare()
    lease = place.lease(table)
    for _ in range(3):
        victim = start(WORK.replace("lease.rescue(Retry())", ""))
        assert victim.stdout is not None
        for _ in range(10):
            victim.stdout.readline()
        victim.kill()
        victim.wait()
        victim.stdout.close()
        wait_until(lambda: lease.rescue(Retry(rescued=10)).next_expiry is None)
        assert lease.left().elsewhere == 0
    place.counts_claims = False
    while claims := lease.claim(50):
        assert set(ends(lease.done(*claims))) == {"done"}
    assert set(place.statuses().values()) == {"DONE"}
