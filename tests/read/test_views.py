import dataclasses
import random

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.loader_config import AudioAugment, VideoAugment
from data_pipelines.read import frame_cuts, views
from xkd_jax.config.pretraining import Config

PLAIN = VideoAugment(flip=0, brightness=0, contrast=0, saturation=0, hue=0)


@pytest.fixture
def config(small) -> Config:
    return with_local_views(small, 2)


def with_local_views(config: Config, count: int) -> Config:
    return dataclasses.replace(
        config,
        video=dataclasses.replace(config.video, local_views=count),
        audio=dataclasses.replace(config.audio, local_views=count),
        data=dataclasses.replace(config.data, short_side=20),
    )


def clip(config: Config, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (config.video.frames, 20, 33, 3), np.uint8)
    return frames, rng.integers(0, 65536, config.audio.global_shape).astype(np.uint16)


def rng_of(seed: int):
    return lambda stream: random.Random(f"{seed}/{stream}")


def draw(config: Config, seed: int = 0) -> views.Views:
    return views.train_views(config, *clip(config), rng_of(seed))


def flatten(made: views.Views) -> dict[str, np.ndarray]:
    return {
        f"{modality}/{kind}/{key}": value
        for modality, kinds in made.items()
        for kind, view in kinds.items()
        for key, value in view.items()
    }


def test_same_generators_give_same_views(config):
    first, second = flatten(draw(config)), flatten(draw(config))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert any(not np.array_equal(first[k], v) for k, v in flatten(draw(config, seed=1)).items())


def test_draws_do_not_depend_on_number_of_local_views(config):
    two, three = flatten(draw(config)), flatten(draw(with_local_views(config, 3)))
    for key, value in two.items():
        held = three[key][:2] if "/local/" in key else three[key]
        np.testing.assert_array_equal(value, held, err_msg=key)


def test_local_views_differ_from_each_other(config):
    local = draw(config)["video"]["local"]
    assert local["hue"][0] != local["hue"][1]


def test_shapes_and_types_are_same_for_every_frame_shape(config):
    _, log_mel = clip(config)
    specs = set()
    for shape in [(20, 20), (20, 120), (33, 20), (18, 20)]:
        frames = np.zeros((config.video.frames, *shape, 3), np.uint8)
        made = flatten(views.train_views(config, frames, log_mel, rng_of(0)))
        specs.add(tuple((key, value.shape, value.dtype) for key, value in made.items()))
    assert len(specs) == 1


def test_blank_views_are_of_the_modalities_of_the_run(config):
    both = views.blank_views(config)
    assert both.keys() == {"video", "audio"}
    for modality in both:
        alone = views.blank_views(dataclasses.replace(config, modalities=(modality,)))
        assert alone.keys() == {modality}
        shapes = {name: np.shape(value) for name, value in alone[modality]["global"].items()}
        assert shapes == {n: np.shape(v) for n, v in both[modality]["global"].items()}


def test_modality_that_is_not_given_has_no_views(config):
    frames, log_mel = clip(config)
    assert set(views.train_views(config, frames, None, rng_of(0))) == {"video"}
    assert set(views.train_views(config, None, log_mel, rng_of(0))) == {"audio"}
    assert set(views.draw_eval_views(config, None, log_mel)) == {"audio"}


def test_without_local_views_there_are_none(config):
    made = draw(with_local_views(config, 0))
    assert [list(kinds) for kinds in made.values()] == [["global"], ["global"]]


def test_disabled_augmentations_are_not_drawn(config):
    video = dataclasses.replace(config.video, global_augment=PLAIN)
    audio = dataclasses.replace(config.audio, global_augment=AudioAugment(volume=0))
    made = draw(dataclasses.replace(config, video=video, audio=audio))
    assert set(made["video"]["global"]) == {"frames", "box", "transposed"}
    assert set(made["audio"]["global"]) == {"log_mel"}
    hue_only = dataclasses.replace(PLAIN, hue=0.1)
    video = dataclasses.replace(config.video, global_augment=hue_only)
    made = draw(dataclasses.replace(config, video=video))
    assert set(made["video"]["global"]) == {"frames", "box", "transposed", "hue", "order"}


@pytest.mark.parametrize("shape", [(20, 33), (33, 20), (20, 20)])
def test_view_has_pixels_of_its_box(config, shape):
    frames = np.zeros((config.video.frames, *shape, 3), np.uint8)
    frames[..., :2] = np.moveaxis(np.indices(shape), 0, -1)  # each pixel encodes its position
    frames[..., 2] = np.arange(config.video.frames)[:, None, None]
    turned = set()
    for seed in range(60):
        made = views.train_views(config, frames, None, rng_of(seed))["video"]["global"]
        assert made["frames"].shape[1:3] == (20, 27)
        height, width = made["box"].astype(int)
        view = made["frames"][:, :height, :width]
        if made["transposed"]:
            view = view.swapaxes(1, 2)
        top, left = view[0, 0, 0, :2]
        bottom, right = view[0, -1, -1, :2]
        np.testing.assert_array_equal(view, frames[:, top : bottom + 1, left : right + 1])
        assert not made["frames"][:, height:].any()
        assert not made["frames"][:, :, width:].any()
        turned.add(bool(made["transposed"]))
    assert turned == ({False, True} if shape[0] > shape[1] else {False})


def test_local_frames_are_consecutive_from_random_start(config):
    frames, log_mel = clip(config)
    frames[:] = np.arange(config.video.frames)[:, None, None, None]
    starts = set()
    for seed in range(40):
        local = views.train_views(config, frames, log_mel, rng_of(seed))["video"]["local"]
        for view in local["frames"]:
            numbers = view[:, 0, 0, 0].astype(int)
            np.testing.assert_array_equal(np.diff(numbers), 1)
            starts.add(numbers[0])
    assert starts == set(range(config.video.frames - config.video.local_frames + 1))


