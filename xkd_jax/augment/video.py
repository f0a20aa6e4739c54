"""Video views: crop and resize, flip, color jitter, grayscale, blur, normalization.

The operations are those of PIL and torchvision, in float32 and without their rounding to integers
between operations; values are clamped to 0..255 where theirs are. The largest differences from PIL
on uint8 images, in levels: 1 for the resize, 1.2 for each of brightness, contrast and saturation
(PIL truncates), 0.5 for grayscale, and 16 for hue (4 on average), as PIL has 256 hues only. The
difference of hue from a rotation in float HSV is 0.002.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.loader_config import VideoConfig
from xkd_jax.augment import color
from xkd_jax.parallel.axis_rules import on_each_shard
from xkd_jax.parallel.mesh import traced_device

_HIGHEST = jax.lax.Precision.HIGHEST


def augment_video(video: VideoConfig, view: dict[str, jax.Array], size: int) -> jax.Array:
    """Returns float32 [B, T, size, size, 3], normalized by `video.mean` and `video.std`.

    Args:
      video: mean and deviation of the colors.
      view: frames, boxes and random numbers of `data_pipelines.read.video_views`, with a leading
        axis of samples.
      size: height and width of the view, in pixels.
    """
    # Colors are the last axis only at the end: 3 values waste most of a vector register.
    if video.kernel == "auto" and _has_kernel(view["frames"], size):
        kernel = functools.partial(planes_by_kernel, video, size=size)
        return jnp.moveaxis(on_each_shard(kernel)(view), 1, -1)
    return jnp.moveaxis(planes(video, view, size), 0, -1)


def _has_kernel(frames: jax.Array, size: int) -> bool:
    device = traced_device()
    if device.platform != "tpu":
        return False
    from xkd_jax.augment import tpu_video  # Pallas takes a quarter of a second to import

    return tpu_video.is_supported(device, frames, size)


def planes(video: VideoConfig, view: dict[str, jax.Array], size: int) -> jax.Array:
    """Returns the planes of the view's colors, float32 [3, B, T, size, size], normalized.

    The arguments are those of `augment_video`.
    """
    pixels = _resize(view, size)
    pixels = color.jitter(pixels, view)
    if "grayscale" in view:
        pixels = color.to_gray(pixels, view["grayscale"])
    if "blur_sigma" in view:
        pixels = _blur(pixels, view["blur_sigma"])
    mean, std = (np.moveaxis(values, -1, 0) for values in color_statistics(video))
    return (pixels / 255 - mean) / std


def planes_by_kernel(
    video: VideoConfig, view: dict[str, jax.Array], size: int, *, interpret: bool = False
) -> jax.Array:
    """Returns `planes` as [B, 3, T, size, size], computed by the kernel for TPUs.

    Args:
      video: mean and deviation of the colors.
      view: as in `augment_video`.
      size: height and width of the view, in pixels.
      interpret: whether XLA executes the kernel's operations, on any platform.
    """
    from xkd_jax.augment import tpu_video

    weights = _resize_weights(view, size)
    blur = tuple(_blur_matrices(view["blur_sigma"].T, size)) if "blur_sigma" in view else ()
    return tpu_video.augmented_planes(
        view, weights, blur, tuple(video.mean), tuple(video.std), interpret=interpret
    )


def color_statistics(video: VideoConfig) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the colors, float32 [1, 1, 1, 1, 3], for clips."""
    mean, std = (np.array(values, np.float32) for values in (video.mean, video.std))
    return mean[None, None, None, None], std[None, None, None, None]


