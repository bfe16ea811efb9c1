"""examples/many_hosts: every host is asked, those that cannot be are named, and asked again the next time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.ssh import server

FOLDER = Path(__file__).parents[2] / "examples" / "many_hosts"


def survey(folder: Path, ssh: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "SSH": ssh, "TMPDIR": str(folder)}
    return subprocess.run(
        [str(FOLDER / "survey.sh")], cwd=folder, env=environment, capture_output=True, text=True, timeout=50
    )


def test_who_has_not_answered_is_asked_again(tmp_path):
    with server(tmp_path / "sshd") as sshd:
        shutil.copy(FOLDER / "hosts.txt", tmp_path)
        with (tmp_path / "hosts.txt").open("a") as hosts:
            hosts.write("web1\nnobody\n")
        system = os.uname().sysname
        first = survey(tmp_path, sshd.ssh)
        assert first.returncode == 1, first.stderr
        assert first.stdout.splitlines() == [f":\t{system}", f"web1\t{system}"]
        assert "nobody: " in first.stderr
        assert "Permission denied" in first.stderr

        (tmp_path / "sshd" / "authorized").write_text((tmp_path / "sshd" / "stranger.pub").read_text())
        second = survey(tmp_path, sshd.ssh)
        assert (second.returncode, second.stdout) == (0, f"nobody\t{system}\n")
        assert len((tmp_path / "survey.log").read_text().splitlines()) == 1 + 3 + 1
