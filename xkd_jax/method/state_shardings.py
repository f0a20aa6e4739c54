"""Shardings of the training state.

With `MeshConfig.optimizer` split, the state's matrices are divided over the axis `data`, in
addition to the axes of their layers: each device keeps and updates a part of the weights, moments
and moving averages (`divided`), and a step begins with the whole weights (`gathered`).

Source: Rajbhandari et al., "ZeRO", SC 2020, in which only the moments are divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from data_pipelines.terminal import count
from xkd_jax.config.architecture import Architecture
from xkd_jax.method.train_state import TrainState, abstract, initial_state
from xkd_jax.networks.precision import resolved
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.networks.tree import Tree, is_stacked, path_names
from xkd_jax.parallel.axis_rules import RULES, partition


def parameter_shardings(
    cls: type[Teacher],
    architecture: Architecture,
    mesh: Mesh | AbstractMesh,
    *,
    split: bool = False,
) -> Tree:
    """Returns the shardings of a network's parameters; see `module_shardings`."""
    return module_shardings(abstract(cls, architecture), mesh, split=split)


def module_shardings(module: nnx.Module, mesh: Mesh | AbstractMesh, *, split: bool = False) -> Tree:
    """Returns the shardings of a module's parameters, by the logical axes of its layers.

    Args:
      module: with shapes in place of parameters.
      mesh: the mesh of devices.
      split: whether matrices are also divided over the axis `data`.
    """
    state = nnx.state(module, nnx.Param)
    axes = nnx.to_pure_dict(nnx.get_partition_spec(state))

    def place(path: tuple[Any, ...], leaf: Any, names: PartitionSpec) -> NamedSharding:
        spec = partition(tuple(names), leaf.shape, mesh)
        if split:
            spec = _over_data(spec, leaf.shape, is_stacked(path), mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, nnx.to_pure_dict(state), axes)


def _over_data(
    spec: PartitionSpec, shape: tuple[int, ...], stacked: bool, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Returns the spec of a matrix with its first divisible dimension divided over data.

    Dimensions that other axes already divide are tried last. The layer dimension is not divided, as
    each layer's gradient would then belong to one device.
    """
    if mesh.shape["data"] == 1 or len(shape) - stacked < 2:
        return spec
    for i in sorted(range(stacked, len(shape)), key=lambda i: spec[i] is not None):
        names = () if spec[i] is None else spec[i] if isinstance(spec[i], tuple) else (spec[i],)
        names = (*names, "data")
        if shape[i] % math.prod(mesh.shape[name] for name in names) == 0:
            return PartitionSpec(*spec[:i], names, *spec[i + 1 :])
    return spec


def gathered(cls: type[Teacher], params: Tree, architecture: Architecture) -> Tree:
    """Gathers divided parameters along the axis `data` of the current mesh.

    Kernels of layers are gathered in the compute dtype, the only dtype in which they are used.

    Args:
      cls: `Student` or `Teacher`.
      params: float32 parameters.
      architecture: architecture of the networks.
    """
    dtype = jnp.dtype(resolved(architecture).model.compute_dtype)

    def gather(path: tuple[Any, ...], leaf: jax.Array, whole: Any, part: Any) -> jax.Array:
        if whole.spec == part.spec:
            return leaf
        sent = leaf.astype(dtype) if path_names(path)[-1] == "kernel" else leaf
        return jax.lax.with_sharding_constraint(sent, whole).astype(leaf.dtype)

    return _placed(gather, cls, params, architecture)


def divided(cls: type[Teacher], gradients: Tree, architecture: Architecture) -> Tree:
    """Returns gradients divided over the axis `data` of the current mesh.

    Args:
      cls: `Student` or `Teacher`.
      gradients: in the structure of its parameters.
      architecture: architecture of the networks.
    """

    def divide(path: tuple[Any, ...], leaf: jax.Array, whole: Any, part: Any) -> jax.Array:
        del path, whole
        return jax.lax.with_sharding_constraint(leaf, part)

    return _placed(divide, cls, gradients, architecture)


def _placed(
    function: Callable[..., jax.Array], cls: type[Teacher], params: Tree, architecture: Architecture
) -> Tree:
    """Maps (path, leaf, whole sharding, divided sharding); without a mesh, returns the leaves."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return params
    whole, part = (
        parameter_shardings(cls, architecture, mesh, split=split) for split in (False, True)
    )
    return jax.tree_util.tree_map_with_path(function, params, whole, part)


def state_shardings(
    architecture: Architecture,
    mesh: Mesh | AbstractMesh,
    transformation: optax.GradientTransformation,
    *,
    split: bool = False,
) -> TrainState:
    """Returns the shardings of the training state, in its structure.

    Args:
      architecture: architecture of the networks.
      mesh: the mesh of devices.
      transformation: the optimizer.
      split: whether `MeshConfig.optimizer` is split.
    """
    shapes = abstract_state(architecture, transformation)
    whole = NamedSharding(mesh, PartitionSpec())
    student = parameter_shardings(Student, architecture, mesh, split=split)
    parts: dict[str, Any] = {
        "step": whole,
        "student": student,
        "teacher": parameter_shardings(Teacher, architecture, mesh, split=split),
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


def abstract_state(
    architecture: Architecture, transformation: optax.GradientTransformation
) -> TrainState:
    """Returns the shapes and dtypes of the training state."""
    return jax.eval_shape(
        lambda key: initial_state(key, architecture, transformation), jax.random.key(0)
    )


def describe(architecture: Architecture, mesh: Mesh, *, split: bool = False) -> str:
    """Returns lines with the mesh, the axis rules and the number of the student's parameters.

    Args:
      architecture: architecture of the networks.
      mesh: the mesh of devices.
      split: whether `MeshConfig.optimizer` is split.
    """
    shapes = nnx.to_pure_dict(nnx.state(abstract(Student, architecture), nnx.Param))
    shardings = parameter_shardings(Student, architecture, mesh, split=split)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    local = sum(
        math.prod(sharding.shard_shape(leaf.shape))
        for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )
    rules = ", ".join(f"{axis} -> {' x '.join(names) or '-'}" for axis, names in RULES.items())
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    processes = count(jax.process_count(), "process")
    return (
        f"mesh      {axes} ({mesh.devices.flat[0].platform}, {processes})"
        f"{', optimizer split over data' * split}\n"
        f"sharding  {rules}\n"
        f"trained   {total / 1e6:.1f} M parameters, {local / 1e6:.1f} M on each device"
    )
