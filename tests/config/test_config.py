import dataclasses
import functools
import importlib
import math
import re

import jax
import pytest

from data_pipelines.errors import UserError
from xkd_jax.config.architecture import ModelConfig, Transformer
from xkd_jax.config.dataclass_schema import build, keys, lacking, meanings, nearest_key
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import Config, default, resolve
from xkd_jax.method.train_state import abstract, parameters
from xkd_jax.networks.student import Student, Teacher

VARIANTS = ["xkd", "mas", "mats"]
ABLATIONS = [
    "reconstruction_video",
    "reconstruction",
    "distillation",
    "alignment",
    "no_refinement",
]


@pytest.mark.parametrize("name", ["k400", "audioset", "demo"])
@pytest.mark.parametrize("variant", VARIANTS + ABLATIONS)
def test_every_config_file_resolves(name, variant):
    config = resolve(importlib.import_module(f"configs.{name}").get_config(variant))
    assert config.model.variant == (variant if variant in VARIANTS else "xkd")


def test_defaults_are_settings_of_the_paper():
    config = resolve(default())
    assert config == Config()
    assert config.model.encoder == Transformer(768, 12, 12)
    assert config.model.decoder == Transformer(384, 4, 12)
    assert config.video.grid == (8, 7, 7)
    assert config.video.local_grid == (2, 6, 6)
    assert config.audio.grid == (20, 28)
    assert config.audio.local_grid == (20, 7)
    assert config.clip_seconds == 4
    sound = dataclasses.replace(config, modalities=("audio",))
    assert sound.clip_seconds == 448 * 143 / 16000


@pytest.mark.parametrize("schema", [Config, EvalConfig])
def test_every_key_has_a_short_meaning(schema):
    found = meanings(schema)
    assert list(found) == keys(schema)
    faults = {k: text for k, text in found.items() if not 8 < len(text) < 150 or text[-1] == "."}
    assert not faults


@pytest.mark.parametrize("variant,trained,total", [("xkd", 206.3, 396.3), ("mas", 121.3, 311.3)])
def test_parameter_counts_of_base(variant, trained, total):
    config = Config(model=ModelConfig(variant=variant))
    student, teacher = (
        sum(
            math.prod(leaf.shape)
            for leaf in jax.tree.leaves(parameters(abstract(cls, config.architecture)))
        )
        for cls in (Student, Teacher)
    )
    assert round(student / 1e6, 1) == trained
    assert round((student + teacher) / 1e6, 1) == total


@pytest.mark.parametrize(
    "size,encoder",
    [
        ("tiny", (192, 12, 3)),
        ("small", (384, 12, 6)),
        ("large", (1024, 24, 16)),
        ("huge", (1280, 32, 16)),
        ("48/3/3:24/2/3", (48, 3, 3)),
    ],
)
def test_model_sizes_have_their_widths_and_depths(size, encoder):
    assert ModelConfig(size=size).encoder == Transformer(*encoder)


