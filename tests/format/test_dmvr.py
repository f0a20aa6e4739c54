import numpy as np
import pytest
import simplejpeg
import toy_shards
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import UserError
from data_pipelines.format import dmvr, log_mel, record_schema, shards, storage
from data_pipelines.loader_config import AudioConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

CONFIG = Config()
MELSPEC = Config(audio=AudioConfig(mels=128, hop=160))


def _jpeg(level: int, height: int = 24, width: int = 40) -> bytes:
    return simplejpeg.encode_jpeg(np.full((height, width, 3), level, np.uint8), quality=98)


def _example(
    frames=(), floats=(), melspec=(), micros=(), labels=(), texts=(), context=None
) -> bytes:
    example = tf_example_pb2.SequenceExample()
    lists = example.feature_lists.feature_list
    for frame in frames:
        lists["image/encoded"].feature.add().bytes_list.value.append(frame)
    for time in micros:
        lists["image/timestamp"].feature.add().int64_list.value.append(time)
    for name, parts in (("WAVEFORM", floats), ("melspec", melspec)):
        for part in parts:
            lists[f"{name}/feature/floats"].feature.add().float_list.value.extend(part)
    feature = example.context.feature
    feature["clip/label/index"].int64_list.value.extend(labels)
    feature["clip/label/text"].bytes_list.value.extend(t.encode() for t in texts)
    for name, value in (context or {}).items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        getattr(feature[name], kind).value.append(value)
    return example.SerializeToString()


def _parse(config=CONFIG, **parts):
    return dmvr.DmvrParser(config)(_example(**parts), "shard, record 3,")


def _levels(record) -> list[int]:
    return [int(simplejpeg.decode_jpeg(f)[0, 0, 0]) for f in record.frames]


def _tone(seconds: float, rate: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 500 * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


FRAMES = [_jpeg(5 * i) for i in range(50)]


@pytest.mark.parametrize(
    "times",
    [
        {"context": {"image/frame_rate": 25.0}},
        {"context": {"image/frame_rate": 25}},
        {"micros": [7_000_000 + 40_000 * i for i in range(50)]},
        {"context": {"clip/start/timestamp": 3_000_000, "clip/end/timestamp": 5_000_000}},
    ],
    ids=["rate", "whole rate", "time stamps", "clip"],
)
def test_frames_are_resampled_to_rate(times):
    record = _parse(frames=FRAMES, **times)
    expected = [5 * int(k / 8 * 25 + 0.026) for k in range(16)]
    np.testing.assert_allclose(_levels(record), expected, atol=1)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize("stated", [True, False])
def test_spectrogram_is_computed_from_waveform(rate, stated):
    context: dict = {"image/frame_rate": 25.0}
    if stated:
        context["WAVEFORM/feature/sample_rate"] = float(rate)
    floats = np.array_split(_tone(2.0, rate), 2)
    record = _parse(frames=FRAMES, floats=floats, context=context)
    expected = log_mel.log_mel(_tone(2.0, 16000))
    found = record_schema.decode_log_mel(record.log_mel)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:30, 8:-8], expected[:30, 8:-8], atol=0.1)


def test_shards_of_waveforms_alone_are_read():
    context = {"WAVEFORM/feature/sample_rate": 16000}
    record = _parse(floats=[_tone(1.0, 16000)], context=context)
    assert record.frames == ()
    assert record.log_mel.shape == (80, 112)
    assert record.end == 1.0


def test_stored_spectrogram_with_matching_config_is_used():
    melspec = np.random.default_rng(0).normal(-3, 2, (2, 12800)).astype(np.float32)
    record = _parse(MELSPEC, frames=FRAMES, melspec=melspec, context={"image/frame_rate": 25.0})
    found = record_schema.decode_log_mel(record.log_mel)
    np.testing.assert_allclose(found, melspec.reshape(200, 128).T, atol=2**-11)
    with pytest.raises(UserError, match=r"record 3, .* set audio\.mels=128 and audio\.hop=160"):
        _parse(frames=FRAMES, melspec=melspec, context={"image/frame_rate": 25.0})


def test_waveform_is_preferred_to_stored_spectrogram():
    melspec = np.zeros((1, 12800), np.float32)
    context = {"WAVEFORM/feature/sample_rate": 16000}
    record = _parse(MELSPEC, floats=[_tone(1.0, 16000)], melspec=melspec, context=context)
    assert record.log_mel.shape == (128, 101)


def test_integers_stored_as_floats_are_converted():
    heard = _tone(1.0, 16000)
    damaged = np.rint(heard * 32768).astype(np.int32).view(np.float32)
    assert not (np.abs(damaged) > 1e-30).any()  # the bits of silence
    context = {"WAVEFORM/feature/sample_rate": 16000}
    mended = _parse(floats=[damaged], context=context)
    whole = _parse(floats=[heard], context=context)
    difference = record_schema.decode_log_mel(mended.log_mel) - record_schema.decode_log_mel(
        whole.log_mel
    )
    assert np.abs(difference[:20, 5:-5]).max() < 0.1


