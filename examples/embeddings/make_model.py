"""Writes model.onnx: a small network that makes a vector of 128 numbers from a text's counts of letter groups.

It stands for a model that you have. Its weights are random but for a fixed seed, which is enough for texts that share
letter groups to get vectors that are close: a random projection keeps distances. An ONNX file is a protocol buffer, and
so few of its fields are needed that they are written here by hand.
"""

import numpy as np

BUCKETS, HIDDEN, SIZE = 8192, 512, 128
FLOAT = 1


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def number(field, value):
    return varint(field << 3) + varint(value)


def part(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name, values):
    dimensions = b"".join(number(1, length) for length in values.shape)
    return dimensions + number(2, FLOAT) + part(8, name) + part(9, values.astype("<f4").tobytes())


def node(kind, inputs, output):
    return b"".join(part(1, name) for name in inputs) + part(2, output) + part(4, kind)


def value(name, width):
    # The first dimension has a name and no number: as many rows as there are.
    shape = part(1, part(2, "rows")) + part(1, number(1, width))
    return part(1, name) + part(2, part(1, number(1, FLOAT) + part(2, shape)))


def model():
    random = np.random.default_rng(7)
    first = random.normal(size=(BUCKETS, HIDDEN)) / np.sqrt(HIDDEN)
    second = random.normal(size=(HIDDEN, SIZE)) / np.sqrt(SIZE)
    graph = b"".join(
        [
            part(1, node("MatMul", ["counts", "first"], "hidden")),
            part(1, node("Tanh", ["hidden"], "bent")),
            part(1, node("MatMul", ["bent", "second"], "vectors")),
            part(2, "embeddings"),
            part(5, tensor("first", first)),
            part(5, tensor("second", second)),
            part(11, value("counts", BUCKETS)),
            part(12, value("vectors", SIZE)),
        ]
    )
    return number(1, 8) + part(7, graph) + part(8, number(2, 13))


if __name__ == "__main__":
    with open("model.onnx", "wb") as file:
        file.write(model())