@pytest.mark.parametrize(
    "section,key,value,sentence",
    [
        ("model", "sise", "base", "Did you mean model.size?"),
        ("model", "size", "enormous", "give one of tiny, small"),
        ("model", "variant", "xdk", "give one of 'xkd', 'mas', 'mats'"),
        ("model", "remat", True, "give one of 'auto', 'none', 'products', 'all'"),
        ("video", "frames", 33, "not a whole number of patches"),
        ("video", "mask_ratio", math.nan, "video.mask_ratio is nan: give 0 to below 1"),
        ("video", "patch", (0, 16, 16), r"video.patch is (0, 16, 16): give sides above 0"),
        ("video", "frame_rate", 0.0, "video.frame_rate is 0.0: give more than 0"),
        ("audio", "std", 0.0, "audio.std is 0.0"),
        ("audio", "hop", 0, "audio.hop is 0: give at least 1"),
        ("loss", "student_temperature", -0.1, "loss.student_temperature is -0.1"),
        ("loss", "center_momentum", 2.0, "loss.center_momentum is 2.0: give 0 to 1"),
        ("optimizer", "clip", -1.0, "optimizer.clip is -1.0"),
        ("optimizer", "learning_rate", math.nan, "optimizer.learning_rate is nan"),
        ("optimizer", "ema_start", 1.5, "optimizer.ema_start is 1.5"),
        ("optimizer", "b2", 1.0, "optimizer.b2 is 1.0"),
        ("checkpoint", "keep_last", -1, "checkpoint.keep_last is -1"),
        ("video", "mask_ratio", 1.0, "video.mask_ratio"),
        ("video", "patch", (4, 16), "give 3 values"),
        ("audio", "local_columns", 464, "larger than the global one"),
        ("audio", "spectrogram", "kaldi", "fixed rates: give --config.audio.sample_rate=16000 --"),
        ("loss", "teacher_view", "locale", "'global', 'local'"),
        ("optimizer", "learning_rate", "fast", "give a value of type float"),
        ("mesh", "data", 0, "give positive sizes"),
        ("data", "shuffle_window", -1, "data.shuffle_window is -1: give at least 0"),
        ("data", "worker_timeout", 0.0, "give more than 0"),
        ("data", "prefetch", -1, "give at least 0"),
        ("video", "local_views", -1, "video.local_views is -1: give at least 0"),
        ("optimizer", "eps", math.inf, "optimizer.eps is inf: give more than 0 and finite"),
        ("video", "mean", (math.inf, 0.4, 0.4), "video.mean is (inf, 0.4, 0.4): give finite"),
        ("video", "mean", (0.4, math.nan, 0.4), "video.mean is (0.4, nan, 0.4): give finite"),
        ("video", "std", (0.2, 0.0, 0.2), "video.std is (0.2, 0.0, 0.2): give three values above"),
        ("video", "std", (0.2, math.inf, 0.2), "give three values above 0"),
        ("video", "frames", 0, "video.frames is 0: give at least 1"),
        ("video", "local_size", -8, "video.local_size is -8: give at least 1"),
        ("audio", "mean", -math.inf, "audio.mean is -inf: give a finite number"),
        ("audio", "mean", math.nan, "audio.mean is nan: give a finite number"),
        ("audio", "local_augment", {"canvas": (1.0, math.inf)}, "two values of at least 1"),
        ("data", "short_side", 0, "data.short_side is 0: give at least 1"),
        ("data", "records", -1, "data.records is -1: give at least 0"),
        ("loss", "weights", {"align_students": -1.0}, "loss.weights.align_students is -1.0: give"),
        ("loss", "weights", {"align_students": math.inf}, "give at least 0 and finite"),
        ("loss", "video_teacher_temperature", {"start": 0.0, "end": 1.0}, "give more than 0"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(section, key, value, sentence):
    raw = default()
    with raw.unlocked(), raw.ignore_type():
        raw[section][key] = value
    with pytest.raises(UserError) as error:
        resolve(raw)
    assert sentence in str(error.value)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    "view,key,value,sentence",
    [
        ("video", "area", (0.5, 1.5), "give two values above 0 of up to 1, the smaller one first"),
        ("video", "area", (0.5, 0.2), "the smaller one first"),
        ("video", "aspect", (0.0, 1.0), "give two values above 0, the smaller one first"),
        ("video", "flip", 1.5, "give 0 to 1"),
        ("video", "hue", 0.6, "give 0 to 0.5"),
        ("video", "contrast", float("nan"), "give at least 0"),
        ("video", "blur_sigma", (2.0, 0.1), "the smaller one first"),
        ("video", "blur_sigma", (0.1, math.inf), "give two values above 0"),
        ("video", "blur_sigma_mode", "vertical", "give one of 'range', 'pair'"),
        ("audio", "volume", -0.1, "give 0 to 1"),
        ("audio", "canvas", (0.5, 2.0), "give two values of at least 1"),
        ("audio", "time_scale", (2.0, 1.0), "the smaller one first"),
    ],
)
def test_invalid_augmentation_ranges_are_refused(view, key, value, sentence):
    raw = default()
    raw[view].local_augment[key] = value
    with pytest.raises(UserError, match=rf"^{view}\.local_augment\.{key} is .*{sentence}"):
        resolve(raw)


def test_pair_of_sigmas_may_be_in_any_order_above_0():
    raw = default()
    raw.video.local_augment.update(blur_sigma=(2.0, 0.1), blur_sigma_mode="pair")
    assert resolve(raw).video.local_augment.blur_sigma == (2.0, 0.1)
    raw.video.local_augment.blur_sigma = (2.0, 0.0)
    with pytest.raises(
        UserError, match=r"blur_sigma is \(2\.0, 0\.0\): give two values above 0\.$"
    ):
        resolve(raw)


@pytest.mark.parametrize(
    "key,value,sentence",
    [
        ("max_steps", -1, "give at least 0"),
        ("epochs", math.inf, "give at least 0"),
        ("seed", 2**32, "give 0 to 4294967295"),
        ("seed", -1, "give 0 to 4294967295"),
    ],
)
def test_invalid_lengths_and_seeds_are_refused(key, value, sentence):
    raw = default()
    raw[key] = value
    with pytest.raises(UserError, match=rf"^{key} is {value}: {sentence}"):
        resolve(raw)


def test_inconsistent_settings_are_refused():
    raw = default()
    raw.loss.teacher_view = "local"
    raw.audio.local_views = 0
    with pytest.raises(UserError, match=r"audio\.local_views is 0"):
        resolve(raw)
    raw = default()
    for name in raw.loss.weights:
        raw.loss.weights[name] = 0.0
    with pytest.raises(UserError, match="at least one must be above 0"):
        resolve(raw)


def test_default_of_every_field_is_in_its_range():
    for schema in (Config, EvalConfig):
        assert build(schema, dataclasses.asdict(schema())) == schema()


@pytest.mark.parametrize("schema", [Config, EvalConfig])
def test_infinite_numbers_are_refused(schema):
    """Every field is tested, also those without a range."""
    for key in keys(schema):
        section, _, name = key.rpartition(".")
        values = dataclasses.asdict(schema())
        found = functools.reduce(lambda d, k: d[k], section.split(".") if section else (), values)
        if isinstance(found[name], float):
            found[name] = math.inf
        elif isinstance(found[name], tuple) and found[name] and isinstance(found[name][0], float):
            found[name] = (*found[name][:-1], math.inf)
        else:
            continue
        with pytest.raises(UserError, match=rf"^{re.escape(key)} is .*inf.*: give "):
            build(schema, values)


def test_nearest_key_compares_whole_keys_and_last_parts():
    assert nearest_key("modle.size", Config) == "model.size"
    assert nearest_key("learning_rate", Config) == "optimizer.learning_rate"
    assert nearest_key("zzzzzz", Config) is None
    assert "audio.local_augment.canvas" in keys(Config)


def test_missing_keys_are_listed():
    values = default().to_dict()
    assert lacking(Config, values) == []
    del values["video"]["size"], values["nonfinite"]
    assert lacking(Config, values) == ["video.size", "nonfinite.action", "nonfinite.limit"]


def test_values_of_variable_length_tuple_are_checked():
    assert build(EvalConfig, {"svm": {"costs": [1, 0.5]}}).svm.costs == (1.0, 0.5)
    with pytest.raises(UserError, match=r"data\.folds is 'a'"):
        build(EvalConfig, {"data": {"folds": (1, "a")}})
