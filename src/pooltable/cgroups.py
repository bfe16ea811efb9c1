"""The control groups that this process is in, which limit what it may use: version 1, version 2, or both."""

from __future__ import annotations

ROOT = "/sys/fs/cgroup"
OWN = "/proc/self/cgroup"


def groups(controller: str) -> list[tuple[int, str]]:
    """The version and the folder of each group whose limits hold here, of one controller such as "cpu".

    A cgroup namespace shows a container its own group at the root; outside, the process's own path is the one.
    """
    try:
        lines = read(OWN).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [(2, folder) for folder in _up(ROOT, path)]
        elif controller in controllers.split(","):
            found += [(1, folder) for folder in _up(f"{ROOT}/{controller}", path)]
    return found


def _up(folder: str, path: str) -> list[str]:
    """The group's folder and those above it, whose limits hold for it too."""
    folders = [folder]
    for part in path.split("/"):
        if part:
            folders.append(f"{folders[-1]}/{part}")
    return folders


def read(path: str) -> str:
    """The text of a file of the kernel's."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
