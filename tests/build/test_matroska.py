"""Complete and truncated Matroska files whose stated length exceeds that of video and audio."""

import io
import pathlib
import struct

import av
import media_files
import numpy as np
import pytest

from data_pipelines.build import matroska, media
from data_pipelines.build.media import MediaError, MediaOptions

SUBTITLES = {
    "srt": "1\n00:00:01,000 --> 00:00:03,000\nhello\n\n2\n00:00:03,000 --> 00:00:30,000\nthanks\n",
    "vtt": "WEBVTT\n\n00:01.000 --> 00:03.000\nhello\n\n00:03.000 --> 00:30.000\nthanks\n",
}


def _write(path: pathlib.Path, outlast: str, live: bool = False) -> bytes:
    """Writes 4 s of video and audio in a file with a stated length of 30 s; returns its bytes."""
    codec, sound_codec = ("libvpx", "libopus") if path.suffix == ".webm" else ("mpeg4", "flac")
    suffix = "vtt" if path.suffix == ".webm" else "srt"
    (path.parent / f"a.{suffix}").write_text(SUBTITLES[suffix])
    options = {"live": "1"} if live else {}
    with (
        av.open(str(path), "w", container_options=options) as container,
        av.open(str(path.parent / f"a.{suffix}")) as subtitles,
    ):
        video = container.add_stream(codec, rate=8)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(sound_codec, rate=48000, layout="mono")
        text = container.add_stream_from_template(subtitles.streams[0])
        rng = np.random.default_rng(0)
        for i in range(32):
            pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = 0.5 * rng.standard_normal((1, 4 * 48000)).astype(np.float32)
        media_files.write_sound(container, audio, sound.clip(-1, 1), 48000, 0.0)
        for packet in subtitles.demux() if outlast == "subtitles" else ():
            if packet.size:
                packet.stream = text
                container.mux(packet)
    content = path.read_bytes()
    if outlast == "duration":  # a still picture up to the end
        where = content.index(b"\x44\x89\x88") + 3
        content = content[:where] + struct.pack(">d", 30000.0) + content[where + 8 :]
        path.write_bytes(content)
    return content


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
@pytest.mark.parametrize("outlast", ["subtitles", "duration"])
def test_complete_file_may_state_longer_duration(tmp_path, name, outlast):
    _write(tmp_path / name, outlast)
    with av.open(str(tmp_path / name)) as container:
        assert container.duration / av.time_base == pytest.approx(30, abs=0.1)
    found = media.decode(str(tmp_path / name), MediaOptions())
    assert found.end == pytest.approx(4, abs=0.2)
    assert media.decode(str(tmp_path / name), MediaOptions(), 2.0, 3.0).end == 3


@pytest.mark.parametrize("outlast", ["subtitles", "duration", ""])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("how", ["cut off", "holes"])
def test_incomplete_file_is_damaged(tmp_path, outlast, fraction, how):
    path = tmp_path / "a.mkv"
    content = _write(path, outlast)
    kept = content[: round(fraction * len(content))]
    path.write_bytes(kept if how == "cut off" else kept + bytes(len(content) - len(kept)))
    with pytest.raises(MediaError) as error:
        media.decode(str(path), MediaOptions())
    assert error.value.reason == "damaged"


def test_truncation_is_found_in_the_element_structure(tmp_path):
    content = _write(tmp_path / "a.mkv", "subtitles")
    assert matroska.is_whole(io.BytesIO(content))
    assert matroska.is_whole(io.BytesIO(content + bytes(1000)))  # outside the segment
    for end in range(200, len(content), 997):
        assert not matroska.is_whole(io.BytesIO(content[:end]))
    for content in (b"\0" * 100, b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x01\xff\xff\xff"):
        assert not matroska.is_whole(io.BytesIO(content))


def test_live_file_with_segment_of_unknown_size_is_complete(tmp_path):
    content = _write(tmp_path / "a.mkv", "", live=True)
    assert matroska.is_whole(io.BytesIO(content))
    assert media.decode(str(tmp_path / "a.mkv"), MediaOptions()).end == pytest.approx(4, abs=0.2)
