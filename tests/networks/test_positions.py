import math

import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.networks.positions import resize_matrix, resize_positions


def torch_sample(values, new, method):
    """Interpolates a list as documented by PyTorch, one output at a time."""
    old, out = len(values), []
    for i in range(new):
        source = (i + 0.5) * old / (new + 0.1) - 0.5
        if method == "linear":
            source = max(source, 0.0)
            low = math.floor(source)
            high = min(low + 1, old - 1)
            out.append(values[low] * (1 - source + low) + values[high] * (source - low))
        else:
            low, total = math.floor(source), 0.0
            for tap in range(low - 1, low + 3):
                x, a = abs(source - tap), -0.75
                if x <= 1:
                    weight = ((a + 2) * x - (a + 3)) * x * x + 1
                else:
                    weight = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
                total += weight * values[min(max(tap, 0), old - 1)]
            out.append(total)
    return out


@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize("old,new", [(7, 6), (8, 2), (28, 7), (7, 14), (4, 4), (1, 3)])
def test_resize_matrix_samples_as_documented(method, old, new):
    values = np.random.default_rng(old * new).normal(size=old)
    np.testing.assert_allclose(
        resize_matrix(old, new, method) @ values, torch_sample(values, new, method), atol=1e-12
    )


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_constant_positions_are_unchanged(method):
    np.testing.assert_allclose(resize_matrix(9, 5, method).sum(1), 1, atol=1e-12)


def test_same_grid_and_cls_are_unchanged():
    positions = jnp.asarray(np.random.default_rng(0).normal(size=(1 + 2 * 3 * 3, 4)), jnp.float32)
    methods = ("linear",) * 3
    assert resize_positions(positions, (2, 3, 3), (2, 3, 3), methods) is positions
    resized = resize_positions(positions, (2, 3, 3), (1, 2, 2), methods)
    assert resized.shape == (5, 4)
    np.testing.assert_array_equal(resized[0], positions[0])


def test_axes_are_resized_separately():
    grid = np.random.default_rng(0).normal(size=(5, 8))
    positions = jnp.asarray(np.concatenate([[0], grid.ravel()])[:, None], jnp.float32)
    resized = resize_positions(positions, (5, 8), (5, 3), (None, "cubic"))[1:, 0].reshape(5, 3)
    np.testing.assert_allclose(resized, grid @ resize_matrix(8, 3, "cubic").T, atol=1e-6)
