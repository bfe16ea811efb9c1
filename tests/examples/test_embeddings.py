"""examples/embeddings: every text gets a vector that is near to those of texts like it, in batches."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
np = pytest.importorskip("numpy")

FOLDER = Path(__file__).parents[2] / "examples" / "embeddings"


def ask(folder, sql):
    with closing(sqlite3.connect(folder / "texts.db")) as db, db:
        return db.execute(sql).fetchall()


def test_each_text_gets_its_own_vector_and_an_empty_one_fails_alone(start, tmp_path):
    for script in FOLDER.glob("*.py"):
        shutil.copy(script, tmp_path)
    for arguments in (["make_model.py"], ["make_table.py", "150"]):
        made = start(*arguments)
        assert made.wait() == 0, made.output()
    ask(tmp_path, "UPDATE text SET content = (SELECT content FROM text WHERE id = 7) WHERE id = 140")
    script = start("embeddings.py")
    assert script.wait() == 1, script.output()
    assert "149 texts have vectors, 1 failed" in script.output()
    assert ask(tmp_path, "SELECT id, status FROM text WHERE status != 'DONE'") == [(150, "FAILED")]
    vectors = dict(ask(tmp_path, "SELECT id, vector FROM text WHERE vector IS NOT NULL"))
    assert {len(vector) for vector in vectors.values()} == {128 * 4}
    # Equal texts of different batches have equal vectors, but for the order in which a batch adds up.
    seven, copy, other = (np.frombuffer(vectors[key], "<f4") for key in (7, 140, 8))
    assert np.allclose(seven, copy, atol=1e-4)
    assert not np.allclose(seven, other, atol=1e-2)
    near = start("nearest.py", "7")
    assert near.wait() == 0, near.output()
    assert {line.split()[1] for line in near.output().splitlines()[:2]} == {"7", "140"}

    ask(tmp_path, "INSERT INTO text (content) VALUES ('two red dogs')")
    again = start("embeddings.py")
    assert again.wait() == 0, again.output()
    assert "1 texts have vectors, 0 failed" in again.output()
