"""Makes a vector of every text in a table, many texts at once: python embeddings.py

The texts are in the table text(id, content, status, vector) of texts.db; a second start takes new ones only.
"""

import zlib

import numpy as np

from pooltable import TaskTable, current, run

BATCH = 64
BUCKETS = 8192

session = None


def load_model():
    """Once in each worker: on the device that it was given, with the threads that it owns."""
    global session
    import onnxruntime

    there = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(
        "model.onnx", current().onnx_options(), providers=[provider for provider in wanted if provider in there]
    )


def counts(text):
    """How often each group of three letters is in the text, by the group's number."""
    found = np.zeros(BUCKETS, np.float32)
    padded = f"  {text.lower()} ".encode()
    for at in range(len(padded) - 2):
        found[zlib.crc32(padded[at : at + 3]) % BUCKETS] += 1
    return found / max(1.0, float(np.linalg.norm(found)))


def embed(rows):
    """A batch function: a list of rows comes in, and a list with one result for each goes out."""
    results = [None if row.content else ValueError("there is no text") for row in rows]
    good = [place for place, result in enumerate(results) if result is None]
    if good:
        (vectors,) = session.run(None, {"counts": np.stack([counts(rows[place].content) for place in good])})
        for place, vector in zip(good, vectors, strict=True):
            results[place] = vector.astype("<f4").tobytes()
    return results


if __name__ == "__main__":
    texts = TaskTable("sqlite:///texts.db", "text", write=("vector",))
    summary = run(embed, texts, batch=BATCH, initializer=load_model)
    print(f"{summary.done} texts have vectors, {summary.failed} failed; {summary.rate:,.0f} a second")
    raise SystemExit(summary.exit_code)
