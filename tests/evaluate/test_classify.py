"""Protocols that train a classifier."""

import dataclasses
import importlib
import os
import re
import signal
import types

import jax
import miniatures
import numpy as np
import orbax.checkpoint as ocp
import pytest
from failing_calls import Killed, kill_after
from flax import nnx
from jax.tree_util import DictKey

from data_pipelines.errors import StoppedError, UserError
from data_pipelines.loader_config import VideoAugment
from xkd_jax.config import evaluation as eval_config
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.config.evaluation import ClipsConfig, EvalDataConfig
from xkd_jax.config.fit_settings import FitAugmentConfig, FitConfig
from xkd_jax.config.pretraining import CheckpointConfig, Config, MeshConfig
from xkd_jax.evaluate import classify, encoding, evaluation, fitting, pretrained, splits
from xkd_jax.evaluate.fit_checkpoints import FitCheckpoints
from xkd_jax.evaluate.network import Network
from xkd_jax.evaluate.readout import Readout
from xkd_jax.inference.formats.format import encoder_shapes
from xkd_jax.parallel.mesh import batch_sharding, make_mesh
from xkd_jax.planning.plan import abstract_batch


@pytest.fixture(scope="module")
def fsd50k(tmp_path_factory):
    return miniatures.fsd50k(tmp_path_factory.mktemp("FSD50K"))


def _linear(checkpoint, shards, **changes):
    config = miniatures.evaluation(
        checkpoint,
        shards,
        protocol="linear",
        modality="audio",
        clips=ClipsConfig(train=1, test=2, crops=1),
        fit=FitConfig(learning_rate=0.3, epochs=6.0, warmup_epochs=1.0, normalize=True),
        save=CheckpointConfig(every_steps=4),
        log_every=4,
    )
    data = dataclasses.replace(config.data, folds=(1,))
    return dataclasses.replace(config, **({"data": data} | changes))


def opened(config):
    """The mesh, the pretrained encoders, the views and the data of an evaluation."""
    mesh = make_mesh(config.mesh)
    source = pretrained.load(config, mesh)
    viewing = pretrained.viewing(config, source.views)
    return mesh, source, viewing, splits.open_benchmark(viewing, config.data)


def fit_of(config, network, viewing, mesh, encoder, records, classes):
    return fitting.create_fit(
        config.fit, network, viewing, mesh, encoder, protocol=config.protocol,
        modality=config.modalities[0], records=records, classes=classes,
    )  # fmt: skip


