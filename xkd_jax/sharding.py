"""The mesh, and where every array lives on it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xkd_jax.config import Config, MeshConfig
from xkd_jax.errors import UserError
from xkd_jax.method.train_state import TrainState, abstract, initial_state
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.rules import MESH_AXES, RULES, partition
from xkd_jax.tree import Tree


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Arranges the devices as (data, fsdp, tensor).

    On a torus, neighbours in the mesh are neighbours there, also where an axis of the mesh is only
    a part of one of the torus. TPU slices that are one run differ along the first axis alone.

    Raises:
      UserError: the axes don't use all devices, or fsdp x tensor doesn't fit into a slice.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(dataclasses.astuple(config))
    known = math.prod(n for n in sizes if n != -1)
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {dict(zip(MESH_AXES, dataclasses.astuple(config), strict=True))} doesn't fit"
            f" {len(devices)} devices: the product of its axes must be their number."
        )
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"}) or 1
    data, *others = sizes
    if data % slices:
        raise UserError(
            f"mesh.data is {data} on {slices} TPU slices: lower mesh.fsdp or mesh.tensor until both"
            " fit into one slice."
        )
    if slices > 1:
        arranged = mesh_utils.create_hybrid_device_mesh(
            (data // slices, *others), (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def cpu_devices(mesh: MeshConfig, batch_size: int, cores: int) -> int:
    """How many devices to make of a CPU's cores: as many as the mesh and the batch can use.

    One program over several devices keeps cores busy that the threads of one device don't.
    """
    sizes, tensor = dataclasses.astuple(mesh), mesh.tensor
    parts = math.prod(n for n in sizes if n != -1)
    if -1 not in sizes:
        return parts

    def rows_split(devices: int) -> int:
        return parts if tensor == -1 else devices // tensor

    fits = [n for n in range(parts, cores + 1, parts) if batch_size % rows_split(n) == 0]
    return max(fits, default=parts)


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns the function with `rules.constrain` in force while it is traced."""

    @functools.wraps(function)
    def placed(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return placed


def parameter_shardings(cls: type[Teacher], config: Config, mesh: Mesh) -> Tree:
    """Shardings of a module's parameters, by the axes its layers name."""
    state = nnx.state(abstract(cls, config), nnx.Param)
    axes = nnx.to_pure_dict(nnx.get_partition_spec(state))
    shapes = nnx.to_pure_dict(state)
    return jax.tree.map(
        lambda names, leaf: NamedSharding(mesh, partition(tuple(names), leaf.shape, mesh)),
        axes,
        shapes,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def state_shardings(
    config: Config, mesh: Mesh, transformation: optax.GradientTransformation
) -> TrainState:
    """Shardings of the whole training state, in its shape."""
    shapes = abstract_state(config, transformation)
    whole = NamedSharding(mesh, PartitionSpec())
    student = parameter_shardings(Student, config, mesh)
    parts: dict[str, Any] = {
        "step": whole,
        "student": student,
        "teacher": parameter_shardings(Teacher, config, mesh),
        "centers": jax.tree.map(lambda _: whole, shapes.centers),
        "optimizer": optax.tree_map_params(
            transformation,
            lambda _, sharding: sharding,
            shapes.optimizer,
            student,
            transform_non_params=lambda _: whole,
        ),
    }
    return TrainState(**parts)


def abstract_state(config: Config, transformation: optax.GradientTransformation) -> TrainState:
    """The training state's shapes and dtypes."""
    return jax.eval_shape(lambda key: initial_state(key, config, transformation), jax.random.key(0))


def batch_sharding(mesh: Mesh, batch_size: int) -> NamedSharding:
    """Sharding of a batch's first axis.

    Raises:
      UserError: the batch can't be split evenly.
    """
    parts = math.prod(mesh.shape[name] for name in RULES["batch"])
    if batch_size % parts:
        raise UserError(
            f"batch_size {batch_size} can't be split over data x fsdp = {parts} devices: make it a"
            " multiple of them."
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def local_rows(sharding: NamedSharding, batch_size: int) -> list[int]:
    """The rows of the global batch that this process must provide, in order.

    They follow from the sharding: processes along the tensor axis need the same rows, and those of
    a host of a TPU slice, whose chips are a block of the torus, are several stretches.
    """
    indices = sharding.addressable_devices_indices_map((batch_size,))
    spans = [range(batch_size)[index[0]] for index in indices.values() if index is not None]
    return sorted(set().union(*spans))


def put_batch(batch: Any, sharding: NamedSharding, batch_size: int) -> Any:
    """Puts this process's rows on its devices as part of the global batch; returns at once.

    Args:
      batch: arrays whose first axis is the rows of `local_rows`.
      sharding: of the global batch.
      batch_size: rows of the global batch.
    """

    def put(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))

    return jax.tree.map(put, batch)


def describe(config: Config, mesh: Mesh) -> str:
    """The mesh and the rule table, with the share of the student's parameters on a device."""
    shapes = nnx.to_pure_dict(nnx.state(abstract(Student, config), nnx.Param))
    shardings = parameter_shardings(Student, config, mesh)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    local = sum(
        math.prod(sharding.shard_shape(leaf.shape))
        for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )
    rules = ", ".join(f"{axis} -> {' x '.join(names) or '-'}" for axis, names in RULES.items())
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return (
        f"mesh      {axes} ({mesh.devices.flat[0].platform}, {jax.process_count()} processes)\n"
        f"sharding  {rules}\n"
        f"trained   {total / 1e6:.1f} M parameters, {local / 1e6:.1f} M on each device"
    )
