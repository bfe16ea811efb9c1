"""Which start method a pool takes, and that it leaves the program's own choice open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import multiprocessing, os
from pooltable import Pool

def parent(_):
    return os.getppid()

if __name__ == "__main__":
    for _ in range(3):
        with Pool(1) as pool:
            print(pool.apply(parent, (None,)) != os.getpid(), multiprocessing.get_start_method(allow_none=True))
"""


def test_every_pool_of_a_program_uses_the_fork_server_unless_the_program_says_otherwise(tmp_path: Path) -> None:
    script = tmp_path / "three.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.splitlines() == ["True None"] * 3
