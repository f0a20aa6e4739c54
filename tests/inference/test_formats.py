"""Weights of other projects are converted exactly, or refused in one sentence."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from numpy_encoder import encode
from other_encoders import CASES, HEADS, WIDTH, Draw, videomae_transformers
from random_parameters import random_student

from data_pipelines.errors import UserError
from xkd_jax.inference import author_weights
from xkd_jax.inference.formats.format import Request
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.formats.recognize import import_weights
from xkd_jax.inference.weight_files import safetensors_file, weight_file
from xkd_jax.networks.student import teacher_counterpart


def imported(path, given=None, config=None, network="student"):
    with weight_file.opened(str(path)) as file:
        return import_weights(file, Request(network, Given(**(given or {})), config or {}))


def write(path, tensors, root=None):
    """A file of torch.save with the tensors under `root`, and other values of a training."""
    value = torch_files.tensors_of(tensors)
    if root:
        value = {"epoch": 7, root: value, "args": torch_files.Raw(b"cargparse\nNamespace\n)R")}
    path.write_bytes(torch_files.zipped(value))
    return path


@pytest.mark.parametrize("root", [None, "model", "module"])
@pytest.mark.parametrize("name", CASES)
def test_tokens_and_features_are_those_of_the_original_code(tmp_path, name, root):
    case = CASES[name]()
    found = imported(write(tmp_path / "w.pth", case.tensors, root), case.given, case.config)
    weights = found.encoders[case.modality]
    tokens, pooled = encode(weights.config, weights.params, case.view[None])
    np.testing.assert_allclose(tokens[0], case.tokens, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled[0], case.pooled, rtol=1e-5, atol=1e-6)
    assert (found.taken, found.tensors) == (case.taken, len(case.tensors))
    assert found.taken + sum(found.left.values()) == found.tensors
    assert f"{found.taken} of {found.tensors} tensors taken" in found.line()
    assert "license: " in found.line()


@pytest.mark.parametrize("name", CASES)
def test_additional_or_missing_tensor_is_refused(tmp_path, name):
    case = CASES[name]()
    extra = {**case.tensors, "module.extra" if "cavmae" in name else "extra": np.zeros(2, "f4")}
    with pytest.raises(UserError, match=r"has tensors that such a network lacks \(extra\)"):
        imported(write(tmp_path / "w.pth", extra), case.given, case.config)
    fewer = {n: t for n, t in case.tensors.items() if not n.endswith(".mlp.fc2.weight")}
    fewer = {n: t for n, t in fewer.items() if not n.endswith("1.output.dense.weight")}
    with pytest.raises(UserError, match="has no tensor"):
        imported(write(tmp_path / "w.pth", fewer), case.given, case.config)


@pytest.mark.parametrize("name", CASES)
def test_missing_values_are_requested_by_name(tmp_path, name):
    case = CASES[name]()
    path = write(tmp_path / "w.pth", case.tensors)
    for asked in case.given:
        fewer = {key: value for key, value in case.given.items() if key != asked}
        with pytest.raises(UserError, match=f"does not state .*: give {asked}"):
            imported(path, fewer, case.config)


def test_given_values_may_not_contradict_the_file(tmp_path):
    case = CASES["videomae_transformers"]()
    path = write(tmp_path / "w.pth", case.tensors)
    with pytest.raises(UserError, match=r"states 4: leave it out"):
        imported(path, {"video": {"frames": 8}}, case.config)
    with pytest.raises(UserError, match=r"heads is 4, but .* states 2"):
        imported(path, {"heads": 4}, case.config)
    case = CASES["audiomae"]()
    path = write(tmp_path / "w.pth", case.tensors)
    with pytest.raises(UserError, match="has positions of 6 patches"):
        imported(path, {**case.given, "audio": {"mels": 8, "columns": 16}})
    with pytest.raises(UserError, match="not a whole number of patches"):
        imported(path, {**case.given, "audio": {"mels": 8, "columns": 13}})
    with pytest.raises(UserError, match="heads is 3: give a divisor of the width 8"):
        imported(path, {**case.given, "heads": 3})


def test_missing_biases_are_refused_unless_the_config_states_none(tmp_path):
    case = videomae_transformers()
    lost = {n: t for n, t in case.tensors.items() if not n.endswith(("q_bias", "v_bias"))}
    path = write(tmp_path / "w.pth", lost)
    with pytest.raises(UserError, match="no biases of queries and values"):
        imported(path, config=case.config)
    found = imported(path, config={**case.config, "qkv_bias": False})
    bias = found.encoders["video"].params["blocks"]["layers"]["qkv"]["bias"]
    assert not bias.any()


@pytest.mark.parametrize(
    "names,words",
    [
        (["encoder.embeddings.patch_embeddings.proj.weight"], "rotary positions"),
        (["patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "norm.weight"], "rotary positions"),
        (["modality_a", "modality_v", "pos_embed_a", "pos_embed_v", "register_tokens_a"],
         "register tokens"),
        (["patch_embed.proj.weight", "blocks.0.attn.scale", "blocks.0.attn.q_bias"],
         "cosine attention"),
        (["conv1.weight", "fc.weight"], "of no known kind"),
    ],
)  # fmt: skip
def test_unsupported_options_are_named(tmp_path, names, words):
    path = write(tmp_path / "w.pth", {name: np.zeros((2, 2), np.float32) for name in names})
    with pytest.raises(UserError, match=words):
        imported(path)


def test_image_vit_is_not_taken_for_audiomae(tmp_path):
    draw = Draw(0)
    draw("patch_embed.proj.weight", WIDTH, 3, 4, 4), draw("blocks.0.attn.qkv.bias", 3 * WIDTH)
    draw("cls_token", 1, 1, WIDTH), draw("pos_embed", 1, 5, WIDTH)
    with pytest.raises(UserError, match="not of spectrograms"):
        imported(write(tmp_path / "w.pth", draw.tensors), {"heads": HEADS})


@pytest.mark.parametrize("value,words", [(np.nan, "not finite"), (np.inf, "not finite")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, words):
    case = CASES["audiomae"]()
    case.tensors["blocks.1.norm2.weight"][3] = value
    with pytest.raises(UserError, match=words):
        imported(write(tmp_path / "w.pth", case.tensors), case.given)


def test_a_file_without_tensors_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(torch_files.zipped({"epoch": 3, "model": {}}))
    with pytest.raises(UserError, match="holds no tensors"):
        imported(path)


# The authors' files


GIVEN = {
    "heads": 2,
    "video": {"frames": 4, "size": 16, "patch": (2, 8, 8)},
    "audio": {"mels": 16, "columns": 32, "patch": (4, 8)},
}


def author_tensors(config):
    """Every tensor of a student and a teacher under the authors' names, and our trees of them."""
    roots = {
        "student": random_student(config, 0),
        "teacher": teacher_counterpart(random_student(config, 1), config.architecture),
        "centers": {d: np.ones(48, np.float32) for d in author_weights.CENTERS.values()},
    }
    return author_weights.export(roots, config.architecture), roots


