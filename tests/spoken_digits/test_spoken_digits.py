import dataclasses
import importlib
import pathlib
import re
import threading
from concurrent import futures

import numpy as np
import pytest
import simplejpeg
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import lease, worker_processes
from data_pipelines.build.catalogs.spoken_recordings import NAMES
from data_pipelines.errors import UserError
from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.format import record_schema, record_source
from data_pipelines.read.dataset import open_dataset
from data_pipelines.spoken_digits import digit_clips, handwriting, scene, sound, words
from xkd_jax.config.pretraining import Config

# The package exports a function of the same name.
build_lib = importlib.import_module("data_pipelines.spoken_digits.make")


@pytest.fixture(scope="module")
def config(small) -> Config:
    return dataclasses.replace(
        small, data=dataclasses.replace(small.data, short_side=32, train_clips=21, test_clips=10)
    )


@pytest.fixture(scope="module")
def spoken() -> words.Words:
    """Tones in place of words, with one frequency per digit."""
    time = np.arange(2400) / 16000
    return [
        [np.sin(2 * np.pi * (200 + 100 * label) * time).astype(np.float32)] for label in range(10)
    ]


@pytest.fixture
def few_utterances(monkeypatch):
    monkeypatch.setattr(words, "UTTERANCES", {"train": 2, "test": 1})


# Handwriting


def test_splits_share_no_image():
    train, test = handwriting.load("train"), handwriting.load("test")
    assert len(train.ink) + len(test.ink) == 1797
    images = [image.tobytes() for part in (train, test) for image in part.ink]
    assert len({*images[: len(train.ink)]} & {*images[len(train.ink) :]}) == 0
    assert 0.4 < len(test.ink) / 1797 < 0.5


def test_test_images_begin_where_form_begins():
    """The labels repeat those of one form; each copy begins with 0 to 9 at least twice."""
    first = handwriting.load("train").labels[:30].tolist()
    assert first == [*range(10)] * 3
    assert handwriting.load("test").labels[:30].tolist() == first


# Scene


@given(st.floats(-100, 100), st.floats(0.5, 20))
def test_bounce_folds_positions_between_walls(position, length):
    folded = scene.bounce(np.array(position), np.array(length))
    assert -1e-9 <= folded <= length + 1e-9
    again = scene.bounce(np.array(position + 2 * length), np.array(length))
    np.testing.assert_allclose(folded, again, atol=1e-6)
    if 0 <= position <= length:
        np.testing.assert_allclose(folded, position, atol=1e-9)


def test_every_frame_has_whole_moving_digit(monkeypatch):
    for name, nothing in (("PIECES", (0, 0)), ("NOISE", (0, 0)), ("BACKGROUND", np.float32(0))):
        monkeypatch.setattr(scene, name, nothing)
    monkeypatch.setattr(scene, "SPEED", (0.8, 0.8))
    digits = handwriting.load("train")
    for seed in range(20):
        frames = scene.draw(digits, 3, 8, 32, 8.0, np.random.default_rng(seed)).astype(float)
        ink = frames.max(axis=-1)
        amount = ink.sum(axis=(1, 2))
        np.testing.assert_allclose(amount, amount.mean(), rtol=0.05)  # corners may leave it
        rows = (ink.sum(axis=2) @ np.arange(32)) / amount
        columns = (ink.sum(axis=1) @ np.arange(32)) / amount
        traveled = np.hypot(np.diff(rows), np.diff(columns))
        assert traveled.max() > 2  # 3.2 pixels per frame, less at a bounce, rounded to pixels


def test_frames_without_motion_differ_only_by_noise(monkeypatch):
    monkeypatch.setattr(scene, "SPEED", (0.0, 0.0))
    frames = scene.draw(handwriting.load("test"), 5, 4, 32, 8.0, np.random.default_rng(0))
    difference = frames[0].astype(float) - frames[1]
    assert 0 < difference.std() < 1.5 * 255 * scene.NOISE[1]


# Sound


def test_word_starts_anywhere_over_noise_of_stated_level():
    word = np.ones(1000, np.float32)
    starts = []
    for seed in range(300):
        waveform = sound.mix(word, 16000, np.random.default_rng(seed))
        heard = np.flatnonzero(np.abs(waveform) > 0.1)
        starts.append(heard[0])
        peak = np.median(waveform[heard])
        noise = np.delete(waveform, np.arange(heard[0] - 1, heard[-1] + 2))
        level = 20 * np.log10(noise.std() / peak)
        assert sound.LOUDNESS[0] * 0.97 < peak < sound.LOUDNESS[1] * 1.03
        assert sound.NOISE[0] - 1 < level < sound.NOISE[1] + 1
    assert min(starts) < 500
    assert max(starts) > 14500


