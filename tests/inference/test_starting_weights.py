"""Pretraining runs that start from weights of any kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import other_encoders
import pytest
from other_encoders import CASES, HEADS
from random_parameters import random_student

import xkd_jax
from data_pipelines.errors import UserError
from xkd_jax.config import pretraining
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.config.stated_input import StatedAudio, StatedVideo
from xkd_jax.inference import starting_weights
from xkd_jax.inference.formats.format import EncoderWeights
from xkd_jax.inference.loaded import Origin
from xkd_jax.inference.run_checkpoint import encoders_of_run
from xkd_jax.inference.trained_model import Model
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.compiled_run import run_of

VIDEO = {"frames": 4, "size": 8, "patch": (2, 4, 4), "local_size": 8}
AUDIO = {"mels": 8, "columns": 12, "patch": (4, 4), "local_columns": 4}
SIZE = "8/2/2:16/1/2"


@pytest.fixture(autouse=True)
def hidden(monkeypatch):
    """MLPs as wide as those of a run."""
    monkeypatch.setattr(other_encoders, "HIDDEN", 32)


def write(folder, name, change=lambda tensors: None):
    case = CASES[name]()
    change(case.tensors)
    return other_encoders.write_case(folder, case, key="model"), case


def configured(small, source, *, size=SIZE, variant="xkd", video=None, audio=None, **init):
    """A run of the small configuration with other sizes, and its `init`."""
    return dataclasses.replace(
        small,
        model=dataclasses.replace(small.model, size=size, variant=variant),
        video=dataclasses.replace(small.video, **(video or {})),
        audio=dataclasses.replace(small.audio, **(audio or {})),
        init=InitConfig(**{"from": str(source), **init}),
    )


def read_of(config):
    return starting_weights.read(config.init, config.architecture)


def started(config):
    """The state before the first step, and the same without the weights."""
    student = jax.tree.map(jnp.asarray, random_student(config, 5))
    teacher = jax.tree.map(jnp.array, teacher_counterpart(student, config.architecture))
    fresh = TrainState(jnp.int32(0), student, teacher, {}, ())
    return read_of(config).into(fresh, config.architecture), fresh


def encoder_of(config, state, modality):
    """The student's encoder of a state, as a model."""
    weights = encoders_of_run(state.student, config.architecture)[modality]
    return Model({modality: weights}, Origin("state", "a run"))


def without_cls(model):
    """The same encoder of video without CLS, which would change the attention."""
    encoder, params = model.config["video"], model.parameters["video"]
    embedding = {name: params["embedding"][name] for name in ("projection", "positions")}
    embedding["positions"] = embedding["positions"][1:]
    encoder = dataclasses.replace(encoder, special_tokens=0)
    weights = EncoderWeights(encoder, {**params, "embedding": embedding})
    return Model({"video": weights}, model.origin)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_videomae_without_query_biases_is_the_same_function_of_patches(small, tmp_path, capsys):
    def no_query_biases(tensors):
        tensors.update({n: 0 * t for n, t in tensors.items() if n.endswith("q_bias")})

    path, case = write(tmp_path, "videomae_pretrain", no_query_biases)
    config = configured(small, path, video=VIDEO, heads=HEADS)
    state, fresh = started(config)
    theirs = xkd_jax.load(path, heads=HEADS, video={"frames": 4, "size": 8})
    ours = without_cls(encoder_of(config, state, "video"))
    np.testing.assert_allclose(
        ours.encode_video(case.view[None], normalized=True).tokens,
        theirs.encode_video(case.view[None], normalized=True).tokens,
        atol=1e-3,  # of norms with another epsilon
    )
    new, old = (s.student["encoders"]["embeddings"] for s in (state, fresh))
    same(new["video"]["cls"], old["video"]["cls"])
    same(new["video"]["positions"][0], old["video"]["positions"][0])
    same(new["audio"], old["audio"])
    for part in ("heads", "decoders"):
        same(state.student[part], fresh.student[part])
    printed = capsys.readouterr().out
    assert "positions (2 x 2 x 2), 2 blocks, final norm; random: CLS\n" in printed
    assert f"init      audio: random, as {path} has no encoder of it\n" in printed
    assert "video.frame_rate 7.5, here 8.0\n" in printed


