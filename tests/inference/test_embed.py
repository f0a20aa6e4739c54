"""Features of files, with any streams, equal those of the shards built from them."""

import dataclasses
import functools

import jax
import media_files
import miniatures
import numpy as np
import pytest
import torch_files

import xkd_jax
from data_pipelines.build import __main__ as build
from data_pipelines.errors import UserError
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.evaluation import ClipsConfig, EvalDataConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.evaluate import encoding, pretrained
from xkd_jax.inference import author_weights
from xkd_jax.inference.formats.format import DecoderWeights
from xkd_jax.inference.tensor_names import encoder_entries, tensors_of
from xkd_jax.parallel.mesh import batch_sharding, make_mesh, put_batch


@pytest.fixture(scope="module")
def model(checkpoint):
    return xkd_jax.load(checkpoint)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A second of moving gray with sound, the same without sound, and the sound alone."""
    folder = tmp_path_factory.mktemp("clips") / "all"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(30)]
    sound = media_files.tone(1.0, 16000, 700) + 0.1 * rng.normal(size=(1, 16000))
    sound = sound.astype(np.float32)
    media_files.write(folder / "both.avi", frames, sound=sound, sample_rate=16000)
    media_files.write(folder / "silent.avi", frames)
    media_files.write(folder / "sound.wav", sound=sound, sample_rate=16000)
    return folder


@pytest.mark.parametrize("batch_size", [8, 16])
def test_features_are_those_of_the_shards_bit_for_bit(
    checkpoint, model, clips, tmp_path, batch_size
):
    (tmp_path / "both" / "x").mkdir(parents=True)
    (tmp_path / "both" / "x" / "a.avi").write_bytes((clips / "both.avi").read_bytes())
    out = tmp_path / "shards"
    arguments = [f"--source={tmp_path / 'both'}", f"--output={out}", "--workers=1", "--mels=16"]
    assert build.main(["--dataset=folder", *arguments]) == 0
    config = miniatures.evaluation(
        checkpoint, str(out), modality="both", clips=ClipsConfig(train=1, test=2, crops=1),
        data=EvalDataConfig(dir=str(out), threads=2),
    )  # fmt: skip
    mesh = make_mesh(MeshConfig())
    source = pretrained.load(config, mesh)
    views = pretrained.viewing(config, source.views)
    (batch,) = pipeline.eval_batches(views, open_dataset(views, str(out), "train"), clips=2)
    batch = {name: batch[name] for name in ("video", "audio", "label")}
    batch = put_batch(batch, batch_sharding(mesh, 8), 8)
    encode = encoding.feature_function(source.network, "encoder", config.modalities, views, mesh)
    expected = jax.tree.map(np.asarray, encode(source.parameters, batch))
    found = model.embed(str(clips / "both.avi"), batch_size=batch_size)
    np.testing.assert_array_equal(found.start, [0, 0.5])
    np.testing.assert_array_equal(found.end, [0.5, 1.0])
    for modality in ("video", "audio"):
        np.testing.assert_array_equal(getattr(found, modality), expected[modality][:2, 0])


def test_missing_streams_are_none(model, clips):
    both = model.embed(str(clips / "both.avi"))
    silent = model.embed(str(clips / "silent.avi"))
    assert silent.audio is None
    np.testing.assert_array_equal(silent.video, both.video)
    sound = model.embed(str(clips / "sound.wav"))
    assert sound.video is None
    assert sound.audio.shape[1] == 24
    # without frames, windows are as long as the encoder's spectrogram, and the last ends the file
    assert np.all(np.diff(sound.start) > 0)
    assert sound.end[-1] == pytest.approx(1.0)


def test_last_window_ends_with_the_file(model, clips):
    path = str(clips / "silent.avi")
    found = model.embed(path, hop=0.375)
    np.testing.assert_allclose(found.start, [0, 0.375, 0.5])
    np.testing.assert_allclose(found.end, [0.5, 0.875, 1.0])
    longer = model.embed(path, window=1.0)
    np.testing.assert_array_equal((longer.start, longer.end), ([0], [1.0]))
    assert longer.video.shape == (1, 24)
    beyond = model.embed(path, window=2.0)
    np.testing.assert_array_equal(beyond.end, [1.0])


def test_features_are_pooled_over_the_file_or_kept_per_window(model, clips):
    path = str(clips / "both.avi")
    windows = model.embed(path)
    whole = model.embed(path, pool="file")
    np.testing.assert_array_equal((whole.start, whole.end), ([0], [1.0]))
    np.testing.assert_allclose(whole.video[0], windows.video.mean(0), atol=1e-6)
    tokens = model.embed(path, pool="none")
    assert tokens.video.shape == (2, 8, 24)
    assert tokens.audio.shape == (2, 16, 24)
    np.testing.assert_allclose(tokens.video.mean(1), windows.video, atol=1e-5)


def test_files_that_fail_are_an_error_or_reported(model, clips, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    paths = [str(clips / "silent.avi"), str(tmp_path / "text.mp4"), str(tmp_path / "absent.mp4")]
    with pytest.raises(UserError, match=r"text\.mp4 can't be used \(unreadable\)"):
        list(model.embed_files(paths))
    failed = []
    found = dict(model.embed_files(paths, left_out=lambda *why: failed.append(why[:2])))
    assert list(found) == paths[:1]
    assert failed == [(paths[1], "unreadable"), (paths[2], "missing")]


def test_a_file_that_fails_in_both_streams_has_both_reasons(model, clips, tmp_path):
    content = (clips / "silent.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 8])
    with pytest.raises(UserError, match=r"no audio stream, and its? .*"):
        model.embed(str(tmp_path / "cut.avi"))


def test_encoder_of_filter_banks_gets_the_sound_of_the_file(model, clips, small):
    """The same weights with another spectrogram; windows are cut from the whole file's."""
    from data_pipelines.format import kaldi
    from xkd_jax.inference.formats.format import EncoderWeights
    from xkd_jax.inference.trained_model import Model

    view = dataclasses.replace(small.audio, hop=160, fft=512, spectrogram="kaldi")
    config = dataclasses.replace(model.config["audio"], view=view)
    other = Model({"audio": EncoderWeights(config, model.parameters["audio"])}, model.origin)
    found = other.embed(str(clips / "sound.wav"), hop=0.32)
    wave = media_files.tone(1.0, 16000, 700)[0]
    bank = kaldi.filter_bank(wave, 16)
    assert bank.shape[1] == 98
    assert found.audio.shape[0] == len(found.start) == 4
    assert np.isfinite(found.audio).all()