def test_local_sound_is_a_segment_of_clip(config):
    columns = config.audio.columns
    log_mel = np.tile(np.arange(columns, dtype=np.uint16), (config.audio.mels, 1))
    starts = set()
    for seed in range(200):
        local = views.train_views(config, None, log_mel, rng_of(seed))["audio"]["local"]
        assert local["log_mel"].shape == (2, *config.audio.local_shape)
        np.testing.assert_array_equal(np.diff(local["log_mel"].astype(int), axis=-1), 1)
        starts.update(local["log_mel"][:, 0, 0].tolist())
    assert starts == set(range(columns - config.audio.local_columns + 1))


def test_draws_cover_their_ranges(config):
    drawn = [flatten(draw(config, seed)) for seed in range(400)]

    def values(name: str) -> np.ndarray:
        return np.stack([made[name] for made in drawn]).astype(float)

    for name, low, high in [
        ("video/global/brightness", 0.6, 1.4),
        ("video/global/contrast", 0.6, 1.4),
        ("video/local/saturation", 0.6, 1.4),
        ("video/local/hue", -0.2, 0.2),
        ("audio/global/gain", 0.9, 1.1),
        ("audio/local/gain", 0.8, 1.2),
    ]:
        found, span = values(name), high - low
        assert low <= found.min() < low + 0.03 * span, name
        assert high - 0.03 * span < found.max() <= high, name
        assert abs(found.mean() - (low + high) / 2) < 0.06 * span, name
    assert abs(values("video/global/flip").mean() - 0.5) < 0.1
    assert abs(values("video/local/grayscale").mean() - 0.2) < 0.06
    sigma = values("video/local/blur_sigma")
    assert sigma.shape == (400, 2, 2)  # local views, directions
    assert abs((sigma > 0).mean() - 0.5) < 0.08
    np.testing.assert_array_equal(sigma[..., 0], sigma[..., 1])  # isotropic
    assert 0.1 <= sigma[sigma > 0].min() < 0.2
    assert 1.9 < sigma.max() <= 2
    orders = {tuple(order) for order in values("video/global/order").astype(int)}
    assert len(orders) == 24


def test_pair_of_sigmas_is_per_axis(config):
    local = dataclasses.replace(
        config.video.local_augment, blur=0.5, blur_sigma=(0.1, 2.0), blur_sigma_mode="pair"
    )
    config = dataclasses.replace(
        config, video=dataclasses.replace(config.video, local_augment=local)
    )
    drawn = [flatten(draw(config, seed))["video/local/blur_sigma"] for seed in range(40)]
    found = np.concatenate(drawn)
    assert found.dtype == np.float32
    rows = {tuple(row) for row in found.round(6).tolist()}
    assert rows == {(0.0, 0.0), tuple(np.float32((0.1, 2)).round(6).tolist())}


def test_evaluation_views_are_central_square_and_all_sound(config):
    frames, log_mel = clip(config)
    made = views.cut_out(views.draw_eval_views(config, frames.shape[1:3], log_mel), frames)
    np.testing.assert_array_equal(made["video"]["global"]["frames"], frames[:, :, 6:26])
    np.testing.assert_array_equal(made["video"]["global"]["box"], [20, 20])
    np.testing.assert_array_equal(made["audio"]["global"]["log_mel"], log_mel)
    assert set(made["video"]["global"]) == {"frames", "box"}


def test_frames_larger_than_short_side_are_refused(config):
    frames, log_mel = clip(config)
    wrong = dataclasses.replace(config, data=dataclasses.replace(config.data, short_side=10))
    with pytest.raises(UserError, match="short_side"):
        views.draw_eval_views(wrong, frames.shape[1:3], log_mel)


@pytest.mark.parametrize("size", [(20, 33), (33, 20)])
def test_crops_are_spread_along_longer_side(config, size):
    made = views.draw_crop_views(config, size, None, crops=3)["video"]["global"]
    assert made["frames"].shape == (3, config.video.frames, 20, 20, 3)
    assert made["box"].tolist() == [[20, 20]] * 3
    frame = np.arange(20 * 33).reshape(*size, 1).repeat(3, 2).astype(np.uint8)
    out = np.zeros(made["frames"].shape, np.uint8)
    frame_cuts.cut_frames([np.stack([np.zeros_like(frame), frame])], 2, 2, [(made["frames"], out)])
    for start, cut in zip((0, 6, 13), out[:, 1], strict=True):
        rows, columns = (slice(start, start + 20) if n == 33 else slice(20) for n in size)
        np.testing.assert_array_equal(cut, frame[rows, columns])


def test_one_crop_is_central_one(config):
    one = views.draw_crop_views(config, (20, 33), None, crops=1)["video"]["global"]
    assert (
        one["frames"] == views.draw_eval_views(config, (20, 33), None)["video"]["global"]["frames"]
    )


@pytest.mark.parametrize(
    "size,short_side,box",
    [((128, 170), 128, (8, 29, 112, 112)), ((256, 256), 256, (16, 16, 224, 224)),
     ((33, 20), 20, (7, 1, 18, 18)), ((1, 5), 20, (0, 2, 1, 1))],
)  # fmt: skip
def test_central_square_with_fraction_of_short_side(config, size, short_side, box):
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, short_side=short_side)
    )
    made = views.draw_eval_views(config, size, None, side_fraction=0.875)["video"]["global"]
    assert made["frames"].box == box
    assert made["frames"].canvas == (short_side, short_side)
    assert tuple(made["box"]) == box[2:]
