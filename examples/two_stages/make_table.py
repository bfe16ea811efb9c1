"""Makes documents.db with the table document(id, content, status, text, topic); the third row cannot be decoded."""

import gzip
import sqlite3

TEXTS = ["rain and snow all day", "a boat leaves the harbour", None, "nothing of the kind", "wind and wave"]


def make():
    with sqlite3.connect("documents.db") as db:
        db.execute(
            "CREATE TABLE document (id INTEGER PRIMARY KEY, content BLOB, status TEXT DEFAULT 'NEW',"
            " text TEXT, topic TEXT)"
        )
        contents = [b"not gzip" if text is None else gzip.compress(text.encode()) for text in TEXTS]
        db.executemany("INSERT INTO document (content) VALUES (?)", [(content,) for content in contents])
    db.close()


if __name__ == "__main__":
    make()