@pytest.mark.parametrize("silence", [0.0, -0.0])
def test_silence_stays_silence(silence):
    samples = np.full(16000, silence, np.float32)
    record = _parse(floats=[samples], context={"WAVEFORM/feature/sample_rate": 16000})
    assert len(np.unique(record.log_mel)) == 1


def test_labels_and_their_names_are_read():
    record = _parse(
        frames=FRAMES, labels=[4], texts=["playing drums"],
        context={"image/frame_rate": 25.0, "video/filename": b"a.mp4"},
    )  # fmt: skip
    assert (record.label, record.labels, record.label_text) == (4, (), "playing drums")
    assert (record.id, record.path) == ("a.mp4", "a.mp4")
    many = _parse(frames=FRAMES, labels=[4, 9], texts=["a", "b"],
                  context={"image/frame_rate": 25.0})  # fmt: skip
    assert (many.label, many.labels, many.label_text) == (-1, (4, 9), "a; b")
    caption = _parse(frames=FRAMES, context={"image/frame_rate": 25.0, "caption/string": b"hi"})
    assert (caption.label, caption.label_text) == (-1, "hi")


@pytest.mark.parametrize(
    "parts, words",
    [
        ({}, "has no image/encoded, WAVEFORM"),
        ({"frames": FRAMES}, "frames of unknown rate"),
        ({"floats": [_tone(1.0, 16000)]}, "waveform of unknown rate"),
        ({"floats": [[0.5, float("nan")]], "context": {"WAVEFORM/feature/sample_rate": 16000}},
         "not finite"),
        ({"floats": [[0.5]], "context": {"WAVEFORM/feature/sample_rate": 2.0}}, "at 2 Hz"),
        ({"frames": FRAMES, "micros": [0, 40_000]}, "2 time stamps for 50 frames"),
        ({"frames": FRAMES[:2], "micros": [0, 10**17]}, "by its time stamps"),
        ({"frames": FRAMES[:3], "micros": [0, 9, 5]}, "not in order"),
    ],
)  # fmt: skip
def test_missing_parts_are_named(parts, words):
    with pytest.raises(UserError, match=rf"shard, record 3, .*{words}"):
        _parse(**parts)


def test_bytes_that_are_no_sequence_example_are_refused():
    with pytest.raises(UserError, match="not a valid SequenceExample"):
        dmvr.DmvrParser(CONFIG)(b"\x0a\xff", "x")


def _write(folder, name: str, records: list[bytes], count: int = 2) -> None:
    for i in range(count):
        shards.write_shard(f"{folder}/{name}-{i:05d}-of-{count:05d}", records[i::count])
        (folder / f"{name}-{i:05d}-of-{count:05d}.index").unlink()


def test_shards_are_opened_and_streamed(tmp_path):
    config = toy_shards.config(short_side=16)
    context = {"image/frame_rate": 8, "WAVEFORM/feature/sample_rate": 16000}
    records = [
        _example(frames=FRAMES[:12], floats=[_tone(1.5, 16000)], labels=[i], context=context)
        for i in range(5)
    ]
    _write(tmp_path, "kinetics_train", records)
    dataset = open_dataset(config, str(tmp_path), "train")
    assert len(dataset) == 5
    batch = next(pipeline.train_batches(config, dataset))
    assert batch["video"]["global"]["frames"].shape[1] == 4
    assert batch["audio"]["global"]["log_mel"].shape == (4, 8, 8)
    assert set(batch["label"].tolist()) <= set(range(5))
    plain = next(pipeline.eval_batches(config, dataset))
    assert plain["video"]["global"]["box"].tolist() == [[16, 16]] * 4  # scaled from 24 pixels


def test_other_folders_are_not_read_as_dmvr(tmp_path):
    with storage.writer(str(tmp_path / "video.mp4")) as file:
        file.write(b"x")
    with pytest.raises(UserError, match="no complete data set"):
        open_dataset(CONFIG, str(tmp_path), "train")


def test_unfinished_build_is_not_read_as_dmvr(tmp_path):
    folder = toy_shards.write(tmp_path, [toy_shards.record(0)])
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(UserError, match="unfinished build"):
        open_dataset(toy_shards.CONFIG, folder, "train")[0]


def test_name_that_is_not_utf_8_is_damage():
    data = _example(frames=FRAMES[:1]).replace(b"clip/label/text", b"clip/label/te\xffx")
    with pytest.raises(
        UserError, match=r"shard, record 3, is not a valid SequenceExample \(.*utf-8"
    ):
        dmvr.DmvrParser(CONFIG)(data, "shard, record 3,")
