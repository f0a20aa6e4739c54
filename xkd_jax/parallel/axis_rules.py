"""The table of logical axes: over which axes of the mesh each dimension of an array is split."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")

# The whole of the sharding: each logical axis of a parameter, an activation or a batch, and the
# mesh axes it is split over. A dimension that its mesh axes don't divide is kept whole.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
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
    """The spec of an array with these logical axes, by `RULES`."""

    def place(axis: str | None, size: int) -> str | tuple[str, ...] | None:
        names = RULES[axis] if axis else ()
        parts = math.prod(mesh.shape[name] for name in names)
        if parts == 1 or size % parts:
            return None
        return names[0] if len(names) == 1 else names

    return PartitionSpec(*(place(a, n) for a, n in zip(axes, shape, strict=True)))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Keeps an activation where its logical axes belong; without a mesh it is left alone.

    Args:
      x: of any shape and dtype; the result has the same.
      *axes: the name of each of its axes in `axis_rules`; None: not split.

    Where both the batch and a weight's width are split over `fsdp`, the compiler is otherwise free
    to gather the batch in place of the weight.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition(axes, x.shape, mesh))


def on_each_shard(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, whose arguments and results all start with the batch, per device.

    Every device sees its own rows only and may go through them one by one, which the compiler
    would otherwise do row by row over all of them. Without a mesh, and where the mesh doesn't
    divide the batch, there is one shard.
    """

    def sharded(*args: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return function(*args)
        rows = partition(("batch",), (len(jax.tree.leaves(args)[0]),), mesh)
        return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*args)

    return sharded
