"""Packets without a frame: tags and random bytes in sound files, and repeated pictures."""

import pathlib
import struct

import av
import media_files
import numpy as np
import pytest

from data_pipelines.build import media
from data_pipelines.build.media import MediaError, MediaOptions

SOUND_ONLY = MediaOptions(video=False)
RANDOM = np.random.default_rng(0).bytes(5000)
ID3V1 = b"TAG" + b"x" * 125
ID3V2 = b"ID3\4\0\0\0\0\x02\0" + b"TIT2" + bytes(252)
LYRICS3 = b"LYRICSBEGIN" + b"IND0000200LYR00051" + b"la " * 17 + b"000080LYRICS200"
APE = (b"APETAGEX" + struct.pack("<4I", 2000, 49, 1, 0) + bytes(8)) * 2
TAIL = {
    "nothing": b"", "ID3v1": ID3V1, "Lyrics3": LYRICS3 + ID3V1, "APE": APE, "both": APE + ID3V1,
    "zeros": bytes(4096), "many zeros": bytes(1 << 19), "ones": b"\xff" * 3000, "random": RANDOM,
    "HTML": b"<html>" * 1000, "a second ID3v2": ID3V2,
}  # fmt: skip
HEAD = {"ID3v2": ID3V2, "zeros": bytes(5000), "few zeros": bytes(10), "random": RANDOM[:3000],
        "ID3v2 and zeros": ID3V2 + bytes(3000)}  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> dict[str, bytes]:
    """Three seconds of a tone in each format."""
    folder = tmp_path_factory.mktemp("sounds")
    tone = media_files.tone(3.0, 48000)
    codecs = {"mp3": "libmp3lame", "aac": "aac", "flac": "flac", "ac3": "ac3", "wav": "pcm_s16le"}
    for suffix, codec in codecs.items():
        media_files.write(folder / f"a.{suffix}", sound=tone, sample_rate=48000, sound_codec=codec)
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in codecs}


def _decode(path: pathlib.Path, content: bytes, seconds: float) -> np.ndarray:
    path.write_bytes(content)
    waveform = media.decode(str(path), SOUND_ONLY).waveform
    assert len(waveform) / 16000 == pytest.approx(seconds, abs=0.08)
    return waveform


@pytest.mark.parametrize("suffix", ["mp3", "aac", "flac", "ac3", "wav"])
@pytest.mark.parametrize("tail", TAIL)
def test_bytes_after_sound_are_skipped(tmp_path, sounds, suffix, tail):
    waveform = _decode(tmp_path / f"a.{suffix}", sounds[suffix] + TAIL[tail], 3.0)
    assert np.abs(waveform[8000:40000]).max() > 0.2


@pytest.mark.parametrize("suffix", ["mp3", "aac", "flac", "ac3"])
@pytest.mark.parametrize("head", HEAD)
def test_bytes_before_sound_are_skipped(tmp_path, sounds, suffix, head):
    waveform = _decode(tmp_path / f"a.{suffix}", HEAD[head] + sounds[suffix], 3.0)
    assert np.abs(waveform[1600:3200]).max() > 0.2


@pytest.mark.parametrize("between", ["nothing", "ID3v1", "Lyrics3", "APE", "both", "zeros"])
@pytest.mark.parametrize("suffix", ["mp3", "aac"])
def test_concatenated_files_are_contiguous(tmp_path, sounds, suffix, between):
    content = sounds[suffix] + TAIL[between] + sounds[suffix]
    waveform = _decode(tmp_path / f"a.{suffix}", content, 6.0)
    seconds = np.abs(waveform[: 6 * 16000].reshape(-1, 1600)).max(axis=1)
    assert (seconds > 0.2).all()


@pytest.mark.parametrize("size", [bytes(4), b"\xff" * 4, b"\xf0\xff\xff\x7f"])
def test_wave_file_without_size_is_read_to_its_end(tmp_path, sounds, size):
    content = sounds["wav"]
    where = content.index(b"data") + 4
    _decode(tmp_path / "a.wav", content[:where] + size + content[where + 4 :], 3.0)


