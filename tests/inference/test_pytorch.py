"""PyTorch and transformers make the same features of an exported folder (.ci/extras)."""

import numpy as np
import pytest
from other_encoders import CASES, load_case

import xkd_jax

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def model(checkpoint):
    return xkd_jax.load(checkpoint)


def pytorch_model(model, folder):
    xkd_jax.export(model, folder)
    found, report = transformers.AutoModel.from_pretrained(
        str(folder), trust_remote_code=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return found.eval()


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_pytorch_gives_the_same_features(model, small, tmp_path):
    theirs = pytorch_model(model, tmp_path)
    rng = np.random.default_rng(0)
    video = rng.normal(size=(2, *small.video.global_shape, 3)).astype(np.float32)
    audio = rng.normal(size=(2, *small.audio.global_shape)).astype(np.float32)
    frames = torch.tensor(video).permute(0, 1, 4, 2, 3)
    sound = torch.tensor(audio).transpose(1, 2)
    expected = model.encode_video(video, normalized=True)
    out = theirs(pixel_values_videos=frames)
    close(out.last_hidden_state[:, 1:], expected.tokens)
    close(out.last_hidden_state[:, 0], expected.cls)
    close(out.pooler_output, expected.pooled)
    close(theirs.get_video_features(frames), expected.pooled)
    expected = model.encode_audio(log_mel=audio)
    both = theirs(pixel_values_videos=frames, input_values=sound)
    close(both.audio_features, expected.pooled)
    close(theirs.get_audio_features(sound), expected.pooled)
    with pytest.raises(ValueError, match="give"):
        theirs.get_audio_features(sound[:, :8])


@pytest.mark.parametrize("name", CASES)
def test_pytorch_gives_the_features_of_imported_encoders(tmp_path, name):
    model, case = load_case(tmp_path, name)
    theirs = pytorch_model(model, tmp_path / "out")
    view = torch.tensor(case.view[None])
    if case.modality == "video":
        found = theirs.get_video_features(view.permute(0, 1, 4, 2, 3))
    else:
        found = theirs.get_audio_features(view.transpose(1, 2))
    close(found[0], case.pooled)


def test_torch_load_reads_the_authors_layout(model, tmp_path):
    xkd_jax.export(model, tmp_path, layout="authors")
    found = torch.load(tmp_path / "vid_student.pth.tar", weights_only=True)
    assert {"cls_token", "enc_pos_embed", "cuboid_embed.proj.weight", "encoder_norm.bias"} <= {
        *found
    }
    expected = model.tensors()["video.blocks.1.attn.qkv.weight"]
    np.testing.assert_array_equal(found["encoder.blocks.1.attn.qkv.weight"].numpy(), expected)
    torch.save({"model": found, "epoch": 3}, tmp_path / "saved.pth")
    given = {"heads": 2, "video": {"frames": 4, "size": 16, "patch": (2, 8, 8)}}
    back = xkd_jax.load(tmp_path / "saved.pth", **given)
    np.testing.assert_array_equal(back.tensors()["video.blocks.1.attn.qkv.weight"], expected)
