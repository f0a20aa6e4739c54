"""Files written by other projects' code, with the features that this code computes."""

import json

import numpy as np
import pytest
from golden_weights import (
    BACKBONE,
    FILES,
    WEIGHTS,
    XKD,
    assert_close,
    color_last,
    features,
    needs_weights,
)

import xkd_jax
from data_pipelines.errors import UserError
from data_pipelines.format import kaldi
from xkd_jax.inference.weight_files import weight_file
from xkd_jax.inference.weight_files.tensors import LazyTensor

pytestmark = needs_weights


@pytest.mark.parametrize("network", ["student", "teacher"])
@pytest.mark.parametrize("whole", [False, True])
def test_features_of_xkd_equal_the_original_codes(network, whole):
    source = [WEIGHTS / BACKBONE.format(m, network) for m in ("vid", "aud")]
    path = WEIGHTS / "xkd" / "checkpoint.pth.tar" if whole else source
    model = xkd_jax.load(path, network=network, **XKD)
    values = features("xkd")
    for size in ("", "_other"):
        video = np.ascontiguousarray(color_last(values[f"in/video{size}"]))
        audio = np.ascontiguousarray(values[f"in/audio{size}"][:, 0])
        for prefix, found in (
            ("vid", model.encode_video(video, normalized=True)),
            ("aud", model.encode_audio(log_mel=audio)),
        ):
            tokens = values[f"out/{prefix}_{network}{size}/tokens"]
            assert_close(found.tokens, tokens[:, 1:])
            assert_close(found.cls, tokens[:, 0])
            assert_close(found.pooled, values[f"out/{prefix}_{network}{size}/pooled"])


@pytest.mark.parametrize("file", FILES)
def test_features_equal_those_of_the_original_code(file):
    keys, inputs = FILES[file]
    values, model = features(file), xkd_jax.load(WEIGHTS / file, **keys)
    for modality, golden in inputs.items():
        view = np.ascontiguousarray(golden.convert(values[golden.view]))
        found = (
            model.encode_video(view, normalized=True)
            if modality == "video" else model.encode_audio(log_mel=view)
        )  # fmt: skip
        assert_close(found.tokens, golden.patches(values[golden.tokens]))
        assert_close(found.pooled, values[golden.pooled])


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
