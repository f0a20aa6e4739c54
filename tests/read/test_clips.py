import dataclasses

import numpy as np
import pytest
import simplejpeg
import toy_shards

from data_pipelines.errors import UserError
from data_pipelines.format import kaldi, record_schema
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import AudioConfig
from data_pipelines.read import clips, frame_cuts
from xkd_jax.config.pretraining import Config

CONFIG = toy_shards.CONFIG
SILENCE = record_schema.encode_log_mel(np.array(record_schema.LOG_MEL_FLOOR))


def _frames(record, start, count, short_side, where) -> np.ndarray:
    frames = clips.ClipFrames(record, start, count, short_side, where)
    out = np.empty((count, *frames.size, 3), np.uint8)
    whole = frame_cuts.Cut(0, count, (0, 0, *frames.size), frames.size)
    frames.write([(whole, out)])
    return out


def test_clips_fit_at_positions():
    assert clips.last_start(toy_shards.record(0, frames=10), CONFIG) == 6
    assert clips.last_start(toy_shards.record(0, frames=4), CONFIG) == 0
    assert clips.last_start(toy_shards.record(0, frames=2), CONFIG) == 0


def test_positions_of_sound_alone_are_columns():
    record = toy_shards.record(0)
    sound = dataclasses.replace(record, frames=())
    last = clips.last_start(sound, CONFIG)
    assert last == record.log_mel.shape[1] - CONFIG.audio.columns
    for start in (3, last):
        cut = clips.cut_log_mel(sound, start, CONFIG, "x")
        np.testing.assert_array_equal(cut, record.log_mel[:, start : start + 8])


def test_positions_of_run_on_sound_alone_are_columns():
    """They do not depend on the length of video clips."""
    record, config = toy_shards.record(0), dataclasses.replace(CONFIG, modalities=("audio",))
    assert record.frames
    last = clips.last_start(record, config)
    assert last == record.log_mel.shape[1] - CONFIG.audio.columns
    cut = clips.cut_log_mel(record, 3, config, "x")
    np.testing.assert_array_equal(cut, record.log_mel[:, 3 : 3 + CONFIG.audio.columns])
    assert clips.cut_clip(record, 3, config, ("audio",), "x").size is None


def test_evaluation_clips_are_spread_evenly():
    record = toy_shards.record(0, frames=13)
    assert clips.spread_starts(record, CONFIG, 1).tolist() == [4]
    assert clips.spread_starts(record, CONFIG, 3).tolist() == [0, 4, 9]
    assert clips.spread_starts(toy_shards.record(0, frames=3), CONFIG, 3).tolist() == [0, 0, 0]


def test_frames_of_clip_are_consecutive():
    frames = _frames(toy_shards.record(0), 3, 4, 16, "x")
    assert frames.shape == (4, 16, 24, 3)
    np.testing.assert_allclose(frames[:, 0, 0, 0], [14, 18, 22, 26], atol=1)


@pytest.mark.parametrize("held,count", [(10, 10), (10, 23), (9, 9), (5, 12)])
def test_all_frames_are_in_their_places(held, count):
    """Frames are decoded a few at a time, and the last group may be smaller."""
    frames = _frames(toy_shards.record(0, frames=held), 0, count, 16, "x")
    levels = [4 * (k % held) + 2 for k in range(count)]
    np.testing.assert_allclose(frames[:, 0, 0, 0], levels, atol=1)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [4, 3], [2, 4, 1]])
@pytest.mark.parametrize("transposed", [False, True])
def test_cuts_do_not_depend_on_grouping_of_frames(sizes, transposed):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (7, 12, 9, 3), np.uint8)
    groups = np.split(frames, np.cumsum(sizes)[:-1])
    cuts = [
        frame_cuts.Cut(start, count, (1, 2, 8, 5), (9, 9), transposed)
        for start, count in ((0, 16), (3, 5), (6, 4))
    ]
    outs = [np.zeros(cut.shape, np.uint8) for cut in cuts]
    frame_cuts.cut_frames(groups, 7, 16, list(zip(cuts, outs, strict=True)))
    for cut, out in zip(cuts, outs, strict=True):
        for number, canvas in enumerate(out):
            box = frames[(cut.start + number) % 7, 1:9, 2:7]
            box = box.swapaxes(0, 1) if transposed else box
            np.testing.assert_array_equal(canvas[: box.shape[0], : box.shape[1]], box)
            assert not canvas[box.shape[0] :].any()
            assert not canvas[:, box.shape[1] :].any()


