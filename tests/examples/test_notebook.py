"""examples/notebook: every cell runs in a kernel, as somebody would run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("ipykernel")
pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "captions.ipynb"


def test_every_cell_runs_and_shows_what_it_should(start, tmp_path):
    shutil.copy(NOTEBOOK, tmp_path)
    # In a program of its own, whose event loop and warnings are none of this one's.
    execute = "from nbclient.cli import main; main()"
    ran = start("-c", execute, "captions.ipynb", "--inplace", "--timeout", "60", seconds=0)
    assert ran.wait() == 0, ran.output()
    cells = json.loads((tmp_path / "captions.ipynb").read_text())["cells"]
    shown = "".join("".join(output.get("text", [])) for cell in cells for output in cell.get("outputs", []))
    assert "[0, 1, 4, 9, 16, 25, 36, 49]" in shown
    assert "3 done, 1 failed: {'ValueError': 1}" in shown
    (table,) = ["".join(output["data"]["text/html"]) for output in cells[-1]["outputs"]]
    assert "<table>" in table
    assert "ValueError: there is nothing to read" in table


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
