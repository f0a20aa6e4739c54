import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from xkd_jax.config.architecture import ModelConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.networks import attention, tpu_attention
from xkd_jax.parallel.mesh import make_mesh, on_mesh, traced_device

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
MI300 = AbstractDevice(device_kind="AMD Instinct MI300X", num_cores=304, platform="gpu")
CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")


def qkv_of(n, batch=8, heads=2, size=8, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(n), (batch, n, 3, heads, size), dtype)


def plain(qkv, segments=None):
    return attention.plain(qkv, segments or qkv.shape[1:2])


def scored(function):
    """Returns its value, and the gradient of a weighted sum with different weights."""

    def score(qkv):
        out = function(qkv).astype(jnp.float32)
        return (out * jnp.sin(jnp.arange(out.size).reshape(out.shape))).sum(), out

    return jax.value_and_grad(score, has_aux=True)


def require_equal(function, expected, qkv):
    (_, found), gradient = jax.jit(scored(function))(qkv)
    (_, value), expected_gradient = jax.jit(scored(expected))(qkv)
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=2e-6)


@pytest.fixture
def like_cudnn(monkeypatch):
    """JAX's attention with cuDNN's restrictions and XLA's values; yields its arguments."""
    real, shapes = jax.nn.dot_product_attention, []

    def strict(q, k, v, *, implementation, **kwargs):
        if implementation == "cudnn":
            shapes.append(q.shape[:3])
            if q.shape[1] % 2 or q.shape[-1] % 8:
                raise NotImplementedError(f"Unsupported sequence length Q {q.shape[1]}")
        return real(q, k, v, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", strict)
    return shapes


@pytest.mark.parametrize("n", [1, 8, 9])
def test_cudnn_gets_even_lengths_and_the_added_token_changes_nothing(like_cudnn, n):
    require_equal(functools.partial(attention.cudnn, segments=(n,)), plain, qkv_of(n))
    assert [shape[1] for shape in like_cudnn] == [n + n % 2]


def on_devices(function, sizes):
    """The function jitted on a mesh, with the shardings of `shard_map`'s arguments."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(on_mesh(function, mesh), in_shardings=whole)


@pytest.mark.parametrize(
    "mesh,batch,heads,seen",
    [
        ((8, 1, 1), 8, 2, (1, 10, 2)),
        ((2, 2, 2), 8, 2, (2, 10, 1)),
        ((4, 1, 2), 3, 3, (3, 10, 3)),  # not divisible by this mesh
    ],
)
def test_on_a_mesh_each_device_has_its_own_samples_and_heads(
    like_cudnn, monkeypatch, mesh, batch, heads, seen
):
    monkeypatch.setattr(attention, "traced_device", lambda: H100)
    qkv = qkv_of(9, batch, heads, dtype=jnp.bfloat16)
    attend = on_devices(scored(lambda qkv: attention.attend(qkv, "auto")), mesh)
    (_, found), gradient = attend(qkv)
    (_, expected), expected_gradient = jax.jit(scored(plain))(qkv)
    np.testing.assert_allclose(*(np.float32(a) for a in (found, expected)), atol=0.02)
    np.testing.assert_allclose(*(np.float32(a) for a in (gradient, expected_gradient)), atol=0.02)
    assert set(like_cudnn) == {seen}


def interpreted(segments):
    """The TPU kernel, executed by XLA."""
    return functools.partial(tpu_attention.tpu_attention, segments=segments, interpret=True)


@pytest.mark.parametrize("n,batch", [(1, 2), (13, 4), (130, 3)])
@pytest.mark.parametrize("heads,size", [(4, 32), (2, 64), (8, 80), (1, 128)])
def test_the_tpu_kernel_equals_the_formula(n, batch, heads, size):
    """Cases: one or several samples per grid step; heads that share or cross groups of lanes."""
    require_equal(interpreted((n,)), plain, qkv_of(n, batch, heads, size))


def test_the_tpu_kernel_takes_heads_that_do_not_fill_its_lanes():
    require_equal(interpreted((9,)), plain, qkv_of(9, 2, 3, 32))


SEGMENTS = (5, 9, 3)


@pytest.mark.parametrize("kernel", ["xla", "cudnn", "pallas"])
def test_tokens_attend_within_their_segment(like_cudnn, kernel):
    """The result equals attention over all pairs of tokens with pairs across segments masked."""

    def masked(qkv):
        q, k, v = (qkv[:, :, i] for i in range(3))
        segment = np.repeat(np.arange(len(SEGMENTS)), SEGMENTS)
        same = (segment[:, None] == segment)[None, None]
        return jax.nn.dot_product_attention(q, k, v, mask=same, implementation="xla")

    functions = attention.KERNELS | {"pallas": lambda qkv, segments: interpreted(segments)(qkv)}
    found = functools.partial(functions[kernel], segments=SEGMENTS)
    require_equal(found, masked, qkv_of(sum(SEGMENTS), 2, 4, 32))


def test_the_tpu_kernel_rounds_no_more_than_bfloat16():
    qkv = qkv_of(33, dtype=jnp.bfloat16)
    (_, found), gradient = jax.jit(scored(interpreted((33,))))(qkv)
    (_, exact), expected = jax.jit(scored(plain))(qkv.astype(jnp.float32))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, exact, atol=2**-7)
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, atol=2**-6)


@pytest.mark.parametrize("mesh,heads", [((8, 1, 1), 4), ((2, 2, 2), 8), ((2, 1, 2), 3)])
def test_the_tpu_kernel_on_a_mesh(monkeypatch, mesh, heads):
    monkeypatch.setattr(attention, "traced_device", lambda: V5E)
    kernel = functools.partial(tpu_attention.tpu_attention, interpret=True)
    monkeypatch.setattr(tpu_attention, "tpu_attention", kernel)
    qkv = qkv_of(9, 8, heads, 32)
    attend = on_devices(scored(lambda qkv: attention.attend(qkv, "auto")), mesh)
    (_, found), gradient = attend(qkv)
    (_, expected), expected_gradient = jax.jit(scored(plain))(qkv)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize(
    "asked,device,dtype,size,expected",
    [
        ("auto", CPU, "bfloat16", 64, "xla"),
        ("auto", V5E, "bfloat16", 64, "pallas"),
        ("auto", V5E, "float32", 32, "pallas"),
        ("pallas", H100, "bfloat16", 64, "xla (pallas needs a TPU)"),
        ("cudnn", V5E, "bfloat16", 64, "xla (cudnn needs an NVIDIA GPU)"),
        ("auto", H100, "bfloat16", 64, "cudnn"),
        ("cudnn", H100, "bfloat16", 80, "cudnn"),
        ("xla", H100, "bfloat16", 64, "xla"),
        ("auto", MI300, "bfloat16", 64, "xla"),
        ("auto", H100, "float32", 64, "xla (cudnn needs bfloat16)"),
        (
            "cudnn", H100, "bfloat16", 12,
            "xla (cudnn needs heads of a multiple of 8, at most 128, not 12)",
        ),
        ("cudnn", CPU, "bfloat16", 64, "xla (cudnn needs an NVIDIA GPU)"),
    ],
)  # fmt: skip
def test_kernel_is_chosen_by_platform(asked, device, dtype, size, expected):
    assert str(attention.choose(asked, device, jnp.dtype(dtype), size)) == expected


def test_an_old_gpu_computes_with_xla():
    class T4:
        device_kind, platform, compute_capability = "Tesla T4", "gpu", "7.5"

    found = attention.choose("auto", T4, jnp.bfloat16, 64)
    assert str(found) == "xla (cudnn needs a GPU of compute capability 8.0 or newer)"


def test_the_first_lines_name_both_stacks_where_they_differ():
    assert attention.describe(ModelConfig(), H100) == "cudnn"
    assert attention.describe(ModelConfig(attention="xla"), H100) == "xla"
    found = attention.describe(ModelConfig(size="64/1/2:36/1/3"), H100)
    assert found.startswith("cudnn in encoders, xla (cudnn needs heads of a multiple of 8,")


def test_traced_device_is_that_of_the_mesh():
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=H100)
    with jax.sharding.use_abstract_mesh(mesh):
        assert traced_device() == H100
    assert traced_device().platform == "cpu"
