"""No content of a media file makes the decoder read another file."""

import errno
import io
import os
import pathlib

import av
import cv2
import media_files
import numpy as np
import pytest

from data_pipelines.build import media, media_file
from data_pipelines.build.media import MediaError, MediaOptions

VIDEO_ONLY = MediaOptions(audio=False, min_seconds=0)

LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.0,\n{name}\n#EXT-X-ENDLIST\n",
    "hls with a map": '#EXTM3U\n#EXT-X-MAP:URI="{name}"\n#EXTINF:2.0,\n{name}\n#EXT-X-ENDLIST\n',
    "master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\n{name}\n",
    "ffconcat": "ffconcat version 1.0\nfile {name}\n",
    "dash": """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="0" bandwidth="1000" codecs="avc1"><BaseURL>{name}</BaseURL>
</Representation></AdaptationSet></Period></MPD>""",
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
    "vobsub": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 0\n",
    "protocol": "concat:{name}|{name}",
}


@pytest.fixture
def outside(tmp_path) -> pathlib.Path:
    """An intact video outside of the source folder."""
    (tmp_path / "source").mkdir()
    path = tmp_path / "outside.ts"
    media_files.write(path, media_files.gray_frames([200] * 16), 8)
    return path


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".idx"])
@pytest.mark.parametrize("name", ["../outside.ts", "{path}", "file://{path}", "file:{path}"])
@pytest.mark.parametrize("kind", LISTS)
def test_playlist_reads_no_other_files(tmp_path, outside, kind, name, suffix):
    path = tmp_path / "source" / f"list{suffix}"
    path.write_text(LISTS[kind].format(name=name.format(path=outside)))
    with pytest.raises(MediaError) as error:
        media.decode(str(path), VIDEO_ONLY)
    assert error.value.reason in ("unreadable", "no video")


@pytest.mark.parametrize("kind", ["hls", "ffconcat", "dash", "sdp"])
def test_playlist_is_named_in_reason(tmp_path, kind):
    (tmp_path / "a.mp4").write_text(LISTS[kind].format(name="b.mp4"))
    with pytest.raises(MediaError, match="it is a playlist, whose files are not"):
        media.decode(str(tmp_path / "a.mp4"), VIDEO_ONLY)


