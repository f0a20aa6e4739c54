import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning.costs import Costs
from xkd_jax.planning.flops import count_flops
from xkd_jax.planning.hlo_text.arrays import UnknownTextError
from xkd_jax.planning.hlo_text.program import Module
from xkd_jax.planning.slices import CHIPS

LAYERS, WIDTH, ROWS = 5, 32, 16


def read(text, platform="cpu"):
    return Costs.of(text, platform, CHIPS["v5e"].passes)


def scanned(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()


def unrolled(weights, x):
    for layer in range(LAYERS):
        x = jnp.tanh(x @ weights[layer])
    return x.sum()


def arguments():
    return jnp.ones((LAYERS, WIDTH, WIDTH)), jnp.ones((ROWS, WIDTH))


@pytest.mark.parametrize("differentiate", [False, True])
def test_loop_counts_once_per_iteration(differentiate):
    loop, flat = (jax.grad(f) if differentiate else f for f in (scanned, unrolled))
    products = 2 * LAYERS * ROWS * WIDTH * WIDTH
    # the gradient of the weights of all layers, and of the input of all but the first
    expected = products * (3 - 1 / LAYERS) if differentiate else products
    compiled = jax.jit(loop).lower(*arguments()).compile()
    found = read(compiled.as_text()).flops
    whole = products * 3 if differentiate else products
    assert found in (expected, whole)  # the compiler may keep a product that a loop can't omit
    assert count_flops(loop, *arguments()) in (expected, whole)
    assert count_flops(flat, *arguments()) in (expected, whole)
    once = compiled.cost_analysis()
    unrolled_count = jax.jit(flat).lower(*arguments()).compile().cost_analysis()["flops"]
    assert once["flops"] < found <= 1.2 * unrolled_count


@pytest.mark.parametrize("start,step,limit,rounds", [(0, 1, 5, 5), (0, 2, 8, 4), (1, 3, 9, 3)])
def test_loop_iterations_follow_from_its_counter(start, step, limit, rounds):
    """TPU compilers unroll loops by 2 and omit known_trip_count."""

    def function(x, w):
        def body(carry):
            return carry[0] + step, jnp.tanh(carry[1] @ w)

        return jax.lax.while_loop(lambda carry: carry[0] < limit, body, (start, x))[1]

    text = jax.jit(function).lower(jnp.ones((ROWS, WIDTH)), jnp.ones((WIDTH, WIDTH))).compile()
    text = re.sub("known_trip_count", "unknown", text.as_text())
    assert "unknown" in text
    assert read(text).flops == rounds * 2 * ROWS * WIDTH * WIDTH


def test_loop_without_constant_limit_raises():
    def function(x):
        return jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x)

    text = jax.jit(function).lower(jnp.ones((ROWS, ROWS))).compile().as_text()
    with pytest.raises(UnknownTextError, match="loop"):
        read(text)


def test_unused_products_are_not_counted():
    def function(weights, x):
        unused = x @ weights[0]
        del unused
        return x @ weights[1]

    assert count_flops(function, *arguments()) == 2 * ROWS * WIDTH * WIDTH


def test_a_jitted_function_with_compiler_options_is_counted():
    def function(weights, x):
        return x @ weights[1]

    jitted = jax.jit(function, compiler_options={"xla_cpu_enable_fast_math": False})
    assert count_flops(jitted, *arguments()) == 2 * ROWS * WIDTH * WIDTH


def test_rematerialized_products_count_again():
    def loss(policy):
        def body(x, w):
            return jnp.tanh(jnp.tanh(x @ w) @ w), None

        body = jax.checkpoint(body) if policy else body
        return lambda weights, x: jax.lax.scan(body, x, weights)[0].sum()

    plain, again = (count_flops(jax.grad(loss(p)), *arguments()) for p in (False, True))
    assert again > plain


def test_collectives_have_group_and_runs_of_their_loop():
    mesh = mesh_lib.make_mesh(MeshConfig(2, 4, 1))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))

    def loss(weights, x):
        def body(x, w):
            w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows), None

        return jax.lax.scan(body, x, weights)[0].sum()

    compiled = jax.jit(loss, in_shardings=(split, rows)).lower(*arguments()).compile()
    found = read(compiled.as_text())
    (gathered,) = (c for c in found.collectives if c.kind == "all-gather")
    assert (gathered.times, gathered.group) == (LAYERS, (0, 1, 2, 3))
    assert gathered.bytes == 4 * WIDTH * WIDTH
    assert gathered.received == LAYERS * 4 * WIDTH * WIDTH * 3 / 4
    (reduced,) = (c for c in found.collectives if c.kind == "all-reduce")
    assert len(reduced.group) == 8
    assert found.flops == 2 * LAYERS * ROWS * WIDTH * WIDTH / 8


TPU = """HloModule step, is_scheduled=true

%fused (p0: bf16[4,16,32], p1: f32[6,8,8], p2: s32[]) -> bf16[4,16,16] {
  %p0 = bf16[4,16,32]{2,1,0} parameter(0)
  %p1 = f32[6,8,8]{2,1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,8,8]{2,1,0} dynamic-slice(%p1, %p2, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %other = bf16[4,16,32]{2,1,0} copy(%p0)
  ROOT %batched = bf16[4,16,16]{2,1,0} convolution(%p0, %other), \
window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
}

ENTRY %main (a: bf16[4,16,32], b: f32[6,8,8], i: s32[]) -> bf16[4,16,16] {
  %a = bf16[4,16,32]{2,1,0:T(8,128)S(1)} parameter(0)
  %b = f32[6,8,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %x = f32[8,16]{1,0} constant({...})
  %y = f32[8,8]{1,0} convolution(%x, %x), dim_labels=bf_oi->bf, operand_precision={highest,highest}
  ROOT %f = bf16[4,16,16]{2,1,0} fusion(%a, %b, %i), kind=kOutput, calls=%fused
}
"""


def test_tpu_products_count_passes_and_traffic():
    product, fusion = read(TPU, "tpu").work
    assert (product.flops, product.passes) == (2 * 8 * 8 * 16, 6 * 2 * 8 * 8 * 16)
    assert product.bytes == 4 * (2 * 8 * 16 + 8 * 8)
    # a product for each of four entries of the batch: the dilation keeps them apart
    assert fusion.flops == fusion.passes == 4 * 2 * 16 * 16 * 32
    # of b only the slice, of a nothing as it is in vector memory, and the result
    assert fusion.bytes == 4 * 8 * 8 + 4 + 2 * 4 * 16 * 16


def test_every_computation_of_a_program_is_parsed():
    compiled = jax.jit(scanned).lower(*arguments()).compile()
    module = Module.parse(compiled.as_text(), "cpu")
    assert sorted(times for _, times, _ in module.runs())[-1] == LAYERS
    for _, operations in module.computations.items():
        names = {name for o in operations.values() for name in o.operands}
        assert names <= set(operations)
