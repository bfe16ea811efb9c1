"""What `pip install 'pooltable[...]'` brings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
IMPORTED_AS = {"pillow": "PIL"}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_brings_only_what_the_code_uses(extra: str) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for requirement in EXTRAS[extra]:
        name = re.split(r"[\[<>=~! ]", requirement)[0]
        assert re.search(rf"\b{IMPORTED_AS.get(name, name.lower())}\b", code), f"{extra}: nothing uses {name}"
