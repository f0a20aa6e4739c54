"""Translates functions for an H100, without one."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh

from xkd_jax.parallel.axis_rules import MESH_AXES
from xkd_jax.parallel.mesh import on_mesh

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")


def lowered_for_h100(function, shape):
    """StableHLO of a function of a bfloat16 array."""
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    mesh = AbstractMesh((1, 1, 1), MESH_AXES, auto, abstract_device=H100)
    traced = jax.jit(on_mesh(function, mesh)).trace(jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    return traced.lower(lowering_platforms=("cuda",)).as_text()