def test_reconstruction_shows_masked_and_predicted_patches(model, clips, small):
    found = model.reconstruct(str(clips / "both.avi"), seed=3)
    again = model.reconstruct(str(clips / "both.avi"), seed=3)
    original, masked, predicted = found.video
    assert original.shape == masked.shape == predicted.shape == (4, 16, 16, 3)
    assert original.dtype == np.uint8
    np.testing.assert_array_equal(predicted, again.video.predicted)
    # half of the patches are masked; in the others all three images are equal
    differs = (original != masked).any(-1)
    hidden = differs.reshape(2, 2, 2, 8, 2, 8).any(axis=(1, 3, 5))
    assert hidden.sum() == 4
    np.testing.assert_array_equal(predicted[~differs], original[~differs])
    assert found.audio.original.shape == (16, 32)
    mean = found.audio.masked == np.float32(small.audio.mean)
    assert mean.mean() == 0.5
    np.testing.assert_allclose(found.audio.predicted[~mean], found.audio.original[~mean], atol=1e-5)
    # a hidden patch has its own mean and deviation
    patches = [a.reshape(4, 4, 4, 8).swapaxes(1, 2).reshape(16, 32) for a in found.audio]
    assert np.abs(patches[2].mean(1) - patches[0].mean(1)).max() < 3


def test_later_reconstructions_compile_nothing(model, clips, caplog):
    path = str(clips / "both.avi")
    model.reconstruct(path, seed=3)
    with jax.log_compiles():
        found = model.reconstruct(path, seed=4)
    assert not [record for record in caplog.records if "compil" in record.getMessage().lower()]
    assert (found.video.masked != model.reconstruct(path, seed=3).video.masked).any()


def test_training_checkpoint_of_the_authors_reconstructs_like_the_run(
    checkpoint, clips, small, tmp_path
):
    model, tensors = xkd_jax.load(checkpoint), {}
    for m, prefix in author_weights.PREFIX.items():
        config, decoder = model.config[m], model.decoders[m]
        found = tensors_of(encoder_entries(config), model.parameters[m])
        for name, tensor in found.items():
            own = author_weights.backbone_name(name, m)
            tensors[f"{prefix}_student.backbone.{own}"] = tensor
        entries = author_weights.decoder_entries(24, decoder.transformer, config.view.patch_values)
        for name, tensor in tensors_of(entries, decoder.params).items():
            tensors[f"{prefix}_ae.{name}"] = tensor
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(torch_files.zipped({"model": torch_files.tensors_of(tensors)}))
    video = {name: getattr(small.video, name) for name in ("frames", "size", "patch")}
    audio = {name: getattr(small.audio, name) for name in ("mels", "columns", "patch")}
    theirs = xkd_jax.load(path, heads=2, video=video, audio=audio)
    assert (theirs.decoders["video"].mask_ratio, theirs.decoders["audio"].mask_ratio) == (0.85, 0.8)
    for m, decoder in theirs.decoders.items():
        own = model.decoders[m]
        model.decoders[m] = DecoderWeights(own.transformer, decoder.mask_ratio, own.params)
    expected, found = (one.reconstruct(str(clips / "both.avi")) for one in (model, theirs))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1), found, expected)


def test_reconstruction_needs_decoders(checkpoint, clips):
    teacher = xkd_jax.load(checkpoint, network="teacher")
    with pytest.raises(UserError, match="has no decoders"):
        teacher.reconstruct(str(clips / "both.avi"))
