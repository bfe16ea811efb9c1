"""A disk that takes longer to sync, for the programs that are started from now on: a library that stands in between."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

static int slower(const char *name, int file) {
    struct timespec pause = {MICROSECONDS / 1000000, MICROSECONDS % 1000000 * 1000};
    nanosleep(&pause, 0);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(file);
}
int fsync(int file) { return slower("fsync", file); }
int fdatasync(int file) { return slower("fdatasync", file); }
"""


def slow_down(folder: Path, milliseconds: float) -> None:
    """Every sync of a program started from here on takes so much longer. Needs a C compiler; SystemExit without one."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("a slower disk needs a C compiler, such as gcc")
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SOURCE.replace("MICROSECONDS", str(int(milliseconds * 1000))))
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True, timeout=60)
    # The servers run as another user.
    folder.chmod(0o755)
    os.environ["LD_PRELOAD"] = str(library)
