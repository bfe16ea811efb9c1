"""The clips are real videos, and the mission reads from them what was rendered."""

from __future__ import annotations

import pytest

from pooltable.demo import clips, mission
from pooltable.demo.report import alike

av = pytest.importorskip("av")
pytest.importorskip("rapidocr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    clips.render(folder, 8, lambda count: None)
    return folder


@pytest.fixture(scope="module")
def model():
    mission.load_model(1)


def test_a_clip_is_a_video_of_one_second(folder):
    with av.open(str(clips.path_of(folder, 1))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name in ("h264", "mpeg4")
        assert (stream.width, stream.height) == (clips.WIDTH, clips.HEIGHT)
        assert sum(1 for _ in container.decode(stream)) == clips.FRAMES


def test_what_is_rendered_follows_from_the_number_alone(folder, tmp_path):
    clips.render(tmp_path, 1, lambda count: None)
    assert clips.caption_of(1) == clips.caption_of(1) != clips.caption_of(2)
    ours, theirs = (mission.frames(clips.path_of(place, 1)) for place in (tmp_path, folder))
    assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))


def test_rendering_goes_on_after_the_last_clip_that_is_whole(folder, tmp_path):
    clips.path_of(tmp_path, 1).write_bytes(clips.path_of(folder, 1).read_bytes())
    clips.path_of(tmp_path, 2).with_suffix(".part").write_bytes(b"half a clip")
    told = []
    assert clips.render(tmp_path, 3, told.append) == 2
    assert told == [1, 2, 3]
    assert len(mission.frames(clips.path_of(tmp_path, 2))) == 2


def test_the_captions_are_read_as_they_were_rendered(folder, model):
    for number in (1, 2, 3, 4):
        read = mission.mission((number, str(clips.path_of(folder, number))))
        assert alike(read, clips.caption_of(number)), read


def test_a_file_that_is_no_video_raises_and_leaves_nothing_open(folder):
    with pytest.raises(av.FFmpegError, match="Invalid data"):
        mission.frames(clips.path_of(folder, clips.BROKEN))


def test_a_file_without_pictures_says_so(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"sound\.wav has no pictures"):
        mission.frames(path)


def test_a_long_video_is_looked_at_in_a_few_places(tmp_path):
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for second in range(40):
            frame = av.VideoFrame(1920, 1080, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([second * 5]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pictures = mission.frames(path)
    assert len(pictures) == mission.MOST_FRAMES
    assert {picture.shape for picture in pictures} == {(540, 960, 3)}
    assert len({int(picture[0, 0, 0]) for picture in pictures}) > 3


def test_a_caption_that_stands_in_several_frames_is_said_once(model):
    one, other = mission._picture("GOOD MORNING"), mission._picture("GOOD NIGHT")
    assert mission.captions([one, one, other]).replace(" ", "") == "GOODMORNING/GOODNIGHT"


def test_spaces_and_the_letter_o_are_forgiven_and_nothing_else():
    assert alike("AMBERFALC0N 4O72", "AMBER FALCON 4072")
    assert not alike("AMBER FALCON 4073", "AMBER FALCON 4072")
    assert not alike(None, "AMBER FALCON 4072")
