import functools
import math

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from method_inputs import (
    change,
    first_state,
    learning,
    make_inputs,
    schedules_of,
    start,
    step_of_inputs,
)

from data_pipelines.errors import DevicesError
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.method import losses, state_shardings
from xkd_jax.networks.student import Student
from xkd_jax.parallel import axis_rules
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning.costs import Costs
from xkd_jax.training.checkpoints import checkpoint
from xkd_jax.training.compiled_run import optimizer_of

HALF = 5


def input_shardings(inputs, mesh):
    """Shards inputs over the axis of samples, which is the second one of local views."""
    rows = axis_rules.RULES["batch"]

    def place(path, leaf):
        if np.ndim(leaf) == 0:
            return PartitionSpec()
        local = any(getattr(key, "key", None) == "local" for key in path)
        return PartitionSpec(None, rows) if local else PartitionSpec(rows)

    return jax.tree.map(
        lambda spec: jax.sharding.NamedSharding(mesh, spec),
        jax.tree_util.tree_map_with_path(place, inputs),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def losses_of(step, state, inputs, steps):
    """Runs a number of steps and returns their losses and the last state."""
    losses = []
    for _ in range(steps):
        state, metrics = step(state, inputs)
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def single_device(small, make_views, tmp_path_factory):
    """Ten steps on one device: config, inputs, losses, and a checkpoint after half of them."""
    config = learning(small)
    inputs = make_inputs(config, make_views(config))
    state, step, _ = start(config)
    before, state = losses_of(step, state, inputs, HALF)
    directory = tmp_path_factory.mktemp("checkpoints")
    with checkpoint.Checkpoints(directory, config, 1, "") as checkpoints:
        checkpoints.save(HALF, state)
    after, _ = losses_of(step, state, inputs, HALF)
    return config, inputs, before + after, directory


@pytest.mark.parametrize(
    "axes,optimizer",
    [
        ((2, 2, 2), "split"),
        *(
            pytest.param(axes, optimizer, marks=pytest.mark.heavy)
            for axes, optimizer in (
                ((2, 2, 2), "whole"),
                ((2, 1, 1), "whole"),
                ((1, 4, 1), "whole"),
                ((8, 1, 1), "split"),
            )
        ),
    ],
)
def test_losses_are_equal_on_every_mesh(single_device, axes, optimizer):
    """A run that is resumed on more devices has the same losses too."""
    config, inputs, expected, directory = single_device
    config = change(config, mesh={"optimizer": optimizer})
    mesh = mesh_lib.make_mesh(MeshConfig(*axes), jax.devices()[: math.prod(axes)])
    plan = schedules_of(config)
    transformation = optimizer_of(config, plan)
    shardings = state_shardings.state_shardings(
        config.architecture, mesh, transformation, split=optimizer == "split"
    )
    step = jax.jit(
        mesh_lib.on_mesh(step_of_inputs(config, plan), mesh),
        in_shardings=(shardings, input_shardings(inputs, mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
    first = jax.device_put(first_state(config, plan), shardings)
    losses, state = losses_of(step, first, inputs, 2 * HALF)
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    kernel = state.student["encoders"]["blocks"]["video"]["layers"]["fc1"]["kernel"]
    shards = axes[1] * axes[2] * (axes[0] if optimizer == "split" else 1)
    assert kernel.addressable_shards[0].data.size * shards == kernel.size
    assert state.optimizer[1].mu["heads"]["audio"]["directions"].sharding == (
        state.student["heads"]["audio"]["directions"].sharding
    )
    shapes = state_shardings.abstract_state(config.architecture, transformation)
    with checkpoint.Checkpoints(directory, config, 1, "") as checkpoints:
        restored = checkpoints.restore(checkpoint.like(shapes, shardings))
    resumed, _ = losses_of(step, restored, inputs, HALF)
    np.testing.assert_allclose(resumed, expected[HALF:], rtol=1e-4)


def whole_and_split(config, axes=(4, 2, 1)):
    """Shapes and shardings of the state, for both values of `mesh.optimizer`."""
    mesh = mesh_lib.make_mesh(MeshConfig(*axes))
    transformation = optimizer_of(config, schedules_of(config))
    shapes = state_shardings.abstract_state(config.architecture, transformation)
    return (
        checkpoint.like(
            shapes,
            state_shardings.state_shardings(config.architecture, mesh, transformation, split=split),
        )
        for split in (False, True)
    )


def test_split_state_is_divided_over_data(small):
    whole, split = whole_and_split(small)
    kernel = split.optimizer[1].mu["encoders"]["blocks"]["video"]["layers"]["fc1"]["kernel"]
    assert kernel.shape == (2, 24, 96)
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "data")
    norm = split.student["encoders"]["blocks"]["video"]["layers"]["norm1"]["scale"]
    assert norm.sharding.is_fully_replicated
    ratio = mesh_lib.device_bytes(split) / mesh_lib.device_bytes(whole)
    assert 0.25 < ratio < 0.35  # 1 / 4, and what is small or indivisible
    _, same = whole_and_split(small, (1, 4, 2))
    assert all("data" not in leaf.sharding.spec for leaf in jax.tree.leaves(same))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_split_weights_are_gathered_as_layers_use_them(small, dtype):
    config = change(small, model={"compute_dtype": dtype})
    whole, split = whole_and_split(config)
    rng = np.random.default_rng(0)
    student = jax.tree.map(
        lambda leaf: jax.device_put(rng.random(leaf.shape, np.float32), leaf.sharding),
        split.student,
    )
    gather = functools.partial(state_shardings.gathered, Student, architecture=config.architecture)
    mesh = jax.tree.leaves(split)[0].sharding.mesh
    found = jax.jit(mesh_lib.on_mesh(gather, mesh))(student)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), found, whole.student
        )
    )
    np.testing.assert_array_equal(
        found["heads"]["audio"]["directions"], student["heads"]["audio"]["directions"]
    )
    block = ("encoders", "blocks", "video", "layers")
    for path in ((*block, "fc1"), (*block, "qkv"), ("heads", "audio", "linears", 1)):
        sent, kept = (
            functools.reduce(lambda tree, key: tree[key], (*path, "kernel"), of)
            for of in (found, student)
        )
        assert sent.dtype == np.float32
        np.testing.assert_array_equal(sent, np.asarray(kept).astype(dtype).astype(np.float32))