@pytest.mark.parametrize("short_side", [8, 32])
def test_frames_of_another_size_are_scaled(short_side):
    frames = _frames(toy_shards.record(0), 3, 4, short_side, "x")
    assert frames.shape == (4, short_side, short_side * 3 // 2, 3)
    np.testing.assert_allclose(frames[:, 0, 0, 0], [14, 18, 22, 26], atol=1)


def test_only_frames_of_clip_are_decoded(monkeypatch):
    decoded = []
    decode = simplejpeg.decode_jpeg

    def note(data, **options):
        decoded.append(data)
        return decode(data, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", note)
    record = toy_shards.record(0)
    _frames(record, 3, 4, 16, "x")
    assert decoded == list(record.frames[3:7])


def test_sound_is_cut_at_time_of_frames():
    cut = clips.cut_log_mel(toy_shards.record(0), 3, CONFIG, "x")
    np.testing.assert_array_equal(cut, np.tile(np.arange(6, 14), (8, 1)))


def test_sound_is_padded_with_silence():
    cut = clips.cut_log_mel(toy_shards.record(0, frames=3), 0, CONFIG, "x")
    np.testing.assert_array_equal(cut[0], [*range(6), SILENCE, SILENCE])
    assert abs(record_schema.decode_log_mel(SILENCE) - record_schema.LOG_MEL_FLOOR) < 2**-12


def test_whole_clip_always_fits_its_sound():
    """At the paper's rates, the 1 + samples // hop columns of a file cover its last clip."""
    config = Config()
    for frames in range(32, 400):
        record = Record(id="", frames=(b"",) * frames, log_mel=np.zeros(
            (80, 1 + frames * 2000 // 143), np.uint16))  # fmt: skip
        cut = clips.cut_log_mel(record, clips.last_start(record, config), config, "x")
        assert not cut.any()


SQUARE = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    "frames, words",
    [
        ((), "has no video"),
        ((b"no jpeg",) * 10, "can't be decoded"),
        ((*toy_shards.record(0, 3).frames, SQUARE), "differ"),
    ],
)
def test_bad_frames_are_named(frames, words):
    record = dataclasses.replace(toy_shards.record(0), frames=frames)
    with pytest.raises(UserError, match=rf"shard, record 5, .*{words}"):
        _frames(record, 0, 4, 16, "shard, record 5,")


def test_missing_sound_is_named():
    with pytest.raises(UserError, match="record 5, has no audio"):
        clips.cut_log_mel(toy_shards.record(0, columns=0), 0, CONFIG, "shard, record 5,")


# Encoders of other inputs


def test_frames_at_a_lower_rate_are_the_nearest_of_each_time():
    record = toy_shards.record(0, frames=10)
    assert clips.at_frame_rate(record, 8.0, 8.0) is record
    assert clips.at_frame_rate(record, 8.0, 9.0) is record
    for wanted, places in ((4.0, [0, 2, 4, 6, 8]), (7.5, [0, 1, 2, 3, 4, 5, 6, 7, 9, 9]),
                           (3.0, [0, 3, 5, 8])):  # fmt: skip
        found = clips.at_frame_rate(record, 8.0, wanted)
        assert list(found.frames) == [record.frames[place] for place in places]


def test_frames_are_in_the_middle_of_a_longer_sound():
    audio = dataclasses.replace(CONFIG.audio, columns=16)  # a second, of a record of 1.25 s
    video = dataclasses.replace(CONFIG.video, frames=1, patch=(1, 8, 8), local_frames=1)
    config = dataclasses.replace(CONFIG, video=video, audio=audio)
    record = toy_shards.record(0, frames=10)
    assert (config.sound_is_longer, config.clip_seconds) == (True, 1.0)
    assert clips.last_start(record, config) == 20 - 16  # in columns
    clip = clips.cut_clip(record, 2, config, ("video", "audio"), "x")
    np.testing.assert_array_equal(clip.log_mel[0], np.arange(2, 18))
    pixels = np.zeros((1, 4, 8, 3), np.uint8)
    clip.fill([(frame_cuts.Cut(0, 1, (0, 0, 4, 8), (4, 8)), pixels)])
    assert pixels[0, 0, 0, 0] == 4 * 5 + 2  # the frame at 0.125 + 0.5 s
    silent = dataclasses.replace(config, modalities=("video",))
    assert clips.last_start(record, silent) == 9  # in frames


def test_filter_banks_of_clips_are_parts_of_that_of_the_whole_and_end_in_zeros():
    wave = np.random.default_rng(0).integers(-9000, 9000, 8000).astype(np.int16)
    record = dataclasses.replace(toy_shards.record(0), waveform=wave)
    audio = AudioConfig(spectrogram="kaldi", fft=512, hop=160, mels=8, columns=20)
    whole = kaldi.filter_bank(wave / 32768, 8)
    assert clips.sound_columns(record, audio) == whole.shape[1] == 48
    np.testing.assert_allclose(clips.cut_sound(record, 7, audio, "x"), whole[:, 7:27], atol=1e-5)
    last = clips.cut_sound(record, 40, audio, "x")
    np.testing.assert_allclose(last[:, :8], whole[:, 40:], atol=1e-5)
    assert not last[:, 8:].any()
    with pytest.raises(UserError, match=r"has no waveform.*--waveform"):
        clips.cut_sound(toy_shards.record(0), 0, audio, "x")
