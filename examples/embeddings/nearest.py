"""The texts whose vectors are nearest to that of one text: python nearest.py ID"""

import sqlite3
import sys

import numpy as np

db = sqlite3.connect("texts.db")
rows = db.execute("SELECT id, content, vector FROM text WHERE status = 'DONE'").fetchall()
db.close()
vectors = np.stack([np.frombuffer(vector, "<f4") for _, _, vector in rows])
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
place = [id for id, _, _ in rows].index(int(sys.argv[1]))
closeness = vectors @ vectors[place]
for at in np.argsort(-closeness)[:5]:
    print(f"{closeness[at]:.2f}  {rows[at][0]:5}  {rows[at][1]}")
