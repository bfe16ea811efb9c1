"""The pages hang together: the two READMEs are equal, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY, blocks_of

ENGLISH, CHINESE = REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md"
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])


def test_both_readmes_have_the_same_sections() -> None:
    assert _levels(CHINESE) == _levels(ENGLISH)


def test_both_readmes_show_the_same_code() -> None:
    def code(page: Path) -> list[tuple[str, str | None, list[str]]]:
        # Comments are translated.
        return [
            (block.language, block.title, [re.sub(r"#.*", "", line).rstrip() for line in block.text.splitlines()])
            for block in blocks_of(page)
        ]

    assert code(CHINESE) == code(ENGLISH)


def test_both_readmes_have_the_same_links_and_tables() -> None:
    assert _links(CHINESE) == _links(ENGLISH)
    assert _text(CHINESE).count("\n|") == _text(ENGLISH).count("\n|")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_inside_leads_somewhere(page: Path) -> None:
    missing = []
    for link in _links(page):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            missing.append(link)
    assert not missing


def test_every_page_of_the_documentation_can_be_reached_from_its_index() -> None:
    index = REPOSITORY / "docs" / "README.md"
    seen, waiting = set(), [index]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [(page.parent / link.partition("#")[0]).resolve() for link in _links(page) if "://" not in link]
    assert {page for page in PAGES if "docs" in page.parts} <= seen


def _text(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"(?ms)^ *(```+|~~~+).*?^ *\1\s*$", "", page.read_text(encoding="utf-8"))


def _levels(page: Path) -> list[int]:
    return [len(marks) for marks in re.findall(r"(?m)^(#+) ", _text(page))]


def _links(page: Path) -> list[str]:
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", _text(page))
    return [link for link in links if not link.startswith("README")]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", _text(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
