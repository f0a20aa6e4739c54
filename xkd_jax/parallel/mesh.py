"""The mesh of devices, and global batches on it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import DevicesError
from data_pipelines.terminal import count
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel.axis_rules import MESH_AXES, RULES


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """Returns a mesh with the axes data, fsdp and tensor.

    Neighbors in the mesh are neighbors in the torus of a TPU slice. Several TPU slices are arranged
    along the data axis only.

    Args:
      config: size of each axis; -1: the remaining devices.
      devices: the devices; None: all of JAX's devices.

    Raises:
      DevicesError: the product of the sizes is not the number of devices, or fsdp x tensor is
        larger than a slice.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(config.sizes)
    known = math.prod(n for n in sizes if n != -1)
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise DevicesError(
            f"mesh {dict(zip(MESH_AXES, config.sizes, strict=True))} doesn't fit"
            f" {count(len(devices), 'device')}: give sizes whose product is their number."
        )
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"}) or 1
    data, *others = sizes
    if data % slices:
        raise DevicesError(
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


def fewest_devices(mesh: MeshConfig) -> int:
    """Returns the smallest number of devices for a mesh; an axis of size -1 counts as 1.

    A program for one CPU device uses all cores; on two CPU devices, the base step takes nearly
    twice as long.
    """
    return math.prod(n for n in mesh.sizes if n != -1)


def on_mesh(function: Callable[..., Any], mesh: Mesh | AbstractMesh) -> Callable[..., Any]:
    """Returns the function, traced with this mesh as the current one (`axis_rules.constrain`)."""

    @functools.wraps(function)
    def placed(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return placed


def traced_device() -> Any:
    """Returns the device of the current mesh, which may be a description, or JAX's first device."""
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def batch_sharding(mesh: Mesh, batch_size: int) -> NamedSharding:
    """Returns the sharding of a batch's first axis over data and fsdp.

    Args:
      mesh: the mesh of devices.
      batch_size: clips of the global batch.

    Raises:
      DevicesError: the batch is not divisible by the number of shards.
    """
    parts = math.prod(mesh.shape[name] for name in RULES["batch"])
    if batch_size % parts:
        raise DevicesError(
            f"batch_size is {batch_size}, which is not divisible by data x fsdp ="
            f" {count(parts, 'device')}: give a multiple of {parts}."
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def local_rows(sharding: NamedSharding, batch_size: int) -> list[int]:
    """Returns the indices of the global batch's rows that this process provides, in order.

    Processes along the tensor axis provide the same rows. The rows of a host may be several
    intervals, as its chips are a block of the torus.

    Args:
      sharding: of the batch.
      batch_size: rows of the global batch.
    """
    indices = sharding.addressable_devices_indices_map((batch_size,))
    spans = [range(batch_size)[index[0]] for index in indices.values() if index is not None]
    return sorted(set().union(*spans))


def put_batch(batch: Any, sharding: NamedSharding, batch_size: int) -> Any:
    """Starts the transfer of this process's rows to its devices and returns the global batch.

    Args:
      batch: PyTree of arrays whose first axis is the rows of `local_rows`.
      sharding: of the batch.
      batch_size: rows of the global batch.
    """

    def put(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))

    return jax.tree.map(put, batch)


def device_bytes(tree: Any) -> float:
    """Returns the bytes on each device of a tree of `jax.ShapeDtypeStruct`s with shardings."""
    return sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=float) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
