"""Sound with many channels, and sound whose time stamps do not fit its sample rate."""

import math
import pathlib
import struct

import av
import media_files
import numpy as np
import pytest

from data_pipelines.build import media, sound_track
from data_pipelines.build.damage import UnfitError
from data_pipelines.build.media import MediaError, MediaOptions
from data_pipelines.build.sound_clock import SoundClock
from data_pipelines.build.sound_track import SoundTrack

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 7: "6.1", 8: "7.1", 12: "7.1.4", 16: "hexadecagonal"}


def _frame(sound: np.ndarray, kind: str = "fltp") -> av.AudioFrame:
    interleaved = np.ascontiguousarray(sound.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=LAYOUTS[len(sound)])
    frame.sample_rate = 16000
    (converted,) = av.AudioResampler(format=kind).resample(frame)
    return converted


@pytest.mark.parametrize("kind", ["fltp", "flt"])
@pytest.mark.parametrize("channels", LAYOUTS)
def test_waveform_is_the_mean_of_any_number_of_channels(channels, kind):
    sound = np.random.default_rng(0).uniform(-1, 1, (channels, 4000)).astype(np.float32)
    track = SoundTrack(16000, 0.0, math.inf)
    for start in range(0, 4000, 1000):
        track.add(_frame(sound[:, start : start + 1000], kind), start / 16000)
    track.flush()
    np.testing.assert_allclose(track.finish(0.25), sound.mean(axis=0), atol=1e-6)


def test_number_of_channels_may_change():
    sound = np.random.default_rng(0).uniform(-1, 1, (16, 1000)).astype(np.float32)
    track = SoundTrack(16000, 0.0, math.inf)
    order = [2, 8, 1, 16, 6]
    for i, channels in enumerate(order):
        track.add(_frame(sound[:channels]), i / 16)
    track.flush()
    expected = np.concatenate([sound[:channels].mean(axis=0) for channels in order])
    np.testing.assert_allclose(track.finish(5 / 16), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name, codec, channels", [("a.mp4", "aac", 8), ("a.mkv", "flac", 8), ("a.wav", "pcm_s16le", 16)]
)
def test_file_with_many_channels_is_decoded(tmp_path, name, codec, channels):
    sound = media_files.tone(1.0, 48000, channels=channels)
    path = media_files.write(tmp_path / name, sound=sound, sample_rate=48000, sound_codec=codec)
    waveform = media.decode(path, MediaOptions(video=False)).waveform
    assert len(waveform) == pytest.approx(16000, abs=400)
    assert np.abs(waveform[4000:12000]).max() == pytest.approx(0.5, abs=0.05)


def test_sound_of_record_is_bounded(monkeypatch):
    monkeypatch.setattr(sound_track, "MAX_BYTES", 4 * 16000)
    track = SoundTrack(16000, 0.0, math.inf)
    track.add(_frame(np.zeros((1, 16000), np.float32)), 0.0)
    with pytest.raises(UnfitError, match="--max_seconds") as error:
        track.add(_frame(np.zeros((1, 16000), np.float32)), 1.0)
    assert error.value.reason == "too large"


def _with_clock(path: pathlib.Path, factor: float, codec: str) -> str:
    """An AVI file of 6 s with a flash and a click at 1 s; its sound has another clock."""
    frames = media_files.gray_frames([0] * 25 + [255] * 125)
    sound = 0.1 * media_files.tone(6.0, 48000)
    sound[0, 48000:49000] = 1
    media_files.write(path, frames, 25, sound=sound, sample_rate=48000, sound_codec=codec)
    content = path.read_bytes()
    where = content.index(b"auds") + 20
    scale, rate = struct.unpack_from("<II", content, where)
    clock = struct.pack("<II", scale * 100, round(rate * 100 / factor))
    path.write_bytes(content[:where] + clock + content[where + 8 :])
    return str(path)


@pytest.mark.parametrize("codec", ["libmp3lame", "pcm_s16le", "ac3"])
@pytest.mark.parametrize("factor", [0.01, 0.1, 0.5, 0.8, 1.25, 2, 10])
def test_wrong_clock_of_sound_is_damage(tmp_path, codec, factor):
    path = _with_clock(tmp_path / "a.avi", factor, codec)
    for options in (MediaOptions(), MediaOptions(keep_damaged=True)):
        with pytest.raises(MediaError, match="times as fast as its samples") as error:
            media.decode(path, options)
        assert error.value.reason == "damaged"


@pytest.mark.parametrize("codec", ["libmp3lame", "pcm_s16le", "ac3"])
@pytest.mark.parametrize("factor", [0.98, 1, 1.02])
def test_drifting_clock_is_followed(tmp_path, codec, factor):
    path = _with_clock(tmp_path / "a.avi", factor, codec)
    waveform = media.decode(path, MediaOptions()).waveform
    click = int(np.argmax(np.abs(waveform) > 0.4)) / 16000
    assert click == pytest.approx(factor, abs=0.06)


FRAMES = np.arange(400) * 0.02  # start of each frame of 20 ms


@pytest.mark.parametrize(
    "times, speed",
    [
        (FRAMES, 1),
        (FRAMES * 1.04, 1),
        (FRAMES * 0.96, 1),
        (FRAMES + np.random.default_rng(0).uniform(-0.02, 0.02, 400), 1),
        (np.floor(FRAMES), 1),  # one time stamp a second
        (FRAMES + 5 * (FRAMES > 2), 1),  # a gap
        (FRAMES + 5 * (FRAMES > 0.01), 1),
        (FRAMES + 1.5 * (FRAMES > 2) + 1.5 * (FRAMES > 6), 1),
        (FRAMES - 0.9 * (FRAMES > 4), 1),  # an overlap
        (np.where(FRAMES < 4, FRAMES, 4 + (FRAMES - 4) * 20), 1),  # silence without packets
        (FRAMES * 2, 2),
        (FRAMES / 2, 0.5),
        (FRAMES / 100, 0.01),
        (FRAMES * 100, 100),
        (FRAMES * 0.9, 0.9),
        (FRAMES * 2 + np.random.default_rng(0).uniform(-0.02, 0.02, 400), 2),
        (0 * FRAMES, 0),
    ],
)
def test_speed_of_clock_is_measured_in_spite_of_gaps_and_jitter(times, speed):
    clock = SoundClock()
    for time in times:
        clock.add(0.02, float(time))
    assert clock.speed() == pytest.approx(speed, rel=0.2)


@pytest.mark.parametrize("frames", [0, 1, 5, 40])
def test_clock_of_short_track_is_not_checked(frames):
    clock = SoundClock()
    for i in range(frames):
        clock.add(0.02, 0.05 * i)
    assert clock.speed() == 1


def test_frames_without_time_stamps_have_no_clock():
    clock = SoundClock()
    for i in range(400):
        clock.add(0.02, None if i else 0.0)
    assert clock.speed() == 1
