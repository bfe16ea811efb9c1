"""Shrinks a picture: python thumbnail.py FROM TO. Any other program would do: convert, ffmpeg, vipsthumbnail."""

import sys
from pathlib import Path

from PIL import Image

source, target = sys.argv[1:]
Path(target).parent.mkdir(parents=True, exist_ok=True)
with Image.open(source) as picture:
    picture.thumbnail((160, 160))
    picture.convert("RGB").save(target)
    print(f"{picture.width}x{picture.height}")