@pytest.mark.slow
def test_killed_training_ends_with_identical_result(
    checkpoint, esc50, tmp_path, monkeypatch, capsys
):
    config = _linear(checkpoint, esc50)
    whole = evaluation.evaluate(config, tmp_path / "whole")
    assert whole["value"] == 100
    assert whole["per_fold"][0]["train_records"] == 16
    with monkeypatch.context() as patch:
        kill_after(patch, classify, "on_devices", 6)
        with pytest.raises(Killed):
            evaluation.evaluate(config, tmp_path / "killed")
    capsys.readouterr()
    again = evaluation.evaluate(config, tmp_path / "killed")
    printed = capsys.readouterr().out
    assert "resume    from step 4" in printed
    assert "step 12/12" in printed
    assert again["per_fold"] == whole["per_fold"]
    _same_states(tmp_path / "whole", tmp_path / "killed")
    other = dataclasses.replace(config, seed=5)
    with pytest.raises(UserError, match="seed was 0, now 5"):
        evaluation.evaluate(other, tmp_path / "whole")
    (tmp_path / "whole" / "result.json").unlink()  # as of a training that has not ended
    kept = (tmp_path / "whole" / "config.json").read_text()
    with pytest.raises(UserError, match="another seed"):
        evaluation.evaluate(other, tmp_path / "whole")
    assert (tmp_path / "whole" / "config.json").read_text() == kept
    _damage(tmp_path / "killed" / "fold1" / "checkpoints" / "12" / "state")
    assert evaluation.evaluate(config, tmp_path / "killed")["per_fold"] == whole["per_fold"]
    printed = capsys.readouterr().out
    assert "damaged   the checkpoint of step 12" in printed
    assert "resume    from step 8" in printed
    _same_states(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("step,saved", [(3, ["3"]), (11, ["11", "4", "8"])])
def test_preempted_training_is_saved_and_resumed(
    checkpoint, esc50, tmp_path, monkeypatch, step, saved
):
    config = _linear(checkpoint, esc50)
    put, count = classify.on_devices, []

    def put_with_notice(*arguments):
        count.append(1)
        if len(count) == step + 1:  # this batch is read before step `step` is dispatched
            os.kill(os.getpid(), signal.SIGTERM)
        return put(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(classify, "on_devices", put_with_notice)
        with pytest.raises(StoppedError, match=f"after step {step}, as requested"):
            evaluation.evaluate(config, tmp_path)
    folder = tmp_path / "fold1" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == saved
    assert evaluation.evaluate(config, tmp_path)["value"] == 100


def test_signal_during_last_save_stops_before_test(checkpoint, esc50, tmp_path, monkeypatch):
    save = FitCheckpoints.save

    def save_and_be_told(checkpoints, step, state):
        save(checkpoints, step, state)
        if step == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(FitCheckpoints, "save", save_and_be_told)
    monkeypatch.setattr(classify, "clip_batches", pytest.fail)
    with pytest.raises(StoppedError, match="after step 12, as requested"):
        evaluation.evaluate(_linear(checkpoint, esc50), tmp_path)


def test_nonfinite_loss_is_refused_with_working_remedy(checkpoint, esc50, tmp_path):
    config = _linear(checkpoint, esc50)
    fit = dataclasses.replace(config.fit, learning_rate=float("1e38"))
    with pytest.raises(UserError, match=r"not finite at step \d+: lower .* another --workdir"):
        evaluation.evaluate(dataclasses.replace(config, fit=fit), tmp_path)


def _damage(folder):
    """Truncates all value files: so small a state has two, of which one is read."""
    for path in folder.rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


def _same_states(*folders):
    steps = [folder.absolute() / "fold1" / "checkpoints" / "12" / "state" for folder in folders]
    with ocp.StandardCheckpointer() as checkpointer:
        jax.tree.map(np.testing.assert_array_equal, *map(checkpointer.restore, steps))


def test_several_labels_per_record_are_scored_by_map(checkpoint, fsd50k, tmp_path, capsys):
    data = EvalDataConfig(dir=fsd50k, test_split="eval", threads=2)
    fit = FitConfig(learning_rate=0.1, epochs=40.0, warmup_epochs=1.0)
    content = evaluation.evaluate(_linear(checkpoint, fsd50k, data=data, fit=fit), tmp_path)
    assert content["metric"] == "mAP"
    assert content["value"] == 100
    assert "toy, linear, audio, student: mAP 100.00 %" in capsys.readouterr().out
    with pytest.raises(UserError, match="protocol=linear"):
        evaluation.evaluate(_linear(checkpoint, fsd50k, data=data, protocol="svm"), tmp_path)


@pytest.mark.parametrize("protocol", ["finetune", "attentive"])
def test_trained_parameters_of_each_protocol(checkpoint, esc50, protocol):
    config = _linear(
        checkpoint, esc50, protocol=protocol, train_fraction=0.5,
        fit=FitConfig(learning_rate=0.1, epochs=1.0, warmup_epochs=0.0, layer_decay=0.5),
    )  # fmt: skip
    mesh, source, viewing, benchmark = opened(config)
    encoder = source.parameters["encoders"][config.modalities[0]]
    fit = fit_of(config, source.network, viewing, mesh, encoder, 16, 2)
    before = jax.device_get(fit.initialize())
    batches = classify.clip_batches(
        config.clips, config.modalities, viewing, mesh, benchmark.train, benchmark.folds[0].train,
        "train",
    )  # fmt: skip
    after, loss = fit.step(fit.initialize(), encoder, next(batches))
    assert np.isfinite(loss)
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.trained, after.trained)
    if protocol == "attentive":
        assert change.keys() == {"readout"}
        assert min(jax.tree.leaves(change["readout"]["pool"])) > 0
        return
    # Adam's first step equals the learning rate for every number: ratios are the decay by layer
    assert change["network"]["norm"]["bias"] == pytest.approx(0.1, rel=1e-2)
    assert change["network"]["embedding"]["cls"] == pytest.approx(0.1 * 0.5**3, rel=1e-2)


@pytest.mark.parametrize("name", ["finetune:ucf101", "finetune:esc50", "k400_linear:attentive"])
def test_every_training_traces_a_step_at_full_size(name, tmp_path):
    module, _, variant = name.partition(":")
    raw = importlib.import_module(f"configs.eval.{module}").get_config(variant)
    raw.data.dir = str(tmp_path)
    config, pretraining = eval_config.resolve(raw), Config()
    mesh = make_mesh(config.mesh)
    viewing = pretrained.viewing(config, pretraining)
    modality = config.modalities[0]
    encoder = EncoderConfig(pretraining.model.encoder, pretraining.modality(modality))
    network, params = Network({modality: encoder}, pretraining.model), encoder_shapes(encoder)
    fit = fit_of(config, network, viewing, mesh, params, 1000, 50)
    batch = abstract_batch(viewing, batch_sharding(mesh, config.batch_size))
    batch["label"] = jax.ShapeDtypeStruct((config.batch_size,), np.int32)
    after, loss = jax.eval_shape(fit.step, fit.like, params, batch)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(
        lambda leaf: leaf.shape, fit.like
    )
    assert loss.shape == ()
    scores, _ = jax.eval_shape(fit.predict, after.trained, params, batch)
    assert scores.shape == (config.batch_size, 50)
    encode = encoding.feature_function(network, "encoder", config.modalities, viewing, mesh)
    params = {"encoders": {modality: params}}
    assert jax.eval_shape(encode, params, batch).keys() == {*config.modalities, "label"}


def test_probabilities_are_averaged_over_clips_of_record(checkpoint, esc50, tmp_path):
    config = _linear(checkpoint, esc50)
    mesh, source, viewing, benchmark = opened(config)
    protocol = evaluation.classification_of(
        config, source, viewing, mesh, benchmark, tmp_path, lambda: None
    )
    numbers = iter(np.arange(40).reshape(5, 8))

    def predict(trained, encoder, batch):
        return next(numbers)[:, None] * np.array([1, -1]), batch["label"]

    records = np.array([1, 4, 7, 9, 18])  # ten clips: a batch and a part of one
    fit = types.SimpleNamespace(predict=predict)
    scores, targets = protocol.score(fit, types.SimpleNamespace(trained={}), records)
    assert scores[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert scores[:, 1].tolist() == [-0.5, -2.5, -4.5, -6.5, -8.5]
    assert targets.tolist() == [benchmark.train[int(i)].label for i in records]


@pytest.mark.parametrize("average", ["probabilities", "scores"])
def test_clip_of_three_crops_scores_their_mean(checkpoint, ucf101, average):
    config = miniatures.evaluation(
        checkpoint, ucf101, protocol="finetune", clips=ClipsConfig(train=1, test=1, crops=3),
        fit=FitConfig(average=average),
    )  # fmt: skip
    mesh, source, viewing, benchmark = opened(config)
    encoder = source.parameters["encoders"][config.modalities[0]]
    fit = fit_of(config, source.network, viewing, mesh, encoder, 16, 2)
    trained = fit.initialize().trained
    records = np.arange(6)
    batches = classify.clip_batches(
        config.clips, config.modalities, viewing, mesh, benchmark.train, records, "test"
    )
    batch = next(batches)
    found, _ = fit.predict(trained, encoder, batch)

    def alone(crop):
        one = {name: value[:, crop] for name, value in batch["video"]["global"].items()}
        return fit.predict(trained, encoder, batch | {"video": {"global": one}})[0]

    crops = np.stack([alone(crop) for crop in range(3)])
    assert not np.allclose(crops[0], crops[1])
    np.testing.assert_allclose(found, crops.mean(0), rtol=1e-4, atol=1e-6)
    if average == "probabilities":
        np.testing.assert_allclose(found[:6].sum(1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.heavy
def test_finetuning_on_video_with_all_augmentations(checkpoint, ucf101, tmp_path, capsys):
    augment = FitAugmentConfig(operations=1, erase=0.5, mixup=0.6, cutmix=0.5)
    config = miniatures.evaluation(
        checkpoint, ucf101, protocol="finetune", clips=ClipsConfig(train=1, test=2, crops=3),
        fit=FitConfig(
            learning_rate=1e-3, epochs=2.0, warmup_epochs=1.0, label_smoothing=0.1, dropout=0.1,
            drop_path=0.1, layer_decay=0.8, weight_decay=0.05, augment=augment,
        ),
        mesh=MeshConfig(data=-1, fsdp=2, tensor=2), log_every=1,
    )  # fmt: skip
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, folds=(2,)))
    content = evaluation.evaluate(config, tmp_path)
    assert content["per_fold"][0]["test_records"] == 2
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert np.isfinite(losses).all()
    more = dataclasses.replace(config, clips=dataclasses.replace(config.clips, test=1))
    (tmp_path / "result.json").rename(tmp_path / "two_clips.json")
    evaluation.evaluate(more, tmp_path)  # a trained classifier may be tested with other settings
    printed = capsys.readouterr().out
    assert "resume" in printed
    assert "loss" not in printed
    clips = dataclasses.replace(config.clips, video=VideoAugment(flip=0.0))
    (tmp_path / "result.json").unlink()
    with pytest.raises(UserError, match="another clips"):
        evaluation.evaluate(dataclasses.replace(config, clips=clips), tmp_path)


def test_only_weights_decay(small):
    found = fitting.decays(encoder_shapes(EncoderConfig(small.model.encoder, small.audio)))
    assert found["embedding"]["projection"]["kernel"]
    assert found["blocks"]["layers"]["fc1"]["kernel"]
    for path, decays in jax.tree_util.tree_leaves_with_path(found):
        assert decays == (path[-1].key == "kernel"), jax.tree_util.keystr(path)


def test_later_layers_have_larger_learning_rates():
    stacked = (DictKey("network"), DictKey("layers"), DictKey("qkv"), DictKey("kernel"))
    np.testing.assert_allclose(fitting.layer_scale(stacked, 3, 0.5, 3)[:, 0, 0], [0.125, 0.25, 0.5])
    embedding = (DictKey("network"), DictKey("embedding"), DictKey("cls"))
    assert fitting.layer_scale(embedding, 2, 0.5, 3) == 0.0625
    assert fitting.layer_scale((DictKey("readout"), DictKey("bias")), 1, 0.5, 3) == 1


def test_dropout_keeps_mean_and_normalization_keeps_direction():
    with nnx.use_eager_sharding(False):
        readout = Readout(Transformer(8, 1, 2), 3, attentive=False, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (1, 4, 8))
    pooled = jax.random.normal(jax.random.key(1), (1, 8))
    plain = readout(tokens, pooled)
    keys = jax.random.split(jax.random.key(0), 2000)
    dropped = jax.vmap(lambda key: readout(tokens, pooled, dropout=0.5, key=key))(keys)
    np.testing.assert_allclose(dropped.mean(0), plain, atol=0.05)
    np.testing.assert_allclose(readout(tokens, pooled, dropout=0.5), plain)
    longer = readout(tokens, 3 * pooled, normalize=True)
    np.testing.assert_allclose(readout(tokens, pooled, normalize=True), longer, atol=1e-6)
