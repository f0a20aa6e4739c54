"""Costs of small programs, compiled for TPUs and GPUs by the installed version of JAX.

Their products, traffic and collectives follow from their shapes. The programs for GPUs are compiled
if JAX's plugin for CUDA is installed; texts of both supported versions of JAX are in `xla_texts`.
"""

import functools
import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xkd_jax.config.architecture import Transformer
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.method.train_state import abstract_module
from xkd_jax.networks import attention
from xkd_jax.networks.blocks import Blocks
from xkd_jax.networks.patches import stored_patches
from xkd_jax.networks.tpu_attention import tpu_attention
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.compiler import compiler_options
from xkd_jax.planning import listings, targets
from xkd_jax.planning.costs import Costs
from xkd_jax.planning.roofline import axes_of, predict

LAYERS, ROWS, WIDTH = 6, 2048, 1024
WEIGHTS = 2 * LAYERS * WIDTH * WIDTH  # bytes
PRODUCTS = 2 * LAYERS * ROWS * WIDTH * WIDTH
TEXTS = sorted((Path(__file__).parent / "xla_texts").glob("*.txt"))

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler, libtpu, is not installed: pip install -e '.[plan]'",
)
needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="JAX's plugin for CUDA 12 is not installed: pip install -e '.[plan-gpu]'",
)


def compiled_text(mesh, function, *shapes, dtype):
    """Returns the program of a function of whole arrays, on one device."""
    whole = NamedSharding(mesh, PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape in shapes]
    options = compiler_options(mesh.devices.flat[0])
    jitted = jax.jit(mesh_lib.on_mesh(function, mesh), compiler_options=options)
    with listings.written():
        return jitted.lower(*arguments).compile().as_text()


def compiled(where, function, *shapes, dtype=jnp.bfloat16):
    """Returns costs and step of a function of whole arrays, on one device."""
    where = targets.parse(where)
    mesh = Mesh(np.array(where.devices()[:1]), ("data",))
    text = compiled_text(mesh, function, *shapes, dtype=dtype)
    costs = Costs.of(text, where.chip.platform, where.chip.passes).with_listings()
    return costs, predict(costs, where, mesh)


