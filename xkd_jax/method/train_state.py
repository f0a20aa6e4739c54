"""The training state, and the conversion between modules and parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct

from xkd_jax.config.architecture import Architecture
from xkd_jax.config.directions import directions
from xkd_jax.networks.precision import resolved
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.networks.tree import Leaf, Tree

Network = TypeVar("Network", bound=Teacher)
Module = TypeVar("Module", bound=nnx.Module)


class TrainState(struct.PyTreeNode):
    """State of a training after a step.

    step: number of updates made, int32 scalar.
    student: parameters of `Student`, float32.
    teacher: parameters of `Teacher`, float32.
    centers: {name of the direction: center of the teacher's outputs, float32 [outputs]}.
    optimizer: state of the optax transformation.
    """

    step: Leaf
    student: Tree
    teacher: Tree
    centers: dict[str, Leaf]
    optimizer: optax.OptState


def initial_state(
    key: jax.Array, architecture: Architecture, transformation: optax.GradientTransformation
) -> TrainState:
    """Returns the state before the first step; teachers are copies of students.

    Args:
      key: scalar typed PRNG key.
      architecture: architecture of the networks.
      transformation: the optimizer.
    """
    student = parameters(construct(Student, architecture, key))
    teacher = jax.tree.map(jnp.array, teacher_counterpart(student, architecture))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        student=student,
        teacher=teacher,
        centers={
            d.name: jnp.zeros(architecture.model.head.outputs)
            for d in directions(architecture.modalities)
        },
        optimizer=transformation.init(student),
    )


def construct(cls: type[Network], architecture: Architecture, key: jax.Array) -> Network:
    """Returns a module with initial parameters drawn from `key`, a scalar typed PRNG key.

    Its annotations are logical axes, which `state_shardings` uses for the whole tree; NNX's eager
    sharding of single variables is turned off.
    """
    with nnx.use_eager_sharding(False):
        return cls(resolved(architecture), rngs=nnx.Rngs(key))


def abstract(cls: type[Network], architecture: Architecture) -> Network:
    """Returns a network with shapes in place of parameters, without computation."""
    # resolved: the dtype depends on the mesh's device
    return nnx.merge(*_graph_and_shapes(cls, resolved(architecture)))


@functools.lru_cache(maxsize=16)  # a network is constructed in 0.2 s, and a start needs several
def _graph_and_shapes(
    cls: type[Network], architecture: Architecture
) -> tuple[nnx.GraphDef[Network], nnx.State]:
    return nnx.split(abstract_module(lambda: construct(cls, architecture, jax.random.key(0))))


def abstract_module(make: Callable[[], Module]) -> Module:
    """Returns a module with shapes in place of parameters, without computation."""

    def without_sharding() -> Module:
        with nnx.use_eager_sharding(False):
            return make()

    # Within a mesh, NNX would interpret logical axes as axes of that mesh.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return nnx.eval_shape(without_sharding)


def parameters(module: nnx.Module) -> Tree:
    """Returns a module's parameters as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def module_of(cls: type[Network], params: Tree, architecture: Architecture) -> Network:
    """Returns the module with these parameters, nested dictionaries of arrays."""
    return with_parameters(abstract(cls, architecture), params)


def with_parameters(module: Module, params: Tree) -> Module:
    """Returns a copy of a module with other parameters, nested dictionaries of arrays.

    Args:
      module: may have shapes in place of parameters (`abstract_module`).
      params: all of its parameters.
    """
    graph, _ = nnx.split(module)
    return nnx.merge(graph, params)


def advance(state: TrainState, step: int) -> TrainState:
    """Returns the state with all step counters set to `step`; data and schedules follow them."""
    return jax.tree.map(
        lambda leaf: jax.device_put(np.int32(step), leaf.sharding) if is_count(leaf) else leaf,
        state,
    )


def is_count(leaf: jax.Array) -> bool:
    """Whether a leaf of the state, of any shape, is a step counter; all integer dtypes are."""
    return jnp.issubdtype(leaf.dtype, jnp.integer)
