"""Every command and every snippet of the README and of the documentation does what its page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY, blocks_of, pages, run_page
from tests.prepared import Prepared

RUN = [page for page in pages() if any(block.runs for block in blocks_of(page)) and ".zh-CN" not in page.name]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_the_page_says_works(page: Path, tmp_path: Path, prepared: Prepared | None) -> None:
    # One page is done with the installed command, and with a Python that has imported nothing. So is what the page on
    # Django does with PYTHONPATH.
    run_page(page, tmp_path, None if page.name == "one-row.md" else prepared)


def test_a_block_that_is_not_run_says_why() -> None:
    silent = [
        str(block)
        for page in pages()
        for block in blocks_of(page)
        if len(block.orders.get("not run", "a good reason").split()) < 3
    ]
    assert not silent


def test_every_block_names_its_language() -> None:
    assert not [str(block) for page in pages() for block in blocks_of(page) if not block.language]