def layers(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


@needs_libtpu
@pytest.mark.parametrize("where", ["v5e:1x1", "v5p:2x2x1", "v6e:1x1"])
def test_loop_on_a_tpu_reads_each_layer_once_and_has_cycles(where):
    costs, step = compiled(where, layers, (LAYERS, WIDTH, WIDTH), (ROWS, WIDTH))
    assert costs.flops == PRODUCTS
    assert WEIGHTS <= costs.bytes < 1.1 * WEIGHTS + 4 * LAYERS * 2 * ROWS * WIDTH
    # whole tiles; the vector unit computes the hyperbolic tangent at the same time
    assert step.compute < step.compiled.operations < 5 * step.compute
    assert not costs.unknown


@needs_libtpu
def test_unrolled_blocks_on_a_tpu_convert_their_weights_one_by_one():
    depth, width = 3, 256
    config = Transformer(width, depth, heads=4)
    stack = abstract_module(
        lambda: Blocks(
            config, dtype=jnp.bfloat16, attention="xla", remat="none", layers="unroll",
            rngs=nnx.Rngs(0),
        )
    )  # fmt: skip
    graph, params = nnx.split(stack)
    leaves, structure = jax.tree.flatten(params)

    def run(tokens, *leaves):
        blocks = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
        return blocks(tokens.astype(jnp.bfloat16))

    where = targets.parse("v5e:1x1")
    mesh = mesh_lib.make_mesh(MeshConfig(), where.devices()[:1])
    shapes = [leaf.shape for leaf in leaves]
    text = compiled_text(mesh, run, (8, 128, width), *shapes, dtype=jnp.float32)
    assert f"f32[{depth},{width},{4 * width}]" in text
    assert f"bf16[{depth},{width},{4 * width}]" not in text


@needs_libtpu
def test_arrays_on_a_tpu_have_whole_tiles():
    costs, _ = compiled("v5e:1x1", jnp.add, (3000, 3000), (3000, 3000), dtype=jnp.float32)
    assert costs.bytes == 3 * 4 * 3000 * 3072


def compiled_product(where):
    """Returns costs and step of a float32 product of the highest precision."""
    shape = (WIDTH, WIDTH)
    product = functools.partial(jnp.matmul, precision="highest")
    costs, step = compiled(where, product, shape, shape, dtype=jnp.float32)
    assert costs.flops == 2 * WIDTH**3
    return costs, step


@needs_libtpu
def test_patches_on_a_tpu_are_cut_in_one_pass():
    videos = (16, 3, 32, 112, 112)

    def cut(planes):
        return stored_patches(jnp.moveaxis(planes, 1, -1), (4, 16, 16))

    costs, _ = compiled("v5e:1x1", cut, videos, dtype=jnp.float32)
    (kernel,) = (work for work in costs.work if work.kernel)
    assert kernel.cycles > 0
    # read once, with 128 lanes for 112 columns, and written once
    assert costs.bytes == 4 * math.prod(videos) * (128 / 112 + 1)


@needs_libtpu
def test_float32_products_on_a_tpu_take_passes():
    costs, step = compiled_product("v5e:1x1")
    assert step.compute == pytest.approx(6 * costs.flops / targets.parse("v5e:1x1").chip.flops)


@needs_libtpu
def test_kernel_on_a_tpu_counts_by_its_estimate_and_its_instructions():
    batch, n, heads, size = 8, 256, 4, 32

    def attend(qkv):
        return tpu_attention(qkv, (n,))

    costs, step = compiled("v5e:1x1", attend, (batch, n, 3, heads, size))
    (kernel,) = (work for work in costs.work if work.kernel)
    assert kernel.flops == 2 * 2 * batch * heads * n * n * size
    # products of 128 rows, 128 lanes and 128 columns by one of four units take 128 cycles; heads
    # of 32 use a quarter of the lanes
    products = 2 * batch * heads * (n / 128) ** 2 * 128 / 4
    assert products < kernel.cycles < 10 * products
    assert step.compiled.kernels == kernel.cycles / 1.5e9
    # twice the samples are twice the steps of the grid
    twice, _ = compiled("v5e:1x1", attend, (2 * batch, n, 3, heads, size))
    (longer,) = (work for work in twice.work if work.kernel)
    assert longer.cycles == pytest.approx(2 * kernel.cycles, rel=0.02)
    assert not costs.unknown


@needs_libtpu
def test_each_call_of_a_kernel_on_a_tpu_has_the_instructions_of_its_code():
    def attend(qkv):
        once = tpu_attention(qkv, (128,))
        return tpu_attention(jnp.stack([once] * 3, axis=2), (128,))

    costs, step = compiled("v5e:1x1", attend, (2, 128, 3, 4, 32))
    first, second = (work.cycles for work in costs.work if work.kernel)
    assert first == second > 0
    assert step.compiled.kernels == pytest.approx(2 * first / 1.5e9)


@needs_cuda
def test_loop_on_a_gpu_reads_each_layer_once():
    costs, step = compiled("h100:1", layers, (LAYERS, WIDTH, WIDTH), (ROWS, WIDTH))
    assert costs.flops == PRODUCTS
    activations = 2 * LAYERS * ROWS * WIDTH
    assert WEIGHTS + activations < costs.bytes < 1.1 * WEIGHTS + 8 * activations
    assert step.compiled is None


@needs_cuda
def test_float32_products_on_a_gpu_do_not_use_tensor_cores():
    costs, step = compiled_product("h100:1")
    assert costs.bytes == 3 * 4 * WIDTH**2
    assert step.compute == pytest.approx(costs.flops / 66.9e12)


@needs_cuda
@pytest.mark.parametrize("where", ["a100:1", "h100:1", "h200:1"])
@pytest.mark.parametrize("kernel,products", [(attention.cudnn, 2 + 5), (attention.pallas, 2 + 7)])
def test_fused_attention_on_a_gpu_counts_its_products(where, kernel, products):
    if kernel is attention.cudnn:
        pytest.importorskip("nvidia.cudnn")

    def loss(qkv):
        return kernel(qkv, (n,)).astype(jnp.float32).sum()

    batch, n, heads, size = 8, 1024, 4, 64
    costs, _ = compiled(where, jax.grad(loss), (batch, n, 3, heads, size))
    assert costs.flops == products * 2 * batch * heads * n * n * size
    scores = batch * heads * n * n
    assert costs.bytes < 4 * scores  # which are not in memory
    assert not costs.unknown


def sharded_gradient(w, x):
    return jax.grad(lambda w: layers(w.astype(x.dtype), x).astype(jnp.float32).sum())(w)


def sharded_text(where):
    """The gradient of a loop over layers, with rows over data and fsdp, and weights over fsdp."""
    mesh = Mesh(np.array(where.devices()).reshape(2, 4), ("data", "fsdp"))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    w = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=rows)
    options = compiler_options(where.devices()[0])
    jitted = jax.jit(sharded_gradient, out_shardings=split, compiler_options=options)
    return jitted.lower(w, x).compile().as_text()


