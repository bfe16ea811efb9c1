"""Makes some pictures to shrink, one of them broken, and a table `photo` of them."""

import sqlite3
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ["firebrick", "steelblue", "seagreen", "goldenrod", "orchid", "slategray"]

folder = Path("photos")
folder.mkdir(exist_ok=True)
for number, colour in enumerate(COLOURS, 1):
    picture = Image.new("RGB", (640 + 40 * number, 480), "white")
    ImageDraw.Draw(picture).ellipse((60, 60, 420, 420), fill=colour)
    picture.save(folder / f"holiday no {number}.png")  # names as people give them
(folder / "broken.png").write_bytes(b"not a picture")

with sqlite3.connect("photos.db") as db:
    db.execute(
        "CREATE TABLE IF NOT EXISTS photo"
        " (id INTEGER PRIMARY KEY, path TEXT UNIQUE, size TEXT, status TEXT NOT NULL DEFAULT 'PENDING')"
    )
    rows = [(str(path),) for path in sorted(folder.iterdir())]
    db.executemany("INSERT OR IGNORE INTO photo (path) VALUES (?)", rows)
db.close()
