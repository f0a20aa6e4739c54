"""Evaluations of other projects' encoders: their inputs from the shards, and every protocol."""

import dataclasses

import jax
import miniatures
import numpy as np
import pytest
import simplejpeg
from numpy_encoder import encode
from other_encoders import CASES, HEADS, write_case

import xkd_jax
from data_pipelines.errors import UserError
from data_pipelines.format import kaldi, record_schema, shards
from data_pipelines.format.metadata import Metadata
from data_pipelines.read import pipeline, views
from data_pipelines.read.dataset import open_dataset
from xkd_jax.augment import augment
from xkd_jax.config.evaluation import ClipsConfig, EvalDataConfig
from xkd_jax.config.fit_settings import FitConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.config.stated_input import StatedAudio, StatedVideo, stated
from xkd_jax.evaluate import evaluation, features, fitting, pretrained
from xkd_jax.parallel.mesh import batch_sharding, make_mesh
from xkd_jax.planning.plan import abstract_batch
from xkd_jax.report import __main__ as report

FRAMES, SIDE, SAMPLES = 15, 8, 16000
STATED = {
    "heads": HEADS,
    "video": StatedVideo(frames=4, size=SIDE),
    "audio": StatedAudio(mels=8, columns=12),
}
# {kind of weights: keys of the config for values that its file lacks}
GIVEN = {
    "videomae_finetune": {"heads": HEADS, "video": STATED["video"]},
    "videomae_transformers": {},
    "audiomae": {"heads": HEADS, "audio": STATED["audio"]},
    "cavmae, video": {"heads": HEADS, "audio": STATED["audio"]},
    "ast": {},
}


INPUTS = {
    "videomae_finetune": "input     video 4 x 8 x 8 (0.533 s), 7.5 frames a second\n",
    "videomae_transformers": "input     video 4 x 8 x 8 (0.533 s), 7.5 frames a second\n",
    "audiomae": "input     audio 8 x 12 (0.12 s), Kaldi's filter bank of the waveform\n",
    "cavmae, video": "input     video 1 x 8 x 8 (1 s), 1 frames a second\n",
    "ast": "input     audio 8 x 12 (0.12 s), Kaldi's filter bank of the waveform\n",
}


