"""The table from logical axes of arrays to axes of the mesh, and sharding by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")

# {logical axis of a parameter, an activation or a batch: mesh axes that it is split over}. A
# dimension that is not divisible by them is not split.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "pair_rows": ("data",),
    "pair_columns": ("fsdp",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "outputs": ("tensor",),
    "bottleneck": (),
    "patch": (),
    "norm": (),
    "layers": (),
}


def partition(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Returns the `PartitionSpec` of an array by `RULES`.

    Args:
      axes: logical axis of each dimension; None: not split.
      shape: of the array.
      mesh: a mesh with the axes `MESH_AXES`.
    """

    def place(axis: str | None, size: int) -> tuple[str, ...] | None:
        names = RULES[axis] if axis else ()
        parts = math.prod(mesh.shape[name] for name in names)
        return None if parts == 1 or size % parts else names

    return PartitionSpec(*(place(a, n) for a, n in zip(axes, shape, strict=True)))


def axis_size(axis: str) -> int:
    """Returns the number of parts of a logical axis on the current mesh; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in RULES[axis])


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an activation by `RULES`; without a mesh, returns it unchanged.

    Without this constraint the compiler may gather the batch over `fsdp` where it should gather a
    weight.

    Args:
      x: an array of any shape and dtype.
      *axes: logical axis of each dimension; None: not split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition(axes, x.shape, mesh))


def on_each_shard(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function mapped over the shards of the batch, the first axis of its arguments.

    A loop over rows then runs on each device over its own rows; otherwise the compiler would run it
    over all rows. Without a mesh, or with an indivisible batch, there is one shard.

    Args:
      function: a function of arrays whose first axis, and that of its results, is the batch.
    """

    def sharded(*args: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return function(*args)
        rows = partition(("batch",), (len(jax.tree.leaves(args)[0]),), mesh)
        return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*args)

    return sharded