def test_teachers_are_copies_of_students_in_other_memory(small, tmp_path):
    path, _ = write(tmp_path, "audiomae")
    config = configured(small, path, audio=AUDIO, heads=HEADS)
    state, _ = started(config)
    student = teacher_counterpart(state.student, config.architecture)
    same(state.teacher, student)
    pairs = zip(jax.tree.leaves(state.teacher), jax.tree.leaves(student), strict=True)
    assert all(a is not b for a, b in pairs)  # as a step donates both


def test_positions_are_interpolated_to_another_clip(checkpoint, small, capsys):
    config = configured(small, checkpoint, size=small.model.size, audio={"columns": 64})
    state, _ = started(config)
    view = np.random.default_rng(0).normal(size=(1, 16, 64)).astype(np.float32)
    found = encoder_of(config, state, "audio").encode_audio(log_mel=view)
    expected = xkd_jax.load(checkpoint).encode_audio(log_mel=view)
    np.testing.assert_allclose(found.tokens, expected.tokens, atol=1e-5)
    np.testing.assert_allclose(found.cls, expected.cls, atol=1e-5)
    video = encoder_of(config, state, "video")
    assert video.digest == xkd_jax.load(checkpoint, modalities=("video",)).digest
    assert "positions (4 x 4, interpolated to 4 x 8), CLS, 2 blocks" in capsys.readouterr().out


def test_the_teacher_of_a_run_is_chosen(checkpoint, small):
    config = configured(small, checkpoint, size=small.model.size, network="teacher", step=7)
    state, _ = started(config)
    teacher = xkd_jax.load(checkpoint, network="teacher").parameters
    for modality in ("video", "audio"):
        same(state.student["encoders"]["norms"][modality], teacher[modality]["norm"])


def test_parts_replaced_by_finetuning_are_left_out(small, tmp_path, capsys):
    path, _ = write(tmp_path, "audiomae, finetuned")
    state, fresh = started(configured(small, path, audio=AUDIO, heads=HEADS))
    same(*(s.student["encoders"]["norms"]["audio"] for s in (state, fresh)))
    printed = capsys.readouterr().out
    assert "; random: final norm; left out: biases of queries, norm of pooled features\n" in printed
    assert "audio.spectrogram kaldi, here log_mel" in printed


def test_shared_blocks_start_from_one_modality(checkpoint, small, tmp_path):
    config = configured(small, checkpoint, size=small.model.size, variant="mas")
    with pytest.raises(UserError, match=r"variant 'mas'\), .* different ones of video and audio"):
        read_of(config)
    xkd_jax.export(xkd_jax.load(checkpoint, modalities=("audio",)), tmp_path)
    state, _ = started(configured(small, tmp_path, size=small.model.size, variant="mas"))
    expected = xkd_jax.load(checkpoint).parameters["audio"]["blocks"]
    same(state.student["encoders"]["blocks"]["shared"], expected)
    blocks = state.teacher["encoders"]["blocks"]
    assert blocks.keys() == {"video", "audio"}
    same(blocks["video"], expected)


