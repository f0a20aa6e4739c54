import jax
import jax.numpy as jnp
import numpy as np

from xkd_jax.networks.patches import (
    colors_first,
    colors_last,
    gather_tokens,
    patchify,
    patchify_in_steps,
    permute_tokens,
    random_masking,
    unpatchify,
)


def test_video_cuboids_are_ordered_time_height_width_and_flattened_in_planes_of_a_color():
    video = jnp.arange(2.0 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    cuboids = patchify(video, (2, 2, 3))
    assert cuboids.shape == (2, 2 * 2 * 2, 2 * 2 * 3 * 3)
    index = (1 * 2 + 0) * 2 + 1  # second in time, first row, second column
    np.testing.assert_array_equal(
        cuboids[1, index], np.moveaxis(video[1, 2:4, 0:2, 3:6], -1, 0).ravel()
    )


def test_video_cuboids_cut_in_steps_are_the_same_values():
    video = jnp.arange(2.0 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    np.testing.assert_array_equal(
        patchify_in_steps(video, (2, 2, 3)), patchify(video, (2, 2, 3)), strict=True
    )


def test_values_with_colors_last_are_reordered_to_those_of_patches():
    video = jnp.arange(2.0 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    first = video[:1, :2, :2, :3].reshape(1, -1)
    cuboids = patchify(video, (2, 2, 3))
    np.testing.assert_array_equal(colors_first(first, (2, 2, 3)), cuboids[:1, 0])
    np.testing.assert_array_equal(colors_last(cuboids[:1, 0], (2, 2, 3)), first)
    np.testing.assert_array_equal(unpatchify(cuboids, (2, 2, 3), (2, 2, 2)), video)


def test_audio_patches_are_ordered_mel_then_time():
    audio = jnp.arange(2.0 * 4 * 6).reshape(2, 4, 6)
    patches = patchify(audio, (2, 3))
    np.testing.assert_array_equal(patches[1, 1 * 2 + 0], audio[1, 2:4, 0:3].ravel())


def test_masking_keeps_tokens_of_smallest_noise_and_restores_order():
    noise = jax.random.uniform(jax.random.key(0), (3, 20))
    masking = random_masking(noise, 0.85)
    assert masking.keep.shape == (3, 3)
    np.testing.assert_array_equal(
        np.sort(np.take_along_axis(np.asarray(noise), np.asarray(masking.keep), 1)),
        np.sort(noise, axis=1)[:, :3],
    )
    np.testing.assert_array_equal(masking.removed.sum(1), 17)
    assert not np.take_along_axis(np.asarray(masking.removed), np.asarray(masking.keep), 1).any()
    tokens = jax.random.normal(jax.random.key(1), (3, 20, 4))
    order = jnp.argsort(noise, axis=1)
    np.testing.assert_array_equal(
        gather_tokens(gather_tokens(tokens, order), masking.restore), tokens
    )


def test_permuted_tokens_and_their_gradient_are_those_of_the_gather():
    tokens, weights = jax.random.normal(jax.random.key(0), (2, 3, 20, 4))
    order = jnp.argsort(jax.random.uniform(jax.random.key(1), (3, 20)), axis=1)
    (found, pull), (expected, expected_pull) = (
        jax.vjp(lambda x, of=of: of(x, order), tokens) for of in (permute_tokens, gather_tokens)
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(*pull(weights), *expected_pull(weights))


def test_number_of_kept_tokens_rounds_half_to_even():
    assert random_masking(jnp.zeros((1, 18)), 0.75).keep.shape[1] == 4
    assert random_masking(jnp.zeros((1, 392)), 0.85).keep.shape[1] == 59
    assert random_masking(jnp.zeros((1, 560)), 0.80).keep.shape[1] == 112
