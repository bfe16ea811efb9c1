"""The pages that are made from the code are current, and the requirements are those of the package."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY

GENERATE = runpy.run_path(str(REPOSITORY / "docs" / "generate.py"))


@pytest.mark.parametrize("page", GENERATE["generated"](), ids=lambda page: page.name)
def test_a_generated_page_is_current(page: Path) -> None:
    assert page.exists(), "run: make docs"
    assert page.read_text(encoding="utf-8") == GENERATE["generated"]()[page], "out of date; run: make docs"


def test_the_picture_of_the_states_shows_every_move() -> None:
    from pooltable.table.states import MOVES

    page = (REPOSITORY / "docs" / "explanation" / "life-of-a-row.md").read_text(encoding="utf-8")
    arrows = re.findall(r"(?m)^ {4}([A-Z]+) --> ([A-Z]+):", page)
    assert set(arrows) == {(start.name, end.name) for start, end in MOVES}


def test_the_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {"base": project["dependencies"], "demo": project["optional-dependencies"]["demo"]}
    for group, names in wanted.items():
        listed = (REPOSITORY / "requirements" / f"{group}.in").read_text()
        missing = [name for name in map(_name, names) if name not in {_name(line) for line in listed.splitlines()}]
        assert not missing, f"requirements/{group}.in lacks {missing}"


def test_the_pinned_requirements_name_no_index_and_no_folder_of_a_machine() -> None:
    for file in (REPOSITORY / "requirements").glob("*.txt"):
        lines = [
            line for line in file.read_text().splitlines() if line and not line.lstrip().startswith(("#", "--hash="))
        ]
        assert all(re.fullmatch(r"[a-z0-9][\w.-]*==[\w.]+( ; .+)? \\", line) for line in lines), file.name
        assert "://" not in file.read_text(), file.name


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9][\w.-]*", requirement)
    return found[0].lower().replace("_", "-") if found else ""