def test_unknown_chunks_of_a_wave_file_are_skipped(tmp_path, sounds):
    content = sounds["wav"]
    where = content.index(b"data")
    for chunk in (b"junk", b"JUNK", b"LIST", b"bext"):
        added = chunk + struct.pack("<I", 1000) + bytes(1000)
        _decode(tmp_path / "a.wav", content[:where] + added + content[where:], 3.0)


@pytest.mark.parametrize("lost", [bytes(8000), RANDOM + RANDOM[:3000], b"\xff" * 8000])
def test_damage_within_sound_is_detected(tmp_path, sounds, lost):
    content = sounds["mp3"]
    middle = len(content) // 3
    (tmp_path / "a.mp3").write_bytes(content[:middle] + lost + content[middle + len(lost) :])
    with pytest.raises(MediaError, match="bytes of its sound") as error:
        media.decode(str(tmp_path / "a.mp3"), SOUND_ONLY)
    assert error.value.reason == "damaged"


@pytest.mark.parametrize("name", ["a.mp3", "a.aac", "a.flac", "a.wav"])
@pytest.mark.parametrize(
    "content", [RANDOM, bytes(5000), ID3V2, ID3V2 + RANDOM, b"no sound " * 900]
)
def test_random_bytes_are_not_sound(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError) as error:
        media.decode(str(tmp_path / name), SOUND_ONLY)
    assert error.value.reason in ("unreadable", "damaged", "no audio", "too short")


def _with_empty_packets(path, codec: str, empty: set[int], sound: bool) -> str:
    """A video of 30 frames at 10 per second, with some empty packets."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=10)
        video.width, video.height = 64, 48
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono") if sound else None
        for i, pixels in enumerate(media_files.gray_frames(range(0, 240, 8))):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            for packet in video.encode(frame):
                if i in empty:
                    kept, packet = packet, av.Packet()
                    packet.stream, packet.time_base = video, kept.time_base
                    packet.pts, packet.dts, packet.duration = kept.pts, kept.dts, kept.duration
                container.mux(packet)
        if audio:
            media_files.write_sound(container, audio, media_files.tone(3.0, 16000), 16000, 0.0)
    return str(path)


@pytest.mark.parametrize("codec", ["mjpeg", "rawvideo"])
@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize(
    "empty", [{5}, set(range(10, 20)), set(range(20, 30)), set(range(1, 30)), {7, 8, 28, 29}]
)
def test_empty_packet_repeats_frame_before_it(tmp_path, codec, sound, empty):
    path = _with_empty_packets(tmp_path / "a.nut", codec, empty, sound)
    found = media.decode(path, MediaOptions(audio=sound, frame_rate=10))
    expected = np.arange(0, 240, 8)
    for i in sorted(empty):
        expected[i] = expected[i - 1]
    np.testing.assert_allclose(media_files.levels(found.frames), expected, atol=3)
    assert len(found.waveform) == (48000 if sound else 0)


@pytest.mark.parametrize("window", [(0.5, 1.5), (1.4, 1.9), (2.0, 2.9)])
def test_segment_may_begin_within_repeated_frames(tmp_path, window):
    path = _with_empty_packets(tmp_path / "a.nut", "mjpeg", set(range(10, 30)), False)
    found = media.decode(path, MediaOptions(audio=False, frame_rate=10), *window)
    expected = [8 * min(i, 9) for i in range(round(10 * window[0]), round(10 * window[1]))]
    np.testing.assert_allclose(media_files.levels(found.frames), expected, atol=3)


@pytest.mark.parametrize("late", [1.0, 98.0])
def test_late_stream_is_accepted(tmp_path, late):
    """A Flash video with a stated lack of audio, and audio after the part that ffmpeg probes."""
    path = tmp_path / "a.flv"
    frames = media_files.gray_frames([2 * i for i in range(100)])
    sound = media_files.tone(1.0, 44100)
    media_files.write(
        path, frames, 1, sound=sound, sound_start=late, codec="flv1", sound_codec="libmp3lame"
    )
    content = bytearray(path.read_bytes())
    content[4] = 1  # video alone
    path.write_bytes(bytes(content))
    found = media.decode(str(path), MediaOptions(audio=False, frame_rate=1))
    np.testing.assert_allclose(media_files.levels(found.frames), range(0, 200, 2), atol=4)