def test_a_backbone_of_the_authors_is_our_encoder(tmp_path, small):
    tensors, roots = author_tensors(small)
    for modality, prefix in author_weights.PREFIX.items():
        start = f"{prefix}_student.backbone."
        backbone = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        found = imported(write(tmp_path / "w.pth.tar", backbone), GIVEN)
        check_same(found.encoders, modality, roots["student"]["encoders"])
        assert found.left == {}


@pytest.mark.parametrize("variant", ["xkd", "mas", "mats"])
@pytest.mark.parametrize("network", ["student", "teacher"])
def test_a_checkpoint_of_the_authors_has_both_encoders(tmp_path, small, variant, network):
    small = dataclasses.replace(small, model=dataclasses.replace(small.model, variant=variant))
    tensors, roots = author_tensors(small)
    tensors = {f"module.{name}": value for name, value in tensors.items()}
    tensors |= {
        name.replace("_student.backbone.", "_ae.encoder."): value
        for name, value in tensors.items()
        if "_student.backbone." in name
    }
    found = imported(write(tmp_path / "c.pth.tar", tensors, "model"), GIVEN, network=network)
    for modality in ("video", "audio"):
        check_same(found.encoders, modality, roots[network]["encoders"])
        decoder = found.encoders[modality].decoder
        if network == "student":
            jax.tree.map(
                np.testing.assert_array_equal, decoder.params, roots[network]["decoders"][modality]
            )
            assert decoder.transformer == small.model.decoder
        else:
            assert decoder is None
    assert found.taken + sum(found.left.values()) == found.tensors
    broken = {
        **tensors,
        "module.vid_ae.encoder.cls_token": tensors["module.vid_ae.encoder.cls_token"] + 1,
    }
    with pytest.raises(UserError, match="which are one tensor in XKD"):
        imported(write(tmp_path / "c.pth.tar", broken, "model"), GIVEN)
    more = {**tensors, "module.vid_student.extra": np.zeros(1, np.float32)}
    with pytest.raises(UserError, match=r"lacks \(vid_student.extra\)"):
        imported(write(tmp_path / "c.pth.tar", more, "model"), GIVEN)


def test_the_papers_sizes_are_known(tmp_path):
    """They are used for a backbone whose tensors fit them, here a narrower network."""
    draw = Draw(0)
    draw("cls_token", 1, 1, 192), draw("enc_pos_embed", 1, 393, 192)
    draw("cuboid_embed.proj.weight", 192, 3072), draw("cuboid_embed.proj.bias", 192)
    for name, shape in {
        "norm1.weight": (192,), "norm1.bias": (192,), "attn.qkv.weight": (576, 192),
        "attn.proj.weight": (192, 192), "attn.proj.bias": (192,), "norm2.weight": (192,),
        "norm2.bias": (192,), "mlp.fc1.weight": (768, 192), "mlp.fc1.bias": (768,),
        "mlp.fc2.weight": (192, 768), "mlp.fc2.bias": (192,),
    }.items():  # fmt: skip
        draw(f"encoder.blocks.0.{name}", *shape)
    draw("encoder_norm.weight", 192), draw("encoder_norm.bias", 192)
    config = imported(write(tmp_path / "w.pth", draw.tensors)).encoders["video"].config
    assert (config.transformer.heads, config.view.frames, config.view.size) == (3, 32, 112)
    assert config.grid == (8, 7, 7)


def check_same(encoders, modality, ours):
    params = encoders[modality].params
    np.testing.assert_array_equal(
        params["embedding"]["positions"], ours["embeddings"][modality]["positions"]
    )
    blocks = ours["blocks"].get(modality, ours["blocks"].get("shared"))
    np.testing.assert_array_equal(
        params["blocks"]["layers"]["qkv"]["kernel"], blocks["layers"]["qkv"]["kernel"]
    )
    np.testing.assert_array_equal(params["norm"]["scale"], ours["norms"][modality]["scale"])


def test_safetensors_are_imported_too(tmp_path):
    case = videomae_transformers()
    with open(tmp_path / "model.safetensors", "wb") as file:
        safetensors_file.write(file, case.tensors, {})
    config = json.loads(json.dumps(case.config))
    weights = imported(tmp_path / "model.safetensors", config=config).encoders["video"]
    assert jnp.shape(weights.params["embedding"]["positions"]) == (8, WIDTH)
