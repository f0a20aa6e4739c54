"""Modalities of a run, and settings that need a missing modality."""

import importlib

import pytest

from data_pipelines.errors import UserError
from xkd_jax.config.loss_settings import losses_of
from xkd_jax.config.pretraining import default, resolve


def resolved(variant=None, **changes):
    raw = importlib.import_module("configs.k400").get_config(*filter(None, [variant]))
    with raw.ignore_type():
        raw.update(changes)
    return resolve(raw)


@pytest.mark.parametrize(
    "given", [("video", "audio"), ("audio", "video"), ("video,audio",), ("audio,video",)]
)
def test_several_may_be_given_in_any_order_and_in_one_text(given):
    assert resolved(modalities=given).modalities == ("video", "audio")


@pytest.mark.parametrize("given", [(), ("",), ("smell",), ("video,smell",), (1,), "video"])
def test_other_modalities_are_refused(given):
    with pytest.raises(UserError, match=r"modalities is .*: give one or more of 'video', 'audio'"):
        resolved(modalities=given)


@pytest.mark.parametrize("file", ["k400", "audioset", "demo"])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_every_config_file_has_a_variant_of_one_modality(file, modality):
    get_config = importlib.import_module(f"configs.{file}").get_config
    config = resolve(get_config(f"reconstruction_{modality}"))
    assert config.modalities == (modality,)
    weights = vars(config.loss.weights)
    assert {name for name, weight in weights.items() if weight} == {f"reconstruct_{modality}"}


def test_losses_that_need_another_modality_are_named_with_the_remedies():
    with pytest.raises(UserError) as refused:
        resolved(modalities=("video",))
    assert str(refused.value) == (
        "modalities is video, and loss.weights.reconstruct_audio,"
        " loss.weights.distill_video_to_audio, loss.weights.distill_audio_to_video,"
        " loss.weights.align_students, loss.weights.align_teachers need another modality: give"
        " --config.modalities=video,audio, or weights of 0, as the variant :reconstruction_video"
        " of a config file does."
    )
    with pytest.raises(UserError, match=r"loss\.weights\.reconstruct_audio needs another modality"):
        resolved("reconstruction", modalities=("video",))


def test_shared_blocks_need_two_modalities():
    raw = importlib.import_module("configs.k400").get_config("reconstruction_audio")
    raw.model.variant = "mas"
    with pytest.raises(UserError, match=r"modalities is audio: give --config\.model\.variant=xkd"):
        resolve(raw)


def test_settings_of_an_absent_modality_are_free():
    raw = importlib.import_module("configs.k400").get_config("reconstruction_audio")
    raw.video.frames = 33  # no whole number of patches
    assert resolve(raw).architecture.modalities == ("audio",)
    raw.audio.columns = 449
    with pytest.raises(UserError, match="global audio view"):
        resolve(raw)


def test_losses_of_some_modalities():
    assert losses_of(("video", "audio")) == set(default().loss.weights)
    assert losses_of(("audio",)) == {"reconstruct_audio"}