def test_picture_is_not_read_as_image_sequence(tmp_path):
    """Names that are patterns of ffmpeg: it would read frame 1 for `frame%d.png`."""
    for name, level in (("frame%d.png", 30), ("frame1.png", 90), ("frame2.png", 150)):
        pixels = np.full((48, 64, 3), level, np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    with media_file.opened(str(tmp_path / "frame%d.png")) as (_, container):
        levels = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    np.testing.assert_allclose(levels, [30], atol=2)


def test_mp4_reference_to_other_file_is_not_read(tmp_path):
    """A QuickTime file with a path as data reference, from which samples would be read."""
    levels = media_files.gray_frames([40] * 16)
    path = pathlib.Path(media_files.write(tmp_path / "a.mov", levels, 8))
    other = media_files.write(tmp_path / "b.mov", media_files.gray_frames([220] * 16), 8)
    content = path.read_bytes()
    name = f"file://{other}".encode() + b"\0"
    kind = content.index(b"url ", content.index(b"dref"))
    size = 12 + len(name)
    entry = size.to_bytes(4, "big") + b"url " + bytes(4) + name  # flags: data in another file
    grown = size - 12
    content = bytearray(content[: kind - 4] + entry + content[kind + 8 :])
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        where = content.index(box) - 4
        length = int.from_bytes(content[where : where + 4], "big") + grown
        content[where : where + 4] = length.to_bytes(4, "big")
    path.write_bytes(bytes(content))
    options = MediaOptions(audio=False, keep_damaged=True)
    try:
        found = media.decode(str(path), options)
    except MediaError:
        return
    assert max(media_files.levels(found.frames)) < 100


@pytest.mark.parametrize(
    "name",
    ["a:b.mp4", "concat:a.mp4", "-.mp4", "%03d.mp4", "x?y#z.mp4", "subfile,,start,9,,:a.mp4"],
)
@pytest.mark.parametrize("relative", [False, True])
def test_file_name_is_not_interpreted_as_url(tmp_path, monkeypatch, name, relative):
    media_files.write(tmp_path / "plain.mp4", media_files.gray_frames([100] * 8), 8)
    os.rename(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path = name if relative else str(tmp_path / name)
    assert len(media.decode(path, VIDEO_ONLY).frames) == 8


def test_irregular_file_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="it is not a regular file") as error:
        media.decode(str(tmp_path / "a.mp4"), VIDEO_ONLY)
    assert error.value.reason == "unreadable"


def _two_tracks(path, kind: str, undecodable: tuple[int, ...]) -> str:
    """A file with two default tracks of a kind, some with an unknown codec."""
    with av.open(str(path), "w") as container:
        tones = [media_files.tone(2.0, 16000, hertz) for hertz in (440, 880)]
        pictures = [media_files.gray_frames([level] * 16) for level in (60, 180)]
        if kind == "video":
            tones = tones[:1]
        else:
            pictures = pictures[:1]
        media_files.add_tracks(container, pictures, 8, tones, 16000)
    tag = {"video": b"mp4v", "audio": b"mp4a"}[kind]
    content = bytearray(path.read_bytes())
    where = -1
    for track in range(2):
        where = content.index(tag, content.index(b"stsd", where + 1))
        if track in undecodable:
            content[where : where + 4] = b"zzzz"
            # Remove the descriptor, which would name the codec too.
            esds = content.index(b"esds", where)
            content[esds : esds + 4] = b"free"
    path.write_bytes(bytes(content))
    return str(path)


@pytest.mark.parametrize("undecodable", [(0,), (1,)])
def test_track_with_decoder_is_used(tmp_path, undecodable):
    frequency = 440 if undecodable == (1,) else 880
    path = _two_tracks(tmp_path / "a.mp4", "audio", undecodable)
    waveform = media.decode(path, MediaOptions()).waveform
    spectrum = np.abs(np.fft.rfft(waveform[8000:24000]))
    assert int(spectrum.argmax()) == frequency
    gray = 60 if undecodable == (1,) else 180
    path = _two_tracks(tmp_path / "b.mp4", "video", undecodable)
    levels = media_files.levels(media.decode(path, MediaOptions()).frames)
    np.testing.assert_allclose(levels, gray, atol=3)


@pytest.mark.parametrize("broken", [(0,), (0, 1)])
def test_track_whose_decoder_does_not_open_is_skipped(tmp_path, broken):
    """Opus with a later version, which the decoder refuses."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        tones = [media_files.tone(2.0, 48000, hertz) for hertz in (440, 880)]
        media_files.add_tracks(container, [], 8, tones, 48000, sound_codec="libopus")
    content = path.read_bytes()
    parts = content.split(b"OpusHead\1")
    assert len(parts) == 3
    heads = [b"OpusHead\xff" if track in broken else b"OpusHead\1" for track in (0, 1)]
    path.write_bytes(parts[0] + heads[0] + parts[1] + heads[1] + parts[2])
    options = MediaOptions(video=False)
    if broken == (0,):
        waveform = media.decode(str(path), options).waveform
        assert int(np.abs(np.fft.rfft(waveform[8000:24000])).argmax()) == 880
    else:
        with pytest.raises(MediaError, match="its audio can't be decoded") as error:
            media.decode(str(path), options)
        assert error.value.reason == "damaged"


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_tracks_without_decoder_are_named(tmp_path, kind):
    path = _two_tracks(tmp_path / "a.mp4", kind, (0, 1))
    with pytest.raises(MediaError, match=f"no decoder for its {kind} codec.*zzzz") as error:
        media.decode(path, MediaOptions())
    assert error.value.reason == "unsupported"


class _FailingFile(io.FileIO):
    """A file whose storage fails after some bytes."""

    number = errno.EIO
    after = 0

    def read(self, count=-1):
        if self.tell() >= self.after:
            raise OSError(self.number, os.strerror(self.number))
        return super().read(min(count, self.after - self.tell()))


@pytest.fixture(params=["a.mkv", "a.avi", "a.ts", "a.mp4"])
def long_file(request, tmp_path) -> str:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (240, 320, 3), np.uint8) for _ in range(40)]
    return media_files.write(tmp_path / request.param, frames, 8)


def _fail(monkeypatch, number: int, fraction: float) -> None:
    def failing(path, mode, buffering):
        file = _FailingFile(path)
        file.number, file.after = number, round(fraction * os.path.getsize(path))
        return file

    monkeypatch.setattr(media_file, "open", failing, raising=False)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_storage_error_during_a_read_is_raised(long_file, monkeypatch, fraction, keep, number):
    _fail(monkeypatch, number, fraction)
    with pytest.raises(OSError, match=os.strerror(number)):
        media.decode(long_file, MediaOptions(audio=False, keep_damaged=keep))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6])
def test_unreadable_bytes_are_damage(long_file, monkeypatch, fraction):
    _fail(monkeypatch, errno.EBADMSG, fraction)
    with pytest.raises(MediaError, match=r"can't be (read|decoded)") as error:
        media.decode(long_file, VIDEO_ONLY)
    assert error.value.reason in ("unreadable", "damaged")


def test_segment_of_a_format_without_seek_is_decoded(tmp_path):
    """Decoding starts at the beginning of the file."""
    rng = np.random.default_rng(0)
    frames = [np.full((48, 64, 3), 4 * i, np.uint8) for i in range(60)]
    sound = 0.1 * rng.standard_normal((1, 6 * 44100)).astype(np.float32)
    path = media_files.write(
        tmp_path / "a.rm", frames, 10, sound=sound, codec="rv20", sound_codec="ac3"
    )
    found = media.decode(path, MediaOptions(frame_rate=10), 2.0, 4.0)
    levels = media_files.levels(found.frames)
    np.testing.assert_allclose(levels, range(80, 160, 4), atol=8)
