"""Files written by other projects' code, with the features that this code computes."""

import json
import pathlib

import numpy as np
import pytest

import xkd_jax
from data_pipelines.errors import UserError
from data_pipelines.format import kaldi
from xkd_jax.inference.weight_files import weight_file
from xkd_jax.inference.weight_files.tensors import LazyTensor

WEIGHTS = pathlib.Path(__file__).parents[3] / "shared" / "weights"
pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="the golden weights are not here")
XKD = {
    "heads": 3,
    "video": {"frames": 4, "size": 16, "patch": (2, 4, 4)},
    "audio": {"mels": 16, "columns": 64, "patch": (4, 8)},
}


def golden(folder):
    return np.load(WEIGHTS / folder / "features.npz")


def frames(array):
    """[batch, color, time, height, width] as [batch, time, height, width, color]."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 4, 1))


def close(found, expected):
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("network", ["student", "teacher"])
@pytest.mark.parametrize("whole", [False, True])
def test_features_of_xkd_equal_the_original_codes(network, whole):
    source = [
        WEIGHTS / "xkd" / f"XKD_kinetics400_pretext_ep799{m}_{network}.pth.tar"
        for m in ("vid", "aud")
    ]
    path = WEIGHTS / "xkd" / "checkpoint.pth.tar" if whole else source
    model = xkd_jax.load(path, network=network, **XKD)
    values = golden("xkd")
    for size in ("", "_other"):
        video = frames(values[f"in/video{size}"])
        audio = np.ascontiguousarray(values[f"in/audio{size}"][:, 0])
        for prefix, found in (
            ("vid", model.encode_video(video, normalized=True)),
            ("aud", model.encode_audio(log_mel=audio)),
        ):
            tokens = values[f"out/{prefix}_{network}{size}/tokens"]
            close(found.tokens, tokens[:, 1:])
            close(found.cls, tokens[:, 0])
            close(found.pooled, values[f"out/{prefix}_{network}{size}/pooled"])


def test_features_of_pretrained_videomae_equal_the_original_codes():
    values = golden("videomae_official_pretrain")
    path = WEIGHTS / "videomae_official_pretrain" / "checkpoint-799.pth"
    model = xkd_jax.load(path, heads=3, video={"frames": 16, "size": 16})
    found = model.encode_video(frames(values["in/video"]), normalized=True)
    close(found.tokens, values["out/tokens"])
    close(found.pooled, values["out/pooled"])


def test_features_of_finetuned_videomae_equal_the_original_codes():
    values = golden("videomae_official_finetune")
    path = WEIGHTS / "videomae_official_finetune" / "checkpoint-799.pth"
    model = xkd_jax.load(path, heads=3, video={"frames": 4, "size": 24})
    found = model.encode_video(frames(values["in/video"]), normalized=True)
    close(found.tokens, values["out/tokens_before_norm"])
    close(found.pooled, values["out/pooled"])


def test_features_of_videomae_equal_those_of_transformers():
    values = golden("videomae_hf_pretraining")
    model = xkd_jax.load(WEIGHTS / "videomae_hf_pretraining")
    pixels = np.ascontiguousarray(values["in/pixel_values"].transpose(0, 1, 3, 4, 2))
    found = model.encode_video(pixels, normalized=True)
    close(found.tokens, values["out/last_hidden_state"])
    close(found.pooled, values["out/mean"])


def test_features_of_audiomae_equal_the_original_codes():
    values = golden("audiomae_pretrain")
    path = WEIGHTS / "audiomae_pretrain" / "pretrained.pth"
    model = xkd_jax.load(path, heads=3, audio={"mels": 32, "columns": 64})
    log_mel = np.ascontiguousarray(values["in/log_mel"][:, 0].transpose(0, 2, 1))
    found = model.encode_audio(log_mel=log_mel)
    by_time = values["out/tokens"][:, 1:].reshape(2, 8, 4, -1)
    close(found.tokens, by_time.swapaxes(1, 2).reshape(2, 32, -1))
    close(found.pooled, values["out/pooled"])


def test_features_of_cavmae_equal_the_original_codes():
    values = golden("cavmae")
    model = xkd_jax.load(WEIGHTS / "cavmae" / "audio_model.pth", heads=2)
    log_mel = np.ascontiguousarray(values["in/log_mel"].transpose(0, 2, 1))
    found = model.encode_audio(log_mel=log_mel)
    close(found.tokens, values["out/audio_tokens"])
    close(found.pooled, values["out/audio_pooled"])
    frame = np.ascontiguousarray(values["in/frame"].transpose(0, 2, 3, 1)[:, None])
    found = model.encode_video(frame, normalized=True)
    close(found.tokens, values["out/video_tokens"])
    close(found.pooled, values["out/video_pooled"])


def test_features_of_ast_equal_the_original_codes():
    values = golden("ast_hf")
    model = xkd_jax.load(WEIGHTS / "ast_hf")
    log_mel = np.ascontiguousarray(values["in/input_values"].transpose(0, 2, 1))
    found = model.encode_audio(log_mel=log_mel)
    close(found.tokens, values["out/last_hidden_state"][:, 2:])
    close(found.pooled, values["out/pooler_output"])


def test_v_jepa_2_is_refused():
    with pytest.raises(UserError, match="rotary positions"):
        xkd_jax.load(WEIGHTS / "vjepa2_hf")


def test_filter_bank_equals_kaldi():
    values = np.load(WEIGHTS / "kaldi_fbank.npz")
    found = kaldi.filter_bank(values["waveform"] / 32768)
    np.testing.assert_allclose(found.T, values["fbank"], atol=5e-4)


def test_hostile_files_are_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (WEIGHTS / "hostile" / "verdicts.tsv").read_text().splitlines()
    for name, verdict, _ in (line.split("\t") for line in lines if not line.startswith("#")):
        try:
            with weight_file.opened(str(WEIGHTS / "hostile" / name)) as file:
                tensors = [v.read() for v in file.root.values() if isinstance(v, LazyTensor)]
            read = True
        except UserError:
            read = False
        assert verdict == "no call" or read == (verdict == "reads"), name
        if verdict == "reads":
            np.testing.assert_array_equal(tensors[0], [[0, 1, 2], [3, 4, 5]])
    assert not list(tmp_path.iterdir())


def test_preprocessors_of_transformers_are_stated_by_their_files():
    """The published normalization of VideoMAE is what imported encoders are given."""
    settings = json.loads(
        (WEIGHTS / "videomae_hf_pretraining" / "preprocessor_config.json").read_text()
    )
    view = xkd_jax.load(WEIGHTS / "videomae_hf_pretraining").config["video"].view
    np.testing.assert_allclose(view.mean, settings["image_mean"])
    np.testing.assert_allclose(view.std, settings["image_std"])