def test_word_longer_than_clip_is_cut():
    assert sound.mix(np.ones(900, np.float32), 800, np.random.default_rng(0)).shape == (800,)


# Words


def test_splits_share_no_speaker():
    assert not set(words.SPEAKERS["train"]) & set(words.SPEAKERS["test"])


def test_espeak_is_deterministic(few_utterances):
    first = words.synthesize("test", 16000, seed=0)
    again = words.synthesize("test", 16000, seed=0)
    assert [len(spoken) for spoken in first] == [1] * 10
    for (one,), (other,) in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert 0.1 < len(one) / 16000 < 1
        assert np.abs(one).max() == 1
    assert len({one.tobytes() for (one,) in first}) == 10


def test_unknown_voice_is_named(monkeypatch, few_utterances):
    monkeypatch.setattr(words, "ACCENTS", ("xx-nowhere",))
    with pytest.raises(UserError, match="no voice xx-nowhere"):
        words.synthesize("test", 16000, seed=0)


def record(folder: pathlib.Path, speakers: list[str], rate: int = 8000) -> pathlib.Path:
    """Writes recordings of every digit: 0.2 s of a tone between silences."""
    folder.mkdir()
    tone = np.sin(2 * np.pi * 440 * np.arange(rate // 5) / rate)
    silence = np.zeros(rate // 10)
    for number, speaker in enumerate(speakers):
        for digit in range(10):
            samples = (0.1 + 0.1 * number) * np.concatenate([silence, tone, silence])
            soundfile.write(folder / f"{digit}_{speaker}_0.wav", samples, rate)
    return folder


def test_recordings_are_resampled_trimmed_and_held_out_by_speaker(tmp_path):
    folder = record(tmp_path / "speech", ["anna", "bert", "carl"])
    (folder / "notes.wav").write_text("not of that name, so not read")
    train, test = (words.read(folder, split, 16000) for split in handwriting.SPLITS)
    assert [len(spoken) for spoken in train] == [2] * 10
    assert [len(spoken) for spoken in test] == [1] * 10
    for waveform in (train[0][0], test[9][0]):
        assert abs(len(waveform) - 3200) < 40
        assert np.abs(waveform).max() == pytest.approx(1)


def test_recordings_of_one_speaker_cannot_be_split(tmp_path):
    folder = record(tmp_path / "speech", ["anna"])
    with pytest.raises(UserError, match="two speakers"):
        words.read(folder, "train", 16000)


@pytest.mark.parametrize("content", [b"", b"RIFF but no more", None])
def test_recording_without_sound_is_named(tmp_path, content):
    folder = record(tmp_path / "speech", ["anna", "bert"])
    if content is None:
        soundfile.write(folder / "4_anna_1.wav", np.zeros(800), 8000)
    else:
        (folder / "4_anna_1.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"4_anna_1\.wav"):
        words.read(folder, "train", 16000)


def test_missing_speech_folder_is_named(config, tmp_path):
    data = dataclasses.replace(config.data, speech_dir=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"data\.speech_dir .*none is not a folder"):
        digit_clips.load_words(dataclasses.replace(config, data=data), "train")


# Clips


def test_clip_depends_on_its_split_and_number_alone(config, spoken):
    clip = digit_clips.make_clip(config, "train", spoken, 7)
    assert clip.frames.shape == (config.video.frames, 32, 32, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (round(config.clip_seconds * config.audio.sample_rate),)
    assert clip.waveform.dtype == np.float32
    assert clip.label == 7
    other_run = dataclasses.replace(config, seed=5, modalities=("audio",))
    again = digit_clips.make_clip(other_run, "train", spoken, 7)
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.waveform, again.waveform)
    others = [
        digit_clips.make_clip(config, "train", spoken, 17),
        digit_clips.make_clip(config, "test", spoken, 7),
    ]
    for other in others:
        assert (clip.frames != other.frames).any()
        assert (clip.waveform != other.waveform).any()


# The data set


@pytest.fixture(scope="module")
def built(config, spoken, tmp_path_factory) -> pathlib.Path:
    """A data set built in one other process."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_clips, "load_words", lambda config, split: spoken)
        patch.setattr(worker_processes, "usable_cores", lambda: 1)
        build_lib.build(config, str(folder), lambda line: None)
    return folder


def test_shards_have_every_clip(built, config, spoken):
    counts: dict[handwriting.Split, int] = {"train": 21, "test": 10}
    for split, count in counts.items():
        dataset = open_dataset(config, str(built), split)
        assert len(dataset) == count
        assert dataset.metadata.class_names == NAMES
        records = [dataset[i] for i in range(count)]
        assert sorted(r.id for r in records) == [f"{split}-{i:06d}" for i in range(count)]
        record = next(r for r in records if r.id.endswith("000007"))
        clip = digit_clips.make_clip(config, split, spoken, 7)
        assert (record.label, record.label_text) == (7, "seven")
        frames = [simplejpeg.decode_jpeg(jpeg) for jpeg in record.frames]
        assert np.abs(np.array(frames, int) - clip.frames).mean() < 4
        expected = log_mel_lib.log_mel(clip.waveform, mels=config.audio.mels)
        found = record_schema.decode_log_mel(record.log_mel)
        np.testing.assert_allclose(found, expected, atol=3e-4)


def test_bytes_are_equal_in_another_process(built, config, spoken, monkeypatch, tmp_path):
    followed: list[bool] = []
    monkeypatch.setattr(worker_processes, "end_with_parent", lambda: followed.append(True))
    build_lib.Worker.start(config, {"train": spoken, "test": spoken})
    assert followed == [True]
    for shard in range(8):
        build_lib.Worker.make_shard("train", shard, str(tmp_path))
    made = sorted(tmp_path.iterdir())
    assert len(made) >= 8
    for path in made:
        assert path.read_bytes() == (built / path.name).read_bytes()


def test_waveforms_are_kept_if_asked_for(built, config, spoken, monkeypatch, tmp_path):
    data = dataclasses.replace(config.data, waveforms=True)
    monkeypatch.setattr(worker_processes, "end_with_parent", lambda: None)
    build_lib.Worker.start(dataclasses.replace(config, data=data), {"train": spoken})
    build_lib.Worker.make_shard("train", 0, str(tmp_path))
    (path,) = tmp_path.glob("*.tfrecord-*-of-00008")
    source = record_source.TFRecordSource({str(path): path.stat().st_size})
    record = record_schema.parse(source[0], config.audio.mels)
    clip = digit_clips.make_clip(config, "train", spoken, 0)
    np.testing.assert_array_equal(
        record.waveform, np.rint(32768 * clip.waveform).clip(-32768, 32767)
    )
    assert not open_dataset(config, str(built), "train")[0].waveform.size
    other = dataclasses.replace(config, data=data)
    with pytest.raises(UserError, match="another data set: give another"):
        build_lib.build(other, str(built))


def test_finished_data_set_is_reused(built, config, monkeypatch):
    monkeypatch.setattr(digit_clips, "load_words", lambda *args: pytest.fail("made again"))
    lines: list[str] = []
    build_lib.build(config, str(built), lines.append)
    build_lib.build(dataclasses.replace(config, seed=9), str(built), lines.append)
    assert lines == []


def test_incomplete_data_set_is_rebuilt(built, config, spoken, monkeypatch, tmp_path):
    for file in built.iterdir():
        if file.name not in ("dataset_info.json", "features.json"):
            (tmp_path / file.name).write_bytes(file.read_bytes()[:100])
    for killed in ("spoken_digits-test.tfrecord-00003-of-00008", "metadata.json"):
        (tmp_path / f"{killed}.2055.tmp").write_bytes(b"begun")
    monkeypatch.setattr(digit_clips, "load_words", lambda config, split: spoken)
    monkeypatch.setattr(worker_processes, "usable_cores", lambda: 1)
    lines: list[str] = []
    build_lib.build(config, str(tmp_path), lines.append)
    assert re.match(r"making +31 clips", lines[0])
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(f.name for f in built.iterdir())
    for file in built.glob("*tfrecord*"):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_run_waits_for_other_process_building_same_data(built, config, monkeypatch, tmp_path):
    monkeypatch.setattr(digit_clips, "load_words", lambda *args: pytest.fail("made again"))
    monkeypatch.setattr(lease, "POLL", 0.02)
    lines: list[str] = []
    message = threading.Event()

    def say(line):
        lines.append(line)
        message.set()

    with futures.ThreadPoolExecutor() as pool:
        with lease.held(tmp_path, "busy", "wait"):
            second = pool.submit(build_lib.build, config, str(tmp_path), say)
            assert message.wait(60)
            for file in built.glob("*.*"):
                (tmp_path / file.name).write_bytes(file.read_bytes())
        second.result()
    (line,) = lines
    assert line.startswith("waiting   for another process")


def test_clips_of_other_config_are_refused(built, config):
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, train_clips=22))
    with pytest.raises(UserError, match=r"data\.train_clips 21, not 22"):
        build_lib.build(other, str(built), lambda line: None)


def test_another_data_set_is_not_overwritten(config, tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="other data"):
        build_lib.build(config, str(tmp_path), lambda line: None)
