"""Renders the clips of the demonstration: short H.264 films, each with one caption drawn into its frames.

Everything about a clip follows from its number, so whoever knows the number knows what there is to read in it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 384, 216
FRAMES, RATE = 12, 12  # one second
BROKEN = 5  # the number of the clip that is not a video

_FIRST = ("AMBER", "BRIGHT", "CALM", "DISTANT", "EARLY", "GENTLE", "HIDDEN", "LITTLE", "QUIET", "RAPID", "SILVER")
_SECOND = ("BRIDGE", "CASTLE", "FALCON", "GARDEN", "HARBOR", "LANTERN", "MEADOW", "PLANET", "RIVER", "STATION")


def caption_of(number: int) -> str:
    """What is drawn into clip `number`, such as "AMBER FALCON 4072"."""
    chance = random.Random(number)
    return f"{chance.choice(_FIRST)} {chance.choice(_SECOND)} {chance.randrange(1000, 10000)}"


def path_of(folder: Path, number: int) -> Path:
    """Where clip `number` lies."""
    return folder / f"clip-{number:03d}.mp4"


def render(folder: Path, count: int, rendered: Callable[[int], object]) -> int:
    """Render the clips 1 to `count` that are not there yet; returns how many were new."""
    new = 0
    for number in range(1, count + 1):
        path = path_of(folder, number)
        if not path.exists():
            # Under another name until it is whole: a clip that is there was rendered to its end, also after a kill.
            part = path.with_suffix(".part")
            if number == BROKEN:
                part.write_text("This is a text that somebody gave the name of a video.\n" * 40)
            else:
                _film(part, number)
            os.replace(part, path)
            new += 1
        rendered(number)
    return new


def _film(path: Path, number: int) -> None:
    import av

    chance = random.Random(number)
    backdrop = _backdrop(chance)
    lettering = _lettering(caption_of(number), chance)
    ball = tuple(chance.randrange(80, 200) for _ in range(3))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(_codec(av), rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for step in range(FRAMES):
            picture = _frame(backdrop, lettering, ball, step)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def _codec(av: Any) -> str:
    # Builds of FFmpeg without the GPL parts have no x264; every build has MPEG-4.
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _backdrop(chance: random.Random) -> Any:
    from PIL import Image

    top, bottom = (tuple(chance.randrange(20, 110) for _ in range(3)) for _ in range(2))
    two = Image.new("RGB", (1, 2))
    two.putdata([top, bottom])
    return two.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)


def _lettering(caption: str, chance: random.Random) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    layer = Image.new("RGBA", (WIDTH, HEIGHT))
    font = ImageFont.load_default(size=chance.randrange(21, 27))
    place = (WIDTH / 2 + chance.randrange(-20, 21), HEIGHT * 0.82 + chance.randrange(-14, 15))
    draw = ImageDraw.Draw(layer)
    draw.text(place, caption, font=font, anchor="mm", fill="white", stroke_width=2, stroke_fill="black")
    return layer


def _frame(backdrop: Any, lettering: Any, ball: tuple[int, ...], step: int) -> Any:
    from PIL import ImageDraw

    picture = backdrop.copy()
    x, y = 55 + 270 * step // FRAMES, 70 + 40 * (step % 4 - 2) // 2
    ImageDraw.Draw(picture).ellipse((x - 30, y - 30, x + 30, y + 30), fill=ball)
    picture.paste(lettering, mask=lettering)
    return picture
