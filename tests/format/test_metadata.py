import dataclasses
import json

import pytest

from data_pipelines.errors import UserError
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.loader_config import DataConfig
from xkd_jax.config.pretraining import Config

METADATA = metadata_lib.Metadata(
    name="toy",
    frame_rate=8.0,
    short_side=128,
    sample_rate=16000,
    fft=1024,
    hop=143,
    mels=80,
    class_names=("a", "b, c"),
    left_out={"no audio": 2},
)


def test_round_trip_through_file(tmp_path):
    (tmp_path / "metadata.json").write_text(metadata_lib.to_json(METADATA))
    assert metadata_lib.read(str(tmp_path)) == METADATA


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no complete data set"):
        metadata_lib.read(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[1]", json.dumps({"version": 99})])
def test_other_content_is_refused(tmp_path, content):
    (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(UserError, match=r"metadata\.json .*again"):
        metadata_lib.read(str(tmp_path))


def test_config_with_same_rates_is_accepted():
    metadata_lib.check_config(METADATA, Config(), "SHARDS")


@pytest.mark.parametrize(
    "change, key",
    [
        ({"frame_rate": 25.0}, "video.frame_rate"),
        ({"short_side": 256}, "data.short_side"),
        ({"sample_rate": 48000}, "audio.sample_rate"),
        ({"fft": 512}, "audio.fft"),
        ({"hop": 160}, "audio.hop"),
        ({"mels": 128}, "audio.mels"),
    ],
)
def test_config_with_other_rates_is_refused(change, key):
    ((flag, stored),) = change.items()
    remedies = f"give --config.{key}={stored:g}, or build .* --{flag}=[0-9]+"
    with pytest.raises(UserError, match=rf"SHARDS .*\({key} {stored:g}, not [0-9]+\): {remedies}"):
        metadata_lib.check_config(dataclasses.replace(METADATA, **change), Config(), "SHARDS")


def test_shards_that_do_not_fit_a_checkpoint_are_refused_with_the_build_that_fits():
    held = dataclasses.replace(METADATA, sample_rate=48000, hop=160)
    with pytest.raises(UserError) as refused:
        metadata_lib.check_config(held, Config(), "SHARDS", fixed=True)
    video, audio = Config().video, Config().audio
    assert str(refused.value) == (
        "The data set toy in SHARDS does not fit the evaluated encoders (audio.sample_rate 48000,"
        f" not {audio.sample_rate}, audio.hop 160, not {audio.hop}): build other shards by python"
        " -m data_pipelines.build with the --dataset and --source of these, another --output, and"
        f" --frame_rate={video.frame_rate:g} --short_side={Config().data.short_side}"
        f" --sample_rate={audio.sample_rate} --fft={audio.fft} --hop={audio.hop}"
        f" --mels={audio.mels}."
    )


AUDIO_ONLY = dataclasses.replace(METADATA, frame_rate=0.0, short_side=0)
VIDEO_ONLY = dataclasses.replace(METADATA, sample_rate=0)


def test_rates_determine_modalities():
    assert METADATA.modalities == ("video", "audio")
    assert (VIDEO_ONLY.modalities, AUDIO_ONLY.modalities) == (("video",), ("audio",))


def test_modality_that_is_lacking_is_named_with_remedies():
    metadata_lib.check_modalities(METADATA, ("audio",), "SHARDS")
    metadata_lib.check_modalities(AUDIO_ONLY, ("audio",), "SHARDS")
    with pytest.raises(UserError) as refused:
        metadata_lib.check_modalities(AUDIO_ONLY, ("video", "audio"), "SHARDS")
    assert str(refused.value) == (
        "The data set toy in SHARDS has no video: build it again with --modalities=video,audio"
        " from files that have them, or train on one modality with the variant"
        " :reconstruction_audio of the config."
    )


def test_rates_of_unread_modality_are_not_checked():
    changed = dataclasses.replace(METADATA, short_side=256, frame_rate=25.0)
    metadata_lib.check_config(changed, Config(modalities=("audio",)), "SHARDS")
    with pytest.raises(UserError, match=r"audio\.hop"):
        metadata_lib.check_config(
            dataclasses.replace(changed, hop=1), Config(modalities=("audio",)), "SHARDS"
        )


def test_rates_of_missing_modality_are_not_checked():
    metadata_lib.check_config(AUDIO_ONLY, Config(data=DataConfig(short_side=256)), "SHARDS")
