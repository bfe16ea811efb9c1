"""Large arguments and results travel in memory files; nobody who keeps them notices."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pooltable import RemoteError, WorkerLost
from pooltable.pool import buffers
from pooltable.pool.buffers import LARGE, Parcel, Received
from tests.pool import helpers
from tests.pool.blocks import (
    fill,
    give_descriptors_back,
    make,
    make_and_die,
    make_several,
    memory_files,
    open_memory_files,
    same,
    take_all_descriptors,
    weigh,
)
from tests.pool.conftest import MakeExecutor, MakePool
from tests.pool.helpers import until
from tests.pool.test_faults import environment

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memory files")


# Each memory file that is kept costs a descriptor, and its mapping another one.
KEPT = 2 * buffers._MOST_KEPT


@pytest.mark.any_start_method
@pytest.mark.parametrize("size", [1, LARGE - 1, LARGE, LARGE + 1, 5_000_000])
def test_blocks_of_every_size_arrive_both_ways(pool: MakePool, size: int) -> None:
    p = pool(1)
    block = p.apply(make, (size, 7))
    assert bytes(block.view()) == b"\7" * size
    assert p.apply(weigh, (block, make(10, 1), block)) == (size, 10, size)
    assert p.apply(fill, (block, 9)).view()[size - 1] == 9
    assert block.view()[0] == 7  # what the worker wrote into was its own
    assert [len(b.view()) for b in p.apply(make_several, (size, 3))] == [size] * 3


@pytest.mark.any_start_method
def test_a_received_block_may_be_written_to(pool: MakePool) -> None:
    p = pool(1)
    one, two = p.apply(make, (1 << 20, 1)), p.apply(make, (1 << 20, 1))
    one.view()[0] = 5
    assert (one.view()[0], two.view()[0]) == (5, 1)


def test_results_that_are_kept_for_ever_never_change_and_do_not_use_up_the_descriptors(pool: MakePool) -> None:
    p = pool(2)
    before = open_memory_files()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(700, limit[1]), limit[1]))
    try:
        results = [p.apply_async(make, (LARGE, number % 251)) for number in range(600)]
        kept = [result.get(60) for result in results]
        results = [p.apply_async(bytes, (LARGE,)) for _ in range(600)]
        assert all(len(result.get(60)) == LARGE for result in results)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    for number, block in enumerate(kept):
        assert bytes(block.view()[:100]) == bytes([number % 251]) * 100
    del kept, results, block
    until(lambda: open_memory_files() <= before + KEPT)


def test_arguments_that_wait_do_not_use_up_the_descriptors(pool: MakePool) -> None:
    p = pool(1)
    blocker = p.apply_async(helpers.nap, (0.5,))
    results = [p.apply_async(weigh, (make(LARGE, 1),)) for _ in range(300)]
    assert open_memory_files() < 200
    assert all(result.get(60) == (LARGE,) for result in results)
    blocker.get(10)


def test_a_large_argument_goes_to_another_worker_when_the_first_dies(pool: MakePool) -> None:
    p = pool(1)
    bad = p.apply_async(helpers.exit_with, (1,))
    good = [p.apply_async(weigh, (make(2 * LARGE, 1),)) for _ in range(5)]
    assert [result.get(20) for result in good] == [(2 * LARGE,)] * 5
    with pytest.raises(WorkerLost):
        bad.get(10)
    with pytest.raises(WorkerLost):
        p.apply(make_and_die, (1,))


@pytest.mark.any_start_method
def test_imap_and_executors_carry_large_things_too(pool: MakePool, executor: MakeExecutor) -> None:
    p = pool(2)
    assert [len(block.view()) for block in p.imap(same, (make(LARGE, 1) for _ in range(50)))] == [LARGE] * 50
    assert [len(block.view()) for block in p.map(same, [make(LARGE, 1) for _ in range(10)])] == [LARGE] * 10
    assert len(executor(1).submit(same, make(LARGE, 2)).result(20).view()) == LARGE


def test_without_room_for_a_memory_file_data_goes_through_the_socket(
    pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = pool(1)
    monkeypatch.setattr(buffers, "_MOST_OPEN", 0)
    block = p.apply(same, (make(3 * LARGE, 4),))
    assert bytes(block.view()) == b"\4" * 3 * LARGE


def test_nothing_is_left_of_what_nobody_fetched(pool: MakePool) -> None:
    p = pool(1)
    before = open_memory_files()
    results = [p.apply_async(make, (LARGE, 1)) for _ in range(20)]
    for result in results:
        result.wait(20)
    assert open_memory_files() > before
    del results, result
    until(lambda: open_memory_files() == before)


def test_memory_is_used_again_when_nobody_looks_at_it_any_more(pool: MakePool) -> None:
    p = pool(1)
    block = make(4 * LARGE, 1)
    used = set()
    for _ in range(20):
        result = p.apply(same, (block,))
        used |= memory_files()
        del result
    assert 0 < len(used) <= 4


def test_what_somebody_looks_at_does_not_change_when_memory_is_used_again(pool: MakePool) -> None:
    p = pool(1)
    seen = []
    for number in range(20):
        result = p.apply(same, (make(2 * LARGE, number),))
        if number % 3 == 0:
            seen.append(result.view()[LARGE : LARGE + 9])  # of the whole nothing else is left
        del result
    assert [bytes(view) for view in seen] == [bytes([number]) * 9 for number in range(0, 20, 3)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_a_forked_child_looks_at_does_not_change_either(pool: MakePool) -> None:
    p = pool(1)
    block = p.apply(make, (2 * LARGE, 5))
    unread = p.apply_async(make, (2 * LARGE, 6))
    unread.wait(20)
    go, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go, 1)
        other = unread.get()
        os._exit(0 if set(bytes(block.view())) == {5} and set(bytes(other.view())) == {6} else 1)
    unread.get().view()[:] = bytes([9]) * (2 * LARGE)
    del block, unread
    for _ in range(5):
        p.apply(same, (make(2 * LARGE, 7),))
    os.write(ready, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(go)
    os.close(ready)


@pytest.fixture
def parcel() -> Iterator[Parcel]:
    parcel = buffers.dumps(make_several(LARGE, 2))
    assert isinstance(parcel, Parcel)
    yield parcel
    parcel.close()
    buffers.let_go_of_all()


def test_a_parcel_holds_the_pickle_and_its_buffers(parcel: Parcel) -> None:
    assert parcel.sizes[1:] == (LARGE, LARGE)
    assert b"Block" in parcel.head
    with pytest.raises(PermissionError):
        os.ftruncate(parcel.fd, 0)
    received = Received(os.dup(parcel.fd), parcel.sizes)
    assert [block.view()[LARGE - 1] for block in received.load()] == [0, 1]


def test_a_small_value_is_no_parcel() -> None:
    assert buffers.dumps([1, 2]) == pickle.dumps([1, 2], 5)


# ---- few descriptors

FEW = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from pooltable import Pool
from tests.pool.blocks import Block, make, make_several, weigh

def is_open():
    return len(os.listdir("/proc/self/fd"))

if __name__ == "__main__":
    with Pool(2, context={method!r}) as pool:
        pool.apply(abs, (1,))
        before = is_open()
        kept = pool.starmap(make, [(1 << 18, number % 256) for number in range(200)], 1)
        assert all(block.view()[-1] == number % 256 for number, block in enumerate(kept))
        assert is_open() - before <= {limit} // 4, (is_open(), before)
        assert pool.map(weigh, kept, 1) == [(1 << 18,)] * 200
        assert len(pool.apply(make_several, (1 << 18, 100))) == 100
        assert len([open("/dev/null") for _ in range({limit} // 8)]) == {limit} // 8
    pool.join()
    print("done")
"""


@pytest.mark.parametrize("limit", [64, 256])
def test_with_few_descriptors_large_values_arrive_and_leave_some_to_the_program(
    method: str, limit: int, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(FEW.format(method=method, limit=limit))
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment(), timeout=50, check=False
    )
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_a_large_value_for_which_no_descriptor_is_left_fails_its_call_alone(pool: MakePool) -> None:
    p = pool(1)
    before = p.apply(helpers.pid_of)
    take_all_descriptors()
    try:
        with pytest.raises(RemoteError, match="no file descriptor was left"):
            p.apply(make, (LARGE, 1))
        assert p.apply(helpers.double, (2,)) == 4
    finally:
        give_descriptors_back()
    block = make(LARGE, 1)
    p.apply(take_all_descriptors)
    with pytest.raises(OSError, match="no file descriptor was left"):
        p.apply(weigh, (block,))
    p.apply(give_descriptors_back)
    assert p.apply(weigh, (block,)) == (LARGE,)
    assert p.apply(helpers.pid_of) == before
