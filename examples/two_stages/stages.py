"""Two stages on one table, chained by their status words: python stages.py decode & python stages.py infer

NEW -> DECODING -> DECODED -> INFERRING -> READY         UNREADABLE, UNKNOWN: where a stage failed
"""

import gzip
import sys
from collections import Counter

from pooltable import Fail, TaskTable, Words, run

DATABASE = "sqlite:///documents.db"

words_of_topics = None


def decode(row):
    return gzip.decompress(row.content).decode()


def load_model():
    global words_of_topics
    words_of_topics = {"weather": {"rain", "snow", "wind"}, "sea": {"boat", "harbour", "wave"}}


def infer(row):
    found = Counter(topic for word in row.text.split() for topic, words in words_of_topics.items() if word in words)
    if not found:
        raise Fail("no word of any topic in it")
    return found.most_common(1)[0][0]


# What one stage calls done is what the next one takes as waiting. Each stage is a job of its own: its own attempts,
# failures and runners.
decoding = TaskTable(
    DATABASE,
    "document",
    job="decode",
    words=Words(pending="NEW", doing="DECODING", done="DECODED", failed="UNREADABLE"),
    columns=("content",),
    write=("text",),
)
inferring = TaskTable(
    DATABASE,
    "document",
    job="infer",
    words=Words(pending="DECODED", doing="INFERRING", done="READY", failed="UNKNOWN"),
    columns=("text",),
    write=("topic",),
)

if __name__ == "__main__":
    # Either stage may be the first to start: it is to know the other's words for what they are.
    decoding.prepare()
    inferring.prepare()
    if sys.argv[1:] == ["decode"]:
        run(decode, decoding, processes=2, forever=True)
    elif sys.argv[1:] == ["infer"]:
        run(infer, inferring, processes=1, initializer=load_model, forever=True)
    else:
        raise SystemExit("python stages.py decode|infer")