def check_sharded(text, where):
    """Checks the costs of `sharded_text`."""
    costs = Costs.of(text, where.chip.platform, where.chip.passes)
    # forward, and the gradients of weights and inputs; the compiler may keep the first input's
    assert costs.flops in (3 * PRODUCTS / 8, PRODUCTS / 8 * (3 - 1 / LAYERS))
    mesh = Mesh(np.arange(8).reshape(2, 4), ("data", "fsdp"))
    received = {
        (kind, axes): sum(
            c.received
            for c in costs.collectives
            if (c.kind, axes_of(c.group, mesh)) == (kind, axes)
        )
        for kind in ("all-gather", "reduce-scatter", "all-reduce")
        for axes in ("data", "fsdp")
    }
    # weights in bfloat16 are gathered for the forward and the backward pass, or once for both
    gathered = received["all-gather", "fsdp"] / (WEIGHTS * 3 / 4)
    assert gathered in (1, 2)
    # their gradients are summed over fsdp and data
    assert received["reduce-scatter", "fsdp"] + received["all-reduce", "fsdp"] > 0
    assert received["all-reduce", "data"] + received["reduce-scatter", "data"] > 0
    assert not costs.unknown


@needs_libtpu
def test_collectives_on_tpus_are_those_of_the_shardings():
    where = targets.parse("v5e:2x4")
    check_sharded(sharded_text(where), where)


@needs_cuda
def test_collectives_on_gpus_are_those_of_the_shardings():
    where = targets.parse("h100:8")
    check_sharded(sharded_text(where), where)


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.stem)
def test_recorded_texts_of_each_version_are_read(file):
    """`h100-jax-0.12.txt` is `sharded_text` by JAX 0.12."""
    where = targets.parse(f"{file.stem.partition('-')[0]}:8")
    check_sharded(file.read_text(encoding="utf-8"), where)


@needs_libtpu
def test_several_slices_are_connected_along_data():
    """The gradients' sum over `data` goes through the network between the slices."""
    where = targets.parse("v5e:2x2,slices=2")
    text = sharded_text(where)
    costs = Costs.of(text, "tpu", where.chip.passes)
    (group,) = {c.group for c in costs.collectives if where.chips // 2 in c.group}
    assert group == (0, 4)
    between = [c for c in costs.collectives if c.group == group]
    assert {c.kind for c in between} == {"all-reduce"}
    assert sum(c.times for c in between) == LAYERS