def record(number):
    """A second of gray frames of increasing light, and a tone; both depend on the class."""
    label = number % 2
    grays = [40 + 100 * label + 4 * number + 3 * k for k in range(FRAMES)]
    frames = [np.full((SIDE, SIDE, 3), gray, np.uint8) for gray in grays]
    times = np.arange(SAMPLES) / 16000
    wave = 0.4 * np.sin(2 * np.pi * (300 + 2000 * label + 20 * number) * times)
    return record_schema.Record(
        id=str(number),
        frames=[simplejpeg.encode_jpeg(frame) for frame in frames],
        # not the spectrogram of the encoders: these values would not fit them
        log_mel=record_schema.encode_log_mel(np.zeros((8, 112))),
        waveform=np.rint(32767 * wave).astype(np.int16),
        label=label,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shards"), [record(i) for i in range(12)])


def write(folder, records, **changes):
    metadata = Metadata(
        name="toy", frame_rate=15.0, short_side=SIDE, sample_rate=16000, fft=1024, hop=143, mels=8,
        class_names=("low", "high"),
    )  # fmt: skip
    metadata = dataclasses.replace(metadata, **changes)
    shards.write_dataset(str(folder), metadata, {"train": records[:8], "test": records[8:]})
    return str(folder)


def weights(folder, name):
    """Writes a file of one kind of weights; returns the path for the command line."""
    case = CASES[name]()
    folder.mkdir(exist_ok=True)
    return str(write_case(folder, case, key="model")), case


def evaluated(path, directory, name="", **changes):
    config = miniatures.evaluation(
        path, directory, protocol="knn", clips=ClipsConfig(train=1, test=1, crops=1),
        data=EvalDataConfig(dir=directory, threads=2),
    )  # fmt: skip
    return dataclasses.replace(config, **{**GIVEN.get(name, {}), **changes})


def expected_view(config, number):
    """The normalized input of the middle of a record, from its frames or samples."""
    view = config.view
    if view.modality == "audio":
        bank = kaldi.filter_bank(record(number).waveform / 32768, view.mels)
        start = (bank.shape[1] - view.columns) // 2
        return (bank[:, start : start + view.columns] - view.mean) / view.std
    step = round(15 / view.frame_rate)  # every second frame of 15 a second, or the first of all
    start = (-(-FRAMES // step) - view.frames) // 2
    frames = record(number).frames[::step][start : start + view.frames]
    pixels = np.stack([simplejpeg.decode_jpeg(frame) for frame in frames]) / 255
    return (pixels - np.array(view.mean)) / np.array(view.std)


@pytest.mark.parametrize("name", GIVEN)
def test_features_are_of_the_input_that_the_encoder_was_trained_with(
    directory, tmp_path, name, capsys
):
    path, case = weights(tmp_path / "weights", name)
    config = evaluated(path, directory, name, modality=case.modality)
    found = evaluation.evaluate(config, tmp_path / "run")
    model = xkd_jax.load(path, **case.given)
    (folder,) = (tmp_path / "run" / "features").glob("test-test-*")
    stored = np.load(folder / f"{case.modality}.npy")
    encoder, params = model.config[case.modality], model.parameters[case.modality]
    views = np.stack([expected_view(encoder, number) for number in range(8, 12)])
    _, pooled = encode(encoder, jax.device_get(params), views.astype(np.float32))
    np.testing.assert_allclose(stored[:, 0, 0], pooled, rtol=1e-3, atol=1e-4)
    assert found["checkpoint"]["digest"]
    assert found["checkpoint"]["license"] == model.license
    assert found["pretraining"] is None
    family = model.origin.family
    assert (found["variant"], found["size"]) == (family, "8/2/2")
    printed = capsys.readouterr().out
    assert INPUTS[name] in printed
    view = model.config[case.modality].view
    assert found["inputs"][case.modality]["patch"] == view.patch
    assert f"network   {path} ({model.origin.format})\n" in printed
    assert f"toy, knn, {case.modality}, {family}: top-1 " in printed
    assert report.main([str(tmp_path / "run")]) == 0
    assert f"| {family}, 8/2/2 |  | " in capsys.readouterr().out


def test_both_encoders_of_cavmae_and_retrieval_between_them(directory, tmp_path):
    path, _ = weights(tmp_path / "weights", "cavmae, video")
    config = evaluated(
        path, directory, "cavmae, video", modality="both", features=str(tmp_path / "features")
    )
    evaluation.evaluate(config, tmp_path / "knn")
    (folder,) = (tmp_path / "features").glob("test-test-*")
    assert np.load(folder / "audio.npy").shape == np.load(folder / "video.npy").shape
    retrieval = dataclasses.replace(config, protocol="retrieval")
    assert evaluation.evaluate(retrieval, tmp_path / "retrieval")["metric"] == "recall at 1"
    assert len(list((tmp_path / "features").iterdir())) == 2  # train and test of the first


def test_training_clips_of_a_filter_bank_change_in_volume(directory, tmp_path):
    path, _ = weights(tmp_path / "weights", "audiomae")
    config = evaluated(path, directory, "audiomae", modality="audio", protocol="svm")
    found = evaluation.evaluate(config, tmp_path / "run")
    assert found["per_fold"][0]["train_records"] == 8


def test_features_depend_on_weights_and_stated_input(directory, tmp_path, monkeypatch):
    path, _ = weights(tmp_path / "weights", "videomae_finetune")
    shared = str(tmp_path / "features")
    config = evaluated(path, directory, "videomae_finetune", features=shared)
    evaluation.evaluate(config, tmp_path / "one")
    again, _ = weights(tmp_path / "copy", "videomae_finetune")
    with monkeypatch.context() as patch:
        patch.setattr(features, "clip_batches", None)  # fails if it is called
        evaluation.evaluate(dataclasses.replace(config, checkpoint=again), tmp_path / "two")
    plain = dataclasses.replace(config.video, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    evaluation.evaluate(dataclasses.replace(config, video=plain), tmp_path / "three")
    assert len(list((tmp_path / "features").iterdir())) == 4
    with pytest.raises(UserError, match=r"checkpoint\.digest was .*: move it away"):
        evaluation.evaluate(dataclasses.replace(config, video=plain), tmp_path / "two")


def test_single_mean_and_deviation_are_stated_as_numbers():
    assert stated(StatedAudio(mean=(0.0,), std=(2.0,))) == {"mean": 0.0, "std": 2.0}


@pytest.mark.parametrize("protocol", ["linear", "attentive", "finetune"])
@pytest.mark.parametrize("name", ["ast", "videomae_finetune"])
def test_every_protocol_trains_a_classifier_on_other_encoders(directory, tmp_path, name, protocol):
    path, case = weights(tmp_path / "weights", name)
    config = evaluated(
        path, directory, name, modality=case.modality, protocol=protocol,
        fit=FitConfig(epochs=1.0, warmup_epochs=0.0, layer_decay=0.5),
    )  # fmt: skip
    mesh = make_mesh(MeshConfig())
    source = pretrained.load(config, mesh)
    viewing = pretrained.viewing(config, source.views)
    encoder = source.parameters["encoders"][case.modality]
    fit = fitting.create_fit(
        config.fit, source.network, viewing, mesh, encoder, protocol=config.protocol,
        modality=config.modalities[0], records=8, classes=2,
    )  # fmt: skip
    batch = abstract_batch(viewing, batch_sharding(mesh, 8))
    batch["label"] = jax.ShapeDtypeStruct((8,), np.int32)
    state, loss = jax.eval_shape(fit.step, fit.like, encoder, batch)
    assert loss.shape == ()
    assert ("network" in state.trained) == (protocol == "finetune")
    scores, _ = jax.eval_shape(fit.predict, state.trained, encoder, batch)
    assert scores.shape == (8, 2)


def test_an_exported_run_has_the_features_of_the_run(checkpoint, esc50, tmp_path):
    xkd_jax.export(xkd_jax.load(checkpoint), tmp_path / "exported")
    found = []
    for source in (checkpoint, tmp_path / "exported"):
        config = miniatures.evaluation(source, esc50, modality="audio", protocol="knn")
        workdir = tmp_path / f"of_{source.name}"
        evaluation.evaluate(config, workdir)
        stored = map(np.load, (workdir / "features").glob("*/audio.npy"))
        found.append(sorted(stored, key=len))
    for run, exported in zip(*found, strict=True):
        np.testing.assert_array_equal(run, exported)
    for source in (checkpoint, tmp_path / "exported"):
        config = miniatures.evaluation(source, esc50, modality="audio", heads=2)
        with pytest.raises(UserError, match=r"states the heads .*: leave --config\.heads out\.$"):
            evaluation.evaluate(config, tmp_path / "given")


@pytest.mark.parametrize(
    "name,changes,words",
    [
        ("audiomae", {"heads": 0}, r"for width 8: give --config\.heads\.$"),
        ("videomae_finetune", {"video": StatedVideo()},
         r"frames, size of its video input: give --config\.video\.frames=\.\.\., --config\.video"),
        ("audiomae", {"audio": StatedAudio(mels=8, columns=16)},
         r"has 8: give other --config\.audio\.mels=\.\.\., --config\.audio\.columns"),
        ("videomae_transformers", {"video": StatedVideo(frames=8)},
         r"--config\.video\.frames is 8, but .* states 4: leave it out"),
        ("audiomae", {"modality": "video"}, r"it has audio, so give --config\.modality=audio"),
        ("audiomae", {"network": "untrained", "modality": "audio"},
         r"no initial parameters, .*=student"),
        ("audiomae", {"modality": "audio", "audio": StatedAudio(mean=(1.0, 2.0))},
         r"audio\.mean is \(1\.0, 2\.0\): give one number"),
        ("audiomae", {"step": 3, "modality": "audio"}, r"is no run, .*: leave --config\.step out"),
        ("audiomae", {"output": "head", "modality": "audio"}, r"no projection heads, .*=encoder"),
        ("audiomae", {"protocol": "retrieval", "modality": "both"}, r"or VIDEO,AUDIO weights, by"),
    ],
)  # fmt: skip
def test_missing_values_are_requested_by_key(directory, tmp_path, name, changes, words):
    path, _ = weights(tmp_path / "weights", name)
    with pytest.raises(UserError, match=words):
        evaluation.evaluate(evaluated(path, directory, name, **changes), tmp_path / "run")


def test_two_files_are_one_of_each_modality(checkpoint, directory, tmp_path):
    video, _ = weights(tmp_path / "v", "videomae_finetune")
    audio, _ = weights(tmp_path / "a", "audiomae")
    config = evaluated(f"{video},{audio}", directory, modality="both", **STATED)
    mesh = make_mesh(MeshConfig())
    source = pretrained.load(config, mesh)
    assert list(source.network.encoders) == ["video", "audio"]
    assert source.origin.family == "VideoMAE; AudioMAE"
    wide = tmp_path / "wide"
    xkd_jax.export(xkd_jax.load(checkpoint, modalities=("audio",)), wide)
    other = dataclasses.replace(config, checkpoint=f"{video},{wide}", protocol="retrieval")
    with pytest.raises(UserError, match=r"different widths \(8 of video, 24 of audio\)"):
        pretrained.load(other, mesh)
    with pytest.raises(UserError, match="is no file or exported folder of weights: give only"):
        pretrained.load(dataclasses.replace(config, checkpoint=f"{video},{checkpoint}"), mesh)


@pytest.mark.parametrize(
    "name,changes,without,words",
    [
        ("videomae_finetune", {"frame_rate": 5.0}, {}, "--frame_rate=7.5"),
        ("audiomae", {"sample_rate": 8000}, {}, r"--sample_rate=16000 .*--waveform"),
        ("audiomae", {}, {"waveform": np.zeros(0, np.int16)}, "build the shards again with --wave"),
    ],
)
def test_shards_without_the_encoders_input_are_refused_with_the_build_command(
    tmp_path, name, changes, without, words
):
    path, case = weights(tmp_path / "weights", name)
    records = [dataclasses.replace(record(i), **without) for i in range(12)]
    directory = write(tmp_path / "shards", records, **changes)
    config = evaluated(path, directory, name, modality=case.modality)
    with pytest.raises(UserError, match=words):
        evaluation.evaluate(config, tmp_path / "run")


def test_runs_train_on_filter_banks_too(directory, small):
    audio = dataclasses.replace(
        small.audio, spectrogram="kaldi", fft=512, hop=160, mels=8, columns=32, local_columns=16
    )
    config = dataclasses.replace(
        small, modalities=("audio",), audio=audio,
        data=dataclasses.replace(small.data, dir=directory, threads=2),
    )  # fmt: skip
    dataset = open_dataset(config, directory, "train")
    batch = next(pipeline.train_batches(config, dataset))
    blank = views.blank_views(config)["audio"]
    for kind, shape in {"global": (8, 8, 32), "local": (1, 8, 8, 16)}.items():
        spectrograms = batch["audio"][kind]["log_mel"]
        assert spectrograms.dtype == blank[kind]["log_mel"].dtype == np.float32
        view = augment(config, batch)["audio"][kind]
        assert view.shape == shape
        assert np.isfinite(view).all()
