"""Shardings of the training state."""

from __future__ import annotations

import math
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.terminal import count
from xkd_jax.config.pretraining import Architecture
from xkd_jax.method.train_state import TrainState, abstract, initial_state
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.axis_rules import RULES, partition


def parameter_shardings(cls: type[Teacher], architecture: Architecture, mesh: Mesh) -> Tree:
    """Returns the shardings of a network's parameters; see `module_shardings`."""
    return module_shardings(abstract(cls, architecture), mesh)


def module_shardings(module: nnx.Module, mesh: Mesh) -> Tree:
    """Returns the shardings of a module's parameters, by the logical axes of its layers.

    Args:
      module: with shapes in place of parameters.
      mesh: the mesh of devices.
    """
    state = nnx.state(module, nnx.Param)
    axes = nnx.to_pure_dict(nnx.get_partition_spec(state))
    shapes = nnx.to_pure_dict(state)
    return jax.tree.map(
        lambda names, leaf: NamedSharding(mesh, partition(tuple(names), leaf.shape, mesh)),
        axes,
        shapes,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def state_shardings(
    architecture: Architecture, mesh: Mesh, transformation: optax.GradientTransformation
) -> TrainState:
    """Returns the shardings of the training state, in its structure."""
    shapes = abstract_state(architecture, transformation)
    whole = NamedSharding(mesh, PartitionSpec())
    student = parameter_shardings(Student, architecture, mesh)
    parts: dict[str, Any] = {
        "step": whole,
        "student": student,
        "teacher": parameter_shardings(Teacher, architecture, mesh),
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


def describe(architecture: Architecture, mesh: Mesh) -> str:
    """Returns lines with the mesh, the axis rules and the number of the student's parameters."""
    shapes = nnx.to_pure_dict(nnx.state(abstract(Student, architecture), nnx.Param))
    shardings = parameter_shardings(Student, architecture, mesh)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    local = sum(
        math.prod(sharding.shard_shape(leaf.shape))
        for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )
    rules = ", ".join(f"{axis} -> {' x '.join(names) or '-'}" for axis, names in RULES.items())
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    processes = count(jax.process_count(), "process")
    return (
        f"mesh      {axes} ({mesh.devices.flat[0].platform}, {processes})\n"
        f"sharding  {rules}\n"
        f"trained   {total / 1e6:.1f} M parameters, {local / 1e6:.1f} M on each device"
    )
