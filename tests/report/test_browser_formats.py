"""Media of a page can be decoded, and audio has its spectrogram."""

import base64
import io

import av
import numpy as np
import pytest

from data_pipelines.format.log_mel import log_mel
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import AudioConfig
from xkd_jax.config.pretraining import Config
from xkd_jax.report import browser_formats
from xkd_jax.report.clip_media import recorded_sound
from xkd_jax.report.sound_synthesis import sound_of

AUDIO = AudioConfig(mels=40, columns=64, hop=250)
RATE = AUDIO.sample_rate


def opened(address, kind):
    head, _, content = address.partition(",")
    assert head == f"data:{kind};base64"
    return av.open(io.BytesIO(base64.b64decode(content)))


def tone(hertz, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def loudest_hertz(samples, rate):
    spectrum = np.abs(np.fft.rfft(samples))
    return np.argmax(spectrum) * rate / len(samples)


def test_video_has_its_frames_and_its_sound():
    levels = [0, 80, 160, 240]
    frames = np.stack([np.full((64, 96, 3), level, np.uint8) for level in levels])
    with opened(
        browser_formats.webm_video(frames, 8.0, tone(440, 0.5), RATE), "video/webm"
    ) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("vp9", "opus")
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        for frame, level in zip(decoded, levels, strict=True):
            assert abs(frame.mean() - level) < 6
        assert decoded[0].shape == (64, 96, 3)
        assert container.duration / 1e6 == pytest.approx(0.5, abs=0.05)


def test_sound_keeps_its_pitch():
    with opened(browser_formats.sound(tone(440), RATE), "audio/webm") as container:
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert loudest_hertz(samples, 48000) == pytest.approx(440, abs=3)


def test_sound_of_a_spectrogram_has_nearly_this_spectrogram():
    wanted = log_mel(tone(500) + 0.3 * tone(2000), RATE, AUDIO.fft, AUDIO.hop, AUDIO.mels)
    sound = sound_of(AUDIO, wanted)
    found = log_mel(sound, RATE, AUDIO.fft, AUDIO.hop, AUDIO.mels)
    loud = wanted[:, 8:56] > wanted.max() - 6  # its ends have no neighbors
    difference = (found - wanted[:, : found.shape[1]])[:, 8:56][loud]
    assert abs(difference.mean()) < 1  # of the volume
    assert difference.std() < 0.4
    assert np.abs(sound).max() <= 0.9 + 1e-6


def test_silence_stays_silent():
    silence = np.full((AUDIO.mels, 64), np.log(2.0**-23), np.float32)
    assert np.abs(sound_of(AUDIO, silence)).max() < 1e-5


@pytest.mark.parametrize(
    "height,width,expected", [(16, 16, (112, 112)), (32, 65, (128, 260)), (240, 320, (160, 212))]
)
def test_images_have_a_height_for_viewing(height, width, expected):
    images = np.zeros((2, height, width, 3), np.uint8)
    assert browser_formats.scaled(images).shape == (2, *expected, 3)


def test_small_images_keep_sharp_edges():
    image = np.zeros((1, 28, 28, 3), np.uint8)
    image[:, :, 14:] = 255
    assert set(np.unique(browser_formats.scaled(image))) == {0, 255}


def record_of(seconds, rate, **values):
    """A record of this duration, with frames at a rate and samples that all differ."""
    waveform = np.arange(round(seconds * RATE)).astype(np.uint16).view(np.int16)
    return Record("a", frames=[b""] * round(seconds * rate), waveform=waveform, **values)


@pytest.mark.parametrize("times_the_rate", [1, 2])
def test_recorded_sound_is_that_of_the_central_clip(times_the_rate):
    """Frames may be stored at a higher rate; the loader then uses a part of them."""
    seconds = Config().video.seconds
    columns = round(seconds * RATE / AUDIO.hop)
    config = Config(audio=AudioConfig(mels=40, columns=columns, hop=250))
    stored = times_the_rate * config.video.frame_rate
    record = record_of(3 * seconds, stored)
    found = recorded_sound(record, stored, config)
    assert found is not None
    assert len(found) == columns * 250
    assert found[0] * 2**15 == record.waveform[round(seconds * RATE)]
    assert recorded_sound(Record("a", frames=[b""]), stored, config) is None


def test_recorded_sound_is_that_of_the_central_columns_where_clips_are_as_long_as_the_sound():
    columns = 2 * round(Config().video.seconds * RATE / AUDIO.hop)
    config = Config(audio=AudioConfig(mels=40, columns=columns, hop=250))
    assert config.sound_is_longer
    log_mel = np.zeros((40, 3 * columns), np.uint16)
    record = record_of(3 * config.audio.seconds, config.video.frame_rate, log_mel=log_mel)
    found = recorded_sound(record, config.video.frame_rate, config)
    assert found is not None
    assert len(found) == columns * 250
    assert found[0] * 2**15 == record.waveform[columns * 250]
