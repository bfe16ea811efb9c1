"""Fills texts.db with sentences that wait: python make_table.py [HOW MANY]"""

import itertools
import random
import sqlite3
import sys

WHO = ["a red boat", "two dogs", "the old city", "a night train", "the first snow", "an empty street", "three children"]
DOES = ["crosses", "waits beside", "runs along", "sleeps near", "leaves", "looks at", "is lost behind"]
WHAT = ["the lake", "a mountain", "the harbour", "the station", "a field of corn", "the bridge", "the river"]

count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
random.seed(7)
sentences = [" ".join(words) for words in itertools.product(WHO, DOES, WHAT)]
texts = [", and ".join(random.sample(sentences, 3)) for _ in range(count - 1)]
with sqlite3.connect("texts.db") as db:
    db.execute("CREATE TABLE text (id INTEGER PRIMARY KEY, content TEXT, status TEXT DEFAULT 'PENDING', vector BLOB)")
    # An empty one among them: it fails, and nothing of its batch does.
    db.executemany("INSERT INTO text (content) VALUES (?)", [(text,) for text in [*texts, ""]])