@pytest.mark.parametrize(
    "name,changes,words",
    [
        ("audiomae", {"audio": AUDIO, "size": "24/2/2:16/1/2"},
         r"width/depth/heads 8/2/2, .* is 24/2/2: give --config\.model\.size=8/2/2:16/1/2\.$"),
        ("audiomae", {"audio": AUDIO, "size": "8/1/2:16/1/2"}, "model.size=8/2/2:16/1/2"),
        ("ast", {"audio": AUDIO}, "overlapping patches"),
        ("videomae_transformers", {"video": {"patch": (4, 4, 4)}},
         r"patches of \(2, 4, 4\), and video\.patch is \(4, 4, 4\): give --config\.video\.patch="),
        ("videomae_finetune", {"video": VIDEO, "heads": 0},
         r"for width 8: give --config\.init\.heads\.$"),
        ("audiomae", {"audio": {**AUDIO, "columns": 16}},
         r"has 8: give other --config\.init\.audio\.mels=\.\.\., --config\.init\.audio\.columns"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_with_the_flag_that_fits(
    small, tmp_path, name, changes, words
):
    path, case = write(tmp_path, name)
    heads = {} if case.config else {"heads": HEADS}
    with pytest.raises(UserError, match=words):
        read_of(configured(small, path, **{**heads, **changes}))


def test_settings_without_effect_are_refused(checkpoint, small, tmp_path):
    config = configured(small, checkpoint, size=small.model.size, heads=2)
    with pytest.raises(UserError, match=r"leave --config\.init\.heads out\.$"):
        read_of(config)
    path, _ = write(tmp_path, "audiomae")
    with pytest.raises(UserError, match=r"leave --config\.init\.step out\.$"):
        read_of(configured(small, path, audio=AUDIO, heads=HEADS, step=2))


def test_other_mels_are_refused(checkpoint, small):
    config = configured(small, checkpoint, size=small.model.size, audio={"mels": 32})
    with pytest.raises(UserError, match=r"give --config\.audio\.mels=16\.$"):
        read_of(config)


def test_other_mlps_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(other_encoders, "HIDDEN", 12)
    path, _ = write(tmp_path, "audiomae")
    with pytest.raises(UserError, match=r"MLPs are 1\.5 times as wide .* are 4 times"):
        read_of(configured(small, path, audio=AUDIO, heads=HEADS))


def test_weights_of_no_modality_of_the_run_are_refused(small, tmp_path):
    path, _ = write(tmp_path, "videomae_transformers")
    config = dataclasses.replace(configured(small, path), modalities=("audio",))
    with pytest.raises(UserError, match="has no encoder of audio: it has video, so give other"):
        read_of(config)
    with pytest.raises(UserError, match=r"init\.from is nowhere, which is neither a file"):
        read_of(configured(small, "nowhere"))


def test_two_files_with_given_values(small, tmp_path):
    (tmp_path / "v").mkdir()
    video, _ = write(tmp_path / "v", "videomae_finetune")
    audio, _ = write(tmp_path, "audiomae")
    # the video's input is that of the run unless another one is given
    for stated in (StatedVideo(), StatedVideo(frames=8, size=16)):
        config = configured(small, f"{video},{audio}", video=VIDEO, audio=AUDIO, heads=HEADS)
        init = InitConfig(**{**dataclasses.asdict(config.init), "video": stated,
                             "audio": StatedAudio()})  # fmt: skip
        found = read_of(dataclasses.replace(config, init=init))
        assert found.values["embeddings"].keys() == {"video", "audio"}
        assert found.record["format"] == "a VideoMAE of its authors; an AudioMAE"
        assert found.record["source"] == f"{video}; {audio}"
        assert len(found.record["digest"]) == 32


def test_a_run_on_several_devices_starts_with_its_shardings(checkpoint, small):
    config = configured(small, checkpoint, size=small.model.size)
    config = dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    run = run_of(config, Length(4, 3), mesh_lib.make_mesh(config.mesh))
    state = run.starting_from(
        starting_weights.reader(config.init, config.architecture)
    ).initialize()
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(run.like), strict=True)
    assert all(leaf.sharding == like.sharding for leaf, like in pairs)
    expected = xkd_jax.load(checkpoint).parameters["video"]
    same(state.student["encoders"]["blocks"]["video"], expected["blocks"])
    same(state.teacher["encoders"]["embeddings"]["video"], expected["embedding"])


def test_key_from_is_read_and_kept_under_this_name():
    raw = pretraining.default()
    raw.init["from"] = "weights.pth"
    config = pretraining.resolve(raw)
    assert config.init.source == "weights.pth"
    assert dataclasses.asdict(config)["init"]["from"] == "weights.pth"
    assert config.init == InitConfig(**{"from": "weights.pth"}) != InitConfig()
    assert hash(config.init) == hash(dataclasses.replace(config.init))
    assert starting_weights.reader(Config().init, Config().architecture) is None
    with pytest.raises(TypeError, match="no field of"):
        InitConfig(of="x")
