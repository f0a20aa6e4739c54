"""The training state: all that a checkpoint holds."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct

from xkd_jax.config.directions import directions
from xkd_jax.config.pretraining import Architecture
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.networks.tree import Leaf, Tree

Network = TypeVar("Network", bound=Teacher)


class TrainState(struct.PyTreeNode):
    """Everything that one step hands to the next.

    step: int32 scalar, the number of updates made.
    student: parameters of `Student`, float32.
    teacher: parameters of `Teacher`, float32.
    centers: of the teachers' outputs, {direction: float32 [outputs]}.
    optimizer: the state of optax.
    """

    step: Leaf
    student: Tree
    teacher: Tree
    centers: dict[str, Leaf]
    optimizer: optax.OptState


def initial_state(
    key: jax.Array, architecture: Architecture, transformation: optax.GradientTransformation
) -> TrainState:
    """The state before the first step; the teachers are copies of the students.

    Args:
      key: typed PRNG key, a scalar.
      architecture: of the networks.
      transformation: the optimizer, of which the state begins.
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
    """Makes a module with fresh parameters, drawn from `key`, a scalar typed PRNG key.

    Its annotations name logical axes for `sharding`, which places whole trees under jit; NNX must
    not try to place single variables meanwhile.
    """
    with nnx.use_eager_sharding(False):
        return cls(architecture, rngs=nnx.Rngs(key))


def abstract(cls: type[Network], architecture: Architecture) -> Network:
    """The module with shapes in place of parameters; nothing is computed."""
    # In a mesh, as while a step is traced, NNX would take the logical axes for the mesh's own.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return nnx.eval_shape(lambda: construct(cls, architecture, jax.random.key(0)))


def parameters(module: nnx.Module) -> Tree:
    """The module's parameters as nested dictionaries of arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def module_of(cls: type[Network], params: Tree, architecture: Architecture) -> Network:
    """The module with these parameters, as nested dictionaries of arrays."""
    graph, _ = nnx.split(abstract(cls, architecture))
    return nnx.merge(graph, params)


def advance(state: TrainState, step: int) -> TrainState:
    """The state with every count set to a later step: its data and schedules are that step's."""
    return jax.tree.map(
        lambda leaf: jax.device_put(np.int32(step), leaf.sharding) if is_count(leaf) else leaf,
        state,
    )


def is_count(leaf: jax.Array) -> bool:
    """Whether a leaf, of any shape, counts steps: all integers do, the optimizer's as well."""
    return jnp.issubdtype(leaf.dtype, jnp.integer)