def test_indivisible_dimensions_are_not_split():
    mesh = mesh_lib.make_mesh(MeshConfig(1, 4, 2))
    assert axis_rules.partition(("embed", "mlp"), (6, 8), mesh) == PartitionSpec(None, "tensor")
    assert axis_rules.partition(("layers", "embed", None), (3, 8, 5), mesh) == PartitionSpec(
        None, "fsdp", None
    )


def test_minus_one_is_number_of_remaining_devices():
    assert dict(mesh_lib.make_mesh(MeshConfig(-1, 2, 2)).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
    }


@pytest.mark.parametrize(
    "axes,devices", [((-1, 1, 1), 1), ((-1, 2, 1), 2), ((-1, 2, 2), 4), ((2, 2, 2), 8)]
)
def test_fewest_devices_count_free_axes_as_one(axes, devices):
    assert mesh_lib.fewest_devices(MeshConfig(*axes)) == devices


@pytest.mark.parametrize("axes", [(3, 1, 1), (-1, 3, 1), (8, 2, 1)])
def test_mesh_with_wrong_number_of_devices_is_refused(axes):
    with pytest.raises(DevicesError, match="doesn't fit 8 devices"):
        mesh_lib.make_mesh(MeshConfig(*axes))


def test_indivisible_batch_is_refused():
    mesh = mesh_lib.make_mesh(MeshConfig(4, 2, 1))
    with pytest.raises(DevicesError, match="multiple"):
        mesh_lib.batch_sharding(mesh, 12)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_single_process_provides_every_row(axes):
    mesh = mesh_lib.make_mesh(MeshConfig(*axes))
    assert mesh_lib.local_rows(mesh_lib.batch_sharding(mesh, 16), 16) == list(range(16))


def test_put_batch_keeps_values_and_splits_rows():
    mesh = mesh_lib.make_mesh(MeshConfig(4, 2, 1))
    placed = mesh_lib.batch_sharding(mesh, 16)
    batch = {"a": np.arange(32).reshape(16, 2)}
    found = mesh_lib.put_batch(batch, placed, 16)["a"]
    np.testing.assert_array_equal(found, batch["a"])
    assert found.addressable_shards[0].data.shape == (2, 2)


def test_description_names_rules_and_sizes(small):
    mesh = mesh_lib.make_mesh(MeshConfig(2, 2, 2))
    text = state_shardings.describe(small.architecture, mesh)
    assert "data 2 x fsdp 2 x tensor 2" in text
    assert "embed -> fsdp" in text
    assert "optimizer" not in text
    text = state_shardings.describe(small.architecture, mesh, split=True)
    assert "(cpu, 1 process), optimizer split over data" in text


def test_activations_are_sharded_by_axis_rules():
    mesh = mesh_lib.make_mesh(MeshConfig(2, 2, 2))

    def function(x):
        return axis_rules.constrain(2 * x, "batch", None, "heads")

    x = np.ones((8, 3, 4), np.float32)
    whole = jax.sharding.NamedSharding(mesh, PartitionSpec())
    placed = jax.jit(mesh_lib.on_mesh(function, mesh), in_shardings=whole)(x)
    assert placed.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
    assert jax.jit(function)(x).sharding.is_fully_replicated  # no constraint without a mesh


def test_alignment_loss_divides_the_pairs_of_rows():
    """No device computes all pairs or receives all rows, also for the gradient."""
    mesh = mesh_lib.make_mesh(MeshConfig(4, 2, 1))
    rows, outputs = 64, 16
    split = jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    step = jax.jit(
        mesh_lib.on_mesh(jax.grad(losses.squared_mmd, (0, 1)), mesh), in_shardings=(split, split)
    )
    x = np.ones((rows, outputs), np.float32)
    found = Costs.of(step.lower(x, x).compile().as_text(), "tpu", {})
    # four kernel matrices by rows, and as many products with the other side for the gradient
    assert found.flops == 8 * 2 * rows * rows * outputs / 8
    received = {c.bytes for c in found.collectives if c.kind == "all-gather"}
    assert {4 * rows * outputs / 4, 4 * rows * outputs / 2} <= received
    assert max(received) == 4 * rows * outputs / 2