def triangle_weights(box: jax.Array, size: int, out: int) -> jax.Array:
    """Weights that resize the first `box` of `size` pixels to `out` pixels.

    As PIL's BILINEAR and torch's antialiased bilinear: a triangle that is two output pixels wide
    for downsampling, two input pixels for upsampling, truncated at the box's ends.

    Args:
      box: float32 [B], in pixels.
      size: length of the input axis.
      out: length of the output axis.

    Returns:
      float32 [B, out, size]; each row sums to 1.
    """
    scale = (box / out)[:, None, None]
    center = (jnp.arange(out, dtype=jnp.float32)[None, :, None] + 0.5) * scale
    pixel = jnp.arange(size, dtype=jnp.float32)[None, None, :]
    distance = jnp.abs(pixel + 0.5 - center) / jnp.maximum(scale, 1)
    weights = jnp.maximum(1 - distance, 0) * (pixel < box[:, None, None])
    return weights / weights.sum(axis=-1, keepdims=True)


def _resize(view: dict[str, jax.Array], size: int) -> jax.Array:
    """Resizes and flips the box at the origin of the canvas to [3, B, T, size, size]."""
    frames = view["frames"]
    samples, count, height, width, _ = frames.shape
    rows, columns = _resize_weights(view, size)
    # Rows are resized first, while colors are still next to columns, so the bytes need no
    # transposition.
    lines = frames.reshape(samples, count, height, 3 * width).astype(jnp.float32)
    low = jnp.einsum("bsy,btyz->btsz", rows, lines, precision=_HIGHEST)
    low = low.reshape(samples, count, size, width, 3)
    pixels = jnp.einsum("bux,btsxc->cbtsu", columns, low, precision=_HIGHEST)
    if "transposed" in view:
        chosen = view["transposed"][None, :, None, None, None]
        pixels = jnp.where(chosen, pixels.swapaxes(-1, -2), pixels)
    return pixels


def _resize_weights(view: dict[str, jax.Array], size: int) -> tuple[jax.Array, jax.Array]:
    """Returns the weights of a canvas' rows and columns, [B, size, H] and [B, size, W]."""
    box, (height, width) = view["box"], view["frames"].shape[2:4]
    rows, columns = (triangle_weights(box[:, i], n, size) for i, n in ((0, height), (1, width)))
    if "flip" in view:
        transposed = view.get("transposed", jnp.zeros(len(box), bool))
        rows = _reverse(rows, view["flip"] & transposed)
        columns = _reverse(columns, view["flip"] & ~transposed)
    return rows, columns


def _reverse(weights: jax.Array, chosen: jax.Array) -> jax.Array:
    """Reverses the output axis of weights [B, out, size] for the chosen samples, bool [B]."""
    return jnp.where(chosen[:, None, None], weights[:, ::-1], weights)


def _blur(pixels: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur of [3, B, T, S, S] with sigmas [B, 2] along rows and columns, in pixels.

    As torchvision's: 2 * (S // 20) + 1 taps along each axis, with reflected edges. A sigma of 0
    leaves an axis unchanged.
    """
    along, down = _blur_matrices(sigma.T, pixels.shape[-1])
    rows = jnp.einsum("bsy,cbtyx->cbtsx", down, pixels, precision=_HIGHEST)
    return jnp.einsum("cbtyx,bsx->cbtys", rows, along, precision=_HIGHEST)


def _blur_matrices(sigma: jax.Array, size: int) -> jax.Array:
    """Matrices [..., size, size] that blur one axis, for sigmas [...]."""
    radius = size // 20
    taps = np.expand_dims(np.arange(-radius, radius + 1), tuple(range(sigma.ndim)))
    density = jnp.exp(-0.5 * jnp.square(taps / jnp.maximum(sigma, 1e-3)[..., None]))
    kernel = density / density.sum(axis=-1, keepdims=True)
    kernel = jnp.where(sigma[..., None] > 0, kernel, (taps == 0).astype(np.float32))
    source = np.pad(np.arange(size), radius, mode="reflect")
    reads = np.zeros((2 * radius + 1, size, size), np.float32)  # tap, to, from
    for tap in range(len(reads)):
        reads[tap, np.arange(size), source[tap : tap + size]] = 1
    return jnp.einsum("...k,kij->...ij", kernel, reads, precision=_HIGHEST)
